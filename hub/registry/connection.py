"""Opening the registry's file: a connection per thread, transactions, and the change number.

sqlite3 connections belong to the thread that uses them; a connection per thread costs a file handle and
saves a lock around every query. Writers wait for each other in SQLite (`busy_timeout`), with transactions
begun IMMEDIATE so that a reader never has to upgrade and fail.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hub.registry.errors import RegistryError
from hub.registry.schema import migrate

BUSY_TIMEOUT_MS = 10_000
"""How long a writer waits for another process before `RegistryError`."""


class Database:
    """The file; `Registry` adds the tables' methods."""

    def __init__(self, path: Path | str) -> None:
        """Open or create the file at `path`; RegistryError when it can't be, or is newer than this program."""
        self.path = Path(path)
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        try:
            # Created by us with 0600 first: sqlite3 would follow the umask, and the file holds password hashes.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            migrate(self.connection)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise RegistryError(f"cannot open the registry {self.path}: {error}") from error
        except RegistryError:
            self.close()
            raise

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection (autocommit; rows are sqlite3.Row)."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            if self._closed:
                raise RegistryError("the registry is closed")
            connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
            )
            with self._lock:
                self._all.append(connection)  # first of all: what follows fails on a file that is no database
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            self._local.connection = connection
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction on this thread's connection; commits at the end, rolls back on any exception.

        Nested use joins the outer transaction. sqlite3.Error from the disk comes through as it is.
        """
        connection = self.connection
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def configuration_version(self) -> int:
        """A number that grows with every change agents must hear of, whichever process made it."""
        (version,) = self.connection.execute("SELECT version FROM configuration").fetchone()
        return int(version)

    def data_version(self) -> int:
        """Changes when another connection (thread or process) has written; costs no disk access."""
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a lasting counter (its name is a metric's name)."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO counters VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET value = value + excluded.value",
                (name, by),
            )

    def counters(self) -> dict[str, int]:
        """All lasting counters."""
        return {
            row["name"]: row["value"] for row in self.connection.execute("SELECT name, value FROM counters")
        }

    def close(self) -> None:
        """Close every thread's connection. No other thread may be inside a call."""
        self._closed = True
        with self._lock:
            connections, self._all = self._all, []
        for connection in connections:
            connection.close()
        self._local = threading.local()
