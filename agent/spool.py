"""The spool: every sealed batch is in a file before it is published, and leaves it only when acknowledged.

What it promises, and when:

- `append` returned: the batch survives the death of the agent (it is in the kernel's page cache).
- unacknowledged for `sync_after_s`, or more than `sync_bytes` of such batches: it is on the disk (`fdatasync`, in a
  thread of the spool's own), so a power cut loses at most that.  A batch that is acknowledged sooner costs no sync.
- all lanes together never take more than `max_bytes`; at the bound the session's policy decides: `drop_oldest` (of the
  session that takes most, replaced by tombstones), `drop_newest` or `stop`.
- the disk refuses a write: batches wait in memory up to `memory_bytes`, `disk_error` says so, and they move to the
  disk as soon as it takes them.
- a tombstone that took the place of batches, and what moved from memory to the disk, are synced as batches are.

Thread-safe: capture threads append, the event loop reads and acknowledges.  The lock is held while a segment is read or
written, never for a sync.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from agent.lane import Spooled, SpoolLane
from agent.overflow import SealTombstone, drop_oldest_segment
from agent.segment import HEAD, Record, Segment
from wire.names import Lane as LaneName
from wire.names import check_session_id
from wire.session import Overflow

MIN_SEGMENT_BYTES = 64 * 1024
MAX_SEGMENT_BYTES = 8 * 1024 * 1024
CLOSING_RESERVE_BYTES = 32 * 1024
"""A closing batch may exceed the bound by this much: the end of a session must always fit."""
_RETRY_DISK_S = 1.0


class Admission(Enum):
    """Whether a batch may enter."""

    ACCEPTED = "accepted"
    DROP_NEWEST = "drop_newest"
    STOP = "stop"


class Spool:
    """All lanes of one agent. See the module."""

    def __init__(
        self,
        directory: Path,
        *,
        seal_tombstone: SealTombstone,
        max_bytes: int = 1 << 30,
        memory_bytes: int = 16 << 20,
        sync_after_s: float = 1.0,
        sync_bytes: int = 4 << 20,
    ) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.memory_bytes = memory_bytes
        self.segment_bytes = max(MIN_SEGMENT_BYTES, min(MAX_SEGMENT_BYTES, max_bytes // 64))
        self.disk_error: str | None = None
        """Why batches wait in memory; None while the disk works."""
        self.lanes: list[SpoolLane] = []
        self.lock = threading.RLock()
        self._seal_tombstone = seal_tombstone
        self._sync_after_s = sync_after_s
        self._sync_bytes = sync_bytes
        self._reserved = 0
        self._appended_bytes = 0  # since the thread was last woken for their number
        self._work = threading.Condition(self.lock)
        self._room = threading.Condition(self.lock)
        self._upkeep_due_s: float | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    # -- lanes -------------------------------------------------------------------------------------------------

    def recover(self) -> list[tuple[SpoolLane, Record | None]]:
        """Find what earlier lives left; each lane with its last whole record. Call once, before anything else.

        Raises:
            OSError: the spool's folder can't be made or read at all.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: list[tuple[SpoolLane, Record | None]] = []
        # Boots in the order of their death: by the time of the last change in them.
        boots = sorted(self.directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for boot_directory in boots:
            for lane_directory, boot, session, lane in _lanes_below(boot_directory):
                one = SpoolLane(lane_directory, boot, session, lane)
                last = one.recover()
                found.append((one, last))
                if one.segments:
                    self.lanes.append(one)
        return found

    def open_lane(self, boot: bytes, session: str, lane: LaneName, overflow: Overflow) -> SpoolLane:
        """A new lane of this boot."""
        directory = self.directory / boot.hex() / f"{session}.{lane}"
        one = SpoolLane(directory, boot, session, lane, overflow=overflow)
        with self.lock:
            self.lanes.append(one)
        return one

    def finish_lane(self, lane: SpoolLane) -> None:
        """Nothing more comes; the lane goes away when all of it is acknowledged."""
        with self.lock:
            lane.finish()
            self._forget_finished()

    def _forget_finished(self) -> None:
        self.lanes[:] = [one for one in self.lanes if not (one.finished and not one.segments)]

    # -- appending -----------------------------------------------------------------------------------------------

    def admit(self, lane: SpoolLane, size: int, *, closing: bool = False) -> Admission:
        """Ask for room for a message of at most `size` bytes *before* it is sealed, so that what is turned away never
        had a sequence. ACCEPTED reserves the room until `append` or `give_back`.
        """
        size += HEAD.size
        with self.lock:
            if not closing:
                while not self._fits(size):
                    if any(one.release_acknowledged() for one in self.lanes):
                        continue  # one at a time: each gives room
                    if lane.overflow == "stop":
                        return Admission.STOP
                    if not self._make_room(lane):
                        return Admission.DROP_NEWEST
            self._reserved += size
            return Admission.ACCEPTED

    def wait_for_room(self, timeout_s: float) -> None:
        """Return when something was acknowledged, or after this time: then it is worth another `admit`."""
        with self._room:
            self._room.wait(timeout_s)

    def give_back(self, size: int) -> None:
        """Undo an `admit` whose batch did not come to be."""
        with self.lock:
            self._reserved -= size + HEAD.size

    def _fits(self, size: int) -> bool:
        if self.disk_error is not None and self.memory_used + self._reserved + size > self.memory_bytes:
            return False
        return self.used_bytes + self._reserved + size <= self.max_bytes

    def append(self, lane: SpoolLane, record: Record, message: bytes, *, admitted: int) -> None:
        """Keep a message whose room `admit(lane, admitted)` granted. Never fails: what the disk refuses waits in
        memory.
        """
        now_s = time.monotonic()
        with self.lock:
            self._reserved -= admitted + HEAD.size
            length = self._place(lane, record, message, now_s)
            lane.appended(record, length)
            self._appended_bytes += length
            self._schedule_upkeep(now_s)

    def _place(self, lane: SpoolLane, record: Record, message: bytes, now_s: float) -> int:
        if self.disk_error is None:
            try:
                segment = lane.active_segment(record.first_sequence, self.segment_bytes, in_memory=False)
                return segment.append(record, message, now_s)
            except OSError as error:
                self._disk_failed(error)
                _drop_empty(lane)
        segment = lane.active_segment(record.first_sequence, self.segment_bytes, in_memory=True)
        return segment.append(record, message, now_s)

    def _make_room(self, lane: SpoolLane) -> bool:
        """Drop one segment by the rules of `drop_oldest`; False when nothing may go.

        The victim is the session that takes most. It must be the one that wants room, or have more than its even share:
        so a flood can't push a quiet neighbour out, and a full spool can't keep a new session out.
        """
        by_session: dict[str, int] = {}
        for one in self.lanes:
            by_session[one.session] = by_session.get(one.session, 0) + one.size
        share = self.max_bytes // max(1, len(by_session))
        order = sorted(by_session, key=lambda session: by_session[session], reverse=True)
        for session in order:
            if session != lane.session and by_session[session] <= share:
                continue
            candidates = [o for o in self.lanes if o.session == session and o.overflow == "drop_oldest"]
            if session != lane.session or lane.overflow == "drop_oldest":
                for victim in sorted(candidates, key=lambda one: one.lane is LaneName.PRIO):
                    if drop_oldest_segment(victim, self._seal_tombstone) is not None:
                        if self.disk_error is not None:
                            self._move_to_disk()
                        self._forget_finished()
                        self._schedule_upkeep(time.monotonic())  # the tombstone isn't synced yet
                        return True
        return False

    # -- sending -------------------------------------------------------------------------------------------------

    def next_unsent(self, lane: SpoolLane, window: int) -> Spooled | None:
        """See `SpoolLane.next_unsent`."""
        with self.lock:
            return lane.next_unsent(window)

    def acknowledge(self, lane: SpoolLane, first_sequence: int) -> Record | None:
        """See `SpoolLane.acknowledge`."""
        with self.lock:
            record = lane.acknowledge(first_sequence)
            self._forget_finished()
            self._room.notify_all()
            return record

    # -- figures ---------------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Bytes of all segments, on disk and in memory."""
        return sum(lane.size for lane in self.lanes)

    @property
    def waiting_bytes(self) -> int:
        """Of these, the bytes of batches that are not yet acknowledged."""
        with self.lock:
            return sum(lane.waiting_bytes for lane in self.lanes)

    @property
    def memory_used(self) -> int:
        """Of these, the bytes that wait in memory for the disk."""
        return sum(s.size for lane in self.lanes for s in lane.segments if s.in_memory)

    @property
    def pending_batches(self) -> int:
        """Messages not yet acknowledged, over all lanes."""
        with self.lock:
            return sum(lane.pending_batches for lane in self.lanes)

    @property
    def drained(self) -> bool:
        """Everything has been acknowledged."""
        with self.lock:
            return all(lane.drained for lane in self.lanes)

    def oldest_spooled_ns(self) -> int | None:
        """When the oldest unacknowledged message was spooled (wall clock)."""
        with self.lock:
            times = [lane.oldest_spooled_ns() for lane in self.lanes]
        return min((t for t in times if t is not None), default=None)

    def damage(self) -> int:
        """Bytes and segments that could not be read back, over all lanes still here."""
        with self.lock:
            return sum(
                d.corrupt_bytes + d.torn_bytes + d.unreadable_segments for d in (o.damage for o in self.lanes)
            )

    # -- upkeep: syncing, and moving out of memory -------------------------------------------------------------------

    def start(self) -> None:
        """Start the spool's thread. `close` ends it."""
        self._thread = threading.Thread(target=self._upkeep_loop, name="spool-sync", daemon=True)
        self._thread.start()

    def _schedule_upkeep(self, now_s: float) -> None:
        soon = self._upkeep_due_s is None
        if soon:
            self._upkeep_due_s = now_s + self._sync_after_s
        if self._appended_bytes >= self._sync_bytes:
            self._appended_bytes = 0
            self._upkeep_due_s, soon = now_s, True
        if soon:
            self._work.notify()

    def _unsynced_bytes(self) -> int:
        return sum(s.size - s.synced_size for _, s in self._unsynced())

    def _unsynced(self) -> Iterator[tuple[SpoolLane, Segment]]:
        for lane in self.lanes:
            for segment in lane.segments:
                if not segment.in_memory and segment.synced_size < segment.size:
                    if segment.last_sequence <= lane.acknowledged_sequence:
                        segment.synced_size = segment.size  # stored elsewhere: no sync needed
                        segment.unsynced_since_s = None
                    else:
                        yield lane, segment

    def _upkeep_loop(self) -> None:
        while True:
            with self._work:
                while not self._closing:
                    if self._upkeep_due_s is None:
                        self._work.wait()
                        continue
                    left_s = self._upkeep_due_s - time.monotonic()
                    if left_s <= 0:
                        break
                    self._work.wait(left_s)
                if self._closing:
                    return
                self._upkeep_due_s = None
                if self.disk_error is not None:
                    self._move_to_disk()
            self.sync()
            with self.lock:
                pending = self.disk_error is not None or any(True for _ in self._unsynced())
                if pending and self._upkeep_due_s is None:
                    self._upkeep_due_s = time.monotonic() + max(self._sync_after_s / 4, 0.05)

    def sync(self, *, everything: bool = False) -> int:
        """`fdatasync` what has waited long enough (or `everything`); return how many files that were.

        The lock is not held while the disk works. A disk that fails to sync sets `disk_error`.
        """
        now_s = time.monotonic()
        with self.lock:
            urgent = everything or self._unsynced_bytes() >= self._sync_bytes
            due: list[tuple[Segment, int, int]] = []
            for _, segment in self._unsynced():
                since_s = segment.unsynced_since_s if segment.unsynced_since_s is not None else now_s
                if urgent or now_s - since_s >= self._sync_after_s:
                    with contextlib.suppress(OSError):
                        due.append((segment, os.dup(segment.open_fd()), segment.size))
        for segment, fd, size in due:
            try:
                os.fdatasync(fd)
                if not segment.directory_synced and segment.path is not None:
                    _sync_directories(segment.path.parent, self.directory)
                    segment.directory_synced = True
            except OSError as error:
                with self.lock:
                    self._disk_failed(error)
            else:
                with self.lock:
                    segment.synced_size = max(segment.synced_size, size)
                    segment.unsynced_since_s = None if segment.synced_size >= segment.size else now_s
            finally:
                os.close(fd)
        return len(due)

    def _disk_failed(self, error: OSError) -> None:
        self.disk_error = f"{error.strerror or error} ({self.directory})"

    def _move_to_disk(self) -> None:
        """Try to write what waits in memory; on success the disk is in use again."""
        for lane in self.lanes:
            for segment in lane.segments:
                if not segment.in_memory or not segment.size:
                    continue
                path = lane.directory / f"{segment.first_sequence:020d}.seg"
                try:
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    segment.move_to_disk(path)
                except OSError as error:
                    self._disk_failed(error)
                    return
        self.disk_error = None

    def close(self) -> None:
        """Sync what is left, remove what is acknowledged, end the thread. Idempotent."""
        with self._work:
            self._closing = True
            self._work.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self.lock:
            if self.memory_used:
                self._move_to_disk()
        self.sync(everything=True)
        with self.lock:
            for lane in self.lanes:
                lane.close()


def _drop_empty(lane: SpoolLane) -> None:
    """Take back a segment that was begun and got nothing."""
    if lane.segments and not lane.segments[-1].size and not lane.segments[-1].in_memory:
        segment = lane.segments[-1]
        with contextlib.suppress(OSError):
            segment.remove()
        lane.segments.pop()


def _lanes_below(boot_directory: Path) -> Iterator[tuple[Path, bytes, str, LaneName]]:
    try:
        boot = bytes.fromhex(boot_directory.name)
        if len(boot) != 16 or boot_directory.name != boot.hex():
            return
        children = sorted(boot_directory.iterdir())
    except (ValueError, OSError):
        return  # not ours; leave it alone
    for child in children:
        session, _, lane = child.name.partition(".")
        try:
            yield child, boot, check_session_id(session), LaneName(lane)
        except ValueError:
            continue
    with contextlib.suppress(OSError):
        boot_directory.rmdir()  # only when it is empty


def _sync_directories(directory: Path, top: Path) -> None:
    """Make the file's name durable as well: its folder and those above it, up to the spool's."""
    while True:
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        if directory == top or directory.parent == directory:
            return
        directory = directory.parent
