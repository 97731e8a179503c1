"""Elasticsearch as a store of the pool: blocking calls in threads of their own, behind hub.pool.store.Store."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hub.pool.elastic.asking import Asking
from hub.pool.elastic.connection import Access, Answered, Cluster, Connection
from hub.pool.elastic.indices import Indices
from hub.pool.elastic.keeping import Keeping
from hub.pool.elastic.writer import Writer, WriterCounts
from hub.pool.observed import ObservedBatch
from hub.pool.query import Query
from hub.pool.store import (
    ConversationPage,
    ConversationRow,
    Histogram,
    OffsetRow,
    PacketPage,
    Put,
    Retention,
    SessionSize,
    StoreAway,
    StoreStats,
)
from hub.pool.tracing import Tracing

log = logging.getLogger(__name__)

T = TypeVar("T")

REQUESTS = 3
"""Bulk requests on their way at a time."""
CALLS = 8
"""Of the store at a time: puts, questions; further ones wait."""
LOOK_S = 10.0
"""Between looks at the cluster while it is well."""
RETRY_S = 2.0
RETAIN_EVERY_S = 600.0


class ElasticStore:
    """One cluster. `run` must be running."""

    def __init__(
        self,
        access: Access,
        indices: Indices | None = None,
        *,
        retention: Retention | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """StoreRefused for addresses and files that can't be right. tracing: of batches; it ends with the store."""
        self._retention = retention or Retention()
        self._tracing = tracing
        self.indices = indices or Indices()
        self._connection = Connection(access)
        self._sending = ThreadPoolExecutor(REQUESTS, thread_name_prefix="elastic-send")
        self._calling = ThreadPoolExecutor(CALLS, thread_name_prefix="elastic")
        self._writer = Writer(self._connection, self.indices, self._sending)
        self._asking = Asking(self._connection, self.indices)
        self._keeping = Keeping(self._connection, self.indices)
        self._problem = "not connected to Elasticsearch yet"
        self.cluster: Cluster | None = None
        """As of the last look at it."""

    @property
    def counts(self) -> WriterCounts:
        """What was written since the start."""
        return self._writer.counts

    async def run(self) -> None:
        """See Store."""
        retained_s = -RETAIN_EVERY_S
        try:
            while True:
                well = await self._look()
                if well and time.monotonic() - retained_s >= RETAIN_EVERY_S:
                    retained_s = time.monotonic()
                    await self._retain()
                await asyncio.sleep(LOOK_S if well else RETRY_S)
        finally:
            for executor in (self._calling, self._sending):
                executor.shutdown(wait=False, cancel_futures=True)
            self._connection.close()
            if self._tracing is not None:
                threading.Thread(
                    target=self._tracing.close, daemon=True
                ).start()  # may wait for the collector

    async def _retain(self) -> None:
        if self._retention == Retention():
            return
        try:
            await self.retain(self._retention)
        except (StoreAway, Answered) as error:
            log.warning("Elasticsearch can't make room, trying again: %s", error)

    async def _look(self) -> bool:
        try:
            cluster = await self._in_thread(self._connection.cluster)
            if self._problem:
                await self._in_thread(self._keeping.install_templates)
        except (StoreAway, Answered) as error:
            self._say(str(error))
            return False
        self.cluster = cluster
        self._say("")
        return True

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            if problem:
                log.warning("%s", problem)
            else:
                log.info("connected to Elasticsearch %s", self.cluster.version if self.cluster else "")
        self._problem = problem

    async def put(self, batches: Sequence[ObservedBatch]) -> Sequence[Put]:
        """See Store."""
        begun_ns = time.time_ns()
        puts = await self._call(lambda: self._writer.put(batches))
        if self._tracing is not None:
            self._tracing.confirmed(batches, puts, "elasticsearch", begun_ns, time.time_ns())
        return puts

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
        return await self._call(
            lambda: self._asking.packets(query, since_ns, until_ns, limit, after, newest_first)
        )

    async def count(self, query: Query | None, *, since_ns: int, until_ns: int) -> int:
        """See Store."""
        return await self._call(lambda: self._asking.count(query, since_ns, until_ns))

    async def histogram(
        self, query: Query | None, *, since_ns: int, until_ns: int, buckets: int = 100
    ) -> Histogram:
        """See Store."""
        return await self._call(lambda: self._asking.histogram(query, since_ns, until_ns, buckets))

    async def put_conversations(self, rows: Sequence[ConversationRow]) -> None:
        """See Store."""
        await self._call(lambda: self._keeping.put_conversations(rows))

    async def forget_conversations(self, ids: Sequence[str]) -> None:
        """See Store."""
        await self._call(lambda: self._keeping.forget_conversations(ids))

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
        return await self._call(lambda: self._asking.conversations(query, since_ns, until_ns, limit, after))

    async def conversation(self, id: str) -> ConversationRow | None:
        """See Store."""
        return await self._call(lambda: self._asking.conversation(id))

    async def put_offsets(self, rows: Sequence[OffsetRow]) -> None:
        """See Store."""
        await self._call(lambda: self._keeping.put_offsets(rows))

    async def offsets(
        self, *, since_ns: int, until_ns: int, agents: Sequence[str] | None = None, limit: int = 100_000
    ) -> Sequence[OffsetRow]:
        """See Store."""
        return await self._call(lambda: self._asking.offsets(since_ns, until_ns, agents, limit))

    async def sessions(self) -> Sequence[SessionSize]:
        """See Store."""
        return await self._call(
            lambda: self._asking.sessions(sum(one.bytes for one in self._keeping.sizes()))
        )

    async def delete_session(self, session: str) -> int:
        """See Store."""
        return await self._call(lambda: self._keeping.delete_session(session))

    async def retain(self, retention: Retention) -> int:
        """See Store: whole days go, and never the current one."""
        gone = await self._call(lambda: self._keeping.retain(retention, time.time_ns()))
        if gone:
            log.info("the pool made room: %d packets went", gone)
        return gone

    async def stats(self) -> StoreStats:
        """See Store."""
        try:
            return await self._call(self._stats)
        except (StoreAway, Answered) as error:
            return StoreStats("elasticsearch", False, str(error), 0, 0, 0, None, None)

    def _stats(self) -> StoreStats:
        sizes = self._keeping.sizes()
        sums = {
            kind: sum(one.documents for one in sizes if one.name.startswith(f"{self.indices.prefix}-{kind}-"))
            for kind in ("packets", "conversations")
        }
        red = self.cluster is not None and self.cluster.status == "red"
        problem = "its status is red: see GET /_cluster/allocation/explain" if red else ""
        return StoreStats(
            kind="elasticsearch",
            ready=not red,
            problem=problem,
            packets=sums["packets"],
            conversations=sums["conversations"],
            bytes=sum(one.bytes for one in sizes),
            oldest_ns=self._asking.edge(None, "asc"),
            newest_ns=self._asking.edge(None, "desc"),
        )

    async def _call(self, work: Callable[[], T]) -> T:
        if self._problem:
            raise StoreAway(self._problem)
        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._calling, work)
        except RuntimeError as error:  # the executor has ended
            raise StoreAway(f"the store has ended: {error}") from error
