"""The embedded store by itself: what it keeps, what it finds, what it lets go."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hub.pool.embedded.store import EmbeddedStore
from hub.pool.observed import ClockOffset, ObservedBatch, Pooling
from hub.pool.store import OffsetRow, Retention
from tests.hub.observe.made import CASES
from tests.hub.parts import running
from tests.hub.pool.made import START_NS, Made
from tests.hub.pool.reference import told

WHOLE: dict[str, Any] = {"since_ns": 0, "until_ns": 2**63 - 1}


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
    batches: list[ObservedBatch] = []
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


@pytest.mark.slow
async def test_the_oldest_go_when_they_are_too_old_or_too_many(tmp_path: Path) -> None:
    made, now_ns = Made(), time.time_ns()
    frames = [CASES["tcp"].frame, CASES["padding"].frame] * 4000  # DuckDB gives room back by 122,880 rows
    age_s = 600
    async with opened(tmp_path) as store:
        for number in range(100):  # one every ten seconds, until now
            at_ns = now_ns - (100 - number) * 10 * 10**9
            await store.put([made.frames(frames, first_ns=at_ns)])
        await store.put_offsets([OffsetRow("web1", now_ns - 10**12 * 2, "", None, None, None)])
        gone = await store.retain(Retention(max_age_s=age_s))
        assert gone == pytest.approx(40 * len(frames), abs=2 * len(frames))
        page = await store.packets(None, **WHOLE, limit=1)
        assert page.rows[0].time_ns >= now_ns - (age_s + 5) * 10**9
        assert await store.offsets(**WHOLE) == []
        left = await store.count(None, **WHOLE)
        size = (await store._write(lambda: store._required().bytes_used())) // 2
        gone = await store.retain(Retention(max_bytes=size))
        assert 0 < gone < left
        assert await store._write(lambda: store._required().bytes_used()) <= size
        assert await store.count(None, **WHOLE) == left - gone


@pytest.mark.slow
async def test_a_second_process_is_told_that_the_file_is_taken(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from hub.pool.embedded.packets import Packets;"
        "Packets(Path(sys.argv[1]))"
    )
    async with opened(tmp_path) as store:
        await store.put([Made().frames([CASES["tcp"].frame])])
        done = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            str(tmp_path / "pool" / "packets.duckdb"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await done.communicate()
        assert done.returncode == 1
        assert b"StoreAway" in told
        assert b"lock" in told
