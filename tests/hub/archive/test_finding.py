"""A batch of the archive by its name alone, with the ledger's marks, in whatever order it was stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.archive import finding
from hub.ledger.ledger import Ledger
from hub.observation import BatchName
from tests.hub.agent_side import enrolled, udp_packet
from tests.hub.parts import parts, running
from tests.support.nats_backbone import until
from wire.names import Lane

pytestmark = pytest.mark.slow


async def test_any_batch_is_found_by_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "MAX_READ", 8)  # so that only the marks can lead to the place
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus, mark_bytes=2_000)
        async with running(bus.run(), ledger.run()):
            await bus.client()
            for number in range(60):
                await web1.publish(web1.packets([udp_packet(number, size=400)]))

            def booked() -> bool:
                (batches,) = hub.registry.connection.execute("SELECT sum(batches) FROM chains").fetchone()
                return bool(batches == 60)

            await until(booked)
            (marks,) = hub.registry.connection.execute("SELECT count(*) FROM archive_marks").fetchone()
            assert 8 < marks < 60
            keys = [key.signing_public for key in hub.registry.agents.keys("web1")]
            for sequence in (0, 1, 29, 58, 59):
                name = BatchName("web1", web1.boot, web1.session, Lane.BULK, sequence)
                found = await finding.find_by_marks(hub.registry, bus, name, keys)
                assert found is not None
                assert found.header.sequence == sequence
            for name in (
                BatchName("web1", web1.boot, web1.session, Lane.BULK, 60),
                BatchName("web1", bytes(16), web1.session, Lane.BULK, 3),
                BatchName("web1", web1.boot, web1.session, Lane.PRIO, 3),
            ):
                assert await finding.find_by_marks(hub.registry, bus, name, keys) is None
            known = BatchName("web1", web1.boot, web1.session, Lane.BULK, 3)
            assert await finding.find_by_marks(hub.registry, bus, known, [bytes(32)]) is None, (
                "signed by another"
            )
