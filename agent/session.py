"""One declared session: what is wanted of it, what it is, and how it ends.

    declared spec ─▶ obey ─▶ Taps: one source per interface ─▶ Intake: a thread per ring ─▶ LaneWriter ─▶ spool

What is declared may change at any time (`declare`); the session's own thread obeys at once, looks after its sources
once a second, and takes no packet itself.  A session ends for good by being declared stopped, by one of its limits
(reached to the batch, not to the packet: what was already accepted is delivered), by its file's end, or by a full spool
under the policy `stop`; then a closing batch ends its lane.  When only the agent stops, the closing batch says so: the
next boot goes on, and its first batch names the last hash of this one.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from agent.batcher import Origin
from agent.books import SessionBooks
from agent.bpf_filter import FilterError
from agent.intake import INTERNAL_ERROR, Order, Terms
from agent.lane import SpoolLane
from agent.lane_writer import LaneDoor, LaneWriter
from agent.payload import owners_policy
from agent.self_limits import Shedding, Step, words
from agent.session_memory import SessionMemory
from agent.sources.source import PacketSource, SourceError
from agent.surroundings import OwnTraffic, Surroundings
from agent.taps import Taps
from wire.batch import GOES_ON
from wire.books import Books
from wire.names import Lane
from wire.report import LaneHead, SessionReport
from wire.session import MAX_FLOW_SAMPLING, SessionSpec

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


class CaptureSession:
    """See the module. `start` once; `declare`, `watch`, `report` from the event loop; `leave` and `join` at the end."""

    def __init__(self, spec: SessionSpec, memory: SessionMemory, around: Surroundings) -> None:
        self.spec = spec
        self.state = "starting"
        self.reason = ""
        self.filter_revision = spec.filter_revision
        self.filter_swap_ns: tuple[int, int] | None = None
        self.books = SessionBooks()
        self.terms = Terms(
            around,
            self.books,
            self._limit_reached,
            self._poke,
            owners_payload=owners_policy(around.config),
            payload=spec.payload,
        )
        self._around = around
        self._memory = memory
        self._wanted = spec
        self._poked = threading.Event()
        self._taps = Taps(spec, memory, self.terms, self._open_lane)
        self._origin = Origin(spec.interface or "none", 1, spec.snaplen, spec.filter_revision)
        """Of the source that was opened first, as long as there was one."""
        self._door = LaneDoor()
        self._writers: dict[Lane, LaneWriter] = {}
        self._in_force_payload = spec.payload
        self._in_force = self._order(spec)
        """What the sources obey."""
        self._asked = (self._in_force.snaplen, self._in_force.flows)
        """Of them, obeyed or refused: less than declared while the host's limits shed."""
        self._refused_revision = 0
        self._deadline_s: float | None = None
        self._limited_s: float | None = None
        """The declared duration that `_deadline_s` was reckoned from."""
        self._thread: threading.Thread | None = None
        self._done = True
        self._tried: SessionSpec | None = None

    # -- from the event loop -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, or begin again after a failure: the lanes go on where they were."""
        self.join(1.0)  # an earlier one has said its last word
        self._done = False
        self._thread = threading.Thread(target=self._run, name=f"session-{self.spec.id[:6]}", daemon=True)
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
            self.terms.payload, self.terms.stopped = spec.payload, spec.state == "stopped"
            self._poke()

    def watch(self, until_ns: int) -> None:
        """Somebody watches until then (wall clock): batches are closed early. Expires by itself."""
        unwatched = time.time_ns() >= self.terms.watched_until_ns
        self.terms.watched_until_ns = max(self.terms.watched_until_ns, until_ns)
        if unwatched:
            self._taps.wake()

    def leave_out(self, own_traffic: OwnTraffic) -> None:
        """Servers and hubs have other addresses now."""
        if self.spec.exclude_own_traffic:
            self._taps.leave_out(own_traffic)

    def shed(self, standing: Shedding) -> None:
        """The agent takes too much of its host, or no longer. Of a file nothing is ever dropped or cut."""
        self.terms.shedding = standing
        self._poke()

    def leave(self) -> None:
        """The agent stops: deliver what was accepted and close the chain of this boot, not the session."""
        self.terms.leaving = True
        self._poke()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False when it is still there."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def _poke(self) -> None:
        self._poked.set()

    def report(self) -> SessionReport:
        """Where it stands."""
        return SessionReport(
            id=self.spec.id,
            state=self.state,
            reason=self.reason.encode()[:1000].decode(errors="ignore"),
            filter_revision=self.filter_revision,
            filter_swap_ns=self.filter_swap_ns,
            interface=self.spec.interface,
            link_type=self._origin.link_type,
            boot=self._around.boot,
            started_ns=self._memory.started_ns,
            payload=self.terms.may_leave(self._in_force_payload),
            flow_records=self._taps.counts_flows,
            lanes=self._heads(),
        )

    def _heads(self) -> dict[str, LaneHead]:
        return {lane.value: writer.head() for lane, writer in list(self._writers.items())}

    def read_books(self) -> Books:
        """All counters of this boot, each consistent with the others."""
        with self._around.spool.lock:
            return self.books.read(self._lanes())

    @property
    def captured_totals(self) -> tuple[int, int]:
        """(packets, captured bytes) since the session's first start, for rates and limits."""
        return self._memory.packets, self._memory.captured_bytes

    @property
    def progress(self) -> float | None:
        """Share of a replayed file that has been read."""
        return self._taps.progress

    @property
    def in_flight(self) -> int:
        with self._around.spool.lock:
            return sum(lane.in_flight for lane in self._lanes())

    def _lanes(self) -> list[SpoolLane]:
        return list(self._door.lanes)

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            log.exception("session %s failed", self.spec.id)
            self._become("failed", INTERNAL_ERROR)
        finally:
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
            self._close_unopened("stopped", "stopped before it captured anything")
            return
        self._begin()
        try:
            ending = self._capture()
        except FilterError as error:
            self._become("refused", f"filter: {error}")
            return
        except SourceError as error:
            self._become("failed", str(error))
            return
        finally:
            self._origin = self._taps.origin or self._origin
            said = self._taps.finish()  # delivers what was accepted
        if ending or said:
            self._end(said or ending)
        elif self.terms.leaving:
            self._close_lanes(GOES_ON)

    def _begin(self) -> None:
        spec = self.spec = self._wanted
        self._taps = Taps(spec, self._memory, self.terms, self._open_lane)
        self.filter_revision, self._refused_revision = spec.filter_revision, 0
        self._in_force_payload = spec.payload
        self._in_force = order = self._order(spec)
        self._asked = (order.snaplen, order.flows)

    def _capture(self) -> str:
        """Until the session ends (its reason is returned) or the agent stops ("")."""
        look_s = 0.0
        while not self.terms.leaving:
            self._poked.clear()
            ending = self._obey() or self._limit_reached()
            if ending:
                return ending
            now_s = time.monotonic()
            if now_s >= look_s or not self._taps.at_work:
                look_s = now_s + _LOOK_EVERY_S
                self._each_second()
            if self._taps.ending:
                return self._taps.ending
            self._note_trouble()
            self._reckon_deadline()
            if self._deadline_s is not None:
                now_s, look_s = time.monotonic(), min(look_s, self._deadline_s)
            self._poked.wait(max(0.001, look_s - now_s))
        return ""

    def _each_second(self) -> None:
        """What is looked after at leisure: sources that came, went or ended."""
        counted = self._taps.counts_flows
        self._taps.look()
        if self._taps.counts_flows != counted:
            self._around.changed()
        self._taps.tend(self._in_force, self._own_traffic())
        if self.state not in ("running", "paused"):
            self._become("running" if self._taps.open else "starting", self._taps.notice)

    def _own_traffic(self) -> OwnTraffic:
        return self._around.own_traffic if self._wanted.exclude_own_traffic else []

    def _open_lane(self, source: PacketSource, lane: Lane) -> LaneWriter:
        """A lane that a source's packets go into; with the first source of a session it begins."""
        self._origin = Origin(source.interface, source.link_type, source.snaplen, self.filter_revision)
        if not self._memory.started_ns:
            self._memory.started_ns = time.time_ns()
            self._memory.save()
        return self._writer(lane, from_file=source.clock_source == "file")

    def _writer(self, lane: Lane, *, from_file: bool = False) -> LaneWriter:
        if lane not in self._writers:  # otherwise the source was lost and is back: the lane goes on
            self._writers[lane] = LaneWriter(
                self.spec,
                self._memory,
                self.books,
                self._around,
                lane=lane,
                door=self._door,
                from_file=from_file,
            )
        return self._writers[lane]

    def _note_trouble(self) -> None:
        if not self._refused_revision:
            shedding = "" if self._from_file else words(self.terms.shedding)
            self._become(self.state, self._taps.notice or shedding)

    @property
    def _from_file(self) -> bool:
        return self.spec.source == "replay"

    # -- obeying -------------------------------------------------------------------------------------------------

    def _obey(self) -> str:
        """Make true what is declared; return the reason when that is the end."""
        wanted = self._wanted
        if wanted.state == "stopped":
            return "stopped" + (f" by {wanted.requested_by}" if wanted.requested_by else "")
        if wanted is not self.spec:
            if not self._from_file:
                for lane in self._lanes():
                    lane.overflow = wanted.overflow
            if wanted.exclude_own_traffic != self.spec.exclude_own_traffic:
                self._taps.leave_out(self._own_traffic())
            if wanted.priority != self.spec.priority:
                self._taps.prioritise(wanted.priority)
            if wanted.filter_revision not in (self.filter_revision, self._refused_revision):
                self._swap(wanted)
            self.spec = self._tried = wanted
        if not self._from_file and self._limits_ask_otherwise(wanted):
            self._swap(wanted)
        if wanted.state == "paused" and self.state != "paused":
            self._taps.pause()
            self._become("paused")
        elif wanted.state == "running" and self.state == "paused":
            self._taps.resume()
            self._become("running" if self._taps.open else "starting")
        return ""

    def _reckon_deadline(self) -> None:
        """Once, when packets are taken: opening a source takes its time, and a stepped clock must not end a session."""
        wanted_s, begun_ns = self._wanted.max_duration_s, self._memory.started_ns
        if wanted_s == self._limited_s or not begun_ns:
            return
        self._limited_s, self._deadline_s = wanted_s, None
        if wanted_s is not None:
            self._deadline_s = time.monotonic() + wanted_s - (time.time_ns() - begun_ns) / 1e9

    def _swap(self, wanted: SessionSpec) -> None:
        """Another filter, snaplen or flow rules on the open sockets. A refused one leaves the old one in force."""
        order = self._order(wanted)
        self._asked = (order.snaplen, order.flows)
        try:
            interval = self._taps.change(order)
        except FilterError as error:
            self._refused_revision = wanted.filter_revision
            reason = (
                f"filter revision {wanted.filter_revision} refused, {self.filter_revision} goes on: {error}"
            )
            self._become(self.state, reason)
            return
        self._in_force = order
        self.filter_swap_ns = interval or self.filter_swap_ns
        self._in_force_payload = wanted.payload
        self.filter_revision, self._refused_revision = wanted.filter_revision, 0
        self.reason = ""
        self._around.changed()

    def _order(self, wanted: SessionSpec) -> Order:
        """What the sources shall do: as declared, or what the host's limits leave of it."""
        order, step, config = Order.declared(wanted), self.terms.shedding.step, self._around.config
        if step is Step.NOTHING or wanted.source == "replay":
            return order
        flows = order.flows
        if step >= Step.SAMPLED:
            flows = replace(flows, one_in=min(flows.one_in * config.limits_sampling, MAX_FLOW_SAMPLING))
        return replace(order, snaplen=min(order.snaplen, config.limits_snaplen), flows=flows)

    def _limits_ask_otherwise(self, wanted: SessionSpec) -> bool:
        order = self._order(wanted)
        return (order.snaplen, order.flows) != self._asked

    def _limit_reached(self) -> str:
        spec, memory = self.spec, self._memory
        if spec.max_packets is not None and memory.packets >= spec.max_packets:
            return f"limit of {spec.max_packets} packets reached"
        if spec.max_bytes is not None and memory.captured_bytes >= spec.max_bytes:
            return f"limit of {spec.max_bytes} bytes reached"
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            return f"limit of {spec.max_duration_s:g} s reached"
        return ""

    # -- ending --------------------------------------------------------------------------------------------------

    def _close_unopened(self, reason: str, without_any: str) -> None:
        """It ends before this boot began to capture: close the chains of the boots before, if there were any."""
        known = [
            lane
            for lane in Lane
            if self._memory.heads[lane].known or (self.spec.id, lane) in self._around.last_records
        ]
        for lane in known:
            self._writer(lane)
        if not self._writers:
            self._memory.ended, self._memory.reason = True, without_any
            self._memory.save()
            self._become("stopped", without_any)
            return
        self._close_lanes(reason)
        self._become("stopped", reason)

    def _end(self, reason: str) -> None:
        if not self._writers:
            self._close_unopened(reason, reason)
            return
        self._become("stopping", reason)
        self._close_lanes(reason)
        self._become("stopped", reason)

    def _close_lanes(self, reason: str) -> None:
        """A closing batch for each lane; GOES_ON closes them for this boot only."""
        origin = replace(self._origin, filter_revision=self.filter_revision)
        if reason != GOES_ON:
            self._memory.reason = reason
        writers = list(self._writers.values())
        for number, writer in enumerate(writers, 1):
            writer.close(reason, origin, last=number == len(writers))
