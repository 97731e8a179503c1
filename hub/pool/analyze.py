"""Analysing a session: all that the archive has of it, read again and put into a store, whatever was pooled before.

It goes on where it stopped, also after a restart of the hub (the registry remembers how far each stream was read), and
doing it twice changes nothing: a store keeps each observation once. Conversations that the correlation made as the
packets came are copied; where there are none, since the session wasn't pooled, they are made now (afterwards.py).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from hub.archive.reading import ArchiveError, Stored, read_subject, stream_state
from hub.bus import Bus
from hub.ledger.verifying import UnknownAgent, Verifier
from hub.pool.afterwards import Afterwards
from hub.pool.correlation import Correlation
from hub.pool.names import names_of
from hub.pool.observed import ClockOffset, ObservedBatch, Pooling
from hub.pool.query import Compare
from hub.pool.reading import ClockOf
from hub.pool.store import Put, Store, StoreAway, StoreRefused
from hub.registry import ConflictError, Registry, UnknownError
from wire.batch import Kind
from wire.errors import WireError
from wire.names import STREAM_CAPTURE, STREAM_PRIORITY, Lane, batch_subject

log = logging.getLogger(__name__)

T = TypeVar("T")

GROUP = 24
"""Batches of one put."""
AT_ONCE = 2
"""Analyses that run; others wait their turn."""
MAX_WAITING = 100
RETRY_S = 3.0
LANES = ((STREAM_CAPTURE, Lane.BULK), (STREAM_PRIORITY, Lane.PRIO))


@dataclass(frozen=True, slots=True)
class Analysis:
    """How far it is."""

    session: str
    target: str
    """Name of the store."""
    level: Pooling
    state: str
    """waiting, running, done, stopped, failed."""
    problem: str
    """Why it failed, or what it waits for."""
    packets: int
    """Read so far and kept by the store (new or known)."""
    refused: int
    """Packets of batches that are none, or that the store won't take."""
    total: int
    """Packets the archive was told to have when it began."""
    started_ns: int
    changed_ns: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        if self.state == "done":
            return 1.0
        return min(1.0, (self.packets + self.refused) / self.total) if self.total else 0.0

    @property
    def active(self) -> bool:
        """It goes on by itself."""
        return self.state in ("waiting", "running")


class Analyses:
    """All of them; the registry holds their state."""

    def __init__(
        self,
        registry: Registry,
        bus: Bus,
        stores: Mapping[str, Store],
        *,
        key: bytes,
        clock_of: ClockOf | None = None,
        source: Store | None = None,
        level: Pooling = Pooling.HEADERS,
        correlate: bool = True,
    ) -> None:
        """stores: by name. key: of the fingerprints, as the ingest's. source: whose conversations go along. level: of
        sessions that don't say. correlate: whether conversations are made where there are none."""
        self._registry = registry
        self._bus = bus
        self._stores = stores
        self._key = key
        self._clock_of = clock_of
        self._source = source
        self._level = level
        self._afterwards = Afterwards(stores, source) if source is not None and correlate else None
        self._changed = asyncio.Event()
        self._working: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Work until cancelled; those that a restart cut off go on."""
        with self._registry.transaction() as db:
            db.execute("UPDATE analyses SET state = 'waiting' WHERE state = 'running'")
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._changed.clear()
                    for session in self._waiting()[: AT_ONCE - len(self._working)]:
                        task = tasks.create_task(self._work(session))
                        self._working[session] = task
                        task.add_done_callback(lambda _, session=session: self._ended(session))  # type: ignore[misc]
                    await self._changed.wait()
        finally:
            if self._afterwards is not None:
                self._afterwards.close()

    def _ended(self, session: str) -> None:
        self._working.pop(session, None)
        self._changed.set()

    def _waiting(self) -> list[str]:
        rows = self._registry.connection.execute(
            "SELECT session FROM analyses WHERE state = 'waiting' ORDER BY started_ns"
        )
        return [row["session"] for row in rows if row["session"] not in self._working]

    def get(self, session: str) -> Analysis | None:
        """The session's latest."""
        row = self._registry.connection.execute(
            """SELECT session, target, level, state, problem, packets, refused, total, started_ns, changed_ns
               FROM analyses WHERE session = ?""",
            (session,),
        ).fetchone()
        return Analysis(**(dict(row) | {"level": Pooling(row["level"])})) if row else None

    def start(self, session: str, target: str, level: Pooling = Pooling.HEADERS) -> Analysis:
        """Begin, or go on with one of the same target and level. UnknownError, ConflictError."""
        record = self._registry.sessions.require(session)
        if target not in self._stores:
            raise UnknownError(f"there is no store {target!r}; there are {', '.join(self._stores)}")
        if level not in (Pooling.HEADERS, Pooling.PAYLOAD):
            raise ConflictError("an analysis takes packets' fields (headers) or their payload too (payload)")
        before = self.get(session)
        if before is not None and before.active:
            raise ConflictError(
                f"the session is being analysed already ({before.share:.0%} into {before.target})"
            )
        if len(self._waiting()) >= MAX_WAITING:
            raise ConflictError(f"{MAX_WAITING} analyses are waiting already: try again when one is done")
        goes_on = (
            before is not None
            and before.state in ("stopped", "failed")
            and (before.target, before.level) == (target, level)
        )
        now_ns = time.time_ns()
        (total,) = self._registry.connection.execute(
            "SELECT coalesce(sum(packets), 0) FROM chains WHERE session = ? AND agent = ?",
            (session, record.agent),
        ).fetchone()
        with self._registry.transaction() as db:
            if goes_on:
                db.execute(
                    "UPDATE analyses SET state = 'waiting', problem = '', total = ?, changed_ns = ? WHERE session = ?",
                    (total, now_ns, session),
                )
            else:
                db.execute(
                    """INSERT OR REPLACE INTO analyses(session, target, level, state, problem, packets, refused, total,
                       bulk_sequence, prio_sequence, started_ns, changed_ns)
                       VALUES(?, ?, ?, 'waiting', '', 0, 0, ?, 0, 0, ?, ?)""",
                    (session, target, level, total, now_ns, now_ns),
                )
        self._changed.set()
        found = self.get(session)
        assert found is not None
        return found

    def stop(self, session: str) -> None:
        """Leave off; `start` goes on with it. ConflictError when it isn't going on."""
        found = self.get(session)
        if found is None or not found.active:
            raise ConflictError("the session isn't being analysed")
        self._set(session, state="stopped", problem="")
        task = self._working.get(session)
        if task is not None:
            task.cancel()

    def _set(self, session: str, **values: str | int) -> None:
        changes = ", ".join(f"{name} = ?" for name in values)
        with self._registry.transaction() as db:
            db.execute(
                f"UPDATE analyses SET {changes}, changed_ns = ? WHERE session = ?",  # noqa: S608
                (*values.values(), time.time_ns(), session),
            )

    def _require(self, session: str) -> Analysis:
        found = self.get(session)
        if found is None:
            raise UnknownError("the session was deleted meanwhile")
        return found

    async def _work(self, session: str) -> None:
        self._set(session, state="running")
        try:
            correlation = await self._correlation_of(session)
            await self._read_all(session, correlation)
            if correlation is None:
                await self._copy_conversations(session)
            else:
                await self._settle(session, correlation, final=True)
            self._set(session, state="done", problem="")
        except (ArchiveError, StoreRefused, UnknownAgent, UnknownError, TimeoutError) as error:
            log.warning("the analysis of %s failed: %s", session, error)
            self._set(session, state="failed", problem=str(error)[:500] or type(error).__name__)
        except sqlite3.Error as error:
            log.error("the analysis of %s can't note how far it is: %s", session, error)

    async def _correlation_of(self, session: str) -> Correlation | None:
        """What is to hear the session's packets; None: its conversations are there, or come as it runs."""
        afterwards, record = self._afterwards, self._registry.sessions.require(session)
        if afterwards is None or (
            record.ended_ns is None and (record.pooling or self._level) is not Pooling.OFF
        ):
            return None
        if not await self._patiently(session, lambda: afterwards.wanted(session)):
            return None
        target = self._require(session).target
        if afterwards.begin(
            session, target
        ):  # it knows nothing of what was read before the hub was started anew
            self._set(session, packets=0, refused=0, bulk_sequence=0, prio_sequence=0)
        return afterwards.of(target)

    async def _settle(self, session: str, correlation: Correlation, *, final: bool) -> None:
        assert self._afterwards is not None

        async def patiently(work: Callable[[], Awaitable[None]]) -> None:
            await self._patiently(session, work)

        await self._afterwards.settle(correlation, patiently, final=final)

    async def _read_all(self, session: str, correlation: Correlation | None) -> None:
        record = self._registry.sessions.require(session)
        for stream, lane in LANES:
            subject = batch_subject(record.agent, session, lane)
            row = self._registry.connection.execute(
                f"SELECT {lane}_sequence FROM analyses WHERE session = ?",  # noqa: S608
                (session,),
            ).fetchone()
            last = (await stream_state(self._bus, stream)).last_sequence
            group: list[Stored] = []
            async with aclosing(
                read_subject(self._bus, stream, subject, first=(row[0] if row else 0) + 1, last=last)
            ) as messages:
                async for stored in messages:
                    group.append(stored)
                    if len(group) == GROUP:
                        await self._put(session, lane, subject, group, correlation)
                        group = []
            await self._put(session, lane, subject, group, correlation)

    async def _put(
        self, session: str, lane: Lane, subject: str, group: list[Stored], correlation: Correlation | None
    ) -> None:
        if not group:
            return
        found = self._require(session)
        batches, refused = await asyncio.to_thread(self._observed, subject, group, found.level)
        store = self._stores[found.target]
        puts = await self._put_all(session, store, batches) if batches else []
        if correlation is not None:
            hear = correlation.hear
            await asyncio.to_thread(lambda: [hear(batch) for batch in batches])
            await self._settle(session, correlation, final=False)
        kept = sum(put.stored + put.known for put in puts)
        refused += sum(put.refused for put in puts)
        self._set(
            session,
            packets=found.packets + kept,
            refused=found.refused + refused,
            **{f"{lane}_sequence": group[-1].sequence},
        )

    async def _put_all(self, session: str, store: Store, batches: list[ObservedBatch]) -> Sequence[Put]:
        try:
            return await self._patiently(session, lambda: store.put(batches))
        except StoreRefused:  # one of them, but which?
            puts: list[Put] = []
            for batch in batches:
                try:
                    puts += await self._patiently(session, lambda batch=batch: store.put([batch]))  # type: ignore[misc]
                except StoreRefused as error:
                    log.error("the store refuses %s: %s", batch.observation_id(0), error)
                    puts.append(Put(0, 0, len(batch), str(error)))
            return puts

    async def _patiently(self, session: str, work: Callable[[], Awaitable[T]]) -> T:
        """Try again while a store is away, and say so."""
        waited = False
        while True:
            try:
                done = await work()
            except StoreAway as error:
                self._set(session, problem=f"waiting: {error}"[:500])
                waited = True
                await asyncio.sleep(RETRY_S)
                continue
            if waited:
                self._set(session, problem="")
            return done

    def _observed(
        self, subject: str, messages: list[Stored], level: Pooling
    ) -> tuple[list[ObservedBatch], int]:
        """In a thread: (batches of packets, packets of those that are none)."""
        verifier = Verifier(self._registry)
        batches, refused = [], 0
        for message in messages:
            try:
                opened = verifier.verify(subject, message.data)
            except WireError:
                continue  # the ledger has it in quarantine; it was never counted as archived
            header = opened.header
            if header.kind is not Kind.PACKETS:
                continue
            clock: ClockOffset | None = None
            if self._clock_of is not None:
                clock = self._clock_of(header.agent, header.first_timestamp_ns)
            try:
                batches.append(
                    ObservedBatch.of(
                        opened,
                        stored_ns=message.stored_ns,
                        level=level,
                        names=names_of(self._registry, header.agent),
                        clock=clock,
                        key=self._key,
                    )
                )
            except WireError:
                refused += header.packets
        return batches, refused

    async def _copy_conversations(self, session: str) -> None:
        source, target = self._source, self._stores[self._require(session).target]
        if source is None or target is source:
            return
        after: str | None = None
        while True:
            page = await self._patiently(
                session,
                lambda after=after: source.conversations(  # type: ignore[misc]
                    Compare("wirepool.session", "=", session),
                    since_ns=0,
                    until_ns=2**63 - 1,
                    limit=500,
                    after=after,
                ),
            )
            await self._patiently(session, lambda page=page: target.put_conversations(page.rows))  # type: ignore[misc]
            after = page.after
            if after is None:
                return
