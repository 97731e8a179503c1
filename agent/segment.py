"""One segment of the spool: records end to end, each with a checksum, on disk or (disk full) in memory.

A record is `HEAD` (80 bytes, little endian) followed by the message exactly as it goes over the wire:

======================= ===== ==============================================================
field                   type  meaning
======================= ===== ==============================================================
magic                   4s    ``WPS1``
message_bytes           u32   length of the message that follows
crc32                   u32   over the rest of the head and the message, seeded by the lane
kind                    u32   0 packets, 1 tombstone, 2 closing
first_sequence          u64   batch sequence
last_sequence           u64   the same, except for a tombstone, which stands for a range
spooled_ns              u64   wall clock when the batch entered the spool
packets                 u32   packets inside (of a tombstone: packets lost, at most 2^32 - 1)
captured_bytes          u64   of these packets
original_bytes          u64   of these packets
header_hash             32s   sha256 of the signed header, which the next batch names
======================= ===== ==============================================================

The checksum starts from the lane's own seed, so that bytes which merely look like a record (a captured copy of a
spool, a segment moved to another folder) are not one.  A damaged stretch is skipped to the next whole record.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

MAGIC = b"WPS1"
HEAD = struct.Struct("<4sIIIQQQIQQ32s")
_CHECKED_FROM = 12
_MAX_U32 = 2**32 - 1  # more packets turned away stand in the message only
MAX_MESSAGE_BYTES = 1 << 20
"""Nothing longer is ever written, so a larger length is damage."""
FRESH_BYTES = 2 * 1024 * 1024
"""Of the segment that is written, this much stays in memory as well: a publisher that keeps up then reads no file."""


class RecordKind(IntEnum):
    PACKETS = 0
    TOMBSTONE = 1
    CLOSING = 2


@dataclass(frozen=True, slots=True)
class Record:
    """What the spool knows of one message without opening it."""

    kind: RecordKind
    first_sequence: int
    last_sequence: int
    spooled_ns: int
    packets: int
    captured_bytes: int
    original_bytes: int
    header_hash: bytes


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and where its message lies: `segment bytes[offset : offset + message_bytes]`."""

    record: Record
    offset: int
    message_bytes: int

    @property
    def end(self) -> int:
        return self.offset + self.message_bytes


@dataclass(slots=True)
class Scan:
    """What a whole segment holds.  `torn_bytes` at the end and `corrupt_bytes` in between belong to no record."""

    records: list[Placed] = field(default_factory=list)
    corrupt_bytes: int = 0
    torn_bytes: int = 0


def encode_head(record: Record, message: bytes, seed: int) -> bytes:
    """The 80 + bytes in front of `message`, checksum included."""
    head = HEAD.pack(
        MAGIC,
        len(message),
        0,
        record.kind,
        record.first_sequence,
        record.last_sequence,
        record.spooled_ns,
        min(record.packets, _MAX_U32),
        record.captured_bytes,
        record.original_bytes,
        record.header_hash,
    )
    crc = zlib.crc32(message, zlib.crc32(head[_CHECKED_FROM:], seed))
    return head[:8] + crc.to_bytes(4, "little") + head[_CHECKED_FROM:]


def parse_record(data: bytes | memoryview, offset: int, seed: int) -> Placed | None:
    """The record that starts at `offset` of `data`, or None when the bytes there are not a whole, undamaged one."""
    if offset + HEAD.size > len(data):
        return None
    (magic, length, crc, kind, first, last, spooled, packets, captured, original, hashed) = HEAD.unpack_from(
        data, offset
    )
    start = offset + HEAD.size
    if magic != MAGIC or length > MAX_MESSAGE_BYTES or start + length > len(data):
        return None
    if kind > RecordKind.CLOSING or last < first:
        return None
    checked = zlib.crc32(data[offset + _CHECKED_FROM : start], seed)
    if zlib.crc32(data[start : start + length], checked) != crc:
        return None
    record = Record(RecordKind(kind), first, last, spooled, packets, captured, original, hashed)
    return Placed(record, start, length)


def scan_records(data: bytes, seed: int) -> Scan:
    """Every whole record of a segment in order; sequences that don't rise are damage too.

    Never raises: what can't be read is counted as corrupt (something whole follows) or torn (nothing does).
    """
    found = Scan()
    view = memoryview(data)
    offset, bad_from, last_sequence = 0, 0, -1
    while offset < len(data):
        placed = parse_record(view, offset, seed)
        if placed is not None and placed.record.first_sequence > last_sequence:
            found.corrupt_bytes += offset - bad_from
            found.records.append(placed)
            last_sequence = placed.record.last_sequence
            offset = bad_from = placed.end
            continue
        offset = data.find(MAGIC, offset + 1)
        if offset < 0:
            break
    found.torn_bytes = len(data) - bad_from
    return found


class Segment:
    """An append-only run of records with rising sequences.  Not thread-safe: the spool's lock guards it.

    Lives in a file, or in memory while the disk refuses to take more (`path` None).
    """

    def __init__(self, first_sequence: int, seed: int, path: Path | None) -> None:
        self.first_sequence = first_sequence
        self.last_sequence = first_sequence - 1
        self.seed = seed
        self.path = path
        self.size = 0
        self.sealed = False
        """No more appends: a newer segment follows, or the lane is finished."""
        self.tombstones_only = True
        self.has_packets = False
        self.synced_size = 0
        self.unsynced_since_s: float | None = None
        self.directory_synced = False
        self._fd: int | None = None
        self._memory: bytearray | None = bytearray() if path is None else None
        self._fresh: dict[int, tuple[Placed, bytes]] = {}  # by offset: written last, not read yet
        self._fresh_bytes = 0

    @property
    def in_memory(self) -> bool:
        return self._memory is not None

    def open_fd(self) -> int:
        """The file, opened when first needed.

        Raises:
            OSError: the disk is full, the file is gone, the file system is read-only.
        """
        if self._fd is None:
            assert self.path is not None
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._fd

    def close_fd(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def append(self, record: Record, message: bytes, now_s: float) -> int:
        """Write one record whole or not at all; return the bytes it takes.

        Raises:
            OSError: it could not be written; the segment is as it was before.
        """
        head = encode_head(record, message, self.seed)
        length = len(head) + len(message)
        if self._memory is not None:
            self._memory += head
            self._memory += message
        else:
            self._write([head, message], length)
            self._keep_fresh(Placed(record, self.size + len(head), len(message)), message)
        if self.unsynced_since_s is None:  # also in memory: it counts from here when the disk takes it later
            self.unsynced_since_s = now_s
        self.size += length
        self.last_sequence = record.last_sequence
        self._note_kind(record.kind)
        return length

    def _keep_fresh(self, placed: Placed, message: bytes) -> None:
        self._fresh[self.size] = placed, message
        self._fresh_bytes += len(message)
        while self._fresh_bytes > FRESH_BYTES:
            self._take_fresh(next(iter(self._fresh)))

    def _take_fresh(self, offset: int) -> tuple[Placed, bytes] | None:
        taken = self._fresh.pop(offset, None)
        if taken is not None:
            self._fresh_bytes -= len(taken[1])
        return taken

    def seal(self) -> None:
        """No more appends."""
        self.sealed = True
        self._fresh.clear()
        self._fresh_bytes = 0

    def _note_kind(self, kind: RecordKind) -> None:
        self.tombstones_only = self.tombstones_only and kind is RecordKind.TOMBSTONE
        self.has_packets = self.has_packets or kind is RecordKind.PACKETS

    def _write(self, parts: list[bytes], length: int) -> None:
        fd = self.open_fd()
        try:
            written = os.pwritev(fd, parts, self.size)
            while written < length:  # a short write says "no space" only on the next try
                rest = b"".join(parts)[written:]
                written += os.pwrite(fd, rest, self.size + written)
        except OSError:
            os.ftruncate(fd, self.size)
            raise

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the segment; shorter than asked at its end.

        Raises:
            OSError: the file can't be read.
        """
        if self._memory is not None:
            return bytes(self._memory[offset : offset + length])
        return os.pread(self.open_fd(), length, offset)

    def read_record(self, offset: int) -> tuple[Placed, bytes] | None:
        """The record at `offset` with its message, or None when these bytes are damaged.

        One that was written a moment ago comes from memory, once.
        """
        fresh = self._take_fresh(offset)
        if fresh is not None:
            return fresh
        head = self.read(offset, HEAD.size)
        if len(head) < HEAD.size:
            return None
        length = HEAD.unpack(head)[1]
        if length > MAX_MESSAGE_BYTES:
            return None
        message = self.read(offset + HEAD.size, length)
        placed = parse_record(head + message, 0, self.seed)
        if placed is None:
            return None
        return Placed(placed.record, offset + HEAD.size, length), message

    def whole_after(self, offset: int) -> int:
        """Where the next whole record after the damage at `offset` starts; the segment's end when there is none."""
        data = self.read(0, self.size)
        at = offset
        while (at := data.find(MAGIC, at + 1)) >= 0:
            if parse_record(data, at, self.seed) is not None:
                return at
        return self.size

    def scan(self) -> Scan:
        return scan_records(self.read(0, self.size), self.seed)

    def load(self) -> Scan:
        """Take over a file left by an earlier life: find its records and cut a torn tail off.

        Raises:
            OSError: the file can't be read.
        """
        assert self.path is not None
        data = self.path.read_bytes()
        found = scan_records(data, self.seed)
        self.size = self.synced_size = len(data) - found.torn_bytes
        if found.torn_bytes:
            with contextlib.suppress(OSError):  # a read-only disk: the whole records are still good
                os.truncate(self.path, self.size)
        self.sealed = True
        for placed in found.records:
            self._note_kind(placed.record.kind)
        if found.records:
            self.first_sequence = found.records[0].record.first_sequence
            self.last_sequence = found.records[-1].record.last_sequence
        return found

    def records(self) -> Iterator[tuple[Placed, bytes]]:
        """Every whole record with its message; reads the segment once."""
        data = self.read(0, self.size)
        for placed in scan_records(data, self.seed).records:
            yield placed, data[placed.offset : placed.end]

    @classmethod
    def of_records(
        cls, records: list[tuple[Record, bytes]], seed: int, path: Path | None, unsynced_since_s: float
    ) -> Segment:
        """A sealed segment of these records; on disk it takes the place of whatever was at `path` by one rename.

        It isn't synced: `unsynced_since_s` (monotonic clock) says since when what it holds waits for that.

        Raises:
            OSError: nothing has changed.
        """
        segment = cls(records[0][0].first_sequence, seed, path)
        content = b"".join(encode_head(r, m, seed) + m for r, m in records)
        if path is not None:
            write_whole(path, content, sync=False)
        else:
            segment._memory = bytearray(content)
        segment.size = len(content)
        segment.unsynced_since_s = unsynced_since_s
        segment.last_sequence = records[-1][0].last_sequence
        segment.sealed = True
        for record, _ in records:
            segment._note_kind(record.kind)
        return segment

    def move_to_disk(self, path: Path) -> None:
        """From memory into a file, whole or not at all; not synced yet.

        Raises:
            OSError: the disk still refuses; the segment stays in memory.
        """
        assert self._memory is not None
        write_whole(path, bytes(self._memory), sync=False)
        self.path, self._memory = path, None

    def remove(self) -> None:
        """Forget the segment; a file that is already gone is as good."""
        self.close_fd()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self._memory = bytearray() if self._memory is not None else None
        self.size = 0


def write_whole(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file so that a reader finds all of it or what was there before (temporary file, then rename).

    sync: so after a power cut, too; this may take seconds. Without it, whoever reads must be able to tell a torn file
    (records have checksums), and somebody must sync it later.

    Raises:
        OSError: nothing has changed.
    """
    temporary = path.with_suffix(path.suffix + ".tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                os.fdatasync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
