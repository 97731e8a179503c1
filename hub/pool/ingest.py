"""The pool's own reading of the archive: verified, decoded, told to the correlation, put into the store, booked.

One durable per stream (`pool-bulk`, `pool-prio`), so that the pool holds up nobody and bulk never the priority lane.
A message is acknowledged after the store has confirmed it and the books say so; what dies in between is delivered
again, recognised by the store and counted once. A store that is away or full makes this wait, with the same rounds in
hand: the archive keeps what is not acknowledged (its keeper lets nothing go that the pool has yet to confirm).

While the store confirms one round, the next ones are read and given to it: a store that answers slowly, as one over a
network does, is then kept busy all the same.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import nats.errors
from nats.aio.msg import Msg

from hub.bus import Bus
from hub.durable import ACK_WAIT_S, Durable
from hub.pool.books import Fate, PoolBooks
from hub.pool.observed import ObservedBatch, Pooling
from hub.pool.reading import BatchReader, ClockOf, Incoming, Listener, Read, ReadCounts
from hub.pool.store import Put, Store, StoreAway, StoreRefused
from hub.registry import Registry
from wire.names import STREAM_CAPTURE, STREAM_PRIORITY

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FETCH = 24
"""Messages of a round: × (1 MiB + 1 MiB unpacked + its observations, 2 MB or so) bounds what a lane holds."""
ROUNDS = 3
"""Of a lane, on their way into the store at a time."""
RETRY_DELAY_S = 3.0
BACKOFF_S = (0.5, 15.0)
"""Between tries while the store is away: first and longest."""
GATHER_S = 0.25
"""Once a lane is read to its end: a watched session sends a batch each 10 ms, and a round costs the interpreter that
the live view waits for about as much for one batch as for 24."""
LAGS = 4_096

DURABLES: dict[str, str] = {STREAM_CAPTURE: "pool-bulk", STREAM_PRIORITY: "pool-prio"}
"""Stream → its durable."""


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """For the page and the metrics."""

    lag_s: float
    """How long the oldest batch that isn't pooled yet has been in the archive; 0: nothing waits."""
    lag_p95_s: float
    """From stored in the archive to confirmed by the pool, of the latest 4,096 batches: 95 % took less."""
    pending: int
    """Messages yet to be read, as of the last round."""
    waiting_for: str
    """Why the pool doesn't go on; "" when it does."""
    counts: ReadCounts


class Ingest:
    """Two loops, one thread for what computes; the store has its own."""

    def __init__(
        self,
        registry: Registry,
        bus: Bus,
        store: Store,
        *,
        key: bytes,
        level: Pooling = Pooling.HEADERS,
        clock_of: ClockOf | None = None,
    ) -> None:
        """key: 16 bytes, of the fingerprints. level: of sessions that don't say."""
        self._store = store
        self._books = PoolBooks(registry)
        self._reader = BatchReader(registry, self._books, key=key, level=level)
        self._reader.clock_of = clock_of
        self._durables = [
            Durable(bus, stream, name, most_messages=MAX_FETCH, most_unacknowledged=ROUNDS * MAX_FETCH)
            for stream, name in DURABLES.items()
        ]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="pool")
        self._rounds = itertools.count()
        self._in_hand: dict[int, int] = {}
        """Round → when its oldest message was stored."""
        self._behind_s: dict[str, float] = {}
        """Stream → how old its last round was when confirmed; 0 when nothing waited behind it."""
        self._lags: deque[float] = deque(maxlen=LAGS)
        self._waiting: dict[int, str] = {}
        """Round → why it waits."""

    def on_batch(self, listener: Listener) -> None:
        """Have each batch told that is read for the first time, in the thread that decodes."""
        self._reader.listeners.append(listener)

    @property
    def status(self) -> IngestStatus:
        """As it is now."""
        now_ns = time.time_ns()
        waiting = [(now_ns - stored_ns) / 1e9 for stored_ns in self._in_hand.values()]
        lags = sorted(self._lags)
        return IngestStatus(
            lag_s=max(0.0, *waiting, *self._behind_s.values(), 0.0),
            lag_p95_s=lags[len(lags) * 95 // 100] if lags else 0.0,
            pending=sum(durable.pending for durable in self._durables),
            waiting_for=next(iter(self._waiting.values()), ""),
            counts=replace(self._reader.counts),
        )

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for durable in self._durables:
                    tasks.create_task(self._read(durable))
        finally:
            self._worker.shutdown(wait=True, cancel_futures=True)

    async def _read(self, durable: Durable) -> None:
        free, rounds = asyncio.Semaphore(ROUNDS), durable.rounds()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await free.acquire()
                messages = await anext(rounds)
                task = tasks.create_task(self._work(durable, messages))
                task.add_done_callback(lambda _: free.release())
                if not durable.pending:
                    await asyncio.sleep(GATHER_S)

    async def _work(self, durable: Durable, messages: Sequence[Msg]) -> None:
        number, incoming = next(self._rounds), [_incoming(message) for message in messages]
        self._in_hand[number] = min(one.stored_ns for one in incoming)
        async with _kept(messages):
            verdicts = await self._round(number, incoming)
        for message, verdict in zip(messages, verdicts, strict=True):
            with suppress(nats.errors.Error):  # a lost acknowledgement is a redelivery
                if verdict == "retry":
                    await message.nak(delay=RETRY_DELAY_S)
                elif verdict == "refuse":
                    await message.term()
                else:
                    await message.ack()
        self._measure(durable, incoming, verdicts)
        self._in_hand.pop(number, None)

    def _measure(self, durable: Durable, incoming: list[Incoming], verdicts: list[str]) -> None:
        now_ns = time.time_ns()
        lags = [
            max(0, now_ns - one.stored_ns) / 1e9
            for one, verdict in zip(incoming, verdicts, strict=True)
            if verdict == "pool"
        ]
        self._lags.extend(lags)
        self._behind_s[durable.stream] = max(lags, default=0.0) if durable.pending else 0.0

    async def _round(self, number: int, incoming: list[Incoming]) -> list[str]:
        """Until the store and the books have it: a verdict for each message."""
        read = await self._until_done(number, lambda: self._in_thread(lambda: self._reader.read(incoming)))
        fates: list[Fate] = [one.fate for one in read if not one.put and one.fate is not None]
        fates += await self._put(number, [one for one in read if one.put])
        await self._until_done(number, lambda: self._in_thread(lambda: self._book(fates)))
        return [one.verdict for one in read]

    def _book(self, fates: list[Fate]) -> None:
        self._books.write(fates)
        self._reader.booked([fate.name for fate in fates])

    async def _put(self, number: int, read: list[Read]) -> list[Fate]:
        batches = [one.batch for one in read if one.batch is not None]
        if not batches:
            return []
        try:
            puts = await self._until_done(number, lambda: self._store.put(batches))
        except StoreRefused:  # one of them, but which?
            puts = [await self._put_alone(number, batch) for batch in batches]
        fates = []
        for one, put in zip(read, puts, strict=True):
            if one.fate is not None:
                pooled = one.fate.pooled - put.refused
                fates.append(replace(one.fate, pooled=pooled, refused=put.refused, reason=put.reason[:256]))
        return fates

    async def _put_alone(self, number: int, batch: ObservedBatch) -> Put:
        try:
            (put,) = await self._until_done(number, lambda: self._store.put([batch]))
        except StoreRefused as error:
            log.error("the store refuses %s: %s", batch.observation_id(0), error)
            return Put(0, 0, len(batch), str(error))
        return put

    async def _until_done(self, number: int, work: Callable[[], Awaitable[T]]) -> T:
        """Try again until it is done, and say meanwhile what is waited for."""
        delay_s, longest_s = BACKOFF_S
        while True:
            try:
                done = await work()
            except (StoreAway, sqlite3.Error) as error:
                if not self._waiting:
                    log.warning("the pool waits: %s", error)
                self._waiting[number] = str(error) or type(error).__name__
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, longest_s)
                continue
            if self._waiting.pop(number, None) is not None and not self._waiting:
                log.info("the pool goes on")
            return done

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


def _incoming(message: Msg) -> Incoming:
    metadata = message.metadata
    stored_ns = int(metadata.timestamp.timestamp() * 1e9)
    return Incoming(message.subject, message.data, stored_ns, metadata.num_delivered or 1)


@asynccontextmanager
async def _kept(messages: Sequence[Msg]) -> AsyncIterator[None]:
    """Tell the server for the time of the block that these are still being worked on."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            for message in messages:
                with suppress(nats.errors.Error):
                    await message.in_progress()

    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()
