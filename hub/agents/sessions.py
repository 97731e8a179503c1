"""Capture sessions: the only place that knows which step is allowed when, and what to call the state.

A session is a record. Nothing here talks to an agent: a method changes the record, the declarer publishes what
changed, the agent reconciles and reports, and `apply_report` notes what it said. So every order survives a restart
of anything, and is obeyed once.

    wanted (spec.state)   running ⇄ paused → stopped          changed here, by people
    reported              starting → running ⇄ paused → stopping → stopped | refused | failed      said by the agent
    ended                 set when the agent has confirmed the end; the session then leaves `desired`
"""

import dataclasses
import logging
import time
from typing import Literal, NamedTuple

import cbor2

from hub.agents.status import stored_body
from hub.pooling import Pooling
from hub.registry import AgentRecord, ConflictError, Registry, SessionRecord
from wire.control import MAX_ENVELOPE_BYTES
from wire.names import new_session_id
from wire.payload import FULL, PayloadPolicy
from wire.priority import NO_PRIORITY, PriorityRules
from wire.report import CAN_CUT_PAYLOAD, CAN_PRIORITISE, CAN_SEVERAL_INTERFACES, Report
from wire.session import ANY, MAX_SESSIONS, MAX_SNAPLEN, Replay, SessionSpec, interface_names

log = logging.getLogger(__name__)

_STEPS: dict[str, frozenset[str]] = {
    "running": frozenset({"paused", "stopped"}),
    "paused": frozenset({"running", "stopped"}),
    "stopped": frozenset(),
}
_FINAL_REPORTS = frozenset({"stopped", "failed", "refused"})
MAX_SPECS_BYTES = MAX_ENVELOPE_BYTES - 64 * 1024
"""Of all active sessions of an agent; the rest of the envelope is for credentials, addresses and signature."""


class FlowOptions(NamedTuple):
    """What is kept of the flows that pass the filter, and whether all flows are counted; see SessionSpec."""

    cutoff_bytes: int | None = None
    one_in: int | None = None
    counted: bool = False


def flow_options(spec: SessionSpec) -> FlowOptions:
    """As they are."""
    return FlowOptions(spec.flow_cutoff_bytes, spec.flow_sampling, spec.flow_records)


class SessionControl:
    """Start, pause, resume, change and stop capture sessions.

    Errors for people: WireError (a bound of SessionSpec is broken), UnknownError, ConflictError (the step isn't
    allowed in this state). The filter's syntax is judged by control.check_filter before and by the agent after.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def start(
        self,
        agent: str,
        interface: str,
        *,
        filter: str = "",
        filter_inside_tunnels: bool = False,
        snaplen: int = MAX_SNAPLEN,
        flow_cutoff_bytes: int | None = None,
        flow_sampling: int | None = None,
        flow_records: bool = False,
        promiscuous: bool = False,
        source: Literal["ring", "replay"] = "ring",
        overflow: Literal["drop_oldest", "drop_newest", "stop"] = "drop_oldest",
        max_duration_s: float | None = None,
        max_bytes: int | None = None,
        max_packets: int | None = None,
        retention_s: int | None = None,
        retention_bytes: int | None = None,
        exclude_own_traffic: bool = True,
        replay: Replay | None = None,
        payload: PayloadPolicy = FULL,
        priority: PriorityRules = NO_PRIORITY,
        name: str = "",
        pooling: Pooling | None = None,
        user: str,
    ) -> str:
        """Record a session that the agent shall run and return its id.

        interface: one name, several with commas between, or any. name: what people call the session. ConflictError
        when the agent is disabled, when it hasn't said that it obeys a payload policy that is asked for, or has said
        that it can't take several interfaces or has no priority lane.
        pooling: how much of it goes into the pool; None: as the hub's setting says.
        """
        record = self._registry.agents.require(agent)
        if source == "ring":
            interface = ",".join(interface_names(interface))
            _check_interfaces(record, interface)
        _check_payload(record, payload)
        _check_priority(record, priority)
        if not record.enabled:
            raise ConflictError(f"agent {agent!r} is revoked: enrol it anew before it can capture")
        if len(self._registry.sessions.all(agent=agent, active_only=True)) >= MAX_SESSIONS:
            raise ConflictError(f"agent {agent!r} has {MAX_SESSIONS} sessions already: stop one first")
        spec = SessionSpec(
            id=new_session_id(),
            state="running",
            source=source,
            interface=interface,
            filter=filter.strip(),
            filter_revision=1,
            filter_inside_tunnels=filter_inside_tunnels,
            snaplen=snaplen,
            flow_cutoff_bytes=flow_cutoff_bytes,
            flow_sampling=flow_sampling,
            flow_records=flow_records,
            promiscuous=promiscuous,
            overflow=overflow,
            max_duration_s=max_duration_s,
            max_bytes=max_bytes,
            max_packets=max_packets,
            retention_s=retention_s,
            retention_bytes=retention_bytes,
            exclude_own_traffic=exclude_own_traffic,
            requested_by=user,
            created_ns=time.time_ns(),
            replay=replay,
            payload=payload,
            priority=priority,
        )
        SessionSpec.from_map(spec.to_map())  # every bound, whoever built the spec
        with self._registry.transaction():
            _check_enabled(self._registry.agents.require(agent))  # as it is now, whoever disabled it
            self._check_room(agent, spec)
            self._registry.sessions.add(agent, spec, pooling)
            if name:
                self._registry.sessions.rename(spec.id, name)
        return spec.id

    def pause(self, session: str) -> None:
        """Stop taking packets and keep the session; ConflictError unless it shall run."""
        self._step(session, "paused")

    def resume(self, session: str) -> None:
        """Take packets again; ConflictError unless it is paused."""
        self._step(session, "running")

    def stop(self, session: str) -> None:
        """End the session for good: the agent closes its chains; ConflictError when it is stopped already."""
        self._step(session, "stopped")

    def change_filter(
        self,
        session: str,
        filter: str,
        snaplen: int | None = None,
        flows: FlowOptions | None = None,
        payload: PayloadPolicy | None = None,
        inside_tunnels: bool | None = None,
    ) -> int:
        """Swap the filter (and what it judges, snaplen, what is kept of flows, payload policy); return the new filter
        revision.

        None leaves a thing as it is. No packet is lost by a change. The same again changes nothing and returns the
        present revision.
        """
        with self._registry.transaction():
            spec = self._active_spec(session)
            cutoff_bytes, one_in, counted = flows or flow_options(spec)
            changed = dataclasses.replace(
                spec,
                filter=filter.strip(),
                filter_inside_tunnels=spec.filter_inside_tunnels
                if inside_tunnels is None
                else inside_tunnels,
                snaplen=spec.snaplen if snaplen is None else snaplen,
                flow_cutoff_bytes=cutoff_bytes,
                flow_sampling=one_in,
                flow_records=counted,
                payload=spec.payload if payload is None else payload,
            )
            if changed == spec:
                return spec.filter_revision
            changed = dataclasses.replace(changed, filter_revision=spec.filter_revision + 1)
            SessionSpec.from_map(changed.to_map())
            agent = self._registry.sessions.require(session).agent
            _check_payload(self._registry.agents.require(agent), changed.payload)
            self._check_room(agent, changed)
            self._registry.sessions.replace_spec(session, changed)
            return changed.filter_revision

    def change_priority(self, session: str, priority: PriorityRules) -> None:
        """Other rules for the priority lane, in force without another filter revision. Each packet goes by one lane."""
        with self._registry.transaction():
            spec = self._active_spec(session)
            changed = dataclasses.replace(spec, priority=priority)
            if changed == spec:
                return
            SessionSpec.from_map(changed.to_map())
            agent = self._registry.sessions.require(session).agent
            _check_priority(self._registry.agents.require(agent), priority)
            self._check_room(agent, changed)
            self._registry.sessions.replace_spec(session, changed)

    def _check_room(self, agent: str, spec: SessionSpec) -> None:
        """All sessions of an agent go to it in one envelope. ConflictError when this one doesn't fit any more."""
        others = self._registry.sessions.all(agent=agent, active_only=True)
        specs = [one.spec for one in others if one.spec is not None and one.id != spec.id]
        size = sum(len(cbor2.dumps(one.to_map())) for one in [*specs, spec])
        if size > MAX_SPECS_BYTES:
            raise ConflictError(
                f"the sessions of agent {agent!r} would take {size} bytes together, and {MAX_SPECS_BYTES} can be sent: "
                "shorten a filter or a list of priority rules, or stop a session"
            )

    def _step(self, session: str, state: Literal["running", "paused", "stopped"]) -> None:
        with self._registry.transaction():
            spec = self._active_spec(session)
            if state not in _STEPS[spec.state]:
                raise ConflictError(f"the session is {spec.state} already: it can't become {state}")
            self._registry.sessions.replace_spec(session, dataclasses.replace(spec, state=state))
            record = self._registry.sessions.require(session)
            if state == "stopped" and record.reported_state in _FINAL_REPORTS:
                self._registry.sessions.end(session, time.time_ns())

    def _active_spec(self, session: str) -> SessionSpec:
        record = self._registry.sessions.require(session)
        if record.spec is None:
            raise ConflictError("this session was not started by this hub: it can only be read")
        if record.ended_ns is not None:
            raise ConflictError("the session has ended; start a new one")
        return record.spec

    def apply_report(self, agent: str, report: Report, received_ns: int) -> list[str]:
        """Note what a verified report says of this agent's sessions; return the ids whose record changed.

        A session the agent calls stopped has ended, whoever ended it (a limit was reached, a replay is finished).
        A stopped session that a report of the current `desired` no longer mentions has ended too. One with a payload
        policy is stopped when its agent's program has become one that would ignore it (an older version).
        """
        changed = []
        told = {entry.id: entry for entry in report.sessions}
        published = self._published_revision(agent)
        with self._registry.transaction():
            for record in self._registry.sessions.all(agent=agent, active_only=True):
                if record.spec is None:
                    continue
                ignored = not record.spec.payload.full and CAN_CUT_PAYLOAD not in report.capabilities
                if ignored and record.spec.state != "stopped":
                    log.error(
                        "session %s is stopped: version %s of the agent %s would ignore its payload policy (%s)",
                        record.id,
                        report.version,
                        agent,
                        record.spec.payload.words,
                    )
                    stopped = dataclasses.replace(record.spec, state="stopped")
                    self._registry.sessions.replace_spec(record.id, stopped)
                    changed.append(record.id)
                    continue
                entry = told.get(record.id)
                if entry is None:
                    if record.spec.state == "stopped" and report.desired_revision >= published > 0:
                        self._registry.sessions.end(record.id, received_ns)
                        changed.append(record.id)
                    continue
                if (entry.state, entry.reason) != (record.reported_state, record.reported_reason):
                    changed.append(record.id)
                body = cbor2.dumps(entry.to_map())
                if entry.state != record.reported_state:
                    self._registry.sessions.note_event(record.id, f"state:{entry.state}", received_ns)
                if body != record.reported:
                    self._registry.sessions.set_reported(
                        record.id, entry.state, entry.reason, body, received_ns
                    )
                over = entry.state == "stopped" or (
                    record.spec.state == "stopped" and entry.state in _FINAL_REPORTS
                )
                if over:
                    self._registry.sessions.end(record.id, received_ns)
        return changed

    def _published_revision(self, agent: str) -> int:
        row = self._registry.connection.execute(
            "SELECT revision FROM desired WHERE agent = ?", (agent,)
        ).fetchone()
        return int(row["revision"]) if row else 0


def _check_enabled(agent: AgentRecord) -> None:
    """ConflictError when the agent is to have no sessions."""
    if agent.off_ns is not None:
        raise ConflictError(
            f"agent {agent.id!r} is {agent.off_words}. Enable it on its page, /agents/{agent.id}, before it can capture"
        )


def _check_payload(agent: AgentRecord, payload: PayloadPolicy) -> None:
    """An agent that doesn't know the key would ignore it, and send what it was asked to keep. ConflictError then."""
    if payload.full:
        return
    report = stored_body(agent.report, Report.from_map)
    if report is None:
        raise ConflictError(
            f"agent {agent.id!r} has not reported yet, so it isn't known whether it can cut payload: "
            "wait until it is online"
        )
    if CAN_CUT_PAYLOAD not in report.capabilities:
        raise ConflictError(
            f"agent {agent.id!r} (version {report.version}) can't cut payload and would send whole packets: "
            "update it, or capture whole packets"
        )


def _check_interfaces(agent: AgentRecord, interface: str) -> None:
    """An older agent would look for an interface of that name. ConflictError then."""
    if interface != ANY and "," not in interface:
        return
    report = stored_body(agent.report, Report.from_map)
    if report is not None and CAN_SEVERAL_INTERFACES not in report.capabilities:
        raise ConflictError(
            f"agent {agent.id!r} (version {report.version}) captures on one interface per session: "
            "update it, or start a session for each"
        )


def _check_priority(agent: AgentRecord, priority: PriorityRules) -> None:
    """An agent that has said it has no way to prioritise would send all by one lane. ConflictError then."""
    if priority.none:
        return
    report = stored_body(agent.report, Report.from_map)
    if report is not None and CAN_PRIORITISE not in report.capabilities:
        raise ConflictError(
            f"agent {agent.id!r} has no priority lane: that needs eBPF "
            f"({report.capture_path_reason or report.capture_path})"
        )


def session_state(record: SessionRecord) -> tuple[str, str]:
    """(word, explanation) for the page: what the session is doing, in the light of what was asked.

    Words: requested, starting, running, pausing, paused, resuming, stopping, stopped, refused, failed, observed.
    """
    reason = record.reported_reason
    if record.spec is None:
        return "observed", reason or "found in the archive; not started by this hub"
    wanted, told = record.spec.state, record.reported_state
    if record.ended_ns is not None:
        return ("failed" if told == "failed" else "stopped"), reason
    if told in ("refused", "failed") and wanted != "stopped":
        return told, reason
    if wanted == "stopped":
        return "stopping", reason or "waiting for the agent to close the session"
    if told is None:
        return "requested", "waiting for the agent"
    if wanted == "paused":
        return ("paused", reason) if told == "paused" else ("pausing", reason)
    if told == "paused":
        return "resuming", reason
    return told, reason
