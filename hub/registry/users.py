"""Page users, their web sessions and the login attempts that slow guessing down."""

import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.registry.errors import ConflictError, UnknownError

if TYPE_CHECKING:
    from hub.registry.connection import Database

MAX_LOGIN_ATTEMPTS = 10_000
"""Rows kept of login attempts; the oldest go first, so that a flood of names can't fill the disk."""
MAX_WEB_SESSIONS_PER_USER = 50


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A page user."""

    name: str
    password_hash: str
    """Argon2id in its PHC string form; made and checked by hub.web.auth."""
    must_change: bool
    """The password was generated (first start) and is to be replaced at the next login."""
    created_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class WebSession:
    """A logged-in browser. Only the hash of its token is kept."""

    token_hash: bytes
    user: str
    csrf: str
    created_ns: int
    seen_ns: int
    expires_ns: int


class Users:
    """Queries on users, web_sessions and login_attempts."""

    def __init__(self, database: "Database") -> None:
        self._db = database

    def add(self, name: str, password_hash: str, *, must_change: bool = False) -> None:
        """Add a user; ConflictError when the name is taken."""
        now_ns = time.time_ns()
        try:
            with self._db.transaction() as db:
                db.execute(
                    "INSERT INTO users VALUES(?, ?, ?, ?, ?)",
                    (name, password_hash, must_change, now_ns, now_ns),
                )
        except sqlite3.IntegrityError:
            raise ConflictError(f"there is already a user {name!r}") from None

    def get(self, name: str) -> UserRecord | None:
        """The user, or None."""
        row = self._db.connection.execute("SELECT * FROM users WHERE name = ?", (name,)).fetchone()
        return _user(row) if row else None

    def all(self) -> list[UserRecord]:
        """Every user by name."""
        return [_user(row) for row in self._db.connection.execute("SELECT * FROM users ORDER BY name")]

    def set_password(self, name: str, password_hash: str, *, must_change: bool = False) -> None:
        """Replace the hash and log the user out everywhere; UnknownError without such a user."""
        with self._db.transaction() as db:
            changed = db.execute(
                "UPDATE users SET password_hash = ?, must_change = ?, changed_ns = ? WHERE name = ?",
                (password_hash, must_change, time.time_ns(), name),
            )
            if changed.rowcount == 0:
                raise UnknownError(f"there is no user {name!r}")
            db.execute("DELETE FROM web_sessions WHERE user = ?", (name,))

    def rehash_password(self, name: str, password_hash: str) -> None:
        """Keep a stronger hash of the same password (parameters were raised); nobody is logged out."""
        with self._db.transaction() as db:
            db.execute("UPDATE users SET password_hash = ? WHERE name = ?", (password_hash, name))

    def remove(self, name: str) -> None:
        """Remove a user and the user's web sessions; UnknownError without such a user."""
        with self._db.transaction() as db:
            if db.execute("DELETE FROM users WHERE name = ?", (name,)).rowcount == 0:
                raise UnknownError(f"there is no user {name!r}")

    def open_web_session(self, token_hash: bytes, user: str, csrf: str, expires_ns: int) -> None:
        """Remember a login. The user's oldest sessions beyond MAX_WEB_SESSIONS_PER_USER end."""
        now_ns = time.time_ns()
        with self._db.transaction() as db:
            db.execute(
                "INSERT INTO web_sessions VALUES(?, ?, ?, ?, ?, ?)",
                (token_hash, user, csrf, now_ns, now_ns, expires_ns),
            )
            db.execute("DELETE FROM web_sessions WHERE expires_ns <= ?", (now_ns,))
            db.execute(
                """DELETE FROM web_sessions WHERE user = ?1 AND token_hash NOT IN
                   (SELECT token_hash FROM web_sessions WHERE user = ?1 ORDER BY seen_ns DESC LIMIT ?2)""",
                (user, MAX_WEB_SESSIONS_PER_USER),
            )

    def web_session(self, token_hash: bytes, *, now_ns: int | None = None) -> WebSession | None:
        """The session of this token hash unless it is unknown or expired."""
        row = self._db.connection.execute(
            "SELECT * FROM web_sessions WHERE token_hash = ? AND expires_ns > ?",
            (token_hash, time.time_ns() if now_ns is None else now_ns),
        ).fetchone()
        return WebSession(**dict(row)) if row else None

    def touch_web_session(self, token_hash: bytes, expires_ns: int) -> None:
        """Extend a session that is in use (call it at most once a minute: it is a write)."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE web_sessions SET seen_ns = ?, expires_ns = ? WHERE token_hash = ?",
                (time.time_ns(), expires_ns, token_hash),
            )

    def close_web_session(self, token_hash: bytes) -> None:
        """Log out; an unknown token is no error."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM web_sessions WHERE token_hash = ?", (token_hash,))

    def record_login(self, key: str, *, succeeded: bool) -> None:
        """Note an attempt under `key` (a name or an address). A success clears the key's failures."""
        with self._db.transaction() as db:
            if succeeded:
                db.execute("DELETE FROM login_attempts WHERE key = ?", (key,))
            db.execute(
                "INSERT INTO login_attempts(key, at_ns, succeeded) VALUES(?, ?, ?)",
                (key[:200], time.time_ns(), succeeded),
            )
            db.execute(
                "DELETE FROM login_attempts WHERE id <= (SELECT max(id) FROM login_attempts) - ?",
                (MAX_LOGIN_ATTEMPTS,),
            )

    def failed_logins(self, key: str, since_ns: int) -> int:
        """Failures under `key` after `since_ns`."""
        (failures,) = self._db.connection.execute(
            "SELECT count(*) FROM login_attempts WHERE key = ? AND at_ns > ? AND succeeded = 0",
            (key[:200], since_ns),
        ).fetchone()
        return int(failures)


def _user(row: sqlite3.Row) -> UserRecord:
    return UserRecord(
        row["name"], row["password_hash"], bool(row["must_change"]), row["created_ns"], row["changed_ns"]
    )
