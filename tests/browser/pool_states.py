"""What the tour's hub has in its pool: packets of three hosts that its correlation joins, and results of every shape.

Packets come by test agents, through the archive, the ingest and the correlation, as everywhere. What takes a week or
a broken clock to come about (a year of drift) is put into the store as the correlation would.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hub.pool.store import ConversationRow, OffsetRow
from tests.support.nats_backbone import until
from tests.web.fake_agent import FakeAgent, udp_packet
from wire.body import DIRECTION_IN, DIRECTION_OUT

if TYPE_CHECKING:
    from tests.browser.tour import Scene

S, MS, US = 10**9, 10**6, 10**3
DELAY_NS = 400 * US
AHEAD_NS = 700 * MS
"""The clock of db1."""
SYN, ACK, PUSH = 2, 16, 8
LONG_NAME = "a-name-of-two-hundred-characters-" * 6 + "ab"
CLIENT, SERVER = bytes([10, 0, 0, 7]), bytes([10, 0, 9, 9])
ALL_TIME = {"since_ns": 0, "until_ns": 2**62}
EXCHANGES = 26
"""Questions and answers of the conversation that three hosts see."""


def tcp(number: int, *, back: bool, ttl: int, flags: int, payload: bytes = b"") -> bytes:
    """A segment of one connection from CLIENT:50000 to SERVER:80."""
    ports, ends = (50_000, 80), (CLIENT, SERVER)
    if back:
        ports, ends = ports[::-1], ends[::-1]
    segment = struct.pack(">HHIIHHHH", *ports, 1000 + 200 * number, 7 + number, 5 << 12 | flags, 512, 0, 0)
    length = 20 + len(segment) + len(payload)
    head = struct.pack(">BBHHHBBH", 0x45, 0, length, number + 1 + 1000 * back, 0x4000, ttl, 6, 0)
    return (
        bytes.fromhex("020000000009020000000007") + b"\x08\0" + head + ends[0] + ends[1] + segment + payload
    )


def dns(number: int, name: bytes) -> bytes:
    """A question for a name."""
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b"."))
    question = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    packet = udp_packet(number, question)
    return packet[:36] + b"\0\x35" + packet[38:]


async def _everyday(agent: FakeAgent, session: str, now_ns: int) -> None:
    """An hour of traffic in waves, and a time in which the ring was full."""
    for minute in range(50, 1, -2):
        at_ns = now_ns - minute * 60 * S
        many = 2 + (minute * 7) % 11
        packets = [dns(number, b"checkout.shop.example.com") for number in range(many)]
        packets += [udp_packet(minute * 20 + number) for number in range(many)]
        if minute == 20:
            books = agent.chains[session].books
            books.received += 4_711
            books.dropped_ring += 4_711
        times = [at_ns + number * S for number in range(len(packets))]
        await agent.send(session, packets, timestamps_ns=times)


async def _exchange(places: Sequence[tuple[FakeAgent, str, int]], since_ns: int) -> None:
    """One connection as (agent, session, how far its clock is ahead) see it, from the client to the server: a batch for
    each and way. Each hop takes DELAY_NS; every tenth question is lost on the last, every tenth answer on the first."""
    last = len(places) - 1
    for is_back in (False, True):
        for place, (agent, session, ahead_ns) in enumerate(places):
            hops = last - place if is_back else place
            packets, times = [], []
            for number in range(EXCHANGES):
                if hops == last and number % 10 == (5 if is_back else 8):
                    continue
                if is_back:
                    flags, payload = (
                        (ACK | PUSH if number else SYN | ACK),
                        b"HTTP/1.1 200 OK\r\n\r\n" * bool(number),
                    )
                else:
                    flags, payload = (
                        (ACK | PUSH if number else SYN),
                        b"GET /%d HTTP/1.1\r\n\r\n" % number * bool(number),
                    )
                packets.append(tcp(number, back=is_back, ttl=64 - hops, flags=flags, payload=payload))
                answered_ns = last * DELAY_NS + MS if is_back else 0
                times.append(since_ns + number * 450 * MS + answered_ns + hops * DELAY_NS + ahead_ns)
            flags = DIRECTION_IN if hops else DIRECTION_OUT
            await agent.send(session, packets, timestamps_ns=times, flags=flags)


def _conversations(now_ns: int) -> list[ConversationRow]:
    whole = ConversationRow(
        id="path",
        revision=1,
        community_id="1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        first_ns=now_ns - 30 * S,
        last_ns=now_ns - 29 * S,
        source="10.0.0.7",
        destination="198.51.100.10",
        source_port=50000,
        destination_port=443,
        protocol=6,
        packets=24,
        bytes=15_400,
        observations=129,
        agents=("web1", "fw-inside", "fw-outside", "lb-2", "db1"),
        sessions=("s" * 26,),
        aliases=("1:wCb3OG7yAFWelaUydu0D+125CLM=",),
        names=("checkout.shop.example.com",),
        lost_packets=2,
        retransmissions=2,
    )
    address = "2001:db8:1234:5678:9abc:def0:1234:5678"
    largest = replace(
        whole,
        id="largest",
        first_ns=now_ns - 40 * 60 * S,
        last_ns=now_ns + 3650 * 86_400 * S,
        source=address,
        destination=address[:-1] + "9",
        packets=10**15,
        bytes=10**18,
        observations=2 * 10**15,
        agents=(LONG_NAME, "web1"),
        names=(f"{LONG_NAME[:60]}.{LONG_NAME[:60]}.example.com", "www.example.com", "example.net"),
        lost_packets=10**14,
        retransmissions=None,
    )
    return [whole, largest]


def _offsets(now_ns: int) -> list[OffsetRow]:
    """A clock that drifts and was set, one that is years off, one whose agent has the longest name."""
    rows = []
    for minute in range(55, 0, -1):
        at_ns = now_ns - minute * 60 * S
        estimate = 3 * MS - (55 - minute) * 40 * US if minute > 25 else 200 * US + minute * 6 * US
        half = (90 + 13 * (minute % 5)) * US
        note = "the clock was set by -1.350 ms" if minute == 25 else ""
        if not 35 < minute < 40:
            rows.append(
                OffsetRow(
                    "offline",
                    at_ns,
                    "web1",
                    estimate,
                    estimate - half,
                    estimate + half,
                    -666.7,
                    "traffic",
                    note,
                )
            )
        else:
            rows.append(OffsetRow("offline", at_ns, "web1", None, None, None, None, "unknown"))
        years = 29 * 365 * 86_400 * S
        rows.append(OffsetRow("never-seen", at_ns, "web1", years, years - S, years + S, 1e11, "control"))
    rows.append(OffsetRow(LONG_NAME, now_ns - 60 * S, LONG_NAME, 0, 0, 0, None, "anchor", LONG_NAME * 3))
    unknown = "no packet of it was seen by another agent in both directions"
    rows.append(OffsetRow("disabled", now_ns - 60 * S, "web1", None, None, None, None, "unknown", unknown))
    return rows


async def fill_pool(scene: Scene) -> None:
    """Have the agents send; pool_has_read says when all of it is there."""
    now_ns = time.time_ns()
    longest = max(scene.agents, key=len)
    places = [
        (scene.agents[name], await scene.start(f"pool-{name}", name), ahead_ns)
        for name, ahead_ns in (("web1", 0), (longest, -30 * MS), ("db1", AHEAD_NS))
    ]
    await _everyday(*places[0][:2], now_ns)
    await _exchange(places, now_ns - 90 * S)


async def pool_has_read(scene: Scene) -> None:
    """Wait for the store and the correlation, and put in what they wouldn't come to by themselves."""
    pool, now_ns = scene.site.hub.pool, time.time_ns()
    assert pool is not None
    await until(lambda: pool.ingest.status.lag_s < 1, timeout_s=20)

    async def joined() -> bool:
        rows = (await pool.store.conversations(None, since_ns=0, until_ns=2**62)).rows
        found = next((row.id for row in rows if len(row.agents) == 3 and row.destination_port == 80), None)
        if found is not None:
            scene.sessions["conversation"] = found
        return found is not None

    await until(joined, timeout_s=20)
    web = scene.agents["web1"]

    async def its_clock_is_known() -> bool:
        """Clocks are looked at when something new comes, and not more often than every few seconds."""
        await web.send(scene.sessions["pool-web1"], [udp_packet(9)])
        rows = await pool.store.offsets(**ALL_TIME, agents=["db1"])
        return any(row.estimate_ns is not None for row in rows)

    await until(its_clock_is_known, timeout_s=20)
    await pool.store.put_conversations(_conversations(now_ns))
    await pool.store.put_offsets(_offsets(now_ns))
    pool.analyses.start(scene.sessions["stopped"], pool.name)
    await until(
        lambda: (found := pool.analyses.get(scene.sessions["stopped"])) is not None and not found.active
    )
