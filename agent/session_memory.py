"""What must be remembered of a session beyond the agent's life: its chain's head, its totals, how it ended.

One file per session of 640 bytes, overwritten in place with one write at each batch (no sync: after a power cut it may
be behind, and then the spool's own last record or, at worst, an open tail says so).  The next boot's first batch names
the hash kept here; a session that ended by its limits isn't started again.

Layout (little endian): magic ``WPM1``, crc32 of the rest, started_ns, packets, captured_bytes (u64 each), ended (u8),
reason length (u16), reason (256 bytes UTF-8), then for bulk and prio: boot (16), next sequence (u64), hash (32).
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from wire.names import Lane, check_session_id

_MAGIC = b"WPM1"
_BODY = struct.Struct("<QQQBH256s16sQ32s16sQ32s")
_NO_BOOT = bytes(16)


@dataclass(slots=True)
class ChainHead:
    """The last batch of a lane: a boot's id, the sequence that comes next, the hash of the last header."""

    boot: bytes = _NO_BOOT
    next_sequence: int = 0
    header_hash: bytes = bytes(32)

    @property
    def known(self) -> bool:
        return self.boot != _NO_BOOT


@dataclass(slots=True)
class LastSpooled(ChainHead):
    """A chain's head as the spool's recovery found it, with the batch that made it."""

    first_sequence: int = 0
    packets: int = 0
    captured_bytes: int = 0


@dataclass(slots=True)
class SessionMemory:
    """See the module."""

    path: Path
    started_ns: int = 0
    """Wall clock of the session's first start on this host; 0: not yet."""
    packets: int = 0
    """Captured into batches, over all boots."""
    captured_bytes: int = 0
    ended: bool = False
    reason: str = ""
    heads: dict[Lane, ChainHead] = field(default_factory=lambda: {lane: ChainHead() for lane in Lane})
    _fd: int | None = None

    @classmethod
    def open(cls, directory: Path, session: str) -> SessionMemory:
        """The memory of a session; an empty one when there is none or it is damaged.

        Raises:
            OSError: the folder can't be made.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        memory = cls(directory / check_session_id(session))
        with contextlib.suppress(OSError, struct.error):
            memory._parse(memory.path.read_bytes())
        return memory

    def _parse(self, content: bytes) -> None:
        body = content[8:]
        if content[:4] != _MAGIC or zlib.crc32(body) != int.from_bytes(content[4:8], "little"):
            return
        started, packets, captured, ended, length, reason, *heads = _BODY.unpack(body)
        self.started_ns, self.packets, self.captured_bytes = started, packets, captured
        self.ended, self.reason = bool(ended), reason[:length].decode(errors="replace")
        self.heads[Lane.BULK] = ChainHead(*heads[:3])
        self.heads[Lane.PRIO] = ChainHead(*heads[3:])

    def catch_up(self, lane: Lane, found: LastSpooled | None) -> ChainHead:
        """The lane's head, from here or from the spool's last record, whichever is further.

        A kill between the spool's file and this one leaves the memory one batch behind: that one is counted now, or an
        import would read it again. Further behind (a power cut) the totals can't be known.
        """
        head = self.heads[lane]
        if found is None or (found.boot == head.boot and found.next_sequence <= head.next_sequence):
            return head
        if found.first_sequence == head.next_sequence and (found.boot == head.boot or not head.known):
            self.packets += found.packets
            self.captured_bytes += found.captured_bytes
        return found

    def save(self) -> None:
        """Write it over the old. A disk that refuses is no reason to stop: the chain then shows an open tail."""
        reason = self.reason.encode()[:256]
        bulk, prio = self.heads[Lane.BULK], self.heads[Lane.PRIO]
        body = _BODY.pack(
            self.started_ns,
            self.packets,
            self.captured_bytes,
            self.ended,
            len(reason),
            reason,
            *(bulk.boot, bulk.next_sequence, bulk.header_hash),
            *(prio.boot, prio.next_sequence, prio.header_hash),
        )
        with contextlib.suppress(OSError):
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._fd, _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body, 0)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def forget(self) -> None:
        """The session is over and gone from the hub's list: nothing of it remains."""
        self.close()
        self.path.unlink(missing_ok=True)
