"""A libpcap handle as a `LiveSocket`: opened so that nothing unfiltered is delivered, freed exactly once.

All calls of one handle are made one after the other (libpcap's handles aren't thread-safe), none of them blocks, and
the reader waits outside, on pcap_get_selectable_fd and a descriptor that wakes it.

**Filters.** pcap_setfilter would judge again, by the new filter, what the old one let pass and nobody has read yet
(pcap_setfilter_linux), and lose it. On Linux a handle's descriptor is an AF_PACKET socket, so the program is attached
to that, as on the ring, translated for tags that the kernel takes out. Elsewhere pcap_setfilter is what there is:
macOS empties its buffer with it.

**Books.** On Linux ps_recv counts what passed the filter, dropped packets included (pcap_stats_linux). Elsewhere it may
count what the filter turned away too (pcap_stats(3PCAP)), so there packets received are those delivered and those
dropped, and nothing is known of what waits in the kernel's buffer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading
import time

from typing_extensions import Buffer

from agent import libpcap
from agent._libpcap import Walk
from agent.bpf_filter import INSTRUCTION_BYTES, MAX_SNAPLEN
from agent.sources.live_socket import END_ERROR, END_TIME, END_WOKEN
from agent.sources.source import SourceError
from agent.sources.wake import Ready, wait
from agent.tag_filter import REJECT_ALL

_NAP_S = 0.02  # as the ring's reader: a batch waits for company, not every block is worth a wake-up
_SETTLE_S = 0.02
"""After a filter was attached packets under judgement by the one before may still arrive (see SWAP_DELAY_S)."""
_SETTLE_AT_MOST_S = 2.0
_ETHERNET, _RAW_IP = 1, 101


class PcapSocket:
    """See the module. Opening raises SourceError with libpcap's own words and what to do about it."""

    def __init__(
        self,
        interface: str,
        *,
        buffer_bytes: int,
        timeout_ms: int,
        promiscuous: bool,
        late_stamps: bool = False,
        linux: bool | None = None,
    ) -> None:
        """`timeout_ms`: a packet waits at most this long in the kernel. `late_stamps`: see `agent.sources.ring_socket`.
        `linux`: use what Linux offers (tests turn it
        off to run the other systems' way)."""
        self.interface = interface
        self.index = 0
        self.received = 0
        self.dropped = 0
        self.ring: PcapReader
        self.hardware_stamps = False
        self.stamp_error_ns = 0
        self.remark: str | None = None
        self._linux = sys.platform == "linux" if linux is None else linux
        self._lock = threading.Lock()
        self._seen = (0, 0)  # ps_recv, ps_drop as last read; they have 32 bits
        try:
            self._library = libpcap.load()
        except libpcap.LibpcapMissing as error:
            raise SourceError(str(error)) from None
        self._failure: str | None = None
        self._program = REJECT_ALL
        self._raw: socket.socket | None = None
        self._handle = self._activate(buffer_bytes, timeout_ms, promiscuous)
        try:
            self._become_non_blocking()
            self.link_type = libpcap.link_type_of(self._library.pcap_datalink(self._handle))
            self.loopback = False
            self.tags_beside = self._linux
            if self._linux:
                self._be_a_packet_socket(late_stamps)
        except BaseException:
            self.close()
            raise

    def _activate(self, buffer_bytes: int, timeout_ms: int, promiscuous: bool) -> int:
        library = self._library
        if self.interface == "any":  # libpcap's own, which has another link type
            raise self._unknown()
        complaint = ctypes.create_string_buffer(libpcap.ERRBUF_BYTES)
        handle = library.pcap_create(os.fsencode(self.interface), complaint)
        if not handle:
            raise SourceError(f"libpcap: {complaint.value.decode(errors='replace')}")
        library.pcap_set_snaplen(handle, MAX_SNAPLEN)  # the filter's verdict cuts; a later one may want more
        library.pcap_set_promisc(handle, promiscuous)
        library.pcap_set_timeout(handle, timeout_ms)
        library.pcap_set_buffer_size(handle, buffer_bytes)
        library.pcap_set_tstamp_precision(
            handle, libpcap.NANOSECONDS
        )  # refused where there are microseconds only
        result = library.pcap_activate(handle)
        if result < 0:
            error = self._refused(handle, result)
            library.pcap_close(handle)
            raise error
        return int(handle)

    def _refused(self, handle: int, result: int) -> SourceError:
        library = self._library
        said = self._error_text(handle)
        status = library.pcap_statustostr(result).decode(errors="replace")
        if result == libpcap.NO_SUCH_DEVICE:
            return self._unknown()
        if result in (libpcap.NOT_PERMITTED, libpcap.PROMISCUOUS_NOT_PERMITTED):
            remedy = {
                "linux": "The agent needs CAP_NET_RAW: run it as root or through its systemd unit",
                "win32": "Run the agent as an administrator, or let Npcap's installer allow everybody",
            }.get(sys.platform, "Run the agent as root, or give it the right to read /dev/bpf*")
            return SourceError(f"libpcap may not capture on {self.interface}: {said or status}", remedy)
        if result == libpcap.NOT_UP:
            return SourceError(
                f"interface {self.interface} is down, and libpcap opens none that is",
                f"Bring it up (ip link set {self.interface} up) and start the session again",
            )
        return SourceError(
            f"libpcap can't capture on {self.interface}: {status}{f' ({said})' if said else ''}",
            "Give ring.bytes a smaller value if it is memory that is short",
        )

    def _error_text(self, handle: int = 0) -> str:
        return str(self._library.pcap_geterr(handle or self._handle).decode(errors="replace"))

    def _unknown(self) -> SourceError:
        present = ", ".join(sorted(name for _, name in socket.if_nameindex()))
        return SourceError(f"there is no interface {self.interface}", f"This host has: {present}")

    def _become_non_blocking(self) -> None:
        complaint = ctypes.create_string_buffer(libpcap.ERRBUF_BYTES)
        if self._library.pcap_setnonblock(self._handle, 1, complaint) < 0:
            raise SourceError(
                f"libpcap can't read {self.interface} without blocking: {complaint.value.decode()}"
            )
        if self.fileno() < 0:
            raise SourceError(
                f"libpcap gives nothing to wait on for {self.interface}", "Capture on another interface"
            )

    def _be_a_packet_socket(self, late_stamps: bool) -> None:
        """The handle's descriptor as a socket, for what libpcap has no function for."""
        from agent.sources.ring_socket import LATE_NS, is_loopback, stamp_early

        if self.link_type not in (_ETHERNET, _RAW_IP):
            raise SourceError(
                f"interface {self.interface} has link type {self.link_type}, whose frames can't be captured yet",
                "Ethernet-like, loopback, tun, WireGuard and IP tunnel interfaces can",
            )
        self._raw = socket.socket(fileno=os.dup(self.fileno()))
        self.index = socket.if_nametoindex(self.interface)
        self.loopback = is_loopback(self._raw, self.interface)
        if late_stamps:
            self.stamp_error_ns = LATE_NS
        else:
            stamp_early(self._raw)

    def start(self, snaplen: int, epoch: int) -> None:
        """See `LiveSocket.start`. A handle receives from its activation on: what came before the filter is thrown away
        here and not counted, so this takes some 20 ms."""
        precise = self._library.pcap_get_tstamp_precision(self._handle) == libpcap.NANOSECONDS
        arguments = (
            libpcap.address_of("pcap_dispatch"),
            libpcap.address_of("pcap_breakloop"),
            1 if precise else 1000,
        )
        program = self._program
        self.attach(REJECT_ALL)
        self._throw_away(Walk(*arguments, MAX_SNAPLEN, self.link_type == _ETHERNET, epoch))
        self.ring = PcapReader(self, Walk(*arguments, snaplen, self.link_type == _ETHERNET, epoch))
        self.received = self.dropped = 0
        self.attach(program)

    def _throw_away(self, walk: Walk) -> None:
        """Empty the handle: until the kernel's count says that it is empty, or nothing has come for a while (of what
        passes a loopback interface libpcap leaves out half, uncounted)."""
        room = (
            bytearray(8 << 12),
            bytearray(4 << 12),
            bytearray(4 << 12),
            bytearray(2 << 12),
            bytearray(1 << 19),
        )
        give_up_s = time.monotonic() + _SETTLE_AT_MOST_S
        quiet = 0
        while quiet < 2 and time.monotonic() < give_up_s:
            time.sleep(_SETTLE_S)
            quiet += 1
            while self.dispatch(walk, b"", room, 0, 0)[0] > 0:
                quiet = 0
            self._count(walk)
            if self._linux and self.received - self.dropped <= sum(walk.counters()):
                return

    def dispatch(
        self,
        walk: Walk,
        own: Buffer,
        target: tuple[Buffer, Buffer, Buffer, Buffer, Buffer],
        packets: int,
        data_bytes: int,
    ) -> tuple[int, int, int, int, int]:
        """What is there now, behind `packets` packets: (packets, data_bytes, END_ reason, epoch, snaplen)."""
        with self._lock:
            packets, data_bytes, end, result, epoch, snaplen = walk.dispatch(
                self._handle, own, target, packets, data_bytes
            )
            failed = result < 0 and result != libpcap.BROKEN_LOOP
            self._failure = self._error_text() if failed else None
        if failed:
            end = END_ERROR
        return packets, data_bytes, end, epoch, snaplen

    def attach(self, program: bytes) -> None:
        """See `LiveSocket.attach` (and the module)."""
        self._program = program
        if self._raw is not None:
            from agent.sources.ring_socket import attach_filter

            attach_filter(self._raw, program)
            return
        code = ctypes.create_string_buffer(program, len(program))
        whole = libpcap.BpfProgram(len(program) // INSTRUCTION_BYTES, ctypes.addressof(code))
        with self._lock:
            if self._library.pcap_setfilter(self._handle, ctypes.byref(whole)) < 0:
                raise OSError(0, self._error_text())

    @property
    def pointer(self) -> int:
        """The pcap_t; 0 once closed."""
        return self._handle

    def fileno(self) -> int:
        """See `LiveSocket.fileno`. On Windows an event's handle."""
        if sys.platform == "win32":
            return int(self._library.pcap_getevent(self._handle) or -1)
        return int(self._library.pcap_get_selectable_fd(self._handle))

    def count(self) -> None:
        """See `LiveSocket.count`."""
        self._count(self.ring.walk)

    def _count(self, walk: Walk) -> None:
        statistics = libpcap.Statistics()
        with self._lock:
            if not self._handle or self._library.pcap_stats(self._handle, ctypes.byref(statistics)) < 0:
                return
        seen = (statistics.ps_recv, statistics.ps_drop)
        self.dropped += (seen[1] - self._seen[1]) & 0xFFFFFFFF
        if self._linux:
            self.received += (seen[0] - self._seen[0]) & 0xFFFFFFFF
        else:
            self.received = sum(walk.counters()) + self.dropped
        self._seen = seen

    def take_error(self) -> str | None:
        """See `LiveSocket.take_error`. libpcap takes the socket's errors itself; stays until a dispatch succeeds."""
        return self._failure

    def trouble(self) -> str | None:
        """See `LiveSocket.trouble`. Elsewhere than on Linux only "removed" is told."""
        if self._raw is not None:
            from agent.sources.ring_socket import interface_trouble

            return interface_trouble(self._raw, self.index)
        return None if self.interface in (name for _, name in socket.if_nameindex()) else "removed"

    def name(self) -> str | None:
        """See `LiveSocket.name`. Known on Linux only."""
        if self._raw is None:
            return None
        from agent.sources.ring_socket import interface_name

        return interface_name(self._raw, self.index)

    def close(self) -> None:
        """See `LiveSocket.close`."""
        if not self._handle:
            return
        if hasattr(self, "ring"):
            with contextlib.suppress(OSError):
                self.attach(REJECT_ALL)
            self.count()
        with self._lock:
            handle, self._handle = self._handle, 0
            self._library.pcap_close(handle)
        if self._raw is not None:
            self._raw.close()


class PcapReader:
    """Fills batches out of a handle: a C call per block of the kernel's, and waiting in between."""

    def __init__(self, handle: PcapSocket, walk: Walk) -> None:
        self.walk = walk
        self.swap, self.swapped, self.counters = walk.swap, walk.swapped, walk.counters
        self._handle = handle
        self._failed_before = False
        self._look_every_s = libpcap.select_timeout_s(handle.pointer)

    def read(
        self,
        fd: int,
        wake_fd: int,
        own: Buffer,
        target: tuple[Buffer, Buffer, Buffer, Buffer, Buffer],
        linger_ns: int,
        wait_ns: int,
        /,
    ) -> tuple[int, int, int, int, int]:
        """See `agent.sources.live_socket.Reader.read`."""
        packets = data_bytes = 0
        until_s = time.monotonic() + wait_ns / 1e9
        while True:
            before = packets
            packets, data_bytes, end, epoch, snaplen = self._handle.dispatch(
                self.walk, own, target, packets, data_bytes
            )
            now_s = time.monotonic()
            if packets and not before:
                until_s = now_s + linger_ns / 1e9
            known = end == END_ERROR and self._failed_before and not packets
            if known and now_s < until_s and self._wait(-1, wake_fd, until_s - now_s) == END_TIME:
                continue  # it has been told, and goes on: don't spin on it
            self._failed_before = end == END_ERROR
            if end == END_TIME and now_s < until_s:
                end = self._wait(-1 if packets else fd, wake_fd, until_s - now_s)
                if end == END_TIME:
                    continue
            return packets, data_bytes, end, epoch, snaplen

    def _wait(self, fd: int, wake_fd: int, left_s: float) -> int:
        """Until there is something to look at (END_TIME), something is wrong, or `wake_fd` is set."""
        most_s = _NAP_S if fd < 0 else self._look_every_s
        ready = wait(fd, wake_fd, left_s if most_s is None else min(left_s, most_s))
        # The dispatch that follows takes the error away from the descriptor.
        return {Ready.WOKEN: END_WOKEN, Ready.TROUBLE: END_ERROR}.get(ready, END_TIME)
