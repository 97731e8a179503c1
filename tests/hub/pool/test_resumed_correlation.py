"""A pool that is killed in the middle of a conversation goes on with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hub.correlate.correlator import IDLE_NS
from hub.pool.books import all_pooled
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.pool import Pool
from hub.pool.recall import going_on
from tests.hub.agent_side import FakeAgent, enrolled
from tests.hub.parts import Parts, parts, running
from tests.hub.pool.test_correlation import AHEAD_NS, DELAY_NS, WHOLE, conversation, datagram, ready
from tests.support.nats_backbone import until
from wire.body import DIRECTION_IN, DIRECTION_OUT

ROOT = Path(__file__).resolve().parents[3]
MS = 1_000_000
EACH = 8
"""Packets each way and part of the conversation."""


async def speak(near: FakeAgent, far: FakeAgent, part: int, base_ns: int) -> None:
    """One part, a tenth of a second a packet: question and answer, each seen on both sides of a router."""
    for number in range(EACH * part, EACH * part + EACH):
        at = base_ns + (number - EACH * part) * 100 * MS
        arrived = at + DELAY_NS + AHEAD_NS
        for agent, back, ttl, time_ns, direction in (
            (near, False, 64, at, DIRECTION_OUT),
            (far, False, 63, arrived, DIRECTION_IN),
            (far, True, 64, arrived + MS, DIRECTION_OUT),
            (near, True, 63, at + 2 * DELAY_NS + MS, DIRECTION_IN),
        ):
            frame = datagram(number, back=back, ttl=ttl)
            await agent.publish(agent.packets([frame], first_ns=time_ns, flags=direction))


def started(here: Parts, pool: Path) -> subprocess.Popen[bytes]:
    """The pool as a process."""
    program = (sys.executable, "-m", "tests.hub.pool.run_pool")
    return subprocess.Popen(
        (*program, here.backbone.state.root, here.registry.path, pool), cwd=ROOT, stdout=subprocess.PIPE
    )


@pytest.mark.slow
async def test_a_conversation_goes_on_under_its_name_after_kill_9(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    async with parts(tmp_path) as here:
        near, far = [await enrolled(here.backbone, here.registry, name) for name in ("web1", "web2")]
        for agent in (near, far):
            here.registry.sessions.observe(agent.session, agent.name, "", 1)
        base_ns = time.time_ns()
        whole = 4 * EACH

        process = started(here, pool)
        assert process.stdout is not None
        try:
            await speak(near, far, 0, base_ns)
            await until(lambda: all_pooled(here.registry).pooled == whole, 30)
            told = {""}
            async with asyncio.timeout(30):
                while not {f"packets {2 * EACH}", "anchor web1"} <= told:
                    assert process.poll() is None
                    told.add((await asyncio.to_thread(process.stdout.readline)).decode().strip())
            await speak(near, far, 1, base_ns + 1_000 * MS)
            await until(lambda: all_pooled(here.registry).pooled == 2 * whole, 30)
        finally:
            process.kill()  # what was pooled last is in no row yet
            await asyncio.to_thread(process.wait)
            process.stdout.close()

        store = EmbeddedStore(pool)
        async with running(store.run()):
            await until(lambda: ready(store))
            before = await conversation(store, 2 * EACH)
            anchors = {row.anchor for row in await store.offsets(**WHOLE)}
        assert before.packets >= 2 * EACH
        assert len(anchors) == 1

        bus, store = here.bus(), EmbeddedStore(pool)
        running_pool = Pool(here.registry, bus, store, key=bytes(16))
        async with running(bus.run(), running_pool.run()):
            correlation = running_pool.correlation
            assert correlation is not None
            async with asyncio.timeout(20):
                await correlation.recalled.wait()
            assert correlation.counts.recalled == 2 * whole
            known = correlation.clock_of("web2", base_ns + AHEAD_NS)
            assert known is not None, "packets that come now are pooled with their time corrected"
            await conversation(store, 4 * EACH)  # also what was pooled and not evaluated when it was killed
            await speak(near, far, 2, base_ns + 2_000 * MS)
            row = await conversation(store, 6 * EACH)
            await until(lambda: not correlation._unstored_offsets)
            offsets = await store.offsets(**WHOLE)
        assert row.id == before.id
        assert (row.packets, row.observations, row.lost_packets) == (6 * EACH, 12 * EACH, 0)
        assert row.first_ns == before.first_ns
        assert row.agents == before.agents
        assert row.sessions == before.sessions
        assert {one.anchor for one in offsets} == anchors
        assert correlation.counts.packets == whole, "what was read again isn't counted as new"


def test_what_goes_on_is_told_from_what_ended_and_what_began_again() -> None:
    minute = 60_000_000_000
    assert minute < IDLE_NS < 4 * minute
    seen = [(1, 1), (1, 9), (1, 10), (2, 3), (2, 4), (3, 8), (3, 10), (0, 10), (4, 8)]
    flow = np.array([one for one, _ in seen], np.uint64)
    stored_ns = np.array([at * minute for _, at in seen], np.int64)
    assert going_on(flow, stored_ns).tolist() == [False, True, True, False, False, True, True, False, True]
    assert going_on(flow[:0], stored_ns[:0]).tolist() == []
