"""What a page's list begins with: the newest packets that were there before the page was.

They come out of the archive, or, where another page has been watching for long enough, out of what it was shown. The
live rows don't wait for them: they are read beside them, in threads, and a page puts them in by their time.

The seam: while it is open, the viewer notes the batches it was offered, so that none comes twice. And the server stores
a batch a moment after it has passed it on, so the end of the archive is looked at once more: what passed before the
subscription was in force and was stored after the first look is found then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import nats.errors

from hub.archive.export import STREAMS
from hub.archive.reading import ArchiveError, Stored, read_answer
from hub.archive.tail import read_tail
from hub.bus import Bus
from hub.cancellation import obey_cancellation
from hub.live.recent import RecentBatches
from hub.live.viewer import LivePacket, Viewer, WatchedSession, open_live
from hub.observation import BatchName
from wire.batch import Kind, Lane, open_batch
from wire.errors import WireError
from wire.names import batch_subject

MAX_BATCHES = 1024
MAX_BYTES = 4 << 20
"""Of each lane of a session: reading ends at the first of these bounds, or when there are rows enough."""
TIMEOUT_S = 2.0
MAX_READERS = 4
"""Sessions that are read at once, for all pages together; the others wait within their TIMEOUT_S."""
SEAM_S = 1.0
"""How long after the first look the second one is. A server whose disk takes longer than this to store what it has
passed on makes the agents wait too."""
SEAM_BATCHES = 64
SEAM_BYTES = 1 << 20
_AWAY = (TimeoutError, nats.errors.Error, ArchiveError)


@dataclass(frozen=True, slots=True)
class _Message:
    """A batch as it was sent."""

    subject: str
    data: bytes
    heard_ns: int
    """When it came or was stored, by this host's clock."""


@dataclass(slots=True)
class _Part:
    """What was found of one session."""

    watched: WatchedSession
    batches: dict[BatchName, list[LivePacket]]
    next: dict[Lane, int] = field(default_factory=dict)
    """Of each lane that was read, the sequence of the stream from which on it wasn't."""


class Backlog:
    """Gives viewers the newest packets of their sessions."""

    def __init__(self, bus: Bus, recent: RecentBatches) -> None:
        self._bus = bus
        self._recent = recent
        self._readers = asyncio.Semaphore(MAX_READERS)

    async def give(self, viewer: Viewer, watched: Sequence[WatchedSession], wanted: int) -> None:
        """Hand the viewer the newest `wanted` packets, and a second later what came too late for that.

        Nothing is raised when the archive doesn't answer: the viewer is told so.
        """
        async with asyncio.TaskGroup() as tasks:
            reads = [tasks.create_task(self._try_latest(one, wanted)) for one in watched]
        parts = [part for read in reads if (part := read.result()) is not None]
        await _hand_over(viewer, [part.batches for part in parts], wanted, away=len(parts) < len(reads))
        if any(part.next for part in parts):
            await asyncio.sleep(SEAM_S)
            late = [await self._try_late(part, wanted) for part in parts if part.next]
            await _hand_over(viewer, late, wanted, away=False)
        viewer.close_seam()

    async def _try_latest(self, watched: WatchedSession, wanted: int) -> _Part | None:
        try:
            async with asyncio.timeout(TIMEOUT_S), self._readers:
                obey_cancellation()
                return await self._latest(watched, wanted)
        except _AWAY:
            return None

    async def _latest(self, watched: WatchedSession, wanted: int) -> _Part:
        """The session's newest `wanted` packets, or all that the bounds allow."""
        heard = self._heard(watched)
        if heard and watched.heard_packets >= wanted and watched.heard_all:
            return _Part(watched, await asyncio.to_thread(_opened, heard, watched.keys, wanted))
        part = _Part(watched, {})
        for lane, stream in STREAMS.items():
            subject = batch_subject(watched.agent, watched.session, lane)
            tail = await read_tail(
                self._bus,
                stream,
                subject,
                weight=_packets,
                wanted=wanted,
                max_messages=MAX_BATCHES,
                max_bytes=MAX_BYTES,
            )
            obey_cancellation()
            part.next[lane] = tail.next
            messages = [_Message(subject, one.data, one.stored_ns) for one in tail.messages]
            part.batches |= await asyncio.to_thread(_opened, messages, watched.keys, wanted)
        for name, packets in (await asyncio.to_thread(_opened, heard, watched.keys, wanted)).items():
            part.batches.setdefault(name, packets)
        return part

    def _heard(self, watched: WatchedSession) -> list[_Message]:
        """What others were shown of the session just now; empty when any of it is no longer in memory."""
        messages = []
        for one in watched.heard:
            data = self._recent.get(one.name)
            if data is None:
                return []
            subject = batch_subject(one.name.agent, one.name.session, one.name.lane)
            messages.append(_Message(subject, data, one.heard_ns))
        return messages

    async def _try_late(self, part: _Part, wanted: int) -> dict[BatchName, list[LivePacket]]:
        """What was stored since the first look, of that at most one answer; the viewer knows most of it."""
        found: dict[BatchName, list[LivePacket]] = {}
        for lane, first in part.next.items():
            subject = batch_subject(part.watched.agent, part.watched.session, lane)
            messages = []
            try:
                async with asyncio.timeout(TIMEOUT_S), self._readers:
                    obey_cancellation()
                    answer = read_answer(
                        await self._bus.client(),
                        STREAMS[lane],
                        subject,
                        first,
                        most=SEAM_BATCHES,
                        max_bytes=SEAM_BYTES,
                    )
                    async with aclosing(answer) as stored:
                        messages = [
                            _Message(subject, one.data, one.stored_ns)
                            async for one in stored
                            if one is not None
                        ]
            except _AWAY:
                continue
            found |= await asyncio.to_thread(_opened, messages, part.watched.keys, wanted)
        return found


async def _hand_over(
    viewer: Viewer, found: Sequence[dict[BatchName, list[LivePacket]]], wanted: int, *, away: bool
) -> None:
    """Give the viewer the newest `wanted` packets of those batches that it hasn't been offered."""
    packets = [
        packet
        for batches in found
        for name, packets_of_it in batches.items()
        if viewer.is_older(name)
        for packet in packets_of_it
    ]
    packets.sort(key=lambda packet: packet.time_ns)
    del packets[: max(0, len(packets) - wanted)]
    rows = await asyncio.to_thread(lambda: [packet.row() for packet in packets])
    viewer.take_older(rows, away=away)


def _packets(messages: Sequence[Stored]) -> int:
    """How many packets are in them, as their headers say; who signed is looked at when they are opened."""
    count = 0
    for message in messages:
        try:
            header = open_batch(message.data, public=None).header
        except WireError:
            continue
        count += header.packets if header.kind is Kind.PACKETS else 0
    return count


def _opened(
    messages: Sequence[_Message], keys: list[bytes], wanted: int
) -> dict[BatchName, list[LivePacket]]:
    """The newest `wanted` packets of messages that are in order. What isn't verified is left out: the ledger has
    counted it and put it in quarantine."""
    found: dict[BatchName, list[LivePacket]] = {}
    for message in reversed(messages):
        if wanted <= 0:
            break
        try:
            header, packets = open_live(message.subject, message.data, keys, wanted, message.heard_ns)
        except WireError:
            continue
        if header.kind is Kind.PACKETS:
            found[BatchName.of(header)] = packets
            wanted -= len(packets)
    return found
