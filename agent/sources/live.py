"""Live packets of one interface, whichever way they come: through the kernel's ring or through libpcap.

A `LiveSocket` takes packets (one C call per batch, or per block of libpcap's); everything here happens per batch, per
filter change or per mishap, and so is the same for both. A session's stop that loses nothing is: `pause`, then
`read_batch` until `statistics().in_ring` is 0, then `close`. What is still in the ring then counts as dropped_ring.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from agent.bpf_filter import FilterError
from agent.ebpf.translate import NotAsEbpf
from agent.own_traffic import own_traffic_table
from agent.sources.live_rings import Ring, Totals, close_all, swap, swapped
from agent.sources.live_socket import END_ERROR, LiveSocket, Reader, Steering
from agent.sources.socket_filter import ClassicSocketFilter, Prepared, SocketFilter
from agent.sources.source import (
    CLOCK_HOST,
    EVERYTHING,
    BatchBuffer,
    FlowRules,
    SourceError,
    SourceStatistics,
)
from agent.tag_filter import REJECT_ALL
from wire.priority import PriorityRules

if TYPE_CHECKING:  # eBPF is Linux' alone
    from agent.ebpf.flow_counters import FlowReading

log = logging.getLogger(__name__)

SWAP_DELAY_S = 0.02
"""A packet is stamped when it arrives and judged when the processor gets to it, under load some milliseconds later. So
a filter change announces its interval first and replaces the filter this much later: packets stamped before the
interval have all been judged by then."""
_COUNT_EVERY_S = 60.0  # the kernel's counters have 32 bits
_REOPEN_EVERY_S = 1.0


class LiveSource:
    """A `PacketSource`. Opening it needs the right to capture; SourceError or FilterError say what is wrong otherwise.

    `own_traffic`: (IP address, port) pairs whose packets are counted and left out. `judge`: how the socket is told the
    filter, taken over. The interface may go down, or vanish and come back: `notice` says so meanwhile, and packets go
    on by themselves.
    """

    clock_source: Literal["host", "file"] = CLOCK_HOST
    finished = False

    def __init__(
        self,
        interface: str,
        filter_text: str,
        snaplen: int,
        own_traffic: Sequence[tuple[str, int]],
        open_socket: Callable[[], LiveSocket],
        judge: SocketFilter,
        flows: FlowRules = EVERYTHING,
        *,
        rings: int = 1,
        steering: Steering | None = None,
    ) -> None:
        """rings: flows are spread over so many sockets. steering: does that, and priority; None: only one socket."""
        self.interface = interface
        """What it is called now."""
        self.snaplen = snaplen
        self.epoch = 0
        self._asked_for = interface
        self._open = open_socket
        self._own = own_traffic_table(own_traffic)
        self._past = Totals()
        self._notice: str | None = None
        self._paused = False
        self._closed = False
        self._fatal: SourceError | None = None
        self._last_flows: list[FlowReading] = []
        # `_changing` is held for a filter change, a ring's `reading` for a whole read; `_control` for moments, after.
        self._changing = threading.Lock()
        self._control = threading.Lock()
        self._counted_s = self._looked_s = time.monotonic()
        self._filter = judge
        self._bulk_rings = rings
        self._steering = steering
        self.priority_ring: int | None = None
        """Which ring has the packets with priority, once there are rules."""
        self._rings: list[Ring] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self._filter.close)
            sockets = [self._open()]
            undo.callback(close_all, sockets)
            sockets += [self._open() for _ in range(rings - 1)]
            self.link_type = sockets[0].link_type
            self._filter, self._prepared = self._prepare(filter_text, snaplen, flows, sockets[0])
            undo.callback(self._prepared.close)
            try:
                self._receive(sockets)
            except OSError as error:
                raise _refused(error) from None
            undo.pop_all()
        self._rings = [Ring(sock) for sock in sockets]
        self._look_after_interface()

    def _receive(self, sockets: list[LiveSocket]) -> None:
        """From here on each packet reaches one of them. OSError when the kernel refuses."""
        if len(sockets) == 1:
            self._filter.put(self._prepared, sockets)
        else:  # none may take what another one will: nothing passes before all share
            for sock in sockets:
                sock.attach(REJECT_ALL)
        for sock in sockets:
            sock.start(self.snaplen, self.epoch)
            if self._steering is not None:
                self._steering.join(sock)
        if self._steering is not None:
            self._steering.spread(sockets[0], self._bulk_rings)
        if len(sockets) > 1:
            self._filter.put(self._prepared, sockets)

    @property
    def rings(self) -> int:
        """See `PacketSource.rings`."""
        return len(self._rings)

    @property
    def _socket(self) -> LiveSocket:
        """The first one: they are alike in all but their packets."""
        return self._rings[0].socket

    @property
    def _sockets(self) -> list[LiveSocket]:
        return [ring.socket for ring in self._rings]

    def prioritise(self, rules: PriorityRules) -> None:
        """See `PacketSource.prioritise`."""
        with self._changing:
            self._check_open()
            if self._steering is None or not self._steering.can_prioritise:
                if rules.none:
                    return
                raise SourceError("it needs eBPF", "The Agents page says why this host captures without")
            if self.priority_ring is None:
                if rules.none:
                    return
                self._add_priority_ring()
            try:
                self._steering.prioritise(rules)
            except OSError as error:
                raise SourceError(f"the kernel refused the rules ({error.strerror})") from None

    def _add_priority_ring(self) -> None:
        """One more socket in the group, to which no packet is steered yet."""
        assert self._steering is not None
        fresh = self._open()
        with self._control:
            try:
                fresh.attach(REJECT_ALL)
                fresh.start(self.snaplen, self.epoch)
                self._steering.join(fresh)
                if not self._paused:
                    self._filter.put(self._prepared, [fresh])
            except (OSError, SourceError):
                fresh.close()
                raise
            self._rings.append(Ring(fresh))
            self.priority_ring = len(self._rings) - 1

    @property
    def index(self) -> int:
        """See `PacketSource.index`."""
        return self._socket.index

    @property
    def notice(self) -> str | None:
        return self._notice or self._filter.remark or self._socket.remark

    def read_batch(self, buffer: BatchBuffer, *, linger_ns: int, wait_ms: int, ring: int = 0) -> int:
        """See `PacketSource.read_batch`."""
        if buffer.data_capacity_bytes < self.snaplen:
            raise ValueError(
                f"a buffer of {buffer.data_capacity_bytes} bytes can't hold a packet of {self.snaplen}"
            )
        buffer.packets = buffer.data_bytes = 0
        mine = self._rings[ring]
        with mine.reading:
            if self._closed:
                raise SourceError(f"the capture on {self.interface} is closed")
            if self._fatal is not None:
                raise self._fatal
            packets, data_bytes, end, epoch, snaplen = mine.socket.ring.read(
                mine.socket.fileno(),
                mine.wake.fileno(),
                self._own,
                (
                    buffer.timestamp_ns,
                    buffer.captured_bytes,
                    buffer.original_bytes,
                    buffer.flags,
                    buffer.data,
                ),
                linger_ns,
                wait_ms * 1_000_000,
            )
            if end == END_ERROR or self._notice is not None:
                self._look_after_interface(drained=packets == 0)
            if time.monotonic() - self._counted_s > _COUNT_EVERY_S:
                self.statistics()
        buffer.packets, buffer.data_bytes = packets, data_bytes
        buffer.interface, buffer.link_type = self.interface, self.link_type
        buffer.snaplen, buffer.filter_epoch = snaplen, epoch
        buffer.hardware_stamps = mine.socket.hardware_stamps
        return packets

    def apply(self, filter_text: str, snaplen: int, flows: FlowRules = EVERYTHING) -> tuple[int, int]:
        """See `PacketSource.apply`. Takes SWAP_DELAY_S. While paused the new filter waits for `resume`."""
        with self._changing:
            self._check_open()
            judge, prepared = self._prepare(filter_text, snaplen, flows, self._socket)
            try:
                start_ns, end_ns = self._exchange(judge, prepared, snaplen)
            except BaseException:
                prepared.close()
                raise
        self.wake()
        return start_ns, end_ns

    def _prepare(
        self, text: str, snaplen: int, flows: FlowRules, sock: LiveSocket
    ) -> tuple[SocketFilter, Prepared]:
        """Compiled for the way in use, or for classic BPF where the kernel takes this filter only so."""
        try:
            return self._filter, self._filter.prepare(text, snaplen, flows, sock)
        except NotAsEbpf as reason:
            log.warning("%s: %s", self.interface, reason)
            classic = ClassicSocketFilter(
                f"classic BPF judges from here on, so packets turned away are not counted: {reason}",
                why=str(reason),
            )
            return classic, classic.prepare(text, snaplen, flows, sock)

    def _exchange(self, judge: SocketFilter, prepared: Prepared, snaplen: int) -> tuple[int, int]:
        """On all rings within one interval."""
        with self._control:
            start_ns, readers = time.time_ns(), self._readers()
            swap(readers, start_ns, snaplen, self.epoch + 1)
        if not self._paused:
            time.sleep(SWAP_DELAY_S)
        with self._control:
            if self._readers() != readers:  # the interface came back meanwhile
                readers = self._readers()
                swap(readers, time.time_ns(), snaplen, self.epoch + 1)
            try:
                if not self._paused:
                    judge.put(prepared, self._sockets)
            except OSError as error:
                swap(readers, time.time_ns(), self.snaplen, self.epoch)  # the old filter is still there
                swapped(readers, time.time_ns())
                raise _refused(error) from None
            end_ns = time.time_ns() + self._socket.stamp_error_ns
            swapped(readers, end_ns)
            self._prepared.close()
            if judge is not self._filter:
                self._filter.close()
                self._last_flows += self._filter.read_flows()
            self._filter, self._prepared = judge, prepared
            self.snaplen, self.epoch = snaplen, self.epoch + 1
        return start_ns, end_ns

    def _readers(self) -> list[Reader]:
        return [ring.socket.ring for ring in self._rings]

    def leave_out(self, own_traffic: list[tuple[str, int]]) -> None:
        """See `PacketSource.leave_out`. In force from the next `read_batch` on."""
        self._own = own_traffic_table(own_traffic)

    def pause(self) -> None:
        """See `PacketSource.pause`."""
        with self._control:
            self._check_open()
            for sock in self._sockets:
                sock.attach(REJECT_ALL)
            self._paused = True

    def resume(self) -> None:
        """See `PacketSource.resume`."""
        with self._control:
            self._check_open()
            self._filter.put(self._prepared, self._sockets)
            self._paused = False

    def statistics(self) -> SourceStatistics:
        """See `PacketSource.statistics`."""
        with self._control:
            counted = self._counted()  # before the kernel's: in_ring can't go negative
            if not self._closed:
                for sock in self._sockets:
                    sock.count()
                self._counted_s = time.monotonic()
            past = self._past
            received = past.received + sum(sock.received for sock in self._sockets)
            dropped = past.dropped + sum(sock.dropped for sock in self._sockets)
            left_out = self._filter.left_out(final=self._closed)
            statistics = SourceStatistics(
                received=received,
                dropped_ring=dropped,
                own_traffic=past.own + counted.own,
                dropped_invalid=past.invalid + counted.invalid,
                captured=past.captured + counted.captured,
                filtered=left_out.filtered,
                sampled_out=left_out.sampled_out,
                cut_off=left_out.cut_off,
                flows_counted=left_out.flows_counted,
                flows_unattributed=left_out.flows_unattributed,
            )
            if self._closed and statistics.in_ring:
                return _with_dropped(statistics)
            return statistics

    def _counted(self) -> Totals:
        """What the open rings' readers have seen."""
        sums = Totals()
        for reader in self._readers():
            captured, own, invalid = reader.counters()
            sums.captured += captured
            sums.own += own
            sums.invalid += invalid
        return sums

    def look(self) -> None:
        """See `PacketSource.look`."""
        with self._control:
            if self._closed:
                return
            self.interface = self._socket.name() or self.interface
            removed = len(self._rings) > 1 and self._socket.trouble() == "removed"
        if removed and not self.statistics().in_ring:
            self._reopen_all()

    def _reopen_all(self) -> None:
        """As a single ring's reader does by itself, for several: none may be reading meanwhile."""
        self.wake()
        with contextlib.ExitStack() as held:
            for ring in self._rings:
                held.enter_context(ring.reading)
            with self._control:
                if not self._closed:
                    self._reopen()

    def read_flows(self) -> list[FlowReading]:
        """See `PacketSource.read_flows`."""
        with self._control:
            last, self._last_flows = self._last_flows, []
            readings = [*last, *self._filter.read_flows()]
            for reading in readings:
                reading.own_traffic = self._own
            return readings

    def wake(self) -> None:
        """See `PacketSource.wake`."""
        with self._control:
            if not self._closed:
                for ring in self._rings:
                    ring.wake.set()

    def close(self) -> None:
        """See `PacketSource.close`."""
        with self._changing:  # a change under way is carried through
            self.wake()
            self._close()

    def _close(self) -> None:
        with contextlib.ExitStack() as held:
            for ring in self._rings:
                held.enter_context(ring.reading)
            with self._control:
                if self._closed:
                    return
                self._closed = True
                close_all(self._sockets)
                self._prepared.close()
                self._filter.close()
                for ring in self._rings:
                    ring.wake.close()

    def _check_open(self) -> None:
        if self._closed:
            raise SourceError(f"the capture on {self.interface} is closed")

    def _look_after_interface(self, *, drained: bool = False) -> None:
        """Say in `notice` what keeps packets from coming; open a new ring when a vanished interface is back."""
        with self._control:
            failure = self._socket.take_error()
            trouble = self._socket.trouble()
            if trouble is None:
                self._notice = f"{self.interface}: {failure}" if failure is not None else None
            elif trouble == "down":
                self._notice = (
                    f"interface {self.interface} is down; packets go on when it comes up "
                    f"(ip link set {self.interface} up)"
                )
            else:
                self._notice = (
                    f"interface {self.interface} was removed; "
                    f"packets go on when {self._asked_for} exists again"
                )
                if drained and len(self._rings) == 1 and time.monotonic() - self._looked_s > _REOPEN_EVERY_S:
                    self._looked_s = time.monotonic()
                    self._reopen()

    def _reopen(self) -> None:
        """The interface of that name may be another one now: new sockets, whose counts go on where the old ended."""
        fresh: list[LiveSocket] = []
        try:
            fresh.extend(self._open() for _ in self._rings)
        except SourceError:
            close_all(fresh)
            return
        if fresh[0].link_type != self.link_type:
            close_all(fresh)
            self._fatal = SourceError(
                f"interface {self.interface} came back with link type {fresh[0].link_type} instead of {self.link_type}",
                "Start a new session on it",
            )
            return
        if self._steering is not None:
            self._steering.restart()
        try:
            self._receive(fresh)
            if self._paused:
                for sock in fresh:
                    sock.attach(REJECT_ALL)
        except (OSError, SourceError):
            close_all(fresh)
            return  # gone again
        counted, past, old = self._counted(), self._past, self._sockets
        close_all(old)
        received = sum(sock.received for sock in old)
        past.received += received
        past.captured += counted.captured
        past.own += counted.own
        past.invalid += counted.invalid
        # the ring's drops, and what was still in it
        past.dropped += received - counted.captured - counted.own - counted.invalid
        for ring, sock in zip(self._rings, fresh, strict=True):
            ring.socket = sock
        self.interface = self._asked_for
        self._notice = None


def _with_dropped(statistics: SourceStatistics) -> SourceStatistics:
    """The books of a closed ring: what nobody read in time is lost with it."""
    return dataclasses.replace(statistics, dropped_ring=statistics.dropped_ring + statistics.in_ring)


def _refused(error: OSError) -> FilterError:
    if error.errno == errno.ENOMEM:
        return FilterError(
            "the kernel has no room for a filter this long. "
            "Shorten it, or raise the limit: sysctl -w net.core.optmem_max=1048576"
        )
    return FilterError(f"the kernel refused the filter: {error.strerror}")
