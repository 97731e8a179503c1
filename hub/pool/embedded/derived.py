"""Conversations and clock offsets of the embedded store, in SQLite: rows that are replaced, and found by their id.

DuckDB rewrites a hundred thousand rows for each that changes; here one page changes. Lists are kept as text with a
newline around each entry. For one thread.
"""

from __future__ import annotations

import ipaddress
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hub.pool.store import ConversationPage, ConversationRow, OffsetRow, StoreRefused

MAX_DETAILS_BYTES = 256 * 1024
_SCHEMA_VERSION = 1
_SCHEMA = (
    """CREATE TABLE conversations(
        id TEXT PRIMARY KEY, revision INTEGER NOT NULL, community_id TEXT NOT NULL, first_ns INTEGER NOT NULL,
        last_ns INTEGER NOT NULL, source BLOB NOT NULL, destination BLOB NOT NULL, source_port INTEGER,
        destination_port INTEGER, protocol INTEGER NOT NULL, packets INTEGER NOT NULL, bytes INTEGER NOT NULL,
        observations INTEGER NOT NULL, agents TEXT NOT NULL, sessions TEXT NOT NULL, aliases TEXT NOT NULL,
        names TEXT NOT NULL, lost_packets INTEGER, retransmissions INTEGER, details BLOB NOT NULL) STRICT""",
    "CREATE INDEX conversations_first ON conversations(first_ns, id)",
    "CREATE INDEX conversations_last ON conversations(last_ns)",
    """CREATE TABLE offsets(
        agent TEXT NOT NULL, at_ns INTEGER NOT NULL, anchor TEXT NOT NULL, estimate_ns INTEGER, low_ns INTEGER,
        high_ns INTEGER, drift_ppb REAL, origin TEXT NOT NULL, note TEXT NOT NULL,
        PRIMARY KEY(at_ns, agent)) STRICT, WITHOUT ROWID""",
)
_COLUMNS = (
    "id",
    "revision",
    "community_id",
    "first_ns",
    "last_ns",
    "source",
    "destination",
    "source_port",
    "destination_port",
    "protocol",
    "packets",
    "bytes",
    "observations",
    "agents",
    "sessions",
    "aliases",
    "names",
    "lost_packets",
    "retransmissions",
    "details",
)
_LISTS = ("agents", "sessions", "aliases", "names")
_OFFSET_COLUMNS = [
    "agent",
    "at_ns",
    "anchor",
    "estimate_ns",
    "low_ns",
    "high_ns",
    "drift_ppb",
    "origin",
    "note",
]


class Derived:
    """The file. sqlite3.Error when it can't be read or written."""

    def __init__(self, path: Path, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        """Open or make it (mode 0600). StoreRefused when a newer program wrote it.

        functions: of two arguments, that conditions use.
        """
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for name, function in (functions or {}).items():
            self._db.create_function(name, 2, function, deterministic=True)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise StoreRefused(f"{path} was written by a newer wirepool (schema {version}): run that version")
        if version == 0:
            self._db.execute("BEGIN")
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def put_conversations(self, rows: Sequence[ConversationRow]) -> None:
        """Keep or replace, the higher revision wins; in one transaction."""
        marks = ", ".join("?" * len(_COLUMNS))
        changes = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany(
                f"""INSERT INTO conversations VALUES({marks}) ON CONFLICT(id) DO UPDATE SET {changes}
                    WHERE excluded.revision >= revision""",
                [_packed(row) for row in rows],
            )

    def forget_conversations(self, ids: Sequence[str]) -> None:
        """In one transaction."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM conversations WHERE id = ?", [(one,) for one in ids])

    def conversations(
        self,
        condition: str,
        values: Sequence[Any],
        *,
        since_ns: int,
        until_ns: int,
        limit: int,
        after: str | None,
    ) -> ConversationPage:
        """Those that overlap the time and fit an SQL condition, the newest first."""
        before = ""
        cursor: list[Any] = []
        if after is not None:
            first_ns, _, id_ = after.partition("-")
            if not first_ns.isascii() or not first_ns.isdigit():
                raise StoreRefused("not a place to go on from")
            before, cursor = "AND (first_ns, id) < (?, ?)", [int(first_ns), id_]
        found = self._db.execute(
            f"""SELECT {", ".join(_COLUMNS)} FROM conversations
                WHERE first_ns < ? AND last_ns >= ? AND ({condition}) {before}
                ORDER BY first_ns DESC, id DESC LIMIT ?""",
            [until_ns, since_ns, *values, *cursor, limit + 1],
        ).fetchall()
        rows = [_unpacked(row) for row in found[:limit]]
        more = len(found) > limit
        return ConversationPage(rows, f"{rows[-1].first_ns}-{rows[-1].id}" if more else None)

    def conversation(self, id_: str) -> ConversationRow | None:
        """By its id."""
        row = self._db.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM conversations WHERE id = ?",
            (id_,),
        ).fetchone()
        return _unpacked(row) if row else None

    def put_offsets(self, rows: Sequence[OffsetRow]) -> None:
        """Keep or replace."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT OR REPLACE INTO offsets VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [tuple(getattr(row, name) for name in _OFFSET_COLUMNS) for row in rows],
            )

    def offsets(
        self, *, since_ns: int, until_ns: int, agents: Sequence[str] | None, limit: int
    ) -> list[OffsetRow]:
        """In order of time."""
        some = "" if agents is None else f"AND agent IN ({', '.join('?' * len(agents))})"
        rows = self._db.execute(
            f"""SELECT {", ".join(_OFFSET_COLUMNS)} FROM offsets WHERE at_ns >= ? AND at_ns < ? {some}
                ORDER BY at_ns, agent LIMIT ?""",
            [since_ns, until_ns, *(agents or ()), limit],
        )
        return [OffsetRow(*row) for row in rows]

    def delete_session(self, session: str) -> None:
        """Conversations that only this session saw; where others did, its name stays."""
        with self._db:
            self._db.execute("DELETE FROM conversations WHERE sessions = ?", (_joined([session]),))

    def delete_before(self, time_ns: int) -> None:
        """What was over by then."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM conversations WHERE last_ns < ?", (time_ns,))
            self._db.execute("DELETE FROM offsets WHERE at_ns < ?", (time_ns,))

    def size(self) -> tuple[int, int]:
        """(conversations, bytes of the file in use)."""
        (count,) = self._db.execute("SELECT count(*) FROM conversations").fetchone()
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (page_bytes,) = self._db.execute("PRAGMA page_size").fetchone()
        return int(count), (int(pages) - int(free)) * int(page_bytes)


def octets_of(address: str) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d; b"" for what is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return b""
    return parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed


def address_of(octets: bytes) -> str:
    """The reverse."""
    if len(octets) != 16:
        return ""
    return str(ipaddress.ip_address(octets[12:] if octets[:12] == bytes(10) + b"\xff\xff" else octets))


def _joined(entries: Sequence[str]) -> str:
    """With a newline around each, sorted: none of them has one (they are ids and printable names)."""
    return "\n" + "".join(f"{entry}\n" for entry in sorted(set(entries))) if entries else ""


def _packed(row: ConversationRow) -> tuple[Any, ...]:
    if len(row.details) > MAX_DETAILS_BYTES:
        raise StoreRefused(
            f"a conversation's details of {len(row.details)} bytes; {MAX_DETAILS_BYTES} are allowed"
        )
    packed = {name: getattr(row, name) for name in _COLUMNS}
    packed |= {name: _joined(packed[name]) for name in _LISTS}
    packed |= {name: octets_of(packed[name]) for name in ("source", "destination")}
    return tuple(packed.values())


def _unpacked(row: Sequence[Any]) -> ConversationRow:
    values = dict(zip(_COLUMNS, row, strict=True))
    values |= {name: tuple(values[name].split("\n")[1:-1]) for name in _LISTS}
    values |= {name: address_of(values[name]) for name in ("source", "destination")}
    return ConversationRow(**values)
