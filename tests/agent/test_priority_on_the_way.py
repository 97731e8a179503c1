"""The priority lane from the order to the archive: the real program, a flood beside a few packets that matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.test_agent import PORT, Lab, lab, spec, tell_changed
from tests.support.ebpf import programs
from tests.support.nats_backbone import until
from wire.batch import PRIORITY, Kind, OpenBatch, decode_columns
from wire.names import Lane
from wire.priority import NO_PRIORITY, parse

__all__ = ["lab"]
pytestmark = pytest.mark.root
MATTERS = PORT + 1


async def archived(lab: Lab, session: str) -> dict[Lane, list[OpenBatch]]:
    """What each of the two streams holds of the session."""
    return {
        lane: [batch for batch in await lab.home.stored(lab.hub, stream) if batch.header.session == session]
        for lane, stream in ((Lane.BULK, "CAPTURE"), (Lane.PRIO, "PRIORITY"))
    }


def ports(batches: list[OpenBatch]) -> list[int]:
    """The destination port of each packet."""
    found = []
    for batch in batches:
        if batch.header.kind is Kind.PACKETS:
            columns = decode_columns(batch)
            at = 0
            for size in memoryview(columns.captured_bytes).cast("I"):
                found.append(int.from_bytes(columns.data[at + 36 : at + 38], "big"))
                at += size
    return found


async def test_what_matters_is_archived_by_its_own_lane_and_never_twice(lab: Lab, tmp_path: Path) -> None:
    programs("object").close()  # type: ignore[union-attr]
    file = tmp_path / "agent.yaml"
    file.write_text("capture:\n  path: object\n  rings: 2\n")
    one = replace(spec(priority=parse(f"port {MATTERS}")), filter=f"udp portrange {PORT}-{MATTERS}")
    await lab.home.declare(lab.hub, 1, one)
    lab.home.start("run", "--config", str(file))
    await lab.state(one.id, "running")

    await until(lambda: (said := lab.session(one.id)) is not None and len(said.lanes) == 2, 15)
    for _ in range(20):
        lab.send(500)
        lab.send(5, port=MATTERS)

    async def all_there() -> bool:
        lanes = await archived(lab, one.id)
        return sum(batch.header.packets for batches in lanes.values() for batch in batches) >= 20 * 505

    await until(all_there, 20)
    lanes = await archived(lab, one.id)
    assert ports(lanes[Lane.PRIO]) == [MATTERS] * 100
    assert ports(lanes[Lane.BULK]) == [PORT] * 10_000
    for batch in lanes[Lane.PRIO]:
        if batch.header.kind is Kind.PACKETS:
            assert all(flags & PRIORITY for flags in memoryview(decode_columns(batch).flags).cast("H"))
    await lab.home.declare(lab.hub, 2, replace(one, priority=NO_PRIORITY))
    await tell_changed(lab)
    await lab.home.declare(lab.hub, 3, replace(one, priority=NO_PRIORITY, state="stopped"))
    await tell_changed(lab)
    await lab.state(one.id, "stopped")

    def settled() -> bool:
        books = lab.books(one.id)
        return books.acknowledged == 10_100 and books.balanced()

    await until(settled, 15)
    lanes = await archived(lab, one.id)
    assert {lane: batches[-1].header.kind for lane, batches in lanes.items()} == {
        Lane.BULK: Kind.CLOSING,
        Lane.PRIO: Kind.CLOSING,
    }
    assert lab.home.stop() == 0
