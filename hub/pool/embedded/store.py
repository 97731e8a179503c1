"""The embedded store: one thread that writes, two that answer, and the event loop waits for none of them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import duckdb

from hub.pool.embedded import questions
from hub.pool.embedded.compile import FUNCTIONS, Condition, compile_conversations, compile_packets
from hub.pool.embedded.derived import Derived
from hub.pool.embedded.packets import Packets
from hub.pool.observed import ObservedBatch
from hub.pool.query import Query
from hub.pool.store import (
    MAX_BUCKETS,
    MAX_PAGE,
    ConversationPage,
    ConversationRow,
    Histogram,
    OffsetRow,
    PacketPage,
    Put,
    Retention,
    SessionSize,
    StoreAway,
    StoreRefused,
    StoreStats,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

READERS = 2
MAX_QUESTION_S = 60.0
"""A question that takes longer is given up."""
RETAIN_EVERY_S = 60.0
STATS_S = 5.0
"""How old the numbers for the page may be."""
FOREVER_NS = 2**63 - 1


class EmbeddedStore:
    """A hub.pool.store.Store in two files of a directory. Only one process can have it open."""

    def __init__(self, directory: Path, retention: Retention | None = None) -> None:
        """The files are opened by `run`."""
        self._directory = directory
        self._retention = retention or Retention()
        self._packets: Packets | None = None
        self._derived: Derived | None = None
        self._problem = "not opened yet"
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="pool-store")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="pool-query")
        self._derived_lock = threading.Lock()
        self._stats: tuple[float, StoreStats] | None = None
        self.opened = asyncio.Event()
        """Set once the files are open."""

    async def run(self) -> None:
        """Open the files, keep within the bounds, close them."""
        try:
            while self._packets is None:
                try:
                    await self._write(self._open)
                except (StoreAway, StoreRefused, OSError, sqlite3.Error) as error:
                    if str(error) != self._problem:
                        log.error("the pool's store can't be opened, trying again: %s", error)
                    self._problem = str(error)
                    await asyncio.sleep(5.0)
            self.opened.set()
            while True:
                await asyncio.sleep(RETAIN_EVERY_S)
                try:
                    await self.retain(self._retention)
                except (StoreAway, StoreRefused) as error:
                    log.warning("the pool can't make room, trying again: %s", error)
        finally:
            self._readers.shutdown(wait=True, cancel_futures=True)
            self._writer.submit(self._close)
            self._writer.shutdown(wait=True)

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        packets = Packets(self._directory / "packets.duckdb")
        try:
            self._derived = Derived(self._directory / "derived.sqlite3", FUNCTIONS)
        except BaseException:
            packets.close()
            raise
        self._packets = packets
        self._problem = ""

    def _close(self) -> None:
        packets, self._packets = self._packets, None
        derived, self._derived = self._derived, None
        self._problem = "closed"
        if packets is not None:
            packets.close()
        if derived is not None:
            derived.close()

    # Observations

    async def put(self, batches: Sequence[ObservedBatch]) -> Sequence[Put]:
        """See Store."""
        return await self._write(lambda: self._required().put(batches))

    async def packets(
        self,
        query: Query | None,
        *,
        since_ns: int,
        until_ns: int,
        limit: int = 100,
        after: str | None = None,
        newest_first: bool = False,
    ) -> PacketPage:
        """See Store."""
        condition, since_ns, until_ns = _asked(query, since_ns, until_ns)
        return await self._ask(
            lambda cursor: questions.packets(
                cursor,
                condition,
                since_ns=since_ns,
                until_ns=until_ns,
                limit=max(1, min(limit, MAX_PAGE)),
                after=after,
                newest_first=newest_first,
            )
        )

    async def count(self, query: Query | None, *, since_ns: int, until_ns: int) -> int:
        """See Store."""
        condition, since_ns, until_ns = _asked(query, since_ns, until_ns)
        return await self._ask(
            lambda cursor: questions.count(cursor, condition, since_ns=since_ns, until_ns=until_ns)
        )

    async def histogram(
        self, query: Query | None, *, since_ns: int, until_ns: int, buckets: int = 100
    ) -> Histogram:
        """See Store."""
        condition, since_ns, until_ns = _asked(query, since_ns, until_ns)
        if until_ns <= since_ns:
            return Histogram(since_ns, 1, [], [])
        return await self._ask(
            lambda cursor: questions.histogram(
                cursor,
                condition,
                since_ns=since_ns,
                until_ns=until_ns,
                buckets=max(1, min(buckets, MAX_BUCKETS)),
            )
        )

    # Conversations and offsets

    async def put_conversations(self, rows: Sequence[ConversationRow]) -> None:
        """See Store."""
        await self._derive(lambda derived: derived.put_conversations(rows))

    async def forget_conversations(self, ids: Sequence[str]) -> None:
        """See Store."""
        await self._derive(lambda derived: derived.forget_conversations(ids))

    async def conversations(
        self,
        query: Query | None,
        *,
        since_ns: int,
        until_ns: int,
        limit: int = 100,
        after: str | None = None,
    ) -> ConversationPage:
        """See Store."""
        condition = compile_conversations(query)
        return await self._derive(
            lambda derived: derived.conversations(
                condition.sql,
                condition.values,
                since_ns=_clipped(since_ns),
                until_ns=_clipped(until_ns),
                limit=max(1, min(limit, MAX_PAGE)),
                after=after,
            )
        )

    async def conversation(self, id: str) -> ConversationRow | None:
        """See Store."""
        return await self._derive(lambda derived: derived.conversation(id))

    async def put_offsets(self, rows: Sequence[OffsetRow]) -> None:
        """See Store."""
        await self._derive(lambda derived: derived.put_offsets(rows))

    async def offsets(
        self, *, since_ns: int, until_ns: int, agents: Sequence[str] | None = None, limit: int = 100_000
    ) -> Sequence[OffsetRow]:
        """See Store."""
        return await self._derive(
            lambda derived: derived.offsets(
                since_ns=_clipped(since_ns), until_ns=_clipped(until_ns), agents=agents, limit=limit
            )
        )

    # What is held

    async def sessions(self) -> Sequence[SessionSize]:
        """See Store."""
        size = await self._write(lambda: self._required().bytes_used())
        return await self._ask(lambda cursor: questions.sessions(cursor, size))

    async def delete_session(self, session: str) -> int:
        """See Store."""
        gone = await self._write(lambda: self._required().delete_session(session))
        await self._derive(lambda derived: derived.delete_session(session))
        return gone

    async def retain(self, retention: Retention) -> int:
        """See Store."""
        gone, before_ns = await self._write(lambda: self._required().retain(retention, time.time_ns()))
        if before_ns is not None:
            await self._derive(lambda derived: derived.delete_before(before_ns))
        if gone:
            log.info("the pool made room: %d packets went", gone)
        return gone

    async def stats(self) -> StoreStats:
        """See Store."""
        now_s = time.monotonic()
        if self._stats is not None and now_s - self._stats[0] < STATS_S and self._packets is not None:
            return self._stats[1]
        try:
            packets, oldest_ns, newest_ns = await self._ask(questions.totals)
            size = await self._write(lambda: self._required().bytes_used())
            conversations, derived_bytes = await self._derive(lambda derived: derived.size())
        except (StoreAway, StoreRefused) as error:
            return StoreStats("embedded", False, str(error), 0, 0, 0, None, None)
        stats = StoreStats(
            "embedded", True, "", packets, conversations, size + derived_bytes, oldest_ns, newest_ns
        )
        self._stats = now_s, stats
        return stats

    # Threads

    def _required(self) -> Packets:
        if self._packets is None:
            raise StoreAway(f"the embedded store isn't open: {self._problem}")
        return self._packets

    async def _write(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, work)
        except RuntimeError as error:  # the executor has ended
            raise StoreAway(f"the embedded store: {error}") from error

    async def _derive(self, work: Callable[[Derived], T]) -> T:
        def locked() -> T:
            with self._derived_lock:
                if self._derived is None:
                    raise StoreAway(f"the embedded store isn't open: {self._problem}")
                try:
                    return work(self._derived)
                except sqlite3.OperationalError as error:
                    raise StoreAway(f"the embedded store: {error}") from error
                except sqlite3.Error as error:
                    raise StoreRefused(f"the embedded store: {error}") from error

        return await self._in_reader(locked)

    async def _ask(self, question: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """On a cursor of its own; interrupted when whoever asks goes away, or after MAX_QUESTION_S."""
        cursor = self._required().connection.cursor()

        def ask() -> T:
            try:
                return question(cursor)
            finally:
                cursor.close()

        try:
            async with asyncio.timeout(MAX_QUESTION_S):
                return await self._in_reader(ask)
        except TimeoutError as error:
            cursor.interrupt()
            raise StoreRefused(
                f"no answer within {MAX_QUESTION_S:.0f} s: ask for less time or more narrowly"
            ) from error
        except asyncio.CancelledError:
            cursor.interrupt()
            raise

    async def _in_reader(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, work)
        except RuntimeError as error:
            raise StoreAway(f"the embedded store: {error}") from error


def _clipped(time_ns: int) -> int:
    return max(-FOREVER_NS, min(FOREVER_NS, time_ns))


def _asked(query: Query | None, since_ns: int, until_ns: int) -> tuple[Condition, int, int]:
    return compile_packets(query), _clipped(since_ns), _clipped(until_ns)
