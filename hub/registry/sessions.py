"""Capture session records: what was asked for (the spec) and what the agent last said of it."""

import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cbor2

from hub.pooling import Pooling
from hub.registry.errors import ConflictError, UnknownError
from wire.session import SessionSpec
from wire.strict_cbor import loads_map

if TYPE_CHECKING:
    from hub.registry.connection import Database

MAX_SPEC_BYTES = 64 * 1024
MAX_NAME_CHARACTERS = 120
MAX_EVENTS = 1000
"""Per session; with more, neighbours of a kind become one, so that a time line of any length keeps its shape."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One row of `sessions`."""

    id: str
    agent: str
    spec: SessionSpec | None
    """What was asked for; None for a session that the archive holds and this hub never asked for (import)."""
    created_ns: int
    changed_ns: int
    ended_ns: int | None
    """When the agent had confirmed the end; from then on the session is no longer in `desired`."""
    requested_by: str
    reported_state: str | None
    """wire.report's word: starting, running, paused, stopping, stopped, refused, failed; None = not yet."""
    reported_reason: str
    reported: bytes | None
    """CBOR map of the session's entry in the last report."""
    reported_ns: int | None
    name: str = ""
    """What people call it; any text, not unique."""
    pooling: Pooling | None = None
    """How much of it is pooled; None: as the hub's setting says."""


@dataclass(frozen=True, slots=True)
class FilterRevision:
    """A filter that a session has or had."""

    revision: int
    filter: str
    snaplen: int
    changed_ns: int
    """When it was asked for."""


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something on a session's time line."""

    at_ns: int
    kind: str
    """"state:running" and so on (what the agent reported), or the name of a counter of drops."""
    packets: int
    """Dropped; 0 for states."""


class Sessions:
    """Queries on sessions; the rules are in hub.agents.sessions."""

    def __init__(self, database: "Database") -> None:
        self._db = database

    def add(self, agent: str, spec: SessionSpec, pooling: Pooling | None = None) -> None:
        """Record a new session; UnknownError without the agent, ConflictError for a used id."""
        with self._db.transaction() as db:
            if db.execute("SELECT 1 FROM agents WHERE id = ?", (agent,)).fetchone() is None:
                raise UnknownError(f"there is no agent {agent!r}")
            try:
                db.execute(
                    """INSERT INTO sessions(id, agent, spec, created_ns, changed_ns, requested_by, pooling)
                       VALUES(?, ?, ?, ?, ?, ?, ?)""",
                    (
                        spec.id,
                        agent,
                        cbor2.dumps(spec.to_map()),
                        spec.created_ns,
                        time.time_ns(),
                        spec.requested_by,
                        pooling,
                    ),
                )
            except sqlite3.IntegrityError:
                raise ConflictError(f"there is already a session {spec.id}") from None
            _keep_filter(db, spec)

    def observe(self, session: str, agent: str, reason: str, now_ns: int) -> bool:
        """Record a session of a known agent that only the archive knows; False when it is recorded already."""
        with self._db.transaction() as db:
            inserted = db.execute(
                """INSERT INTO sessions(id, agent, created_ns, changed_ns, ended_ns, requested_by, reported_reason)
                   VALUES(?, ?, ?, ?, ?, '', ?) ON CONFLICT(id) DO NOTHING""",
                (session, agent, now_ns, now_ns, now_ns, reason),
            )
            return inserted.rowcount == 1

    def get(self, session: str) -> SessionRecord | None:
        """The session, or None."""
        row = self._db.connection.execute("SELECT * FROM sessions WHERE id = ?", (session,)).fetchone()
        return _session(row) if row else None

    def require(self, session: str) -> SessionRecord:
        """The session; UnknownError without one."""
        record = self.get(session)
        if record is None:
            raise UnknownError(f"there is no session {session!r}")
        return record

    def all(
        self,
        *,
        agent: str | None = None,
        active_only: bool = False,
        by: str | None = None,
        limit: int = 1000,
        offset: int = 0,
    ) -> list[SessionRecord]:
        """Sessions, the newest first; `active_only` leaves out those that have ended, `by`: who asked for them."""
        rows = self._db.connection.execute(
            """SELECT * FROM sessions WHERE (?1 IS NULL OR agent = ?1) AND (?2 = 0 OR ended_ns IS NULL)
               AND (?5 IS NULL OR requested_by = ?5) ORDER BY created_ns DESC, id LIMIT ?3 OFFSET ?4""",
            (agent, active_only, limit, offset, by),
        )
        return [_session(row) for row in rows]

    def replace_spec(self, session: str, spec: SessionSpec) -> None:
        """Store a changed spec (same id); hub.agents.sessions has checked that the step is allowed."""
        with self._db.transaction() as db:
            changed = db.execute(
                "UPDATE sessions SET spec = ?, changed_ns = ? WHERE id = ?",
                (cbor2.dumps(spec.to_map()), time.time_ns(), session),
            )
            if changed.rowcount == 0:
                raise UnknownError(f"there is no session {session!r}")
            _keep_filter(db, spec)

    def set_pooling(self, session: str, pooling: Pooling | None) -> None:
        """Say how much of a session is pooled from now on; UnknownError without one."""
        with self._db.transaction() as db:
            changed = db.execute("UPDATE sessions SET pooling = ? WHERE id = ?", (pooling, session))
            if changed.rowcount == 0:
                raise UnknownError(f"there is no session {session!r}")

    def filters(self, session: str) -> dict[int, str]:
        """Each filter the session has had, by revision."""
        rows = self._db.connection.execute(
            "SELECT revision, filter FROM session_filters WHERE session = ? ORDER BY revision", (session,)
        )
        return {row["revision"]: row["filter"] for row in rows}

    def set_reported(self, session: str, state: str, reason: str, reported: bytes, now_ns: int) -> None:
        """Store what the agent says of the session."""
        with self._db.transaction() as db:
            db.execute(
                """UPDATE sessions SET reported_state = ?, reported_reason = ?, reported = ?, reported_ns = ?
                   WHERE id = ?""",
                (state, reason, reported, now_ns, session),
            )

    def rename(self, session: str, name: str) -> None:
        """Call it something; "" for nothing. UnknownError without the session."""
        name = " ".join(name.split())[:MAX_NAME_CHARACTERS]
        with self._db.transaction() as db:
            if db.execute("UPDATE sessions SET name = ? WHERE id = ?", (name, session)).rowcount == 0:
                raise UnknownError(f"there is no session {session!r}")

    def revisions(self, session: str) -> list[FilterRevision]:
        """Each filter the session has had, the first one first."""
        rows = self._db.connection.execute(
            "SELECT revision, filter, snaplen, changed_ns FROM session_filters WHERE session = ? ORDER BY revision",
            (session,),
        )
        return [FilterRevision(**dict(row)) for row in rows]

    def note_event(self, session: str, kind: str, at_ns: int, packets: int = 0) -> None:
        """Put something on the session's time line; what happens at one time adds up.

        By the hub's clock, as it heard of it; hub.ledger.losses has what signed batches tell, by the agent's.
        """
        with self._db.transaction() as db:
            note_event(db, session, kind, at_ns, packets)

    def events(self, session: str) -> list[SessionEvent]:
        """The time line, the oldest first; at most MAX_EVENTS."""
        rows = self._db.connection.execute(
            "SELECT at_ns, kind, packets FROM session_events WHERE session = ? ORDER BY at_ns, kind",
            (session,),
        )
        return [SessionEvent(**dict(row)) for row in rows]

    def end(self, session: str, now_ns: int) -> None:
        """Mark the session ended, once."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE sessions SET ended_ns = ? WHERE id = ? AND ended_ns IS NULL", (now_ns, session)
            )


def _keep_filter(db: sqlite3.Connection, spec: SessionSpec) -> None:
    db.execute(
        "INSERT OR IGNORE INTO session_filters VALUES(?, ?, ?, ?, ?)",
        (spec.id, spec.filter_revision, spec.filter, spec.snaplen, time.time_ns()),
    )


def note_event(db: sqlite3.Connection, session: str, kind: str, at_ns: int, packets: int = 0) -> None:
    """See Sessions.note_event; inside a transaction."""
    db.execute(
        """INSERT INTO session_events VALUES(?, ?, ?, ?) ON CONFLICT(session, at_ns, kind)
           DO UPDATE SET packets = packets + excluded.packets""",
        (session, at_ns, kind, packets),
    )
    (held,) = db.execute("SELECT count(*) FROM session_events WHERE session = ?", (session,)).fetchone()
    if held > MAX_EVENTS:
        _thin_out(db, session)


def _thin_out(db: sqlite3.Connection, session: str) -> None:
    """Make one of two neighbours of a kind: the earlier one's time, the sum of their packets."""
    rows = db.execute(
        "SELECT at_ns, kind, packets FROM session_events WHERE session = ? ORDER BY kind, at_ns", (session,)
    ).fetchall()
    kept: list[tuple[str, int, str, int]] = []
    waiting: tuple[str, int, str, int] | None = None
    for row in rows:
        if waiting is not None and waiting[2] == row["kind"]:
            kept.append((session, waiting[1], waiting[2], waiting[3] + row["packets"]))
            waiting = None
            continue
        if waiting is not None:
            kept.append(waiting)
        waiting = (session, row["at_ns"], row["kind"], row["packets"])
    if waiting is not None:
        kept.append(waiting)
    db.execute("DELETE FROM session_events WHERE session = ?", (session,))
    db.executemany("INSERT INTO session_events VALUES(?, ?, ?, ?)", kept)


def _session(row: sqlite3.Row) -> SessionRecord:
    fields = dict(row)
    if fields["spec"] is not None:
        fields["spec"] = SessionSpec.from_map(loads_map(fields["spec"], max_bytes=MAX_SPEC_BYTES))
    if fields["pooling"] is not None:
        fields["pooling"] = Pooling(fields["pooling"])
    return SessionRecord(**fields)
