"""Refused messages: enough of each to see what it was and who sent it, never so much that it fills the disk."""

import hashlib
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub.registry.connection import Database

MAX_ROWS = 5_000
"""Beyond it the oldest rows go; the counter `quarantined` keeps the true number."""
OPENING_BYTES = 512
"""Of each message this much is kept: 5,000 × 512 B bounds the table at about 3 MB. The archive has the whole."""
MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """A refused message. Subject, agent and session are what the message claimed: untrusted text."""

    id: int
    received_ns: int
    stream: str
    sequence: int
    """Its sequence in the JetStream stream (0 for a message outside any stream)."""
    subject: str
    agent: str
    session: str
    reason: str
    size: int
    sha256: bytes
    opening: bytes
    """The first OPENING_BYTES bytes."""
    deliveries: int


class Quarantine:
    """Queries on quarantine."""

    def __init__(self, database: "Database") -> None:
        self._db = database

    def add(
        self,
        *,
        received_ns: int,
        stream: str,
        sequence: int,
        subject: str,
        agent: str,
        session: str,
        reason: str,
        message: bytes,
        deliveries: int,
    ) -> bool:
        """Keep a refused message; False when this very message is kept already (a redelivery)."""
        with self._db.transaction() as db:
            inserted = db.execute(
                """INSERT INTO quarantine(received_ns, stream, sequence, subject, agent, session, reason, size,
                   sha256, opening, deliveries) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT(stream, sequence, sha256) DO NOTHING""",
                (
                    received_ns,
                    stream,
                    sequence,
                    subject[:MAX_TEXT],
                    agent[:MAX_TEXT],
                    session[:MAX_TEXT],
                    reason[:MAX_TEXT],
                    len(message),
                    hashlib.sha256(message).digest(),
                    bytes(message[:OPENING_BYTES]),
                    deliveries,
                ),
            )
            if inserted.rowcount == 0:
                return False
            self._db.count("quarantined")
            db.execute("DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?", (MAX_ROWS,))
            return True

    def all(
        self, *, session: str | None = None, agent: str | None = None, limit: int = 200
    ) -> list[QuarantineEntry]:
        """The newest entries first, of one session or agent if given."""
        rows = self._db.connection.execute(
            """SELECT * FROM quarantine WHERE (?1 IS NULL OR session = ?1) AND (?2 IS NULL OR agent = ?2)
               ORDER BY id DESC LIMIT ?3""",
            (session, agent, limit),
        )
        return [_entry(row) for row in rows]

    def count(self, *, session: str | None = None, agent: str | None = None) -> int:
        """Entries kept (of one session or agent); the lasting total is the counter `quarantined`."""
        (rows,) = self._db.connection.execute(
            """SELECT count(*) FROM quarantine WHERE (?1 IS NULL OR session = ?1) AND (?2 IS NULL OR agent = ?2)""",
            (session, agent),
        ).fetchone()
        return int(rows)


def _entry(row: sqlite3.Row) -> QuarantineEntry:
    return QuarantineEntry(**dict(row))
