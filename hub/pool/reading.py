"""From messages of the archive to observed batches: everything about them that needs no waiting. For one thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hub.ledger.verifying import UnknownAgent, Verifier
from hub.observation import BatchName
from hub.pool.books import Fate, PoolBooks
from hub.pool.names import names_of
from hub.pool.observed import AgentNames, ClockOffset, ObservedBatch, Pooling
from hub.registry import Registry
from wire.batch import Kind, OpenBatch
from wire.errors import WireError

log = logging.getLogger(__name__)

MAX_DELIVERIES = 20
"""Of a message whose agent or session nobody knows (yet); with RETRY_DELAY_S between them."""

Listener = Callable[[ObservedBatch], None]
"""Told each batch of a session that is pooled, in the reader's thread, before the store has it, once per process and
batch (again after a restart, when nobody had confirmed it). Must not raise."""
ClockOf = Callable[[str, int], ClockOffset | None]
"""(agent, raw time in ns) → what is known of its clock there. Asked in the reader's thread."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A stored message."""

    subject: str
    data: bytes
    stored_ns: int
    deliveries: int


@dataclass(frozen=True, slots=True)
class Read:
    """What to do with a message."""

    verdict: str
    """pool, done (nothing is left to do), retry, refuse."""
    batch: ObservedBatch | None = None
    """What it held, where its session is pooled."""
    put: bool = False
    """The batch is for the store."""
    fate: Fate | None = None
    """To be booked once it is put: as if the store takes all."""


@dataclass(slots=True)
class ReadCounts:
    """Since the start of this process."""

    batches: int = 0
    duplicates: int = 0
    """Batches read again, or stored twice."""
    unverified: int = 0
    """Messages that nobody vouches for; the ledger has them in quarantine."""
    unreadable: int = 0
    """Verified batches whose inside contradicts itself: refused, and in the books."""


class BatchReader:
    """Verifies, decodes and tells the listeners."""

    def __init__(self, registry: Registry, books: PoolBooks, *, key: bytes, level: Pooling) -> None:
        """key: of the fingerprints. level: of sessions that don't say."""
        self._registry = registry
        self._books = books
        self._verifier = Verifier(registry)
        self._key = key
        self._level = level
        self._sessions: dict[str, tuple[str, Pooling]] = {}
        self._names: dict[str, AgentNames] = {}
        self._round: set[BatchName] = set()
        self._in_hand: set[BatchName] = set()
        """Of earlier rounds, and not booked yet."""
        self.listeners: list[Listener] = []
        self.clock_of: ClockOf | None = None
        self.counts = ReadCounts()

    def read(self, incoming: list[Incoming]) -> list[Read]:
        """One entry per message. sqlite3.Error when the registry can't be read."""
        if self._verifier.refresh():
            self._sessions.clear()
        if len(self._names) > 10_000 or len(self._sessions) > 50_000:
            self._sessions.clear()
        self._names.clear()  # reports come at any time; a look per agent and round is cheap
        self._round.clear()
        found = [self._read(one) for one in incoming]
        self._in_hand.update(one.fate.name for one in found if one.fate is not None)
        for one in found:  # not before all went well: whoever asks again would tell them twice
            if one.batch is not None:
                for listener in self.listeners:
                    listener(one.batch)
        return found

    def booked(self, names: Iterable[BatchName]) -> None:
        """The books have these."""
        self._in_hand.difference_update(names)

    def _read(self, one: Incoming) -> Read:
        try:
            opened = self._verifier.verify(one.subject, one.data)
            header = opened.header
            known = self._session(header.session)
        except (WireError, UnknownAgent) as error:
            return self._unknown(one, retry=isinstance(error, UnknownAgent))
        if known is None:
            return self._unknown(one, retry=True)  # the ledger may be about to record it
        owner, level = known
        if owner != header.agent:
            return self._unknown(one, retry=False)
        name = BatchName.of(header)
        if name in self._in_hand:  # whether it is kept is seen when it comes again
            return Read("retry")
        if name in self._round or self._books.done(name):  # all of a round is acknowledged together
            self.counts.duplicates += 1
            return Read("done")
        self._round.add(name)
        self.counts.batches += 1
        if header.kind is not Kind.PACKETS:
            # Booked too, so that the runs stay whole. Not a tombstone: batches it gave up may be in the archive.
            return Read("done") if header.kind is Kind.TOMBSTONE else Read("pool", fate=Fate(name))
        if level is Pooling.OFF:
            return Read("pool", fate=Fate(name, left_out=header.packets))
        return self._observe(opened, one, name, level)

    def _observe(self, opened: OpenBatch, one: Incoming, name: BatchName, level: Pooling) -> Read:
        header = opened.header
        clock = self.clock_of(header.agent, header.first_timestamp_ns) if self.clock_of else None
        try:
            batch = ObservedBatch.of(
                opened,
                stored_ns=one.stored_ns,
                level=level,
                names=self._names_of(header.agent),
                clock=clock,
                key=self._key,
            )
        except WireError as error:
            self.counts.unreadable += 1
            log.warning("a batch on %s can't be pooled: %s", one.subject, error)
            return Read("pool", fate=Fate(name, refused=header.packets, reason=str(error)[:256]))
        if level is Pooling.CONVERSATIONS:
            return Read("pool", batch, fate=Fate(name, left_out=len(batch)))
        return Read("pool", batch, put=True, fate=Fate(name, pooled=len(batch)))

    def _unknown(self, one: Incoming, *, retry: bool) -> Read:
        if retry and one.deliveries < MAX_DELIVERIES:
            return Read("retry")
        self.counts.unverified += 1
        return Read("refuse")

    def _session(self, session: str) -> tuple[str, Pooling] | None:
        known = self._sessions.get(session)
        if known is None:
            record = self._registry.sessions.get(session)
            if record is None:
                return None
            known = self._sessions[session] = (record.agent, record.pooling or self._level)
        return known

    def _names_of(self, agent: str) -> AgentNames:
        names = self._names.get(agent)
        if names is None:
            names = self._names[agent] = names_of(self._registry, agent)
        return names
