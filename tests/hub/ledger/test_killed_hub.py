"""kill -9 of the process that keeps the ledger, again and again, while an agent publishes."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from hub.archive.keeper import Keeper
from hub.archive.reading import stream_state
from hub.ledger.session_books import session_books
from tests.hub.agent_side import enrolled, udp_packet
from tests.hub.parts import parts, running
from tests.support.nats_backbone import until

ROOT = Path(__file__).resolve().parents[3]
BATCHES, PACKETS, KILLS = 400, 10, 5


@pytest.mark.slow
async def test_every_batch_is_booked_once(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        hub.registry.sessions.observe(web1.session, "web1", "", 1)

        def booked() -> int:
            return session_books(hub.registry, web1.session).batches

        async def publish() -> None:
            for _ in range(BATCHES):
                await web1.publish(web1.packets([udp_packet(i) for i in range(PACKETS)]))

        def start() -> subprocess.Popen[bytes]:
            argv = (
                sys.executable,
                "-m",
                "tests.hub.ledger.run_ledger",
                hub.backbone.state.root,
                hub.registry.path,
            )
            return subprocess.Popen(argv, cwd=ROOT)

        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(publish())
            for _ in range(KILLS):
                before = booked()
                process = start()
                await until(lambda before=before: booked() > before or publishing.done(), 30)  # type: ignore[misc]
                process.kill()
                await asyncio.to_thread(process.wait)
        process = start()
        bus = hub.bus()
        try:
            await until(lambda: booked() >= BATCHES, 30)
            keeper = Keeper(hub.registry, bus)

            async def all_confirmed() -> bool:
                return (await keeper.floor("CAPTURE"))[0] >= BATCHES

            async with running(bus.run()):
                assert (await stream_state(bus, "CAPTURE")).messages == BATCHES
                await until(all_confirmed, 30)
        finally:
            process.kill()
            process.wait()
        books = session_books(hub.registry, web1.session)
        assert (books.batches, books.archived_packets) == (BATCHES, BATCHES * PACKETS)
        assert (books.duplicates, books.missing_batches, books.broken_links) == (0, 0, 0)
