"""One thread that takes packets from one source and brings them, batch by batch, into a lane.

    source.read_batch → payload policy → encode, compress → LaneWriter: room in the spool? → seal → append

All of it but the last step runs beside the other intakes of the session (C without the GIL); `LaneWriter` lets one
batch in at a time.  An intake ends when it is told to (`finish`: it still delivers what its source had accepted), or by
itself: at a file's end, at one of the session's limits, by a full spool under the policy `stop`, or because its source
failed.  What follows from that is the session's matter.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.batcher import Origin, behind, pack
from agent.books import SessionBooks
from agent.bpf_filter import FilterError
from agent.lane_writer import LaneWriter
from agent.payload import enforce
from agent.self_limits import NOT_SHEDDING, Shedding, Step
from agent.sources.source import BUFFER_PACKETS, BatchBuffer, FlowRules, PacketSource, SourceError
from agent.spool import Admission
from agent.surroundings import Surroundings
from wire.batch import PRIORITY, Columns
from wire.payload import FULL, PayloadPolicy
from wire.session import SessionSpec

log = logging.getLogger(__name__)

_IDLE_WAIT_MS = 5000
_TROUBLED_WAIT_MS = 500
_DRAIN_S = 2.0
_OVERHEAD_MS = 2
"""Between a batch's closing and its sealing: encoding and compressing half a megabyte."""
INTERNAL_ERROR = "an internal error; the agent's log has it"


@dataclass(frozen=True, slots=True)
class Order:
    """What a source shall let pass, and what of it may leave the host."""

    filter: str
    snaplen: int
    flows: FlowRules
    declared_flows: FlowRules
    """Without what the host's limits add: for a source that can't follow `flows`."""
    revision: int
    payload: PayloadPolicy

    @classmethod
    def declared(cls, spec: SessionSpec) -> Order:
        """All that a session asks for."""
        flows = FlowRules(
            spec.flow_cutoff_bytes, spec.flow_sampling or 1, spec.filter_inside_tunnels, spec.flow_records
        )
        return cls(spec.filter, spec.snaplen, flows, flows, spec.filter_revision, spec.payload)


@dataclass(slots=True)
class Terms:
    """What all intakes of a session go by. The session's thread and the event loop change it, the intakes read it."""

    around: Surroundings
    books: SessionBooks
    limit_reached: Callable[[], str]
    """The reason when a limit of the session is reached; else ""."""
    changed: Callable[[], None]
    """An intake has ended, or its source has something else to say: the session's thread should look."""
    owners_payload: PayloadPolicy = FULL
    payload: PayloadPolicy = FULL
    """Of the newest order, obeyed yet or not."""
    shedding: Shedding = NOT_SHEDDING
    watched_until_ns: int = 0
    stopped: bool = False
    """Declared stopped: a file's packets that find no room are turned away."""
    leaving: bool = False
    """The agent stops: they are left to the next boot."""

    def linger_ns(self) -> int:
        """How long a batch may stay open after its first packet reached us: the bound less what else takes time."""
        config = self.around.config
        watched = time.time_ns() < self.watched_until_ns
        bound_ms = config.batch_watched_linger_ms if watched else config.batch_linger_ms
        return max(0, bound_ms - config.ring_retire_ms - _OVERHEAD_MS) * 1_000_000

    def may_leave(self, declared: PayloadPolicy) -> PayloadPolicy:
        """What of the payload may leave of packets that were captured under `declared`: what that, the newest order
        and the host's owner all allow."""
        return declared.and_also(self.payload).and_also(self.owners_payload)


@dataclass(slots=True)
class Intake:
    """See the module. `start` once; `finish`, `join` from any thread."""

    source: PacketSource
    order_of: Callable[[int], Order]
    """The order under which packets of a filter epoch were judged."""
    writer: LaneWriter
    terms: Terms
    skip: int = 0
    """Packets that an earlier life of the agent has delivered, of a file."""
    ring: int = 0
    """Which ring of the source."""
    priority: bool = False
    """The ring of what a priority rule names: nothing lingers, and each packet is flagged."""
    ending: str = field(default="", init=False)
    """Why the session must end, as far as this intake knows."""
    failure: str = field(default="", init=False)
    """Why the source delivers nothing any more."""
    _finishing: bool = field(default=False, init=False)
    _snaplen: int = field(default=0, init=False)
    _said: str | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self, name: str) -> None:
        """Take packets from here on."""
        self._snaplen = self.source.snaplen
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def finish(self) -> None:
        """Deliver what the source has accepted, and end."""
        self._finishing = True
        self.source.wake()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def from_file(self) -> bool:
        return self.source.clock_source == "file"

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            buffer = BatchBuffer(BUFFER_PACKETS, self.terms.around.config.batch_target_bytes)
            self.ending = self._take(buffer)
            self.ending = self._drain(buffer) or self.ending
        except SourceError as error:
            self.failure = str(error)
        except Exception:
            log.exception("the intake on %s failed", self.source.interface)
            self.failure = INTERNAL_ERROR
        finally:
            self.terms.changed()

    def _take(self, buffer: BatchBuffer) -> str:
        """Until told to finish ("" is returned) or the session must end (the reason)."""
        source = self.source
        if self.skip:
            self._skip_delivered(buffer)
        while not self._finishing:
            wait_ms = _TROUBLED_WAIT_MS if source.notice is not None else _IDLE_WAIT_MS
            linger_ns = 0 if self.priority else self.terms.linger_ns()
            packets = source.read_batch(buffer, linger_ns=linger_ns, wait_ms=wait_ms, ring=self.ring)
            if packets:
                ending = self._ship(buffer) or self.terms.limit_reached()
                if ending:
                    return ending
            elif source.finished:
                return "end of file" + (f"; {source.notice}" if source.notice else "")
            if source.notice != self._said:
                self._said = source.notice
                self.terms.changed()
        return ""

    def _skip_delivered(self, buffer: BatchBuffer) -> None:
        """A replay that an earlier life of the agent began goes on behind what that one had spooled."""
        left = self.skip
        self.terms.books.delivered_earlier(self.source, left)
        while left > 0 and not self._finishing and not self.source.finished:
            packets = self.source.read_batch(buffer, linger_ns=0, wait_ms=_IDLE_WAIT_MS, ring=self.ring)
            if packets > left:
                self._ship(buffer, behind(buffer.columns(), left))
                return
            left -= packets

    def _drain(self, buffer: BatchBuffer) -> str:
        """Deliver what the source accepted before it was told to stop; bounded in time."""
        if self.from_file:
            return ""  # a file is read again from its beginning
        source = self.source
        with contextlib.suppress(FilterError, SourceError):
            source.pause()
        give_up_s = time.monotonic() + _DRAIN_S
        ending = ""
        while source.statistics().in_ring > 0 and time.monotonic() < give_up_s:
            if source.read_batch(buffer, linger_ns=0, wait_ms=20, ring=self.ring):
                ending = self._ship(buffer) or ending
        return ending

    # -- shipping ------------------------------------------------------------------------------------------------

    def _origin(self, buffer: BatchBuffer) -> Origin:
        self._snaplen = buffer.snaplen or self._snaplen
        order = self.order_of(buffer.filter_epoch)
        payload = self.terms.may_leave(order.payload)
        stamps = buffer.hardware_stamps
        return Origin(buffer.interface, buffer.link_type, self._snaplen, order.revision, payload, stamps)

    def _ship(self, buffer: BatchBuffer, columns: Columns | None = None) -> str:
        """Seal and spool what the buffer holds (or these of its columns); return the reason when that is the end."""
        origin = self._origin(buffer)
        around, shedding = self.terms.around, self.terms.shedding
        away = shedding.step is Step.AWAY and not self.from_file
        try:
            columns = columns or buffer.columns()
            if self.priority:
                columns = flagged(columns)
            columns = enforce(columns, origin.link_type, origin.payload)
            packed = pack(columns, origin, None if away else around.config.batch_compression)
        except ValueError as error:  # a source that breaks its word: nothing of it may be lost silently
            raise SourceError(f"the source gave an impossible batch: {error}") from None
        if away:
            self.writer.turn_away(packed, f"limits of the host: {shedding.reason}")
            return ""
        admission = self.writer.write(packed, origin)
        while admission is not Admission.ACCEPTED and self.from_file:
            if self.terms.stopped:
                break  # it won't be read again: turned away, and declared before the lane closes
            if self.terms.leaving:
                self.terms.books.left_for_next_boot(self.source, packed.packets)
                return ""
            around.spool.wait_for_room(0.5)  # a file can wait: nothing of it is dropped
            admission = self.writer.write(packed, origin)
        if admission is not Admission.ACCEPTED:
            self.writer.turn_away(packed)
            if admission is Admission.STOP:
                return "the spool is full, and this session stops then"
        return ""


def flagged(columns: Columns) -> Columns:
    """The same with every packet's flag PRIORITY set: the whole column as one number."""
    flags = int.from_bytes(columns.flags, "little")
    every = int.from_bytes(PRIORITY.to_bytes(2, "little") * len(columns), "little")
    return replace(columns, flags=(flags | every).to_bytes(2 * len(columns), "little"))
