"""Lanes of stored packets: what two hosts saw on both sides of a router that translates addresses."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from hub.explore.conversation import conversation_view
from hub.pool.correlation import Correlation
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.observed import ObservedBatch
from tests.hub.parts import running
from tests.hub.pool.made import START_NS, Made
from tests.hub.pool.test_correlation import AHEAD_NS, DELAY_NS, conversation, ready
from tests.support.nats_backbone import until
from wire.body import DIRECTION_IN, DIRECTION_OUT
from wire.names import new_session_id

STEP_NS = 100_000_000
CLIENT, OUTSIDE, SERVER = bytes([10, 0, 0, 1]), bytes([192, 0, 2, 1]), bytes([10, 0, 9, 9])


def segment(number: int, *, back: bool, client: bytes, ttl: int) -> bytes:
    """Data of one TCP connection: part `number` of its way."""
    ends = [(client, 40_000), (SERVER, 5_000)]
    if back:
        ends.reverse()
    order = 4 * number + 4 * (not back)
    numbers = (1_000 * (1 + back) + 4 * number, 1_000 * (2 - back) + order)
    tcp = struct.pack(">HHIIBBHHH", ends[0][1], ends[1][1], *numbers, 0x50, 0x18, 1_000, 0, 0)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 44, number + 1, 0, ttl, 6, 0, ends[0][0], ends[1][0])
    return bytes(12) + b"\x08\0" + ip + tcp + b"data"


def seen() -> list[ObservedBatch]:
    """Forty packets each way, through a router that puts its own address in; web2 misses every tenth."""
    near = Made("web1", new_session_id(), bytes(15) + b"\1", interface="eth0")
    far = Made("web2", new_session_id(), bytes(15) + b"\2", interface="eth1")
    batches = []
    for number in range(40):
        at = START_NS + number * STEP_NS
        arrived = at + DELAY_NS + AHEAD_NS
        ways: list[tuple[Made, bool, bytes, int, int, int]] = [(near, False, CLIENT, 64, at, DIRECTION_OUT)]
        if number % 10 != 5:
            ways += [
                (far, False, OUTSIDE, 63, arrived, DIRECTION_IN),
                (far, True, OUTSIDE, 64, arrived + 1_000_000, DIRECTION_OUT),
                (near, True, CLIENT, 63, at + 1_000_000 + 2 * DELAY_NS, DIRECTION_IN),
            ]
        for made, back, client, ttl, time_ns, direction in ways:
            frame = segment(number, back=back, client=client, ttl=ttl)
            batches.append(made.frames([frame], first_ns=time_ns, flags=direction))
    return batches


@pytest.mark.slow
async def test_a_packet_with_another_address_stands_on_one_line(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "pool")
    correlation = Correlation(store)
    batches = seen()
    for batch in batches:
        correlation.hear(batch)
    async with running(store.run(), correlation.run()):
        await until(lambda: ready(store))
        await store.put(batches)
        row = await conversation(store, 76)
        await until(lambda: bool(correlation._offsets) and not correlation._unstored_offsets)
        async with asyncio.timeout(10):
            view = await conversation_view(store, row)
    assert len(row.aliases) == 1
    assert view.correlated
    assert not view.cut
    assert [(lane.agent, lane.interface) for lane in view.lanes] == [("web1", "eth0"), ("web2", "eth1")]
    assert len(view.segments) == 76
    both = [one for one in view.segments if len(one.sights) == 2]
    alone = [one for one in view.segments if len(one.sights) == 1]
    assert len(both) == 72
    assert [(one.missing, one.lost_after) for one in alone] == [((1,), None)] * 4, (
        "acknowledged: it passed unseen"
    )
    assert all(one.forward for one in alone)
    for one in both:
        by_lane = {sight.place: sight for sight in one.sights}
        delay_ns = (by_lane[1].time_ns - by_lane[0].time_ns) * (1 if one.forward else -1)
        assert abs(delay_ns - DELAY_NS) < 100_000, "the stored packets' times were not corrected: these are"
        assert one.label.startswith("40000 → 5000" if one.forward else "5000 → 40000")
