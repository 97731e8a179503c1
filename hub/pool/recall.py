"""What the correlation had in hand when the hub ended, read again out of the archive.

The archive is read backwards from the last message that the pool was given, in both streams, until a bound is reached:
of time back, of rows kept, of time spent. Kept are the sightings of flows that go on: without a pause as long as that
after which the correlator seals a conversation. Only batches that the pool is done with: the others are delivered to
the ingest again anyway (and told twice they would count once).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace

import nats.js.errors
import numpy as np
from numpy.typing import NDArray

from hub.archive.reading import Stored, read_subject, stream_state
from hub.bus import Bus
from hub.correlate.correlator import IDLE_NS
from hub.correlate.sightings import Rows, runs
from hub.ledger.verifying import UnknownAgent, Verifier
from hub.observation import BatchName
from hub.observe.observations import Layers
from hub.pool.books import PoolBooks
from hub.pool.correlated_batches import Heard
from hub.pool.ingest import DURABLES
from hub.pool.observed import ObservedBatch, Pooling
from hub.pool.store import ConversationRow, OffsetRow, Store
from hub.registry import Registry
from wire.batch import Kind
from wire.errors import WireError

BACK_NS = 900_000_000_000
"""How far back, by when the archive stored it."""
MOST_ROWS = 400_000
"""Kept, over both streams."""
WITHIN_S = 8.0
"""Spent on reading; what is older then stays unread."""
MOST_STORED = 20_000
"""Conversations that the store is asked for, the newest first."""
PAGE = 1_000
SLICE = 48
"""Messages read and decoded at once: × (1 MiB + what it unpacks to) bounds what is in hand."""


class Recall:
    """One per start of the hub."""

    def __init__(self, registry: Registry, bus: Bus, *, key: bytes, level: Pooling) -> None:
        """key, level: as the ingest's."""
        self._registry, self._bus, self._key, self._level = registry, bus, key, level
        self._books = PoolBooks(registry)
        self._verifier = Verifier(registry)
        self._newest_ns = 0
        self._rows = 0
        self._flows = np.zeros(0, np.uint64)
        self.cut = False
        """A bound other than BACK_NS ended the reading: long conversations may not be whole."""

    async def read(self, hear: Callable[[ObservedBatch], Heard]) -> list[Heard]:
        """What is kept of the batches, the oldest first. hear: called in a thread.

        ArchiveError, NATS errors, sqlite3.Error.
        """
        found: list[Heard] = []
        ends: dict[str, tuple[int, int]] = {}
        for stream, durable in DURABLES.items():
            first = (await stream_state(self._bus, stream)).first_sequence
            ends[stream] = (first, await self._given(stream, durable))
        loop = asyncio.get_running_loop()
        until_s = loop.time() + WITHIN_S
        while ends:
            for stream, (first, last) in list(ends.items()):
                if last < first:
                    del ends[stream]
                    continue
                if loop.time() > until_s or self._rows >= MOST_ROWS:
                    self.cut = True
                    return _going_on(found)
                begin = max(first, last - SLICE + 1)
                messages = await self._slice(stream, begin, last)
                found += await asyncio.to_thread(self._observed, messages, hear)
                too_old = bool(messages) and messages[0].stored_ns < self._newest_ns - BACK_NS
                ends[stream] = (first, -1 if too_old else begin - 1)
        return _going_on(found)

    async def _given(self, stream: str, durable: str) -> int:
        """The last message of the stream that the pool was given; 0: none."""
        jetstream = await self._bus.jetstream()
        try:
            info = await jetstream.consumer_info(stream, durable)
        except nats.js.errors.NotFoundError:
            return 0
        return info.delivered.stream_seq if info.delivered is not None else 0

    async def _slice(self, stream: str, first: int, last: int) -> list[Stored]:
        async with aclosing(read_subject(self._bus, stream, "cap.>", first=first, last=last)) as messages:
            return [stored async for stored in messages]

    def _observed(self, messages: list[Stored], hear: Callable[[ObservedBatch], Heard]) -> list[Heard]:
        if messages:
            self._newest_ns = max(self._newest_ns, messages[-1].stored_ns)
        read = []
        for message in messages:
            batch = self._batch(message)
            if batch is None:
                continue
            heard = hear(batch)
            flow = heard.rows["flow_hash"]
            if message.stored_ns < self._newest_ns - IDLE_NS:  # of use only for what goes on later
                kept = np.isin(flow, self._flows) | _is_fragment(heard.rows)
                heard = replace(heard, rows=heard.rows[kept])
            else:
                self._flows = np.union1d(self._flows, flow)
            self._rows += len(heard.rows)
            read.append(heard)
        return read

    def _batch(self, message: Stored) -> ObservedBatch | None:
        try:
            opened = self._verifier.verify(message.subject, message.data)
            header = opened.header
            record = self._registry.sessions.get(header.session)
            if header.kind is not Kind.PACKETS or record is None or record.agent != header.agent:
                return None
            level = record.pooling or self._level
            if level is Pooling.OFF or not self._books.done(BatchName.of(header)):
                return None
            return ObservedBatch.of(opened, stored_ns=message.stored_ns, level=level, key=self._key)
        except (WireError, UnknownAgent):
            return None  # the ingest has refused it, or will


def _going_on(found: list[Heard]) -> list[Heard]:
    if not found:
        return []
    found = sorted(found, key=lambda one: one.stored_ns)
    flow = np.concatenate([one.rows["flow_hash"] for one in found])
    stored_ns = np.repeat([one.stored_ns for one in found], [len(one.rows) for one in found])
    kept = going_on(flow, stored_ns) | np.concatenate([_is_fragment(one.rows) for one in found])
    ends = np.cumsum([len(one.rows) for one in found])[:-1]
    parts = zip(found, np.split(kept, ends), strict=True)
    return [_cut(one, mine) for one, mine in parts if mine.any()]


def _cut(heard: Heard, kept: NDArray[np.bool_]) -> Heard:
    rows = heard.rows[kept]
    flows = heard.flows[np.isin(heard.flows["flow_hash"], rows["flow_hash"])]
    return replace(heard, packets=len(rows), rows=rows, flows=flows)


def _is_fragment(rows: Rows) -> NDArray[np.bool_]:
    """Those that take the flow of another one."""
    return np.asarray((rows["flow_hash"] == 0) & ((rows["layers"] & Layers.FRAGMENT) != 0))


def going_on(flow: NDArray[np.uint64], stored_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which sightings are of a flow that was still seen lately, and behind its last long pause. Arrays alike."""
    if not len(flow):
        return np.zeros(0, np.bool_)
    order = np.lexsort((stored_ns, flow))
    flows, times = flow[order], stored_ns[order]
    begins = runs(flows)
    lasts = np.append(begins[1:], len(flows)) - 1
    lengths = np.diff(np.append(begins, len(flows)))
    opens = np.zeros(len(flows), np.intp)
    opens[begins] = begins
    paused = np.flatnonzero(np.diff(times) > IDLE_NS) + 1
    opens[paused] = np.where(flows[paused] == flows[paused - 1], paused, opens[paused])
    since = np.repeat(np.maximum.reduceat(opens, begins), lengths)
    lately = np.repeat(times[lasts] >= times.max() - IDLE_NS, lengths)
    kept = np.zeros(len(flows), np.bool_)
    kept[order] = lately & (np.arange(len(flows)) >= since) & (flows != 0)
    return kept


async def last_anchor(store: Store, agents: Sequence[str], since_ns: int, until_ns: int) -> OffsetRow | None:
    """The latest of the stored clock offsets whose anchor is one of these. Times by any of their clocks."""
    rows = await store.offsets(since_ns=since_ns, until_ns=until_ns, agents=agents)
    return max((row for row in rows if row.anchor in agents), key=lambda row: row.at_ns, default=None)


async def stored_conversations(
    store: Store, numbers: Collection[int], since_ns: int, until_ns: int
) -> dict[int, ConversationRow]:
    """Of each of these conversations (or flows that were ones) the newest row that overlaps the time.

    Looked for among the newest MOST_STORED of all.
    """
    found: dict[int, ConversationRow] = {}
    after: str | None = None
    for _ in range(MOST_STORED // PAGE):
        page = await store.conversations(None, since_ns=since_ns, until_ns=until_ns, limit=PAGE, after=after)
        for row in page.rows:
            name = parted(row.id)
            if name is None or name[0] not in numbers:
                continue
            known = found.get(name[0])
            if known is None or known.last_ns < row.last_ns:
                found[name[0]] = row
        after = page.after
        if after is None or len(found) == len(numbers):
            break
    return found


def named(number: int, began_ns: int) -> str:
    """A conversation's id."""
    return f"{number:016x}-{began_ns:x}"


def parted(id_: str) -> tuple[int, int] | None:
    """The number and the beginning that an id was made of; None: it wasn't."""
    number, _, began = id_.partition("-")
    try:
        return int(number, 16), int(began, 16)
    except ValueError:
        return None
