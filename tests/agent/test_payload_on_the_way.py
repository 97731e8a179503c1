"""The payload policy from the order to the archive: the real program on a real interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.test_agent import Lab, lab, spec, tell_changed
from tests.support.nats_backbone import until
from wire.batch import Kind, decode_columns
from wire.payload import FULL, HEADERS, PayloadPolicy

__all__ = ["lab"]
pytestmark = pytest.mark.root
HEADER_BYTES, PAYLOAD_BYTES = 14 + 20 + 8, 60


async def kept(lab: Lab, session: str) -> dict[tuple[int, PayloadPolicy], set[int]]:
    """(filter revision, signed policy) → captured lengths of the packets under it."""
    found: dict[tuple[int, PayloadPolicy], set[int]] = {}
    for batch in await lab.batches(session):
        if batch.header.kind is Kind.PACKETS:
            sizes = memoryview(decode_columns(batch).captured_bytes).cast("I")
            key = (batch.header.filter_revision, batch.header.payload or FULL)
            found.setdefault(key, set()).update(sizes)
    return found


async def test_orders_change_what_leaves_while_the_capture_runs(lab: Lab) -> None:
    four = PayloadPolicy("masked", 4)
    one = spec(payload=four)
    await lab.home.declare(lab.hub, 1, one)
    lab.home.start()
    assert (await lab.state(one.id, "running")).payload == four
    lab.send(100, size=PAYLOAD_BYTES)
    await lab.stored(one.id, 100)
    for revision, payload in ((2, HEADERS), (3, FULL)):
        changed = spec(payload=payload, filter_revision=revision)
        await lab.home.declare(lab.hub, revision, changed)
        await tell_changed(lab)

        def obeyed(revision: int = revision, payload: PayloadPolicy = payload) -> bool:
            session = lab.session(one.id)
            return session is not None and (session.filter_revision, session.payload) == (revision, payload)

        await until(obeyed, 15)
        lab.send(100, size=PAYLOAD_BYTES)
        await lab.stored(one.id, 100 * revision)
    whole = HEADER_BYTES + PAYLOAD_BYTES
    assert await kept(lab, one.id) == {
        (1, four): {HEADER_BYTES + 4},
        (2, HEADERS): {HEADER_BYTES},
        (3, FULL): {whole},
    }
    assert lab.home.stop() == 0


@pytest.mark.slow
async def test_the_owners_bound_wins_over_the_order(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("payload:\n  policy: headers\n")
    one = spec()
    await lab.home.declare(lab.hub, 1, one)
    lab.home.start("run", "--config", str(file))
    assert (await lab.state(one.id, "running")).payload == HEADERS
    lab.send(100, size=PAYLOAD_BYTES)
    await lab.stored(one.id, 100)
    assert await kept(lab, one.id) == {(1, HEADERS): {HEADER_BYTES}}
    assert "payload" in lab.reports[-1].capabilities
    assert lab.home.stop() == 0
