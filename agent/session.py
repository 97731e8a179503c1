"""One declared session at work: a thread that takes packets from a source and puts signed batches into the spool.

    source.read_batch (GIL released) → encode, compress → room in the spool? → seal → spool.append → publisher.wake

What is declared may change at any time (`declare`); the thread obeys between two batches.  A session ends for good by
being declared stopped, by one of its limits (reached to the batch, not to the packet: what was already accepted is
delivered), by its file's end, or by a full spool under the policy `stop`; then a closing batch ends its lane.  When
only the agent stops, the closing batch says so: the next boot goes on, and its first batch names the last hash of
this one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import replace

from agent.batcher import Origin, behind, pack
from agent.books import SessionBooks
from agent.bpf_filter import FilterError
from agent.lane import SpoolLane
from agent.lane_writer import LaneWriter
from agent.payload import enforce, owners_policy
from agent.self_limits import NOT_SHEDDING, Shedding, Step, words
from agent.session_memory import SessionMemory
from agent.sources.source import (
    BUFFER_DATA_BYTES,
    BUFFER_PACKETS,
    BatchBuffer,
    FlowRules,
    PacketSource,
    SourceError,
)
from agent.spool import Admission
from agent.surroundings import Surroundings
from wire.batch import GOES_ON, Columns
from wire.books import Books
from wire.names import Lane
from wire.payload import PayloadPolicy
from wire.report import LaneHead, SessionReport
from wire.session import MAX_FLOW_SAMPLING, SessionSpec

log = logging.getLogger(__name__)

_IDLE_WAIT_MS = 5000
_TROUBLED_WAIT_MS = 500
_DRAIN_S = 2.0
_OVERHEAD_MS = 2
"""Between a batch's closing and its sealing: encoding and compressing half a megabyte."""


class CaptureSession:
    """See the module. `start` once; `declare`, `watch`, `report` from the event loop; `stop` and `join` at the end."""

    def __init__(self, spec: SessionSpec, memory: SessionMemory, around: Surroundings) -> None:
        self.spec = spec
        self.state = "starting"
        self.reason = ""
        self.link_type = 1
        self.filter_revision = spec.filter_revision
        self.filter_swap_ns: tuple[int, int] | None = None
        self.books = SessionBooks()
        self.progress: float | None = None
        """Share of a replayed file that has been read."""
        self._around = around
        self._memory = memory
        self._wanted = spec
        self._source: PacketSource | None = None
        self._leaving = False
        self._watched_until_ns = 0
        self._writer: LaneWriter | None = None
        self._revisions = [spec.filter_revision]
        self._owners_payload = owners_policy(around.config)
        self._payloads = [spec.payload]
        """The payload policy of each of `_revisions`."""
        self._snaplen = spec.snaplen
        self._shedding = NOT_SHEDDING
        self._asked = (spec.snaplen, FlowRules())
        """Of the source, when it was opened or swapped last: less than declared while the host's limits shed."""
        self._can_sample = True
        self._refused_revision = 0
        self._deadline_s: float | None = None
        self._limited_s: float | None = None
        """The declared duration that `_deadline_s` was reckoned from."""
        self._thread: threading.Thread | None = None
        self._done = True
        self._tried: SessionSpec | None = None

    # -- from the event loop -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, or begin again after a failure: the lane goes on where it was."""
        self.join(1.0)  # an earlier one has said its last word
        self._done = False
        self._thread = threading.Thread(target=self._run, name=f"capture-{self.spec.id[:6]}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """The thread is at work (and will yet obey what is declared)."""
        return self._thread is not None and not self._done

    @property
    def outdated(self) -> bool:
        """Something was declared after the thread began for the last time: perhaps it can now."""
        return self._tried is not self._wanted

    @property
    def wanted(self) -> SessionSpec:
        """What the hub declared last."""
        return self._wanted

    def forget(self) -> None:
        """The hub doesn't list it any more and it has ended: nothing of it stays on this host."""
        self._memory.forget()

    @property
    def ended(self) -> bool:
        """Closed for good: its closing batch is in the spool."""
        return self._memory.ended

    def declare(self, spec: SessionSpec) -> None:
        """The hub wants this now."""
        if spec != self._wanted:
            self._wanted = spec
            self._poke()

    def watch(self, until_ns: int) -> None:
        """Somebody watches until then (wall clock): batches are closed early. Expires by itself."""
        unwatched = time.time_ns() >= self._watched_until_ns
        self._watched_until_ns = max(self._watched_until_ns, until_ns)
        if unwatched:
            self._poke()

    def leave_out(self, own_traffic: list[tuple[str, int]]) -> None:
        """Servers and hubs have other addresses now."""
        source = self._source
        if source is not None and self.spec.exclude_own_traffic:
            source.leave_out(own_traffic)

    def shed(self, standing: Shedding) -> None:
        """The agent takes too much of its host, or no longer. Of a file nothing is ever dropped or cut."""
        self._shedding = standing
        self._poke()

    def leave(self) -> None:
        """The agent stops: deliver what was accepted and close the chain of this boot, not the session."""
        self._leaving = True
        self._poke()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False when it is still there."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def _poke(self) -> None:
        source = self._source
        if source is not None:
            source.wake()

    def report(self) -> SessionReport:
        """Where it stands."""
        lanes: dict[str, LaneHead] = {}
        if self._writer is not None:
            lanes["bulk"] = self._writer.head()
        return SessionReport(
            id=self.spec.id,
            state=self.state,
            reason=self.reason.encode()[:1000].decode(errors="ignore"),
            filter_revision=self.filter_revision,
            filter_swap_ns=self.filter_swap_ns,
            interface=self.spec.interface,
            link_type=self.link_type,
            boot=self._around.boot,
            started_ns=self._memory.started_ns,
            payload=self._payload(self._payloads[-1]),
            lanes=lanes,
        )

    def read_books(self) -> Books:
        """All counters of this boot, each consistent with the others."""
        with self._around.spool.lock:
            return self.books.read(self._lanes())

    @property
    def captured_totals(self) -> tuple[int, int]:
        """(packets, captured bytes) since the session's first start, for rates and limits."""
        return self._memory.packets, self._memory.captured_bytes

    @property
    def in_flight(self) -> int:
        with self._around.spool.lock:
            return sum(lane.in_flight for lane in self._lanes())

    def _lanes(self) -> list[SpoolLane]:
        return [self._writer.lane] if self._writer is not None else []

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            log.exception("session %s failed", self.spec.id)
            self._become("failed", "an internal error; the agent's log has it")
        finally:
            self._source = None
            self._memory.close()
            self._done = True
            self._around.changed()

    def _become(self, state: str, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            log.info("session %s: %s%s", self.spec.id, state, f" ({reason})" if reason else "")
            self._around.changed()

    def _work(self) -> None:
        self._tried = self._wanted
        if self._memory.ended:
            self._become("stopped", self._memory.reason)
            return
        if self._wanted.state == "stopped":
            self._close_unopened()
            return
        try:
            source = self._around.open_source(self._wanted, self._own_traffic())
        except FilterError as error:
            self._become("refused", f"filter: {error}")
            return
        except SourceError as error:
            self._become("failed", str(error))
            return
        self._begin(source)
        ending = ""
        try:
            ending = self._take_packets(source)
            ending = self._drain(source) or ending
        except SourceError as error:
            self._become("failed", str(error))
        finally:
            self._source = None
            source.close()
            self.books.close_source()
        if ending:
            self._end(ending, source)
        elif self._leaving and self.state != "failed" and self._writer is not None:
            self._writer.close(GOES_ON, self._origin(source))

    def _own_traffic(self) -> list[tuple[str, int]]:
        return self._around.own_traffic if self._wanted.exclude_own_traffic else []

    def _begin(self, source: PacketSource) -> None:
        spec = self.spec = self._wanted
        self._revisions, self._payloads = [spec.filter_revision], [spec.payload]
        self.filter_revision, self._snaplen = spec.filter_revision, spec.snaplen
        self._asked, self._can_sample = (spec.snaplen, _flows_of(spec)), source.clock_source != "file"
        self.link_type = source.link_type
        self._open_lane(from_file=source.clock_source == "file")
        self.books.open_source(source)
        self._source = source
        now_ns = time.time_ns()
        if not self._memory.started_ns:
            self._memory.started_ns = now_ns
            self._memory.save()
        self._become("running")

    def _open_lane(self, *, from_file: bool) -> LaneWriter:
        if self._writer is None:  # otherwise the source was lost and is back: the lane goes on
            self._writer = LaneWriter(self.spec, self._memory, self.books, self._around, from_file=from_file)
        return self._writer

    def _take_packets(self, source: PacketSource) -> str:
        """Until the session ends (its reason is returned) or the agent stops ("")."""
        buffer = BatchBuffer(BUFFER_PACKETS, self._around.config.batch_target_bytes)
        self._skip_delivered(source, buffer)
        while not self._leaving:
            ending = self._obey(source) or self._limit_reached()
            if ending:
                return ending
            packets = source.read_batch(buffer, linger_ns=self._linger_ns(), wait_ms=self._wait_ms(source))
            if packets:
                ending = self._ship(source, buffer)
                if ending:
                    return ending
            elif source.finished:
                return "end of file" + (f"; {source.notice}" if source.notice else "")
            self._note_trouble(source)
        return ""

    def _skip_delivered(self, source: PacketSource, buffer: BatchBuffer) -> None:
        """A replay that an earlier life of the agent began goes on behind what that one had spooled."""
        left = self._memory.packets if source.clock_source == "file" else 0
        self.books.delivered_earlier(left)
        while left > 0 and not self._leaving and not source.finished and self._wanted.state != "stopped":
            packets = source.read_batch(buffer, linger_ns=0, wait_ms=_IDLE_WAIT_MS)
            if packets > left:
                self._ship(source, buffer, behind(buffer.columns(), left))
                return
            left -= packets

    def _drain(self, source: PacketSource) -> str:
        """Deliver what the source accepted before it was told to stop; bounded in time."""
        if source.clock_source == "file":
            return ""  # a file is read again from its beginning
        with contextlib.suppress(FilterError, SourceError):
            source.pause()
        buffer = BatchBuffer(BUFFER_PACKETS, BUFFER_DATA_BYTES)
        give_up_s = time.monotonic() + _DRAIN_S
        ending = ""
        while source.statistics().in_ring > 0 and time.monotonic() < give_up_s:
            if source.read_batch(buffer, linger_ns=0, wait_ms=20):
                ending = self._ship(source, buffer) or ending
        return ending

    def _linger_ns(self) -> int:
        """How long a batch may stay open after its first packet reached us: the bound less what else takes time."""
        config = self._around.config
        watched = time.time_ns() < self._watched_until_ns
        bound_ms = config.batch_watched_linger_ms if watched else config.batch_linger_ms
        return max(0, bound_ms - config.ring_retire_ms - _OVERHEAD_MS) * 1_000_000

    def _wait_ms(self, source: PacketSource) -> int:
        wait_ms = _TROUBLED_WAIT_MS if source.notice is not None else _IDLE_WAIT_MS
        if self._deadline_s is not None:
            wait_ms = min(wait_ms, max(1, int((self._deadline_s - time.monotonic()) * 1000)))
        return wait_ms

    def _note_trouble(self, source: PacketSource) -> None:
        progress = getattr(source, "progress", None)
        self.progress = progress if isinstance(progress, float) else None
        if self.state in ("running", "paused") and not self._refused_revision:
            shedding = "" if source.clock_source == "file" else words(self._shedding)
            self._become(self.state, source.notice or shedding)

    # -- obeying -------------------------------------------------------------------------------------------------

    def _obey(self, source: PacketSource) -> str:
        """Make true what is declared; return the reason when that is the end."""
        wanted = self._wanted
        if wanted.state == "stopped":
            return "stopped" + (f" by {wanted.requested_by}" if wanted.requested_by else "")
        if wanted is not self.spec:
            if self._writer is not None and source.clock_source != "file":
                self._writer.lane.overflow = wanted.overflow
            if wanted.exclude_own_traffic != self.spec.exclude_own_traffic:
                source.leave_out(self._own_traffic())
            if wanted.filter_revision not in (self.filter_revision, self._refused_revision):
                self._swap(source, wanted)
            self.spec = self._tried = wanted
        if source.clock_source != "file" and self._asked != self._left_by_limits(wanted):
            self._swap(source, wanted)
        if wanted.state == "paused" and self.state != "paused":
            source.pause()
            self._become("paused")
        elif wanted.state == "running" and self.state == "paused":
            source.resume()
            self._become("running")
        if wanted.max_duration_s != self._limited_s:  # reckoned once: a stepped clock must not end a session
            self._limited_s, self._deadline_s = wanted.max_duration_s, None
            if wanted.max_duration_s is None:
                return ""
            left_s = wanted.max_duration_s - (time.time_ns() - self._memory.started_ns) / 1e9
            self._deadline_s = time.monotonic() + left_s
        return ""

    def _swap(self, source: PacketSource, wanted: SessionSpec) -> None:
        """Another filter, snaplen or flow rules on the open socket. One that is refused leaves the old one in force."""
        file = source.clock_source == "file"
        self._asked = snaplen, flows = (
            (wanted.snaplen, _flows_of(wanted)) if file else self._left_by_limits(wanted)
        )
        try:
            try:
                self.filter_swap_ns = source.apply(wanted.filter, snaplen, flows)
            except FilterError:
                if flows == _flows_of(wanted):
                    raise
                self._can_sample = False  # the limits' step without sampling, then
                self._asked = snaplen, flows = self._left_by_limits(wanted)
                self.filter_swap_ns = source.apply(wanted.filter, snaplen, flows)
        except FilterError as error:
            self._refused_revision = wanted.filter_revision
            reason = (
                f"filter revision {wanted.filter_revision} refused, {self.filter_revision} goes on: {error}"
            )
            self._become(self.state, reason)
            return
        self._payloads.append(wanted.payload)
        self._revisions.append(wanted.filter_revision)
        self.filter_revision, self._refused_revision = wanted.filter_revision, 0
        self.reason = ""
        self._around.changed()

    def _left_by_limits(self, wanted: SessionSpec) -> tuple[int, FlowRules]:
        """Snaplen and flows as declared, or what the host's limits leave of them."""
        step, config, flows = self._shedding.step, self._around.config, _flows_of(wanted)
        if step is Step.NOTHING:
            return wanted.snaplen, flows
        if step >= Step.SAMPLED and self._can_sample:
            flows = replace(flows, one_in=min(flows.one_in * config.limits_sampling, MAX_FLOW_SAMPLING))
        return min(wanted.snaplen, config.limits_snaplen), flows

    def _limit_reached(self) -> str:
        spec, memory = self.spec, self._memory
        if spec.max_packets is not None and memory.packets >= spec.max_packets:
            return f"limit of {spec.max_packets} packets reached"
        if spec.max_bytes is not None and memory.captured_bytes >= spec.max_bytes:
            return f"limit of {spec.max_bytes} bytes reached"
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            return f"limit of {spec.max_duration_s:g} s reached"
        return ""

    # -- shipping ------------------------------------------------------------------------------------------------

    def _origin(self, source: PacketSource, buffer: BatchBuffer | None = None) -> Origin:
        if buffer is None:
            return Origin(source.interface, source.link_type, self._snaplen, self.filter_revision)
        self._snaplen = buffer.snaplen or self._snaplen
        epoch = min(buffer.filter_epoch, len(self._revisions) - 1)
        payload = self._payload(self._payloads[epoch])
        return Origin(buffer.interface, buffer.link_type, self._snaplen, self._revisions[epoch], payload)

    def _payload(self, declared: PayloadPolicy) -> PayloadPolicy:
        """What of the payload may leave of packets that were captured under `declared`: what that, the newest order
        (obeyed yet or not) and the host's owner all allow."""
        return declared.and_also(self._wanted.payload).and_also(self._owners_payload)

    def _ship(self, source: PacketSource, buffer: BatchBuffer, columns: Columns | None = None) -> str:
        """Seal and spool what the buffer holds (or these of its columns); return the reason when that is the end."""
        origin = self._origin(source, buffer)
        config, shedding = self._around.config, self._shedding
        away = shedding.step is Step.AWAY and source.clock_source != "file"
        try:
            columns = enforce(columns or buffer.columns(), origin.link_type, origin.payload)
            packed = pack(columns, origin, None if away else config.batch_compression)
        except ValueError as error:  # a source that breaks its word: nothing of it may be lost silently
            raise SourceError(f"the source gave an impossible batch: {error}") from None
        assert self._writer is not None
        if away:
            self._writer.turn_away(packed, f"limits of the host: {shedding.reason}")
            return ""
        admission = self._writer.write(packed, origin)
        while admission is not Admission.ACCEPTED and source.clock_source == "file":
            if self._wanted.state == "stopped":
                break  # it won't be read again: turned away, and declared before the lane closes
            if self._leaving:
                self.books.left_for_next_boot(packed.packets)
                return ""
            self._around.spool.wait_for_room(0.5)  # a file can wait: nothing of it is dropped
            admission = self._writer.write(packed, origin)
        if admission is not Admission.ACCEPTED:
            self._writer.turn_away(packed)
            if admission is Admission.STOP:
                return "the spool is full, and this session stops then"
        return ""

    # -- ending --------------------------------------------------------------------------------------------------

    def _close_unopened(self) -> None:
        """Declared stopped before this boot began to capture: close the chain of the boots before, if there was one."""
        head = self._memory.heads[Lane.BULK]
        if (
            self._writer is None
            and not head.known
            and (self.spec.id, Lane.BULK) not in self._around.last_records
        ):
            self._memory.ended, self._memory.reason = True, "stopped before it captured anything"
            self._memory.save()
            self._become("stopped", self._memory.reason)
            return
        self._open_lane(from_file=False)
        origin = Origin(
            self.spec.interface or "none", self.link_type, self.spec.snaplen, self.spec.filter_revision
        )
        self._close_lane("stopped", origin)

    def _end(self, reason: str, source: PacketSource) -> None:
        self._become("stopping", reason)
        self._close_lane(reason, self._origin(source))

    def _close_lane(self, reason: str, origin: Origin) -> None:
        assert self._writer is not None
        self._writer.close(reason, origin)
        self._become("stopped", reason)


def _flows_of(spec: SessionSpec) -> FlowRules:
    return FlowRules(spec.flow_cutoff_bytes, spec.flow_sampling or 1)
