"""A recorded file as a source: packets with their recorded times, at the recorded pace, at a rate, or at full speed.

The file's packets come a chunk at a time (`wire.capture_file`), those of each interface together; one C call filters
and copies a batch. What the filter turns away is counted here, unlike on a ring: received + filtered = packets in the
file. A file that ends or breaks in the middle gives what precedes that; the record that can't be read counts as one
dropped_invalid packet, since nobody knows how many follow it.
"""

from __future__ import annotations

import io
import os
import select
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agent import _tpacket
from agent.bpf_filter import MAX_SNAPLEN, FilterError, compile_filter
from agent.sources.source import (
    CLOCK_FILE,
    EVERYTHING,
    BatchBuffer,
    FlowRules,
    SourceError,
    SourceStatistics,
)
from agent.tag_filter import REJECT_ALL
from wire.capture_file import CaptureInterface, CaptureReader, Filled
from wire.errors import WireError
from wire.priority import PriorityRules

if TYPE_CHECKING:  # eBPF is Linux' alone
    from agent.ebpf.flow_counters import FlowReading

_FOR_EVER_NS = 2**64 - 1
_CHUNK_PACKETS = 4096
_PACED_PACKETS = 32
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"\x28\xb5\x2f\xfd": "unzstd", b"\xfd7zXZ": "unxz", b"BZh": "bunzip2"}


class ReplaySource:
    """A `PacketSource` over a pcap or pcapng file.

    `rate_pps`: packets per second; None: as fast as they are taken; "pace": as recorded, counted from the first packet.
    SourceError when the file can't be read, FilterError when the filter can't judge its first link type. Own traffic is
    not looked for: a recording's connections are not the agent's.
    """

    clock_source: Literal["host", "file"] = CLOCK_FILE
    rings = 1
    priority_ring: int | None = None
    index = 0

    def __init__(
        self,
        path: str | os.PathLike[str],
        filter_text: str,
        snaplen: int,
        rate_pps: float | Literal["pace"] | None,
    ) -> None:
        if isinstance(rate_pps, (int, float)) and not 0 < rate_pps <= 1e9:
            raise ValueError(f"a rate of {rate_pps} packets per second")
        self.snaplen = snaplen
        self.epoch = 0
        self._filter_text = filter_text
        self._rate_pps = rate_pps
        self._lock = threading.Lock()  # held while copying, never while waiting
        self._reading = threading.Lock()
        self._closed = False
        self._paused_ns: int | None = None
        self._origin_ns: int | None = None  # monotonic time of the pace's zero
        self._first_ns = 0  # recorded time of the pace's zero
        self._read = 0  # packets taken from the file, for the rate
        self._received = self._captured = self._invalid = self._filtered = 0
        self._unjudged: str | None = None
        self._programs: dict[int, bytes] = {}
        self._chunk = BatchBuffer(_CHUNK_PACKETS, MAX_SNAPLEN)
        self._filled: Filled | None = None  # what is in the chunk; None: nothing (left)
        self._index = self._offset = 0  # of the chunk's next packet, and of its bytes
        self._path = Path(path)
        self._file, self._reader, self._size_bytes = _open(self._path)
        try:
            self._load()
            known = self._filled.interface if self._filled else next(iter(self._reader.interfaces), None)
            self.interface, self.link_type = self._name(known), known.link_type if known else 1
            self._programs[self.link_type] = compile_filter(filter_text, self.link_type, snaplen).code
        except BaseException:
            self._file.close()
            raise
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def finished(self) -> bool:
        """The whole file has been handed out."""
        return self._filled is None and self._reader.finished

    @property
    def progress(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return min(1.0, self._reader.offset / self._size_bytes) if self._size_bytes else 1.0

    @property
    def notice(self) -> str | None:
        """See `PacketSource.notice`."""
        if self._reader.complaint is not None:
            return (
                f"{self._path} is damaged: {self._reader.complaint}; all packets before it were read. "
                f"What can be saved of the rest: editcap {self._path} repaired.pcapng"
            )
        return self._unjudged

    def read_batch(self, buffer: BatchBuffer, *, linger_ns: int, wait_ms: int, ring: int = 0) -> int:
        """See `PacketSource.read_batch`. A batch holds packets of one interface of the file."""
        if buffer.data_capacity_bytes < self.snaplen:
            raise ValueError(
                f"a buffer of {buffer.data_capacity_bytes} bytes can't hold a packet of {self.snaplen}"
            )
        buffer.packets = buffer.data_bytes = 0
        give_up_ns = time.monotonic_ns() + wait_ms * 1_000_000
        woken = False
        with self._reading:
            while True:
                with self._lock:
                    if self._closed:
                        raise SourceError(f"the replay of {self._path} is closed")
                    self._load()
                    if self._filled is None:
                        return 0
                    now_ns = time.monotonic_ns()
                    due_ns = self._due_ns(now_ns)
                    patience_ns = 0 if woken or self._rate_pps is None else linger_ns
                    if due_ns is not None and due_ns + patience_ns <= now_ns:
                        self._copy(buffer, self._filled, now_ns)
                        if buffer.packets or now_ns >= give_up_ns:
                            return buffer.packets
                        continue  # all were turned away
                if woken or now_ns >= give_up_ns:
                    return 0
                # Once a packet is due in time its linger counts, however little is left of the wait.
                in_time = due_ns is not None and due_ns <= give_up_ns
                woken = self._sleep(due_ns + patience_ns if due_ns is not None and in_time else give_up_ns)

    def read_flows(self) -> list[FlowReading]:
        """See `PacketSource.read_flows`. Nothing counts the flows of a file."""
        return []

    def apply(self, filter_text: str, snaplen: int, flows: FlowRules = EVERYTHING) -> tuple[int, int]:
        """See `PacketSource.apply`. Exact: no packet of a file is between two filters."""
        if flows.needed:
            raise FilterError(
                "flow cut-off, sampling and a filter inside tunnels are for live captures: a file is replayed whole"
            )
        program = compile_filter(filter_text, self.link_type, snaplen).code
        with self._lock:
            start_ns = time.time_ns()
            self._filter_text, self.snaplen, self.epoch = filter_text, snaplen, self.epoch + 1
            self._programs = {self.link_type: program}
            self._unjudged = None
            return start_ns, time.time_ns()

    def leave_out(self, own_traffic: list[tuple[str, int]]) -> None:
        """Nothing to do: see the class."""

    def prioritise(self, rules: PriorityRules) -> None:
        """A file has one lane."""
        if not rules.none:
            raise SourceError("priority rules are for live captures: a file is replayed in its order")

    def pause(self) -> None:
        """See `PacketSource.pause`: the file waits where it is."""
        with self._lock:
            if self._paused_ns is None:
                self._paused_ns = time.monotonic_ns()

    def resume(self) -> None:
        """See `PacketSource.resume`: the pace goes on where it stopped."""
        with self._lock:
            if self._paused_ns is not None and self._origin_ns is not None:
                self._origin_ns += time.monotonic_ns() - self._paused_ns
            self._paused_ns = None
        self.wake()

    def statistics(self) -> SourceStatistics:
        """See `PacketSource.statistics`."""
        with self._lock:
            return SourceStatistics(
                received=self._received,
                dropped_invalid=self._invalid,
                captured=self._captured,
                filtered=self._filtered,
            )

    def look(self) -> None:
        """Nothing to do: a file keeps its name."""

    def wake(self) -> None:
        """See `PacketSource.wake`."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """See `PacketSource.close`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.eventfd_write(self._wake_fd, 1)
        with self._reading, self._lock:
            self._file.close()
            self._filled = None
            os.close(self._wake_fd)

    def _load(self) -> None:
        """Have packets in the chunk, unless the file is at its end. Called with the lock held."""
        if self._filled is not None or self._reader.finished:
            return
        # Of a chunk all packets of one interface come before those of the next. At the recorded pace that would hold
        # the others up until the last of the first is due: so small chunks then.
        several = len(self._reader.interfaces) > 1
        chunk = self._chunk
        self._index = self._offset = 0
        try:
            self._filled = self._reader.read_into(
                chunk.timestamp_ns,
                chunk.captured_bytes,
                chunk.original_bytes,
                chunk.flags,
                chunk.data,
                max_packets=_PACED_PACKETS if several and self._rate_pps == "pace" else _CHUNK_PACKETS,
            )
        except OSError as error:
            raise SourceError(
                f"{self._path} can't be read on: {error.strerror}", "Check the disk it is on"
            ) from None
        if self._filled is not None:
            chunk.packets, chunk.data_bytes = self._filled.packets, self._filled.data_bytes
        elif self._reader.complaint is not None:
            self._received += 1
            self._invalid += 1

    def _due_ns(self, now_ns: int) -> int | None:
        """Monotonic time at which the next packet is due; None while paused."""
        if self._paused_ns is not None:
            return None
        if self._rate_pps is None:
            return 0
        recorded = memoryview(self._chunk.timestamp_ns).cast("Q")
        if self._origin_ns is None:
            self._origin_ns, self._first_ns = now_ns, recorded[0]
        if self._rate_pps == "pace":
            return self._origin_ns + max(0, recorded[self._index] - self._first_ns)
        return self._origin_ns + int(self._read / self._rate_pps * 1e9)

    def _copy(self, buffer: BatchBuffer, filled: Filled, now_ns: int) -> None:
        """Hand out what is due. Called with the lock held, and something due."""
        interface, chunk = filled.interface, self._chunk.columns()
        until_ns, most = _FOR_EVER_NS, filled.packets
        if self._origin_ns is not None and self._rate_pps == "pace":
            until_ns = self._first_ns + now_ns - self._origin_ns
        elif self._origin_ns is not None and isinstance(self._rate_pps, (int, float)):
            most = max(1, int((now_ns - self._origin_ns) * self._rate_pps / 1e9) - self._read + 1)
        self._index, self._offset, packets, data_bytes, filtered = _tpacket.copy_packets(
            self._program(interface.link_type),
            self.snaplen,
            (chunk.timestamp_ns, chunk.captured_bytes, chunk.original_bytes, chunk.flags, chunk.data),
            self._index,
            self._offset,
            until_ns,
            most,
            (buffer.timestamp_ns, buffer.captured_bytes, buffer.original_bytes, buffer.flags, buffer.data),
        )
        if self._index == filled.packets:
            self._filled = None
        self._read += packets + filtered
        self._received += packets
        self._captured += packets
        self._filtered += filtered
        buffer.packets, buffer.data_bytes = packets, data_bytes
        buffer.interface, buffer.link_type = self._name(interface), interface.link_type
        buffer.snaplen, buffer.filter_epoch = self.snaplen, self.epoch

    def _program(self, link_type: int) -> bytes:
        """The filter for a link type. Packets of a type that it can't judge (tcpdump's language has no `vlan` on PPP)
        are turned away and counted, and `notice` says so."""
        if link_type not in self._programs:
            try:
                self._programs[link_type] = compile_filter(self._filter_text, link_type, self.snaplen).code
            except FilterError as error:
                self._programs[link_type] = REJECT_ALL
                self._unjudged = (
                    f"packets of link type {link_type} are left out: the filter can't judge them ({error})"
                )
        return self._programs[link_type]

    def _name(self, interface: CaptureInterface | None) -> str:
        """The interface's name; the file's where it has none (classic pcap never has)."""
        if interface is None or len(self._reader.interfaces) == 1:
            return (interface.name if interface else "") or self._path.name
        return interface.name or f"{self._path.name}#{interface.section}.{interface.index}"

    def _sleep(self, until_ns: int) -> bool:
        """True when woken before."""
        timeout_s = max(0.0, (until_ns - time.monotonic_ns()) / 1e9)
        ready, _, _ = select.select([self._wake_fd], [], [], timeout_s)
        if not ready:
            return False
        os.eventfd_read(self._wake_fd)
        return True


def _open(path: Path) -> tuple[io.FileIO, CaptureReader, int]:
    """The file, its reader, its size. SourceError says what is wrong with it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"{path} is not a regular file", "Give a pcap or pcapng file")
        file = io.FileIO(path)
    except OSError as error:
        raise SourceError(
            f"{path} can't be opened: {error.strerror}", "Check the path and its permissions"
        ) from None
    try:
        head = os.pread(file.fileno(), 8, 0)
        for magic, tool in _COMPRESSED.items():
            if head.startswith(magic):
                raise SourceError(f"{path} is compressed", f"Decompress it first: {tool} -k {path}")
        return file, CaptureReader(file.read), status.st_size
    except WireError as error:
        file.close()
        raise SourceError(
            f"{path}: {error}", f"Convert another capture format with: editcap {path} converted.pcapng"
        ) from None
    except OSError as error:
        file.close()
        raise SourceError(f"{path} can't be read: {error.strerror}", "Check the disk it is on") from None
    except BaseException:
        file.close()
        raise
