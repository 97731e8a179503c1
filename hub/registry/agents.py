"""Enrolled agents with their keys past and present, and viewers with their grants."""

import json
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.registry.errors import ConflictError, UnknownError
from wire.errors import WireError
from wire.names import check_agent_id
from wire.strict_cbor import loads_map

if TYPE_CHECKING:
    from hub.registry.connection import Database


MAX_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An enrolled agent."""

    id: str
    label: str
    """Free text, usually the host name; never an identity."""
    user_public: str
    """Its NATS user nkey, `U…`."""
    signing_public: bytes
    """Ed25519, 32 bytes: verifies its batches, heartbeats, reports and replies."""
    enabled: bool
    disabled_reason: str
    enrolled_ns: int
    user_jwt: str | None
    """The newest credentials issued, delivered with `desired` until the agent uses them."""
    jwt_issued_ns: int | None
    jwt_expires_ns: int | None
    report: bytes | None
    """CBOR body of the last verified wire.report.Report."""
    report_ns: int | None
    heartbeat: bytes | None
    """CBOR body of the last verified wire.report.Heartbeat."""
    heartbeat_ns: int | None
    off_ns: int | None = None
    """When an operator disabled it: trusted as before, but it gets no sessions. None: enabled."""
    off_by: str = ""
    off_reason: str = ""

    @property
    def off_words(self) -> str:
        """Who disabled it and why, for people; "" while it is enabled."""
        if self.off_ns is None:
            return ""
        return f"disabled by {self.off_by}" + (f": {self.off_reason}" if self.off_reason else "")


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A signing key an agent has or had."""

    signing_public: bytes
    user_public: str
    not_before_ns: int
    not_after_ns: int | None
    """When it was replaced; None while it is the current one."""
    certificate: bytes | None
    """The hub's signed CERTIFICATE envelope, for evidence exports."""


class Agents:
    """Queries on agents and agent_keys."""

    def __init__(self, database: "Database") -> None:
        self._db = database

    def add(
        self,
        agent: str,
        *,
        user_public: str,
        signing_public: bytes,
        label: str = "",
        user_jwt: str | None = None,
        jwt_issued_ns: int | None = None,
        jwt_expires_ns: int | None = None,
        certificate: bytes | None = None,
    ) -> None:
        """Enrol an agent. ConflictError when the id or the NATS key is taken (see `rekey`)."""
        check_agent_id(agent)
        now_ns = time.time_ns()
        try:
            with self._db.transaction() as db:
                db.execute(
                    """INSERT INTO agents(id, label, user_public, signing_public, enrolled_ns, user_jwt,
                       jwt_issued_ns, jwt_expires_ns) VALUES(?, ?, ?, ?, ?, ?, ?, ?)""",
                    (
                        agent,
                        label[:255],
                        user_public,
                        signing_public,
                        now_ns,
                        user_jwt,
                        jwt_issued_ns,
                        jwt_expires_ns,
                    ),
                )
                db.execute(
                    "INSERT INTO agent_keys VALUES(?, ?, ?, ?, NULL, ?)",
                    (agent, signing_public, user_public, now_ns, certificate),
                )
        except sqlite3.IntegrityError:
            raise ConflictError(f"agent {agent!r} or its key is already enrolled") from None

    def rekey(
        self,
        agent: str,
        *,
        user_public: str,
        signing_public: bytes,
        user_jwt: str | None = None,
        jwt_issued_ns: int | None = None,
        jwt_expires_ns: int | None = None,
        certificate: bytes | None = None,
    ) -> None:
        """Replace an agent's keys. The old signing key still verifies what it signed (spooled batches)."""
        now_ns = time.time_ns()
        try:
            with self._db.transaction() as db:
                changed = db.execute(
                    """UPDATE agents SET user_public = ?, signing_public = ?, user_jwt = ?, jwt_issued_ns = ?,
                       jwt_expires_ns = ?, enabled = 1, disabled_reason = '' WHERE id = ?""",
                    (user_public, signing_public, user_jwt, jwt_issued_ns, jwt_expires_ns, agent),
                )
                if changed.rowcount == 0:
                    raise UnknownError(f"there is no agent {agent!r}")
                db.execute(
                    "UPDATE agent_keys SET not_after_ns = ? WHERE agent = ? AND not_after_ns IS NULL",
                    (now_ns, agent),
                )
                db.execute(
                    """INSERT INTO agent_keys VALUES(?, ?, ?, ?, NULL, ?) ON CONFLICT(agent, signing_public)
                       DO UPDATE SET user_public = excluded.user_public, not_after_ns = NULL,
                       certificate = excluded.certificate""",
                    (agent, signing_public, user_public, now_ns, certificate),
                )
        except sqlite3.IntegrityError:
            raise ConflictError("that NATS key belongs to another agent") from None

    def get(self, agent: str) -> AgentRecord | None:
        """The agent, or None."""
        row = self._db.connection.execute("SELECT * FROM agents WHERE id = ?", (agent,)).fetchone()
        return _agent(row) if row else None

    def require(self, agent: str) -> AgentRecord:
        """The agent; UnknownError without one."""
        record = self.get(agent)
        if record is None:
            raise UnknownError(f"there is no agent {agent!r}; `wirepool enroll` adds one")
        return record

    def all(self) -> list[AgentRecord]:
        """Every agent by id."""
        return [_agent(row) for row in self._db.connection.execute("SELECT * FROM agents ORDER BY id")]

    def keys(self, agent: str) -> list[AgentKey]:
        """The agent's signing keys, the current one first, then the newest."""
        rows = self._db.connection.execute(
            """SELECT signing_public, user_public, not_before_ns, not_after_ns, certificate FROM agent_keys
               WHERE agent = ? ORDER BY not_after_ns IS NOT NULL, not_before_ns DESC""",
            (agent,),
        )
        return [AgentKey(**dict(row)) for row in rows]

    def set_enabled(self, agent: str, enabled: bool, reason: str = "") -> None:
        """Revoke (nothing of it is accepted any more; revoke its NATS user as well) or trust again."""
        with self._db.transaction() as db:
            changed = db.execute(
                "UPDATE agents SET enabled = ?, disabled_reason = ? WHERE id = ?",
                (enabled, "" if enabled else reason, agent),
            )
            if changed.rowcount == 0:
                raise UnknownError(f"there is no agent {agent!r}")

    def switch_off(self, agent: str, user: str, reason: str = "") -> None:
        """No sessions for this agent from now on; hub.agents.switch stops those that run."""
        self._switch(agent, time.time_ns(), user, reason[:MAX_REASON_CHARACTERS])

    def switch_on(self, agent: str) -> None:
        """Sessions again."""
        self._switch(agent, None, "", "")

    def _switch(self, agent: str, off_ns: int | None, user: str, reason: str) -> None:
        with self._db.transaction() as db:
            changed = db.execute(
                "UPDATE agents SET off_ns = ?, off_by = ?, off_reason = ? WHERE id = ?",
                (off_ns, user, reason, agent),
            )
            if changed.rowcount == 0:
                raise UnknownError(f"there is no agent {agent!r}")

    def set_label(self, agent: str, label: str) -> None:
        """Rename what the page shows."""
        with self._db.transaction() as db:
            if db.execute("UPDATE agents SET label = ? WHERE id = ?", (label[:255], agent)).rowcount == 0:
                raise UnknownError(f"there is no agent {agent!r}")

    def set_jwt(self, agent: str, user_jwt: str, issued_ns: int, expires_ns: int) -> None:
        """Keep renewed credentials; `desired` carries them to the agent."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE agents SET user_jwt = ?, jwt_issued_ns = ?, jwt_expires_ns = ? WHERE id = ?",
                (user_jwt, issued_ns, expires_ns, agent),
            )

    def save_report(self, agent: str, body: bytes, received_ns: int) -> None:
        """Keep the last verified report (CBOR body)."""
        with self._db.transaction() as db:
            db.execute("UPDATE agents SET report = ?, report_ns = ? WHERE id = ?", (body, received_ns, agent))

    def save_heartbeats(self, heartbeats: dict[str, tuple[bytes, int]]) -> None:
        """Keep the last heartbeat of several agents in one transaction: agent → (CBOR body, received_ns)."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE agents SET heartbeat = ?, heartbeat_ns = ? WHERE id = ?",
                [(body, received_ns, agent) for agent, (body, received_ns) in heartbeats.items()],
            )


@dataclass(frozen=True, slots=True)
class ViewerRecord:
    """A read-only bus user."""

    name: str
    user_public: str
    agents: tuple[str, ...]
    """Granted agent ids; ("*",) for all."""
    created_ns: int
    expires_ns: int | None
    revoked_ns: int | None


class Viewers:
    """Queries on viewers."""

    def __init__(self, database: "Database") -> None:
        self._db = database

    def add(self, name: str, user_public: str, agents: list[str], expires_ns: int | None = None) -> None:
        """Add a viewer, or replace a revoked one; ConflictError when the name is in use."""
        with self._db.transaction() as db:
            old = db.execute("SELECT revoked_ns FROM viewers WHERE name = ?", (name,)).fetchone()
            if old and old["revoked_ns"] is None:
                raise ConflictError(f"there is already a viewer {name!r}; revoke it first")
            db.execute(
                "INSERT OR REPLACE INTO viewers VALUES(?, ?, ?, ?, ?, NULL)",
                (name, user_public, json.dumps(sorted(agents)), time.time_ns(), expires_ns),
            )

    def revoke(self, name: str) -> ViewerRecord:
        """Mark a viewer revoked and return it (its user_public goes into the account's revocations)."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE viewers SET revoked_ns = ? WHERE name = ? AND revoked_ns IS NULL",
                (time.time_ns(), name),
            )
        record = self.get(name)
        if record is None:
            raise UnknownError(f"there is no viewer {name!r}")
        return record

    def get(self, name: str) -> ViewerRecord | None:
        """The viewer, or None."""
        row = self._db.connection.execute("SELECT * FROM viewers WHERE name = ?", (name,)).fetchone()
        return _viewer(row) if row else None

    def all(self) -> list[ViewerRecord]:
        """Every viewer by name, revoked ones included."""
        return [_viewer(row) for row in self._db.connection.execute("SELECT * FROM viewers ORDER BY name")]


def _agent(row: sqlite3.Row) -> AgentRecord:
    fields = dict(row)
    fields["enabled"] = bool(fields["enabled"])
    return AgentRecord(**fields)


def _viewer(row: sqlite3.Row) -> ViewerRecord:
    fields = dict(row)
    fields["agents"] = tuple(json.loads(fields["agents"]))
    return ViewerRecord(**fields)


def stored_boot(heartbeat: bytes) -> bytes | None:
    """The boot id inside a kept heartbeat body."""
    try:
        boot = loads_map(heartbeat, max_bytes=256 * 1024, max_depth=8, max_items=32768).get("boot")
    except WireError:
        return None
    return boot if isinstance(boot, bytes) else None
