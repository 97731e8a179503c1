"""From batches to conversations and clocks in the store: two hosts that see the same packets."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest

from hub.pool.correlation import MOST_WAITING_ROWS, Correlation
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.store import ConversationRow, StoreAway
from tests.hub.parts import running
from tests.hub.pool.made import START_NS, Made
from tests.support.nats_backbone import until
from wire.body import DIRECTION_IN, DIRECTION_OUT
from wire.names import new_session_id

WHOLE: Any = {"since_ns": 0, "until_ns": 2**62}
CLIENT, SERVER = bytes([10, 0, 0, 1]), bytes([10, 0, 9, 9])
AHEAD_NS = 700_000_000
"""web2's clock."""
DELAY_NS = 400_000


def datagram(number: int, *, back: bool, ttl: int) -> bytes:
    """Packet `number` of one UDP flow."""
    ends = [(CLIENT, 40_000), (SERVER, 5_000)]
    if back:
        ends.reverse()
    body = struct.pack(">HHHH", ends[0][1], ends[1][1], 16, 0) + struct.pack(">Q", number)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 36, number + 1, 0, ttl, 17, 0, ends[0][0], ends[1][0])
    return bytes(12) + b"\x08\0" + ip + body


def seconds(correlation: Correlation, count: int) -> tuple[Made, Made]:
    """Twenty packets a second each way through a router, seen on both sides; on the way there every tenth is lost."""
    near = Made("web1", new_session_id(), bytes(15) + b"\1", interface="eth0")
    far = Made("web2", new_session_id(), bytes(15) + b"\2", interface="eth1")
    for second in range(count):
        base = START_NS + second * 1_000_000_000
        numbers = range(20 * second, 20 * second + 20)
        step = 50_000_000
        arrived = [number for number in numbers if number % 10]
        correlation.hear(
            near.frames(
                [datagram(n, back=False, ttl=64) for n in numbers],
                first_ns=base,
                step_ns=step,
                flags=DIRECTION_OUT,
            )
        )
        for number in arrived:
            at = base + (number - numbers[0]) * step + DELAY_NS + AHEAD_NS
            correlation.hear(
                far.frames([datagram(number, back=False, ttl=63)], first_ns=at, flags=DIRECTION_IN)
            )
            answer = far.frames(
                [datagram(number, back=True, ttl=64)], first_ns=at + 1_000_000, flags=DIRECTION_OUT
            )
            correlation.hear(answer)
            back_at = at + 1_000_000 + DELAY_NS - AHEAD_NS
            correlation.hear(
                near.frames([datagram(number, back=True, ttl=63)], first_ns=back_at, flags=DIRECTION_IN)
            )
    return near, far


async def ready(store: EmbeddedStore) -> bool:
    return (await store.stats()).ready


async def conversation(store: EmbeddedStore, packets: int) -> ConversationRow:
    """The only one, once it has so many packets."""
    async with asyncio.timeout(20):
        while True:
            rows = (await store.conversations(None, **WHOLE)).rows
            if rows and sum(row.packets for row in rows) >= packets:
                assert len(rows) == 1
                return rows[0]
            await asyncio.sleep(0.05)


async def test_two_hosts_one_conversation_and_their_clocks(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "pool")
    correlation = Correlation(store)
    near, far = seconds(correlation, 12)
    async with running(store.run(), correlation.run()):
        await until(lambda: ready(store))
        row = await conversation(store, 12 * 38)
        await until(lambda: correlation.clock_of("web2", START_NS) is not None)
        await until(lambda: not correlation._unstored_offsets)
        offsets = await store.offsets(**WHOLE, agents=["web2"])
    assert len(offsets) > 8
    assert (row.source, row.source_port) == ("10.0.0.1", 40_000)
    assert (row.destination, row.destination_port, row.protocol) == ("10.0.9.9", 5_000, 17)
    assert (row.packets, row.observations) == (12 * 38, 12 * 74)
    assert list(row.agents) == ["web1", "web2"]
    assert sorted(row.sessions) == sorted([near.session, far.session])
    assert row.lost_packets == 12 * 2 - 1 or row.lost_packets == 12 * 2, "the last one may be undecided"
    for one in offsets[2:-2]:
        sign = 1 if one.anchor == "web1" else -1
        assert one.low_ns is not None
        assert one.high_ns is not None
        assert one.estimate_ns is not None
        assert one.low_ns <= sign * AHEAD_NS <= one.high_ns
        assert abs(one.estimate_ns - sign * AHEAD_NS) < 1_000_000
    known = correlation.clock_of("web2", START_NS + AHEAD_NS + 5_000_000_000)
    other = correlation.clock_of("web1", START_NS + 5_000_000_000)
    assert known is not None
    assert other is not None
    assert abs(known.estimate_ns - other.estimate_ns - AHEAD_NS) < 1_000_000
    assert correlation.clock_of("nobody", START_NS) is None


class Away(EmbeddedStore):
    """The real store, away when a test says so."""

    away = True

    async def put_conversations(self, rows: Any) -> None:
        if self.away:
            raise StoreAway("it is away, says the test")
        await super().put_conversations(rows)


async def test_results_wait_for_a_store_that_is_away_and_what_is_too_much_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Away(tmp_path / "pool")
    correlation = Correlation(store)
    monkeypatch.setattr("hub.pool.correlation.MOST_WAITING_ROWS", 74)
    seconds(correlation, 2)
    assert correlation.counts.passed_over == 74
    assert MOST_WAITING_ROWS > 74
    async with running(store.run(), correlation.run()):
        await until(lambda: ready(store))
        await until(lambda: correlation.counts.conversations > 0)
        assert (await store.conversations(None, **WHOLE)).rows == []
        store.away = False
        row = await conversation(store, 38)
    assert row.packets == 38


async def test_an_error_of_ours_costs_conversations_and_not_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = EmbeddedStore(tmp_path / "pool")
    correlation = Correlation(store)
    with monkeypatch.context() as broken:
        broken.setattr("hub.pool.correlation.described", None)
        seconds(correlation, 1)
        async with running(store.run(), correlation.run()):
            await until(lambda: ready(store))
            await until(lambda: correlation.counts.begun_anew > 0)
            broken.undo()
            seconds(correlation, 1)
            await conversation(store, 38)
    assert "begins anew" in caplog.text
