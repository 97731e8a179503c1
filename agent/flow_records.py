"""The flow records of one source: once a second what the kernel counted of each flow since then, as batches.

    source.read_flows → what changed (C) → encode, compress → the lane, as one more batch of its chain

Nothing changed, nothing shipped. What finds no room in the spool waits, and meanwhile nothing new is read: the counters
go on in the kernel, and the next reading has it all. So of what was counted only that is lost which the kernel's
table forgot between two readings: Books.flows_lost. Used by the session's own thread.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from agent.batcher import Origin, Packed
from agent.books import SessionBooks
from agent.lane_writer import LaneWriter
from agent.sources.source import PacketSource
from agent.spool import Admission
from wire.batch import Body
from wire.flows import MAX_FLOWS, WIDTHS, FlowColumns, encode_flows

if TYPE_CHECKING:  # eBPF is Linux' alone
    from agent.ebpf.flow_counters import FlowReading

log = logging.getLogger(__name__)

NOT_WITHIN_S = 0.5
"""The session's thread looks more often than once a second when it has other things to do."""


class FlowRecords:
    """See the module. `look` once a second, `finish` when the source has been closed."""

    def __init__(self, books: SessionBooks, writer: LaneWriter, compressor: str) -> None:
        self.counting = False
        """Whether the source counts flows now."""
        self._books = books
        self._writer = writer
        self._compressor = compressor
        self._before: FlowReading | None = None
        self._before_ns = time.time_ns()
        self._waiting: deque[Packed] = deque()
        self._columns: tuple[bytearray, ...] = ()
        self._one_more = False
        self._looked_s = time.monotonic() - NOT_WITHIN_S
        self._complained = False

    def look(self, source: PacketSource, origin: Origin, *, wanted: bool) -> None:
        """Read, compare and ship; once more when it is wanted no longer."""
        if not (wanted or self._one_more or self._waiting):
            self._before_ns = time.time_ns()
            return
        now_s = time.monotonic()
        if now_s - self._looked_s < NOT_WITHIN_S:
            return
        self._looked_s = now_s
        self._one_more = wanted
        if self._ship(origin):
            self.counting = self._read(source, origin) and wanted
            self._ship(origin)

    def finish(self, source: PacketSource, origin: Origin) -> None:
        """The source is closed: what it counted last. What finds no room now is lost, and shows in the books."""
        self._read(source, origin)
        if not self._ship(origin):
            lost = sum(packed.flow_packets for packed in self._waiting)
            log.warning("flow records of %d packets found no room in the spool at the end", lost)
            self._waiting.clear()
        self.counting = self._one_more = False

    def _ship(self, origin: Origin) -> bool:
        """What waits, into the lane; whether nothing waits any more."""
        while self._waiting:
            if self._writer.write(self._waiting[0], origin) is not Admission.ACCEPTED:
                return False
            self._waiting.popleft()
        return True

    def _read(self, source: PacketSource, origin: Origin) -> bool:
        """Take what changed since the reading before; whether the source counts flows."""
        try:
            readings = source.read_flows()
        except OSError as error:
            if not self._complained:
                log.warning("%s: the flow counters can't be read: %s", source.interface, error)
            self._complained = True
            return False
        now_ns = time.time_ns()
        for reading in readings:
            self._take_changes(reading, origin, max(now_ns, self._before_ns))
            self._before = reading
        self._before_ns = now_ns
        return bool(readings)

    def _take_changes(self, reading: FlowReading, origin: Origin, now_ns: int) -> None:
        from agent import _flows
        from agent.ebpf.flow_counters import FlowReading

        before = self._before
        if before is None or before.life is not reading.life:
            before = FlowReading.empty(reading.life)
        if not self._columns:
            self._columns = tuple(bytearray(width * MAX_FLOWS) for width in WIDTHS.values())
        utc_offset_ns = time.time_ns() - time.monotonic_ns()  # the kernel's programs have no other clock
        first = 0
        while first < reading.flows:
            first, records, packets, own_packets = _flows.changes(
                (reading.keys, reading.values, reading.flows),
                (before.keys, before.values, before.flows, before.index),
                reading.own_traffic,
                utc_offset_ns,
                self._columns,
                first,
            )
            self._books.flows_own += own_packets
            if records:
                self._waiting.append(self._packed(records, packets, origin, now_ns))

    def _packed(self, records: int, packets: int, origin: Origin, now_ns: int) -> Packed:
        columns = FlowColumns(
            *(
                memoryview(column)[: width * records]
                for column, width in zip(self._columns, WIDTHS.values(), strict=True)
            )
        )
        body = Body.of(encode_flows(columns), self._compressor)
        return Packed.of_flows(body, origin, packets, self._before_ns, now_ns)
