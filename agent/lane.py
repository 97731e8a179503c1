"""One lane of the spool: the batches of one (boot, session, lane) in order, from sealing to acknowledgement.

    <spool>/<boot hex>/<session>.<lane>/<first sequence>.seg    the segments, oldest first
    <spool>/<boot hex>/<session>.<lane>/cursor                  acknowledged and sent up to which sequence

Three positions move along: appended ≥ sent ≥ acknowledged.  A segment is removed when everything in it is
acknowledged; only segments of which nothing was ever sent may be dropped for a tombstone, since a sent batch may have
arrived.  The cursor file is advice: without it everything left is sent again, and the server and the hub know the
batches they have.

Not thread-safe by itself: the spool's lock guards it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.segment import HEAD, Placed, Record, RecordKind, Segment
from wire.names import Lane as LaneName
from wire.session import Overflow

_CURSOR = struct.Struct("<qqI")
NO_SEQUENCE = -1


@dataclass(frozen=True, slots=True)
class Spooled:
    """A message that wants to be sent."""

    record: Record
    message: bytes
    maybe_sent: bool
    """An earlier life of the agent may have sent it, so that the server may rightly call it a duplicate."""


@dataclass(slots=True)
class _Sent:
    record: Record
    message_bytes: int
    acknowledged: bool = False


@dataclass(slots=True)
class Damage:
    """What recovery and reading could not use."""

    corrupt_bytes: int = 0
    torn_bytes: int = 0
    unreadable_segments: int = 0

    def __bool__(self) -> bool:
        return bool(self.corrupt_bytes or self.torn_bytes or self.unreadable_segments)


class SpoolLane:
    """See the module. Created by `Spool.open_lane` and `Spool.recover`."""

    def __init__(
        self,
        directory: Path,
        boot: bytes,
        session: str,
        lane: LaneName,
        *,
        overflow: Overflow = "drop_oldest",
        on_freed: Callable[[int], None] = lambda bytes_: None,
    ) -> None:
        self.directory = directory
        self.boot = boot
        self.session = session
        self.lane = lane
        self.overflow: Overflow = overflow
        self.seed = zlib.crc32(boot + session.encode() + lane.encode())
        self.segments: list[Segment] = []
        self.finished = False
        """Nothing more will be appended: an earlier boot's lane, or a session that ended."""
        self.recovered = False
        self.acknowledged_sequence = NO_SEQUENCE
        self.sent_sequence = NO_SEQUENCE
        self.recovered_sent_sequence = NO_SEQUENCE
        self.spooled_packets = 0
        self.acknowledged_packets = 0
        self.dropped_packets = 0
        """Replaced by tombstones."""
        self.pending_batches = 0
        """Messages, tombstones and closing batches included."""
        self.damage = Damage()
        self.size = 0
        """Bytes of all segments, on disk and in memory."""
        self._on_freed = on_freed
        self._sent: OrderedDict[int, _Sent] = OrderedDict()
        self._reading = 0  # index into segments
        self._offset = 0  # of the next record to send, within that segment
        self._read_sequence = NO_SEQUENCE
        self._cursor_fd: int | None = None

    # -- appending ---------------------------------------------------------------------------------------------

    def active_segment(self, sequence: int, segment_bytes: int, *, in_memory: bool) -> Segment:
        """The segment to append to: a new one when the last is full, sealed, or kept in the other place."""
        last = self.segments[-1] if self.segments else None
        if last is not None and not last.sealed:
            if last.size < segment_bytes and last.in_memory == in_memory:
                return last
            last.seal()
        path = None if in_memory else self.directory / f"{sequence:020d}.seg"
        segment = Segment(sequence, self.seed, path)
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            segment.open_fd()
        self.segments.append(segment)
        return segment

    def appended(self, record: Record, length: int) -> None:
        """Account for a record that was just written."""
        self.size += length
        self.pending_batches += 1
        if record.kind is RecordKind.PACKETS:
            self.spooled_packets += record.packets

    @property
    def pending_packets(self) -> int:
        """Spooled and neither acknowledged nor replaced by a tombstone."""
        return self.spooled_packets - self.acknowledged_packets - self.dropped_packets

    @property
    def waiting_bytes(self) -> int:
        """Bytes not yet acknowledged. `size` is more: a segment's file goes when all of it is acknowledged."""
        sent = sum(one.message_bytes for one in self._sent.values() if not one.acknowledged)
        return sent + sum(segment.size for segment in self.segments[self._reading :]) - self._offset

    # -- sending -----------------------------------------------------------------------------------------------

    def next_unsent(self, window: int) -> Spooled | None:
        """Read on: the next message to send, or None when all is sent or `window` of them wait for their turn.

        The oldest batch that waits holds the window back, so that never more than `window` batches of a lane have
        been sent and not acknowledged: that many are sent again after a crash.
        """
        if len(self._sent) >= window:
            return None
        while self._reading < len(self.segments):
            segment = self.segments[self._reading]
            if self._offset >= segment.size:
                if not segment.sealed:
                    return None
                segment.close_fd()
                self._reading, self._offset = self._reading + 1, 0
                continue
            try:
                found = segment.read_record(self._offset)
            except OSError:
                self._lose_segment(segment)
                continue
            if found is None:
                good = segment.whole_after(self._offset)
                if not self.recovered:  # recovery has counted its own
                    self.damage.corrupt_bytes += good - self._offset
                self._offset = good
                continue
            placed, message = found
            self._offset = placed.end
            record = placed.record
            if record.first_sequence <= self._read_sequence:
                continue
            self._read_sequence = record.last_sequence
            self._sent[record.first_sequence] = _Sent(record, len(message))
            maybe_sent = self.recovered and record.first_sequence <= self.recovered_sent_sequence
            self.sent_sequence = max(self.sent_sequence, record.last_sequence)
            self._write_cursor()
            return Spooled(record, message, maybe_sent)
        return None

    @property
    def in_flight(self) -> int:
        """Messages sent and not acknowledged."""
        return sum(1 for sent in self._sent.values() if not sent.acknowledged)

    def acknowledge(self, first_sequence: int) -> Record | None:
        """The server has it. Returns the record the first time, None for one that isn't awaited."""
        sent = self._sent.get(first_sequence)
        if sent is None or sent.acknowledged:
            return None
        sent.acknowledged = True
        self.pending_batches -= 1
        if sent.record.kind is RecordKind.PACKETS:
            self.acknowledged_packets += sent.record.packets
        while self._sent:
            oldest = next(iter(self._sent.values()))
            if not oldest.acknowledged:
                break
            self.acknowledged_sequence = oldest.record.last_sequence
            self._sent.popitem(last=False)
        self._write_cursor()
        self._remove_acknowledged()
        return sent.record

    def _remove_acknowledged(self) -> None:
        while self.segments:
            segment = self.segments[0]
            if self.finished:
                segment.seal()
            waiting = next(iter(self._sent.values())).record.first_sequence if self._sent else None
            passed = self._reading > 0 or self._offset >= segment.size
            if not (segment.sealed and passed and (waiting is None or waiting > segment.last_sequence)):
                break
            self.remove_segment(0)
        if self.finished and not self.segments:
            self.remove_directory()

    def release_acknowledged(self) -> bool:
        """Let go of the open segment when all of it is acknowledged; whether that gave room."""
        if self.finished or not self.segments or not self.drained:
            return False
        self.segments[-1].seal()
        self._remove_acknowledged()
        return not self.segments

    def remove_segment(self, index: int) -> None:
        """Take a segment and its file away; the position of reading stays where it is."""
        segment = self.segments.pop(index)
        self.size -= segment.size
        freed = segment.size
        try:
            segment.remove()
        except OSError:
            self.damage.unreadable_segments += 1
        self._on_freed(freed)
        if self._reading > index:
            self._reading -= 1
        elif self._reading == index:
            self._offset = 0

    def _lose_segment(self, segment: Segment) -> None:
        """The disk no longer gives it back: count it and go on with the next."""
        self.damage.unreadable_segments += 1
        segment.seal()
        self._reading, self._offset = self._reading + 1, 0

    # -- overflow --------------------------------------------------------------------------------------------

    def droppable(self) -> int | None:
        """Index of the oldest segment with packets of which nothing was ever sent; None when there is none."""
        for index in range(self._reading, len(self.segments)):
            segment = self.segments[index]
            unsent = (
                index > self._reading or self._offset == 0
            ) and segment.first_sequence > self.sent_sequence
            if unsent and segment.has_packets:
                return index
        return None

    def unsent_tombstones_before(self, index: int) -> Segment | None:
        """The segment in front of `index` when it holds nothing but tombstones that were never sent."""
        if index <= self._reading or (index - 1 == self._reading and self._offset > 0):
            return None
        segment = self.segments[index - 1]
        ours = segment.tombstones_only and segment.first_sequence > self.sent_sequence
        return segment if ours and segment.size else None

    def replaced(self, packets: int, batches: int, tombstones: int, bytes_: int) -> None:
        """Account for batches that gave way to tombstones; `bytes_` is what that freed."""
        self.dropped_packets += packets
        self.pending_batches += tombstones - batches
        self.size -= bytes_

    # -- the life of the lane ------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Nothing more will be appended; what is acknowledged goes away at once."""
        self.finished = True
        self._remove_acknowledged()

    @property
    def drained(self) -> bool:
        """Everything appended has been acknowledged."""
        return not self._sent and all(
            self._reading > i or (self._reading == i and self._offset >= s.size)
            for i, s in enumerate(self.segments)
        )

    def close(self) -> None:
        """Let go of the files; a drained lane leaves none behind."""
        if self.drained:
            while self.segments:
                self.remove_segment(0)
            self.remove_directory()
        for segment in self.segments:
            segment.close_fd()
        self._close_cursor()

    def remove_directory(self) -> None:
        """The lane's folder and, when it was the last, the boot's."""
        self._close_cursor()
        try:
            (self.directory / "cursor").unlink(missing_ok=True)
            self.directory.rmdir()
            self.directory.parent.rmdir()
        except OSError:
            pass  # not there, or others are still in it

    def oldest_spooled_ns(self) -> int | None:
        """When the oldest unacknowledged message was spooled (wall clock); None when there is none."""
        if self._sent:
            return next(iter(self._sent.values())).record.spooled_ns
        for index, segment in enumerate(self.segments[self._reading :]):
            offset = self._offset if index == 0 else 0
            if offset < segment.size:
                try:
                    head = segment.read(offset, HEAD.size)
                except OSError:
                    return None
                return int(HEAD.unpack(head)[6]) if len(head) == HEAD.size else None
        return None

    # -- recovery --------------------------------------------------------------------------------------------------

    def recover(self) -> Record | None:
        """Take over what an earlier life left; return the last whole record, whose hash the next boot names.

        Damage is counted and left out, never raised; what a tombstone replaced and a crash left behind is removed.
        """
        self.recovered = self.finished = True
        self._read_cursor()
        last: Record | None = None
        for path in sorted(self.directory.glob("*.seg")):
            segment = Segment(0, self.seed, path)
            try:
                found = segment.load()
            except OSError:
                self.damage.unreadable_segments += 1
                continue
            self.damage.corrupt_bytes += found.corrupt_bytes
            self.damage.torn_bytes += found.torn_bytes
            fresh = [p for p in found.records if last is None or p.record.first_sequence > last.last_sequence]
            if not fresh:
                segment.remove()
                continue
            last = fresh[-1].record
            self._take_over(segment, fresh)
        for stale in self.directory.glob("*.tmp"):
            stale.unlink(missing_ok=True)
        self._remove_acknowledged()
        return last

    def _take_over(self, segment: Segment, records: list[Placed]) -> None:
        self.segments.append(segment)
        self.size += segment.size
        for placed in records:
            if placed.record.last_sequence > self.acknowledged_sequence:
                self.pending_batches += 1
                if placed.record.kind is RecordKind.PACKETS:
                    self.spooled_packets += placed.record.packets
        if segment.last_sequence <= self.acknowledged_sequence and len(self.segments) == 1:
            self.remove_segment(0)

    # -- the cursor --------------------------------------------------------------------------------------------------

    def _write_cursor(self) -> None:
        try:
            if self._cursor_fd is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._cursor_fd = os.open(self.directory / "cursor", flags, 0o600)
            content = struct.pack("<qq", self.acknowledged_sequence, self.sent_sequence)
            os.pwrite(self._cursor_fd, content + zlib.crc32(content, self.seed).to_bytes(4, "little"), 0)
        except OSError:
            pass  # advice only: without it batches are sent twice, and the server and the hub know them

    def _read_cursor(self) -> None:
        try:
            content = (self.directory / "cursor").read_bytes()
            acknowledged, sent, crc = _CURSOR.unpack(content)
        except (OSError, struct.error):
            return
        if zlib.crc32(content[:16], self.seed) == crc:
            self.acknowledged_sequence = acknowledged
            self.recovered_sent_sequence = self.sent_sequence = sent
            self._read_sequence = acknowledged

    def _close_cursor(self) -> None:
        if self._cursor_fd is not None:
            os.close(self._cursor_fd)
            self._cursor_fd = None
