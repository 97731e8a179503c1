"""What Elasticsearch finds is what the oracle finds, packet by packet, for each kind of question; on both versions."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hub.observation import Observation
from hub.pool.elastic.store import ElasticStore
from hub.pool.fields import PACKET_FIELDS, Type
from hub.pool.observed import ClockOffset, ObservedBatch, Pooling
from hub.pool.query import And, Cidr, Compare, Exists, In, Matches, Not, Or, Query, QueryError, Range, Text
from hub.pool.store import ConversationRow, OffsetRow, StoreRefused
from tests.hub.pool.elastic.conftest import refresh
from tests.hub.pool.elastic.test_lines import FRAMES
from tests.hub.pool.made import START_NS, Made
from tests.support.elasticsearch import Node
from tests.support.query_oracle import fits, values

pytestmark = pytest.mark.slow
SECOND_NS = 10**9
SPAN: dict[str, Any] = {"since_ns": START_NS - SECOND_NS, "until_ns": START_NS + SECOND_NS}


def batches() -> list[ObservedBatch]:
    one = Made()
    other = Made(agent="db1", session="t" * 26, interface="eth1", clock=ClockOffset(-500, -900, 100))
    return [
        one.frames(FRAMES, step_ns=37_003),
        one.frames(FRAMES[::2], first_ns=START_NS + 1_000_001, flags=0x11),
        other.frames(FRAMES[::-1], first_ns=START_NS + 500_000, step_ns=3),
        other.frames(FRAMES[:5], level=Pooling.CONVERSATIONS),
    ]


def asked() -> list[Query]:
    """A question of each kind, about fields of each type, with values that are there and some that aren't."""
    dice = random.Random(5)
    ip = ipaddress.ip_address
    found: list[Query] = [
        And(()),
        Or(()),
        Not(And(())),
        Compare("source.ip", "=", ip("10.0.0.1")),
        Compare("source.ip", ">", ip("10.0.0.1")),
        Compare("destination.ip", "<=", ip("2001:db8::1")),
        Range("source.ip", ip("10.0.0.0"), ip("10.0.0.255")),
        Cidr("source.ip", ipaddress.ip_network("10.0.0.0/29")),
        Cidr("source.ip", ipaddress.ip_network("2001:db8::/32")),
        Cidr("destination.ip", ipaddress.ip_network("0.0.0.0/0")),
        Compare("source.mac", "=", 0x020000000001),
        In("source.port", [50000, 5, 99]),
        In("source.ip", [ip("10.0.0.1"), ip("2001:db8::1")]),
        In("source.port", []),
        Range("destination.port", 400, None),
        Range("destination.port", None, None),
        Range("@timestamp", START_NS, START_NS + 500_000),
        Compare("@timestamp", ">", START_NS + 37_003),
        Compare("timestamp_ns", "=", START_NS + 500_003),
        In("timestamp_ns", [START_NS + 500_003, START_NS + 37_003]),
        Compare("tcp.syn", "=", False),
        Not(Compare("tcp.syn", "=", True)),
        Matches("network.community_id", "1:*="),
        Matches("dns.question.name", "?XAMPLE*"),
        Matches("network.transport", "\\*"),
        Matches("agent_hostname", "WEB?.test"),
        Text("tcp"),
        Text("EXAMPLE"),
        Text("*"),
        Exists("tunnel.type"),
        Not(Exists("source.port")),
        Compare("wirepool.hop_hash", "=", 1),
    ]
    for field in PACKET_FIELDS:
        if field.type in (Type.INTEGER, Type.KEYWORD, Type.HASH, Type.BOOLEAN):
            there: list[Any] = sorted(
                {value for batch in batches()[:3] for value in values(field.name, batch) if value is not None}
            )
            if there:
                found.append(Compare(field.name, "=", dice.choice(there)))
    leaves = list(found)
    for _ in range(60):
        a, b, c = (dice.choice(leaves) for _ in range(3))
        joined: list[Query] = [And((a, Or((b, c)))), Or((And((a, b)), Not(c))), And((Not(a), Not(b), c))]
        found.append(dice.choice(joined))
    return found


def expected(query: Query, kept: Sequence[ObservedBatch]) -> list[tuple[int, str]]:
    found = []
    for batch in kept:
        times = batch.corrected_ns()
        found += [
            (int(times[n]), batch.observation_id(n)) for n in np.flatnonzero(fits(query, batch)).tolist()
        ]
    return sorted(found)


async def test_each_kind_of_question_is_answered_as_the_oracle_does(node: Node, store: ElasticStore) -> None:
    kept = batches()
    puts = await store.put(kept)
    assert [(put.stored, put.known, put.refused) for put in puts] == [
        (len(FRAMES), 0, 0), (len(FRAMES[::2]), 0, 0), (len(FRAMES), 0, 0), (0, 0, 0)
    ]  # fmt: skip
    refresh(node)
    hits = 0
    for query in asked():
        page = await store.packets(query, **SPAN, limit=1000)
        shown = [(row.time_ns, str(row.observation)) for row in page.rows]
        wanted = expected(query, kept[:3])
        assert sorted(shown) == wanted, query
        assert [time for time, _ in shown] == [time for time, _ in wanted], query
        assert await store.count(query, **SPAN) == len(wanted), query
        hits += len(wanted)
    assert hits > 1000


async def test_a_row_has_the_values_of_its_packet(node: Node, store: ElasticStore) -> None:
    batch = Made(clock=ClockOffset(5, 0, 9)).frames(FRAMES, level=Pooling.PAYLOAD)
    await store.put([batch])
    refresh(node)
    page = await store.packets(None, **SPAN)
    assert [row.observation for row in page.rows] == [Observation(batch.name, n) for n in range(len(batch))]
    for field in PACKET_FIELDS:
        for row, value in zip(page.rows, values(field.name, batch), strict=True):
            shown = row.values.get(field.name)
            assert type(shown) is type(value) or field.type in (Type.IP, Type.MAC, Type.HASH, Type.BYTES)
            if field.type in (Type.INTEGER, Type.KEYWORD, Type.TIME, Type.BOOLEAN):
                assert shown == value, field.name
            elif field.type is Type.BYTES and value is not None:
                assert shown == bytes(batch.columns.data[value[0] : value[1]])
            else:
                assert (shown is None) == (value is None), field.name
    assert page.rows[0].values["source.ip"] == "10.0.0.1"
    assert page.rows[0].values["source.mac"] == "02:00:00:00:00:01"


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_hold_each_row_once_in_order(node: Node, store: ElasticStore, newest_first: bool) -> None:
    kept = [Made(agent=f"a{n}").frames(FRAMES, step_ns=0) for n in range(4)]  # all at one time
    await store.put(kept)
    refresh(node)
    whole = await store.packets(None, **SPAN, limit=1000, newest_first=newest_first)
    names = [row.observation for row in whole.rows]
    assert whole.after is None
    assert len(set(names)) == len(names) == 4 * len(FRAMES)
    paged: list[Observation] = []
    after = None
    while True:
        page = await store.packets(None, **SPAN, limit=7, after=after, newest_first=newest_first)
        paged += [row.observation for row in page.rows]
        after = page.after
        if after is None:
            break
        assert len(page.rows) == 7
    assert paged == names
    for wrong in ("", "x", "W10", "e30", "W1tdXQ", "WzFd" * 400):
        with pytest.raises(StoreRefused, match="not a place"):
            await store.packets(None, **SPAN, after=wrong)


@pytest.mark.parametrize(("since_ns", "until_ns", "buckets"), [
    (START_NS, START_NS + 3_000_000, 3),
    (START_NS - 2_000_000, START_NS + 8_000_000, 10),
    (START_NS + 1, START_NS + 2_000_000, 7),
    (START_NS, START_NS + 60_000, 100),
    (START_NS, START_NS + 3_600 * SECOND_NS, 100),
])  # fmt: skip
async def test_a_histogram_counts_to_the_nanosecond(
    node: Node, store: ElasticStore, since_ns: int, until_ns: int, buckets: int
) -> None:
    kept = batches()[:3]
    await store.put(kept)
    refresh(node)
    query = Exists("source.ip")
    found = await store.histogram(query, since_ns=since_ns, until_ns=until_ns, buckets=buckets)
    edges = since_ns + found.bucket_ns * np.arange(len(found.packets) + 1)
    assert edges[-1] >= until_ns > edges[-2]
    assert len(found.packets) <= buckets
    packets, sizes = np.zeros(len(edges) - 1, int), np.zeros(len(edges) - 1, int)
    agents: dict[str, np.ndarray] = {}
    for batch in kept:
        mask = fits(query, batch) & (batch.corrected_ns() >= since_ns) & (batch.corrected_ns() < until_ns)
        places = np.searchsorted(edges, batch.corrected_ns()[mask], side="right") - 1
        np.add.at(packets, places, 1)
        np.add.at(sizes, places, batch.original_bytes[mask])
        if mask.any():
            of_agent = agents.setdefault(batch.header.agent, np.zeros(len(edges) - 1, int))
            np.add.at(of_agent, places, 1)
    assert found.packets == packets.tolist()
    assert found.bytes == sizes.tolist()
    assert found.agents == {agent: counts.tolist() for agent, counts in sorted(agents.items())}
    assert packets.sum() > 0


async def test_what_can_not_be_asked_is_said(store: ElasticStore) -> None:
    for query, told in (
        (Exists("wirepool.payload"), "shown, and can't be asked"),
        (Exists("nonsense"), "no field nonsense"),
        (Compare("agent_id", "<", "a"), "no order"),
        (Or([Text("a")] * 200), "Elasticsearch takes"),
    ):
        with pytest.raises(QueryError, match=told):
            await store.packets(query, **SPAN)
    with pytest.raises(StoreRefused, match="10000 rows"):
        await store.packets(None, **SPAN, limit=10_001)
    assert (await store.packets(None, since_ns=5, until_ns=5)).rows == []
    assert (await store.packets(None, since_ns=-(2**70), until_ns=2**70)).rows == []


CONVERSATION = ConversationRow(
    id="c1", revision=1, community_id="1:abc=", first_ns=START_NS, last_ns=START_NS + 5 * SECOND_NS, source="10.0.0.1",
    destination="2001:db8::1", source_port=1, destination_port=None, protocol=6, packets=3, bytes=180, observations=5,
    agents=("web1", "db1"), sessions=("s" * 26,), aliases=("1:def=",), names=("www.example.org",), lost_packets=0,
    details=b'{"hops": [1.50]}',
)  # fmt: skip


async def test_conversations_are_replaced_by_later_revisions_whatever_they_say_of_their_time(
    node: Node, store: ElasticStore
) -> None:
    starts = [START_NS + n * SECOND_NS for n in range(5)]
    rows = [
        replace(CONVERSATION, id=f"c{n}", first_ns=at, last_ns=at + SECOND_NS) for n, at in enumerate(starts)
    ]
    await store.put_conversations(rows)
    day_before = replace(rows[2], revision=7, first_ns=START_NS - 86_400 * SECOND_NS, packets=99, names=())
    await store.put_conversations([day_before])
    await store.put_conversations([replace(rows[2], revision=6)])
    store._keeping._homes.clear()  # as after a restart
    store._keeping._forgotten = True
    await store.put_conversations([replace(rows[3], revision=2, first_ns=START_NS - 86_400 * SECOND_NS)])
    refresh(node)
    assert await store.conversation("c2") == day_before
    assert await store.conversation("nobody") is None
    span: dict[str, Any] = {
        "since_ns": START_NS - 2 * 86_400 * SECOND_NS,
        "until_ns": START_NS + 100 * SECOND_NS,
    }
    first = await store.conversations(None, **span, limit=2)
    second = await store.conversations(None, **span, limit=2, after=first.after)
    third = await store.conversations(None, **span, limit=2, after=second.after)
    assert [row.id for page in (first, second, third) for row in page.rows] == ["c4", "c1", "c0", "c3", "c2"]
    assert third.after is None
    assert first.rows[0] == rows[4]
    assert (await store.stats()).conversations == 5
    for query, ids in (
        (Compare("network.community_id", "=", "1:def="), 5),
        (Compare("agent_id", "=", "db1"), 5),
        (Text("EXAMPLE.org"), 4),
        (Compare("wirepool.names", "=", "www.example.org"), 4),
        (Exists("destination.port"), 0),
        (Compare("network.packets", ">", 50), 1),
        (Compare("network.transport", "=", "tcp"), 5),
    ):
        assert len((await store.conversations(query, **span)).rows) == ids, query
    overlapping = await store.conversations(None, since_ns=starts[4] + 1, until_ns=starts[4] + 20 * SECOND_NS)
    assert [row.id for row in overlapping.rows] == ["c4"]


async def test_offsets_are_kept_per_agent_and_time(node: Node, store: ElasticStore) -> None:
    rows = [
        OffsetRow("web1", START_NS, "db1", -5, -9, 7, 1.5, "traffic", "a step"),
        OffsetRow("db1", START_NS, "db1", 0, 0, 0, None, "anchor"),
        OffsetRow("web1", START_NS + SECOND_NS, "", None, None, None, None, "unknown"),
    ]
    await store.put_offsets(rows)
    await store.put_offsets([replace(rows[0], estimate_ns=-4)])
    refresh(node)
    found = await store.offsets(since_ns=START_NS, until_ns=START_NS + 2 * SECOND_NS)
    assert found == [rows[1], replace(rows[0], estimate_ns=-4), rows[2]]
    assert await store.offsets(since_ns=START_NS, until_ns=START_NS + 1, agents=["db1"]) == [rows[1]]
    assert len(await store.offsets(since_ns=0, until_ns=2**63, limit=2)) == 2
