"""kill -9 of the process that keeps the pool, again and again, while an agent publishes."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hub.pool.books import session_pool
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.store import SessionSize
from tests.hub.agent_side import enrolled, udp_packet
from tests.hub.parts import parts, running
from tests.support.nats_backbone import until

ROOT = Path(__file__).resolve().parents[3]
BATCHES, PACKETS, KILLS = 600, 20, 6


@pytest.mark.slow
async def test_every_packet_is_pooled_once(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        hub.registry.sessions.observe(web1.session, "web1", "", 1)

        def pooled() -> int:
            return session_pool(hub.registry, web1.session).pooled

        async def publish() -> None:
            for number in range(BATCHES):
                frames = [udp_packet(number * PACKETS + i) for i in range(PACKETS)]
                await web1.publish(web1.packets(frames))
                await asyncio.sleep(0.005)

        def start() -> subprocess.Popen[bytes]:
            argv = (
                sys.executable,
                "-m",
                "tests.hub.pool.run_ingest",
                hub.backbone.state.root,
                hub.registry.path,
            )
            return subprocess.Popen((*argv, tmp_path / "pool"), cwd=ROOT)

        rng = random.Random(1)
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(publish())
            for _ in range(KILLS):
                before = pooled()
                process = start()
                await until(lambda before=before: pooled() > before or publishing.done(), 30)  # type: ignore[misc]
                await asyncio.sleep(rng.random() * 0.3)  # somewhere in a write
                process.kill()
                await asyncio.to_thread(process.wait)
        process = start()
        try:
            await until(lambda: pooled() >= BATCHES * PACKETS, 60)
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
        found = session_pool(hub.registry, web1.session)
        assert (found.pooled, found.left_out, found.refused) == (BATCHES * PACKETS, 0, 0)
        store = EmbeddedStore(tmp_path / "pool")
        async with running(store.run()):
            async with asyncio.timeout(20):
                await store.opened.wait()
            (size,) = await store.sessions()
            assert isinstance(size, SessionSize)
            assert size.packets == BATCHES * PACKETS
            page = await store.packets(None, since_ns=0, until_ns=2**63 - 1, limit=10_000)
            rest = await store.packets(None, since_ns=0, until_ns=2**63 - 1, limit=10_000, after=page.after)
            names = {str(row.observation) for row in (*page.rows, *rest.rows)}
            assert len(names) == BATCHES * PACKETS
