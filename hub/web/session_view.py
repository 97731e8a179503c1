"""A session as pages and the API show it: the record, the state in words, and which buttons make sense."""

import time
from dataclasses import dataclass
from typing import Any

from hub.agents.sessions import session_state
from hub.registry import SessionRecord
from wire.errors import WireError
from wire.payload import PayloadPolicy
from wire.report import SessionReport
from wire.strict_cbor import loads_map

KINDS = {
    "running": "is-good",
    "observed": "is-off",
    "stopped": "is-off",
    "refused": "is-bad",
    "failed": "is-bad",
    "paused": "is-warn",
}
"""CSS class of a state's mark; every other state is on its way somewhere: is-warn."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """One session. Texts of the agent are hostile and escaped by the templates."""

    record: SessionRecord
    word: str
    reason: str
    kind: str
    where: str
    """Interface, or the file of a replay."""
    filter: str
    applied_revision: int | None
    """The filter revision the agent says is attached; None: it has said nothing yet."""
    applied_payload: PayloadPolicy | None
    """The payload policy the agent says is in force; None: it has said nothing yet."""
    applied_flow_records: bool | None
    """Whether the agent says that it counts flows; None: it has said nothing yet."""
    ended: bool
    can_pause: bool
    can_resume: bool
    can_stop: bool

    @property
    def lasted_s(self) -> float:
        """From the order to the end, or until now."""
        end_ns = self.record.ended_ns if self.record.ended_ns is not None else time.time_ns()
        return max(0, end_ns - self.record.created_ns) / 1e9

    def to_json(self) -> dict[str, Any]:
        """For the API; times in ns as strings, since JSON numbers lose them."""
        record, spec = self.record, self.record.spec
        return {
            "id": record.id,
            "name": record.name,
            "agent": record.agent,
            "state": self.word,
            "reason": self.reason,
            "wanted": spec.state if spec else None,
            "reported": record.reported_state,
            "interface": self.where,
            "filter": self.filter,
            "filter_inside_tunnels": spec.filter_inside_tunnels if spec else None,
            "filter_revision": spec.filter_revision if spec else None,
            "applied_filter_revision": self.applied_revision,
            "snaplen": spec.snaplen if spec else None,
            "flow_cutoff_bytes": spec.flow_cutoff_bytes if spec else None,
            "flow_sampling": spec.flow_sampling if spec else None,
            "flow_records": spec.flow_records if spec else None,
            "applied_flow_records": self.applied_flow_records,
            "priority": spec.priority.text if spec else None,
            "payload": spec.payload.to_map() if spec else None,
            "applied_payload": self.applied_payload.to_map() if self.applied_payload is not None else None,
            "requested_by": record.requested_by,
            "created_ns": str(record.created_ns),
            "ended_ns": None if record.ended_ns is None else str(record.ended_ns),
            "ended": self.ended,
        }


def view(record: SessionRecord) -> SessionView:
    """The view of a record."""
    word, reason = session_state(record)
    spec = record.spec
    active = spec is not None and record.ended_ns is None
    wanted = spec.state if spec is not None else "stopped"
    reported = _reported(record)
    where = ""
    if spec is not None:
        where = spec.replay.file if spec.replay is not None else spec.interface
    elif reported is not None:
        where = reported.interface
    return SessionView(
        record=record,
        word=word,
        reason=reason,
        kind=KINDS.get(word, "is-warn"),
        where=where,
        filter=spec.filter if spec is not None else "",
        applied_revision=reported.filter_revision if reported is not None else None,
        applied_payload=reported.payload if reported is not None else None,
        applied_flow_records=reported.flow_records if reported is not None else None,
        ended=record.ended_ns is not None,
        can_pause=active and wanted == "running" and word not in ("refused", "failed"),
        can_resume=active and wanted == "paused",
        can_stop=active and wanted != "stopped",
    )


def _reported(record: SessionRecord) -> SessionReport | None:
    if record.reported is None:
        return None
    try:
        return SessionReport.from_map(loads_map(record.reported, max_bytes=64 * 1024))
    except WireError:
        return None


STATES: dict[str, str] = {
    "": "All states",
    "active": "Active",
    "running": "Running",
    "paused": "Paused",
    "ended": "Ended",
    "refused": "Refused or failed",
}
"""What sessions can be narrowed to, and what the page calls it."""


def _in_state(session: SessionView, state: str) -> bool:
    match state:
        case "active":
            return not session.ended
        case "ended":
            return session.ended
        case "refused":
            return session.word in ("refused", "failed")
        case "running" | "paused":
            return session.word == state
    return True


def matches(session: SessionView, query: str, state: str) -> bool:
    """Whether a session fits the search: each word in some of its texts, and the state filter."""
    if not _in_state(session, state):
        return False
    record = session.record
    text = "\n".join(
        (
            record.id,
            record.name,
            record.agent,
            session.where,
            session.filter,
            record.requested_by,
            session.word,
            session.reason,
        )
    ).lower()
    return all(word in text for word in query.lower().split())
