"""What the tour's hub has in its pool: packets of two hosts that its own correlation joins, and results of every shape.

Packets come by test agents, through the archive, the ingest and the correlation, as everywhere. What takes a week or
a broken network to come about (a year of drift, six places on a path) is put into the store as the correlation would.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

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
"""Questions and answers of the conversation that two hosts see; the answer to every tenth is lost."""


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


async def _exchange(near: tuple[FakeAgent, str], far: tuple[FakeAgent, str], since_ns: int) -> None:
    """One connection through a router, as both hosts see it: four batches, a way and an agent each."""
    there, back, answered = [], [], []
    for number in range(EXCHANGES):
        flags, payload = (
            (SYN, b"") if number == 0 else (ACK | PUSH, b"GET /cart/%d HTTP/1.1\r\n\r\n" % number)
        )
        there.append((since_ns + number * 450 * MS, number, flags, payload))
        answer = (SYN | ACK, b"") if number == 0 else (ACK | PUSH, b"HTTP/1.1 200 OK\r\n\r\n")
        one = (since_ns + number * 450 * MS + DELAY_NS + MS, number, *answer)
        back.append(one)
        if number % 10 != 5:
            answered.append(one)

    def made(wanted: Sequence[tuple[int, int, int, bytes]], is_back: bool, ttl: int) -> list[bytes]:
        return [
            tcp(number, back=is_back, ttl=ttl, flags=flags, payload=data) for _, number, flags, data in wanted
        ]

    for (agent, session), wanted, is_back, ttl, ahead_ns, flags in (
        (near, there, False, 64, 0, DIRECTION_OUT),
        (far, there, False, 63, DELAY_NS + AHEAD_NS, DIRECTION_IN),
        (far, back, True, 64, AHEAD_NS, DIRECTION_OUT),
        (near, answered, True, 63, DELAY_NS, DIRECTION_IN),
    ):
        times = [at_ns + ahead_ns for at_ns, *_ in wanted]
        await agent.send(session, made(wanted, is_back, ttl), timestamps_ns=times, flags=flags)


def _path(now_ns: int) -> bytes:
    """Details of a conversation over six places, with packets of every fate."""
    names = [("web1", "eth0"), ("fw-inside", "bond0.100"), ("fw-outside", "bond1")]
    names += [(LONG_NAME[:48], LONG_NAME[:40]), ("lb-2", "ens5f0np0"), ("db1", "eth0")]
    labels = (
        "SYN",
        "SYN ACK",
        "ACK",
        "GET /cart HTTP/1.1, a long line that tells more than there is room for",
        "ACK",
    )
    segments = []
    for number in range(24):
        at_ns = now_ns - 30 * S + number * 7 * MS
        forward, places = number % 3 != 1, list(range(len(names)))
        cut = {5: places[:3], 9: places[:1], 14: places[::2]}.get(number, places)
        step = 120 * US + number * 9 * US
        seen = [
            [
                place,
                at_ns + (place if forward else 5 - place) * step,
                *_within(place, at_ns, step, forward),
                "",
                1 + (place == 2 and number == 11),
            ]
            for place in cut
        ]
        segments.append(
            {
                "forward": forward,
                "label": labels[number % len(labels)],
                "bytes": 66 + number * 50,
                "kind": "retransmission" if number in (6, 10) else "",
                "seen": seen,
                "missing": [place for place in places if place not in cut] if number in (5, 9) else [],
                "lost_after": cut[-1] if number in (5, 9) else None,
            }
        )
    return orjson.dumps(
        {
            "version": 1,
            "places": [
                {"agent": agent, "interface": interface, "hop": hop}
                for hop, (agent, interface) in enumerate(names)
            ],
            "segments": segments,
            "unknown": [
                "whether lb-2 stands before or behind its neighbour: both saw every packet with the same TTL"
            ],
        }
    )


def _within(place: int, at_ns: int, step: int, forward: bool) -> list[int | None]:
    """The guaranteed interval of a sight; one place's clock isn't known."""
    if place == 4:
        return [None, None]
    at = at_ns + (place if forward else 5 - place) * step
    return [at - 40 * US, at + 55 * US]


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
        details=_path(now_ns),
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
        details=b"",
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
    near, far = [(scene.agents[name], await scene.start(f"pool-{name}", name)) for name in ("web1", "db1")]
    await _everyday(*near, now_ns)
    await _exchange(near, far, now_ns - 90 * S)


async def pool_has_read(scene: Scene) -> None:
    """Wait for the store and the correlation, and put in what they wouldn't come to by themselves."""
    pool, now_ns = scene.site.hub.pool, time.time_ns()
    assert pool is not None
    await until(lambda: pool.ingest.status.lag_s < 1, timeout_s=20)

    async def joined() -> bool:
        rows = (await pool.store.conversations(None, since_ns=0, until_ns=2**62)).rows
        found = next((row.id for row in rows if len(row.agents) == 2 and row.destination_port == 80), None)
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
