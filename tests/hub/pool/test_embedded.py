"""The embedded store by itself: what it keeps, what it finds, what it lets go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hub.pool.embedded.store import EmbeddedStore
from hub.pool.observed import ClockOffset, Pooling
from tests.hub.observe.made import CASES
from tests.hub.parts import running
from tests.hub.pool.made import START_NS, Made
from tests.hub.pool.reference import told

WHOLE = {"since_ns": 0, "until_ns": 2**63 - 1}


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(directory / "pool")
    async with running(store.run()):
        async with asyncio.timeout(10):
            await store.opened.wait()
        yield store


async def test_what_comes_back_is_what_the_fields_say(tmp_path: Path) -> None:
    """Every kind of frame, with each of its fields."""
    made = Made(level=Pooling.PAYLOAD)
    batches = []
    for link_type in sorted({case.link_type for case in CASES.values()}):
        frames = [case.frame for case in CASES.values() if case.link_type == link_type]
        made.clock = None if len(batches) % 2 else ClockOffset(-5_000_000, -6_000_000, -4_500_000)
        batches.append(
            made.frames(
                frames,
                link_type=link_type,
                flags=0x0D3 + len(batches),
                first_ns=START_NS + len(batches) * 10**9,
            )
        )
    async with opened(tmp_path) as store:
        puts = await store.put(batches)
        assert [put.stored for put in puts] == [len(batch) for batch in batches]
        page = await store.packets(None, **WHOLE, limit=1000)
    assert page.after is None
    found = {str(row.observation): dict(row.values) for row in page.rows}
    wanted = {batch.observation_id(i): told(batch, i) for batch in batches for i in range(len(batch))}
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name] == wanted[name], name
