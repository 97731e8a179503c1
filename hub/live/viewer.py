"""What one page gets of the live feed, and the packets it is made of.

A viewer owns one bounded list; one that never reads keeps that list and slows nobody.

Order: batches of several sources arrive interleaved. A packet waits until every source that is talking has been
heard up to its time, or REORDER_S, whichever is first. With one source nothing waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from hub.bus import Subscription
from hub.decode.summary import Row, flag_words, summarize
from hub.ledger.chains import MAX_BOOTS_PER_SESSION, books_order
from hub.observation import BatchName, Observation
from wire.batch import Header, Kind, decode_columns, open_batch
from wire.books import Books, total
from wire.errors import WireError
from wire.names import parse_batch_subject

UPDATES_PER_SECOND = 25
QUIET_UPDATE_S = 1.0
REORDER_S = 0.03
TALKING_S = 0.25
"""A source heard within this time may still have an older packet on the way."""
MAX_ROWS = 200
"""The most rows a viewer may ask for per update."""
PACKET_BYTES = 1024
"""Of each shown packet this much is read: enough for a summary."""
RATE_WINDOW_S = 2.0
BACKLOG_ROWS = 400
"""The packets that a page's list begins with, of all its sessions together."""
MAX_SEAM_BATCHES = 16_384
"""Batches that a viewer notes while its seam is open; with more, it gets no older packets."""


@dataclass(frozen=True, slots=True)
class SessionTotals:
    """The always-visible counters of one session, from signed batch headers and heartbeats."""

    session: str
    agent: str
    packets: int
    """Captured since the session began (the agent's books over all its boots)."""
    packets_per_second: float
    bits_per_second: float
    dropped: dict[str, int]
    """By place: ring, newest, oldest, invalid; 0 included."""
    own_traffic: int
    filtered: int | None
    """None = not counted (classic BPF)."""
    books: Books | None
    lag_s: float | None
    """Now minus the newest capture time seen; None before the first batch. Includes clock error between hosts."""
    spool_bytes: int
    """The agent's spool, all its sessions."""
    unverified: int
    """Batches refused since the feed began (bad signature or malformed): also in quarantine."""
    unread_batches: int
    """Batches the live view skipped because the hub was too busy; the archive has them."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a viewer gets at most 25 times a second."""

    rows: list[Row]
    """In time order within the update, at most the viewer's row cap."""
    not_shown: int
    """Packets of the watched sessions since the last update that have no row here (counted, never hidden)."""
    totals: dict[str, SessionTotals]
    """By session id."""
    older: list[Row] | None = None
    """Packets that were there before the viewer, in time order; at most BACKLOG_ROWS. They may be newer than rows of
    other sources that were given already. None: nothing new is known about them."""
    archive_away: bool = False
    """With `older`: the archive doesn't answer, so some or all of them are missing."""


class LivePacket:
    """A packet that may be shown; decoded at most once, by the first viewer that shows it."""

    __slots__ = ("_row", "data", "flags", "header", "heard_ns", "index", "original_bytes", "time_ns")

    def __init__(
        self,
        header: Header,
        index: int,
        time_ns: int,
        original_bytes: int,
        flags: int,
        data: bytes,
        heard_ns: int,
    ) -> None:
        self.header = header
        self.index = index
        self.time_ns = time_ns
        self.original_bytes = original_bytes
        self.flags = flags
        self.data = data
        self.heard_ns = heard_ns
        self._row: Row | None = None

    def row(self) -> Row:
        if self._row is None:
            header = self.header
            source, destination, protocol, info, rule = summarize(
                self.data, header.link_type, self.original_bytes
            )
            self._row = Row(
                self.time_ns,
                header.agent,
                header.session,
                header.interface,
                source,
                destination,
                protocol,
                self.original_bytes,
                info,
                rule,
                flag_words(self.flags),
                str(Observation(BatchName.of(header), self.index)),
                self.heard_ns,
            )
        return self._row


@dataclass(frozen=True, slots=True)
class HeardBatch:
    """A batch of packets that came while somebody watched."""

    name: BatchName
    packets: int
    heard_ns: int


@dataclass(slots=True)
class WatchedSession:
    """A session with at least one viewer."""

    session: str
    agent: str
    keys: list[bytes]
    viewers: set["Viewer"] = field(default_factory=set)
    subscription: Subscription | None = None
    subscribing: asyncio.Lock = field(default_factory=asyncio.Lock)
    in_force: bool = False
    """The server has the subscription: what is captured from now on is seen."""
    boots: dict[bytes, Books] = field(default_factory=dict)
    recent: deque[tuple[float, int, int]] = field(default_factory=deque)
    """(arrival, packets, original bytes) within RATE_WINDOW_S."""
    newest_ns: int = 0
    unverified: int = 0
    spool_bytes: int = 0
    heard: deque[HeardBatch] = field(default_factory=deque)
    """The newest that came by this connection to the server: BACKLOG_ROWS packets and what else is in their batches."""
    heard_packets: int = 0
    connection: int = 0
    """Which one `heard` came by."""

    @property
    def heard_all(self) -> bool:
        """Whether nothing is missing within `heard`."""
        return self.subscription is not None and self.subscription.dropped == 0

    def note_heard(self, batch: HeardBatch, connection: int) -> None:
        """Keep a batch's name for pages that are opened from now on."""
        if connection != self.connection:  # what passed in between was not heard
            self.heard.clear()
            self.heard_packets = 0
            self.connection = connection
        self.heard.append(batch)
        self.heard_packets += batch.packets
        while self.heard_packets - self.heard[0].packets >= BACKLOG_ROWS:
            self.heard_packets -= self.heard.popleft().packets

    def take_books(self, boot: bytes, books: Books) -> None:
        known = self.boots.get(boot)
        if known is None and len(self.boots) >= MAX_BOOTS_PER_SESSION:
            return
        if known is None or books_order(books) >= books_order(known):
            self.boots[boot] = books

    def take_batch(self, header: Header, now_s: float) -> None:
        """Count a packets batch for rates and lag."""
        self.newest_ns = max(self.newest_ns, header.last_timestamp_ns)
        self.recent.append((now_s, header.packets, header.original_bytes))
        self._forget_old(now_s)  # also here: a page that has stopped reading asks for no totals

    def _forget_old(self, now_s: float) -> None:
        while self.recent and self.recent[0][0] < now_s - RATE_WINDOW_S:
            self.recent.popleft()

    def totals(self, now_s: float) -> SessionTotals:
        self._forget_old(now_s)
        books = total(self.boots.values())
        return SessionTotals(
            session=self.session,
            agent=self.agent,
            packets=books.captured,
            packets_per_second=sum(packets for _, packets, _ in self.recent) / RATE_WINDOW_S,
            bits_per_second=sum(size for _, _, size in self.recent) * 8 / RATE_WINDOW_S,
            dropped={
                "ring": books.dropped_ring,
                "newest": books.dropped_newest,
                "oldest": books.dropped_oldest,
                "invalid": books.dropped_invalid,
            },
            own_traffic=books.own_traffic,
            filtered=books.filtered,
            books=books if self.boots else None,
            lag_s=(time.time_ns() - self.newest_ns) / 1e9 if self.newest_ns else None,
            spool_bytes=self.spool_bytes,
            unverified=self.unverified,
            unread_batches=self.subscription.dropped if self.subscription else 0,
        )


class Viewer:
    """`async for update in viewer`. What waits for a slow reader is at most one update's rows."""

    def __init__(self, watched: list[WatchedSession], max_rows: int) -> None:
        self._watched = watched
        self.max_rows = max_rows
        self._waiting: list[tuple[float, LivePacket]] = []
        """(arrival, packet); at most max_rows."""
        self._not_shown = 0
        self._heads: dict[str, tuple[float, int]] = {}
        """Source → (arrival, newest time)."""
        self._some = asyncio.Event()
        self._last_update_s = 0.0
        self._closed = False
        self._seam: set[BatchName] | None = None
        """Batches that were offered or given as older ones; None: what comes is new."""
        self._older: list[Row] | None = None
        self._archive_away = False
        self.awaits_older = False
        """The first look for older packets isn't over."""

    def open_seam(self) -> None:
        """From now on note what comes: older packets will be given too."""
        self._seam = set()
        self.awaits_older = True

    def is_older(self, name: BatchName) -> bool:
        """Whether a batch of the archive hasn't been offered: if so, it never will be."""
        if self._seam is None or len(self._seam) >= MAX_SEAM_BATCHES or name in self._seam:
            return False
        self._seam.add(name)
        return True

    def take_older(self, rows: list[Row], *, away: bool) -> None:
        """Older packets for the next update, in time order."""
        if rows or self.awaits_older:
            self._older = sorted([*(self._older or []), *rows], key=lambda row: row.time_ns)
            self._archive_away = away
        self.awaits_older = False
        self._some.set()

    def close_seam(self) -> None:
        """No older packets come any more."""
        self._seam = None
        self.awaits_older = False

    def offer(
        self, name: BatchName, packets: list[LivePacket], count: int, newest_ns: int, now_s: float
    ) -> None:
        """A batch of `count` packets came; `packets` are its newest, oldest first."""
        if self._seam is not None and len(self._seam) < MAX_SEAM_BATCHES:
            if name in self._seam:
                return
            self._seam.add(name)
        source = f"{name.session}.{name.lane}"
        self._heads[source] = (now_s, max(newest_ns, self._heads.get(source, (0.0, 0))[1]))
        taken = packets[-self.max_rows :]
        self._not_shown += count - len(taken)
        self._waiting += [(now_s, packet) for packet in taken]
        excess = len(self._waiting) - self.max_rows
        if excess > 0:
            # The newest stay: a page that can't show all shows the present.
            self._waiting.sort(key=_by_time)
            del self._waiting[:excess]
            self._not_shown += excess
        self._some.set()

    def close(self) -> None:
        """End the iteration."""
        self._closed = True
        self._some.set()

    def __aiter__(self) -> AsyncIterator[Update]:
        return self

    async def __anext__(self) -> Update:
        while not self._closed:
            now_s = time.monotonic()
            due_s = self._due_s(now_s)
            if due_s <= now_s:
                return self._update(now_s)
            self._some.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(due_s - now_s):
                    await self._some.wait()
        raise StopAsyncIteration

    def _due_s(self, now_s: float) -> float:
        """When the next update may or must go out."""
        due_s = self._last_update_s + QUIET_UPDATE_S
        if self._older is not None or (self._not_shown and not self._waiting):
            due_s = now_s
        if self._waiting:
            complete_ns = self._complete_ns(now_s)
            if any(packet.time_ns <= complete_ns for _, packet in self._waiting):
                due_s = now_s
            else:
                due_s = min(due_s, min(arrival for arrival, _ in self._waiting) + REORDER_S)
        return max(due_s, self._last_update_s + 1 / UPDATES_PER_SECOND)

    def _complete_ns(self, now_s: float) -> int:
        """Up to this capture time every talking source has been heard."""
        heads = [newest for arrival, newest in self._heads.values() if now_s - arrival < TALKING_S]
        return min(heads) if len(heads) > 1 else 2**64

    def _update(self, now_s: float) -> Update:
        complete_ns = self._complete_ns(now_s)
        ready, waiting = [], []
        for arrival, packet in self._waiting:
            if packet.time_ns <= complete_ns or now_s - arrival >= REORDER_S:
                ready.append((arrival, packet))
            else:
                waiting.append((arrival, packet))
        ready.sort(key=_by_time)
        self._waiting = waiting
        not_shown, self._not_shown = self._not_shown, 0
        older, self._older = self._older, None
        self._last_update_s = now_s
        return Update(
            [packet.row() for _, packet in ready],
            not_shown,
            {watched.session: watched.totals(now_s) for watched in self._watched},
            older,
            self._archive_away,
        )


def _by_time(item: tuple[float, LivePacket]) -> int:
    return item[1].time_ns


def open_live(
    subject: str, message: bytes, keys: list[bytes], rows: int, heard_ns: int
) -> tuple[Header, list[LivePacket]]:
    """Verify a batch and take its newest `rows` packets out. heard_ns: when it came. WireError."""
    batch = None
    for index, key in enumerate(keys):
        try:
            batch = open_batch(message, public=key)
            break
        except WireError:
            if index == len(keys) - 1:
                raise
    if batch is None:
        raise WireError("the agent has no signing key")
    header = batch.header
    if parse_batch_subject(subject) != (header.agent, header.session, header.lane):
        raise WireError("signed for another subject")
    if header.kind is not Kind.PACKETS or rows <= 0:
        return header, []
    columns = decode_columns(batch)
    captured = np.frombuffer(columns.captured_bytes, "<u4")
    ends = np.cumsum(captured, dtype=np.int64)
    count = len(captured)
    first = max(0, count - rows)
    times = np.frombuffer(columns.timestamp_ns, "<u8")[first:].tolist()
    originals = np.frombuffer(columns.original_bytes, "<u4")[first:].tolist()
    flags = np.frombuffer(columns.flags, "<u2")[first:].tolist()
    stops = ends[first:].tolist()
    sizes = captured[first:].tolist()
    data = memoryview(columns.data)
    packets = []
    for place in range(count - first):
        start = stops[place] - sizes[place]
        piece = bytes(data[start : start + min(sizes[place], PACKET_BYTES)])
        packets.append(
            LivePacket(header, first + place, times[place], originals[place], flags[place], piece, heard_ns)
        )
    return header, packets
