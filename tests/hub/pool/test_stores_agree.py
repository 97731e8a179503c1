"""Every store answers what looking at each packet would answer: the same packets, counts, conversations."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from hub.pool.elastic.connection import Access
from hub.pool.elastic.indices import Indices
from hub.pool.elastic.store import ElasticStore
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.observed import AgentNames, ClockOffset, ObservedBatch, Pooling
from hub.pool.query import And, Cidr, Compare, Exists, In, Matches, Not, Or, Query, QueryError, Range, Text
from hub.pool.store import ConversationRow, OffsetRow, Put, Store
from tests.hub.observe.made import CASES
from tests.hub.parts import running
from tests.hub.pool.made import START_NS, Made
from tests.hub.pool.reference import told
from tests.support.elasticsearch import SUMS, Node
from tests.support.nats_backbone import until
from tests.support.query_oracle import fits

WHOLE: dict[str, Any] = {"since_ns": 0, "until_ns": 2**63 - 1}
Opener = Callable[[Path], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[Store]:
    store = EmbeddedStore(directory / "pool")
    async with running(store.run()):
        async with asyncio.timeout(10):
            await store.opened.wait()
        yield store


STORES: list[Any] = [pytest.param(embedded, id="embedded")]
STORES += [pytest.param(version, id=version, marks=pytest.mark.slow) for version in sorted(SUMS)]


class Refreshed(ElasticStore):
    """Elasticsearch finds what was written a second later; this one at once."""

    async def put(self, batches: Sequence[ObservedBatch]) -> Sequence[Put]:
        done = await super().put(batches)
        self._keeping._refresh(self.indices.all_packets)
        return done

    async def put_conversations(self, rows: Sequence[ConversationRow]) -> None:
        await super().put_conversations(rows)
        self._keeping._refresh(self.indices.all_conversations)

    async def put_offsets(self, rows: Sequence[OffsetRow]) -> None:
        await super().put_offsets(rows)
        self._keeping._refresh(self.indices.all_clocks)


def elastic(node: Node) -> Opener:
    @asynccontextmanager
    async def opened(directory: Path) -> AsyncIterator[Store]:
        prefix = "t" + hashlib.sha256(str(directory).encode()).hexdigest()[:12]
        store = Refreshed(Access([node.url]), Indices(prefix, replicas=0))

        async def ready() -> bool:
            return (await store.stats()).ready

        async with running(store.run()):
            await until(ready, 60)
            yield store

    return opened


@pytest.fixture(params=STORES)
def opener(request: pytest.FixtureRequest) -> Opener:
    if isinstance(request.param, str):
        return elastic(request.getfixturevalue("nodes")(request.param))
    found: Opener = request.param
    return found


def some_batches() -> list[ObservedBatch]:
    """Three agents, one with a known clock, one in the priority lane; every kind of frame."""
    web = Made("web1", "a" * 26)
    db = Made("db1", "b" * 26, interface="ens3", names=AgentNames("db.example", "2001:db8::5"))
    db.clock = ClockOffset(2_000_000_000, 1_999_000_000, 2_002_000_000)
    quiet = Made("db1", "c" * 26, names=AgentNames(), level=Pooling.CONVERSATIONS)
    found: list[ObservedBatch] = []
    for link_type in sorted({case.link_type for case in CASES.values()}):
        frames = [case.frame for case in CASES.values() if case.link_type == link_type]
        at_ns = START_NS + len(found) * 10**8
        for made in (web, db, quiet):
            found.append(made.frames(frames, link_type=link_type, first_ns=at_ns, flags=len(found) % 4))
    return found


QUERIES: dict[str, Query] = {
    "all": And(()),
    "none": Or(()),
    "agent": Compare("agent_id", "=", "web1"),
    "not agent": Not(Compare("agent_id", "=", "web1")),
    "no such agent": Compare("agent_id", "=", "nobody"),
    "agents": In("agent_id", ("web1", "db1", "x")),
    "host": Matches("agent_hostname", "DB.*"),
    "no host": Not(Exists("agent_hostname")),
    "agent address": Compare("agent_ip", "=", ip_address("2001:db8::5")),
    "port": Or((Compare("source.port", "=", 443), Compare("destination.port", "=", 443))),
    "low ports": Range("destination.port", 1, 1023),
    "high ports": Range("destination.port", 1024, None),
    "not low ports": Not(Range("destination.port", None, 1023)),
    "ttl": Compare("ip.ttl", "<", 62),
    "address": Compare("source.ip", "=", ip_address("10.0.0.1")),
    "network": Cidr("source.ip", ip_network("10.0.0.0/8")),
    "network of one": Cidr("destination.ip", ip_network("10.0.0.2/32")),
    "network 6": Cidr("source.ip", ip_network("2001:db8::/32")),
    "all of IPv4": Cidr("source.ip", ip_network("0.0.0.0/0")),
    "not in network": Not(Cidr("source.ip", ip_network("2000::/3"))),
    "addresses": Range("source.ip", ip_address("10.0.0.0"), ip_address("10.0.0.255")),
    "transport": Compare("network.transport", "=", "tcp"),
    "transports": Matches("network.transport", "*icmp*"),
    "no transport": Not(Exists("network.transport")),
    "type": In("network.type", ("ipv6", "arp")),
    "syn": And((Compare("tcp.syn", "=", True), Compare("tcp.ack", "=", False))),
    "no syn": Compare("tcp.syn", "=", False),
    "flags": Compare("tcp.flags", ">=", 16),
    "vlan": Exists("network.vlan.id"),
    "inner vlan": Exists("network.inner.vlan.id"),
    "tunnel": Compare("tunnel.type", "=", "vxlan"),
    "tunnel ends": Cidr("tunnel.source.ip", ip_network("0.0.0.0/0")),
    "direction": Compare("network.direction", "=", "egress"),
    "unknown direction": Compare("network.direction", "=", "unknown"),
    "problem": Matches("wirepool.problem", "cut_*"),
    "mac": Compare("source.mac", "=", 0x020000000001),
    "question mark": Matches("network.transport", "?dp"),
    "clock known": Exists("clock.offset_ns"),
    "clock unknown": Not(Exists("clock.offset_ns")),
    "offset": Compare("clock.offset_ns", ">", 0),
    "raw": Range("timestamp_ns", START_NS, START_NS + 10**8),
    "sequence": Compare("event.sequence", "=", 1),
    "index": Compare("wirepool.index", "<=", 3),
    "dns": Exists("dns.question.name"),
    "no dns": Not(Exists("dns.question.name")),
    "text": Text("TCP"),
    "text with signs": Text("100%_\\*"),
    "text of hosts": Text("example"),
    "deep": Not(Or((Not(Text("udp")), And((Compare("source.port", ">", 1), Not(Exists("tunnel.type"))))))),
}


@pytest.mark.slow
async def test_packets_are_those_that_fit(opener: Opener, tmp_path: Path) -> None:
    batches = some_batches()
    kept = [batch for batch in batches if batch.level is not Pooling.CONVERSATIONS]
    packets = {batch.observation_id(i): told(batch, i) for batch in kept for i in range(len(batch))}
    queries = QUERIES | {
        "community id": Compare("network.community_id", "=", next(_of(packets, "network.community_id"))),
        "some community id": Matches("network.community_id", "1:*=*"),
        "not a community id": Compare("network.community_id", "=", "1:x"),
        "hop hash": Compare("wirepool.hop_hash", "=", int(next(_of(packets, "wirepool.hop_hash")), 16)),
    }
    async with opener(tmp_path) as store:
        puts = await store.put(batches)
        assert [put.stored for put in puts] == [len(b) if b in kept else 0 for b in batches]
        for name, query in queries.items():
            wanted = {b.observation_id(i) for b in kept for i, fit in enumerate(fits(query, b)) if fit}
            page = await store.packets(query, **WHOLE, limit=10_000)
            assert {str(row.observation) for row in page.rows} == wanted, name
            assert await store.count(query, **WHOLE) == len(wanted), name
            histogram = await store.histogram(
                query, since_ns=START_NS - 3 * 10**9, until_ns=START_NS + 3 * 10**9
            )
            assert sum(histogram.packets) == len(wanted), name
            for row in page.rows:
                assert dict(row.values) == packets[str(row.observation)]


def _of(packets: dict[str, dict[str, Any]], name: str) -> Any:
    return (packet[name] for packet in packets.values() if name in packet)


async def test_pages_hold_everything_once_and_in_order(opener: Opener, tmp_path: Path) -> None:
    batches = some_batches()[-3:-1] + some_batches()[:2]
    packets = sorted(
        (time_ns, batch.observation_id(i))
        for batch in batches
        for i, time_ns in enumerate(batch.corrected_ns().tolist())
    )
    async with opener(tmp_path) as store:
        await store.put(batches)
        for newest_first in (False, True):
            found: list[tuple[int, str]] = []
            after: str | None = None
            while True:
                page = await store.packets(None, **WHOLE, limit=7, after=after, newest_first=newest_first)
                found += [(row.time_ns, str(row.observation)) for row in page.rows]
                after = page.after
                if after is None:
                    break
                assert len(page.rows) == 7
            times = [time_ns for time_ns, _ in found]
            assert times == sorted(times, reverse=newest_first)
            assert sorted(found) == packets
        low, high = packets[3][0], packets[-3][0]
        page = await store.packets(None, since_ns=low, until_ns=high, limit=1000)
        assert {row.time_ns for row in page.rows} == {t for t, _ in packets if low <= t < high}


async def test_a_batch_put_again_changes_nothing(opener: Opener, tmp_path: Path) -> None:
    made = Made()
    first, second, third = (made.frames([CASES["tcp"].frame] * 3, first_ns=START_NS + i) for i in range(3))
    async with opener(tmp_path) as store:
        assert [put.stored for put in await store.put([first, third])] == [3, 3]
        puts = await store.put([second, first, second, third])
        assert [(put.stored, put.known) for put in puts] == [(3, 0), (0, 3), (0, 3), (0, 3)]
        assert await store.count(None, **WHOLE) == 9
    async with opener(tmp_path) as store:  # and after a restart
        assert [(put.stored, put.known) for put in await store.put([first, second])] == [(0, 3), (0, 3)]
        assert await store.count(None, **WHOLE) == 9


async def test_a_session_goes_as_a_whole_and_alone(opener: Opener, tmp_path: Path) -> None:
    one, other = Made(session="a" * 26), Made(session="b" * 26)
    frames = [CASES["tcp"].frame, CASES["padding"].frame] * 5
    async with opener(tmp_path) as store:
        await store.put([one.frames(frames), other.frames(frames), one.frames(frames)])
        assert {size.session: size.packets for size in await store.sessions()} == {"a" * 26: 20, "b" * 26: 10}
        assert await store.delete_session("a" * 26) == 20
        assert await store.delete_session("a" * 26) == 0
        assert {size.session: size.packets for size in await store.sessions()} == {"b" * 26: 10}
        again = await store.put([replace(one.frames(frames, sequence=0), level=Pooling.HEADERS)])
        assert again[0].stored == 10  # it is gone: analysing it anew brings it back


async def test_conversations_are_replaced_by_newer_ones(opener: Opener, tmp_path: Path) -> None:
    rows = [conversation(i) for i in range(10)]
    async with opener(tmp_path) as store:
        await store.put_conversations(rows)
        await store.put_conversations(
            [replace(rows[3], revision=3, packets=99), replace(rows[4], revision=0, packets=1)]
        )
        assert (await store.conversation("c3")).packets == 99  # type: ignore[union-attr]
        assert await store.conversation("c4") == rows[4]
        assert await store.conversation("none") is None
        first = await store.conversations(None, **WHOLE, limit=6)
        rest = await store.conversations(None, **WHOLE, limit=6, after=first.after)
        assert [row.id for row in (*first.rows, *rest.rows)] == [f"c{i}" for i in reversed(range(10))]
        assert rest.after is None
        # c5 runs from 5 to 5.9 s after the start.
        page = await store.conversations(
            None, since_ns=START_NS + 5_900_000_000, until_ns=START_NS + 7 * 10**9
        )
        assert [row.id for row in page.rows] == ["c6", "c5"]
        await store.forget_conversations(["c5", "none"])
        assert await store.conversation("c5") is None
        assert await store.conversation("c6") == rows[6]


CONVERSATION_QUERIES: dict[str, tuple[Query, set[int]]] = {
    "agent": (Compare("agent_id", "=", "web1"), {0, 2, 4, 6, 8}),
    "agent pattern": (Matches("agent_id", "DB*"), {1, 3, 5, 7, 9}),
    "source": (Compare("source.ip", "=", ip_address("10.0.0.3")), {3}),
    "network": (Cidr("source.ip", ip_network("10.0.0.8/29")), {8, 9}),
    "port": (Range("source.port", 1002, 1004), {2, 3, 4}),
    "no port": (Not(Exists("destination.port")), {0, 1, 2, 3, 4}),
    "transport": (Compare("network.transport", "=", "udp"), {1, 3, 5, 7, 9}),
    "id behind translation": (Compare("network.community_id", "=", "1:alias7"), {7}),
    "name": (Matches("wirepool.names", "*.example"), {0, 5}),
    "text": (Text("HOST5"), {5}),
    "packets": (Compare("network.packets", ">", 107), {8, 9}),
    "lost": (Exists("wirepool.lost_packets"), {9}),
}


async def test_conversations_are_those_that_fit(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as store:
        await store.put_conversations([conversation(i) for i in range(10)])
        for name, (query, wanted) in CONVERSATION_QUERIES.items():
            page = await store.conversations(query, **WHOLE)
            assert {row.id for row in page.rows} == {f"c{i}" for i in wanted}, name
        with pytest.raises(QueryError):
            await store.conversations(Exists("ip.ttl"), **WHOLE)


def conversation(number: int) -> ConversationRow:
    return ConversationRow(
        id=f"c{number}",
        revision=1,
        community_id=f"1:id{number}",
        first_ns=START_NS + number * 10**9,
        last_ns=START_NS + number * 10**9 + 900_000_000,
        source=f"10.0.0.{number}",
        destination="2001:db8::1",
        source_port=1000 + number,
        destination_port=443 if number > 4 else None,
        protocol=17 if number % 2 else 6,
        packets=100 + number,
        bytes=1000,
        observations=200,
        agents=("db1", "gw") if number % 2 else ("gw", "web1"),
        sessions=("a" * 26,),
        aliases=(f"1:alias{number}",),
        names=(f"host{number}.example",) if number % 5 == 0 else (),
        lost_packets=3 if number == 9 else None,
        details=b'{"lanes":[]}',
    )


async def test_clock_offsets_come_in_order(opener: Opener, tmp_path: Path) -> None:
    rows = [
        OffsetRow(agent, START_NS + at, "gw", at, at - 5, at + 5, 1.5, "traffic")
        for at in (3, 1, 2)
        for agent in ("b", "a")
    ]
    unknown = OffsetRow("a", START_NS + 9, "", None, None, None, None, "unknown", "no shared traffic")
    async with opener(tmp_path) as store:
        await store.put_offsets([*rows, unknown])
        await store.put_offsets([replace(rows[0], note="a step")])
        found = await store.offsets(**WHOLE)
        assert [(row.at_ns - START_NS, row.agent) for row in found] == [
            (1, "a"), (1, "b"), (2, "a"), (2, "b"), (3, "a"), (3, "b"), (9, "a"),
        ]  # fmt: skip
        assert found[5].note == "a step"
        assert found[-1] == unknown
        assert [
            row.agent
            for row in await store.offsets(since_ns=START_NS + 2, until_ns=START_NS + 3, agents=["b"])
        ] == ["b"]
