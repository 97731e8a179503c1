"""The registry alone: files, versions, users, agents, bounds."""

import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.registry import ConflictError, Registry, RegistryError, UnknownError, quarantine, users
from hub.registry.schema import STEPS


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(tmp_path / "wirepool.sqlite3")
    yield opened
    opened.close()


def test_private_file_in_wal_mode_with_strict_tables(registry: Registry) -> None:
    assert stat.S_IMODE(registry.path.stat().st_mode) == 0o600
    (mode,) = registry.connection.execute("PRAGMA journal_mode").fetchone()
    assert mode == "wal"
    loose = registry.connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND strict = 0 "
        "AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    assert loose == []


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite3"
    Registry(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    connection.close()
    with pytest.raises(RegistryError, match="newer wirepool"):
        Registry(path)
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(RegistryError, match="cannot open"):
        Registry(tmp_path / "text")


def test_a_migration_that_fails_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.sqlite3"
    Registry(path).close()
    broken = (*STEPS, ("CREATE TABLE extra(a INTEGER) STRICT", "SELECT nonsense"))
    monkeypatch.setattr("hub.registry.schema.STEPS", broken)
    with pytest.raises(RegistryError):
        Registry(path)
    monkeypatch.setattr("hub.registry.schema.STEPS", STEPS)
    registry = Registry(path)
    assert registry.connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'extra'").fetchone() is None
    registry.close()


def test_users_and_their_sessions(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.users.add("anna", "hash", must_change=True)
    with pytest.raises(ConflictError):
        registry.users.add("anna", "other")
    anna = registry.users.get("anna")
    assert anna is not None
    assert anna.must_change
    monkeypatch.setattr(users, "MAX_WEB_SESSIONS_PER_USER", 3)
    for number in range(5):
        registry.users.open_web_session(bytes([number]), "anna", "csrf", 2**62)
    (kept,) = registry.connection.execute("SELECT count(*) FROM web_sessions").fetchone()
    assert kept == 3
    assert registry.users.web_session(b"\x04") is not None
    assert registry.users.web_session(b"\x04", now_ns=2**62) is None, "expired"
    registry.users.set_password("anna", "new")
    assert registry.users.web_session(b"\x04") is None, "a new password logs out everywhere"
    for _ in range(3):
        registry.users.record_login("anna", succeeded=False)
    assert registry.users.failed_logins("anna", 0) == 3
    registry.users.record_login("anna", succeeded=True)
    assert registry.users.failed_logins("anna", 0) == 0
    registry.users.remove("anna")
    with pytest.raises(UnknownError):
        registry.users.remove("anna")


def test_login_attempts_are_bounded(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MAX_LOGIN_ATTEMPTS", 20)
    for number in range(50):
        registry.users.record_login(f"name{number}", succeeded=False)
    (rows,) = registry.connection.execute("SELECT count(*) FROM login_attempts").fetchone()
    assert rows == 20


def test_agents_keys_and_history(registry: Registry) -> None:
    registry.agents.add("web1", user_public="U1", signing_public=b"1" * 32, certificate=b"c1")
    with pytest.raises(ConflictError):
        registry.agents.add("web2", user_public="U1", signing_public=b"2" * 32)
    with pytest.raises(ConflictError):
        registry.agents.add("web1", user_public="U3", signing_public=b"2" * 32)
    registry.agents.rekey("web1", user_public="U2", signing_public=b"2" * 32)
    keys = registry.agents.keys("web1")
    assert [key.signing_public[:1] for key in keys] == [b"2", b"1"]
    assert keys[0].not_after_ns is None
    assert keys[1].not_after_ns is not None
    assert registry.agents.require("web1").user_public == "U2"
    with pytest.raises(UnknownError, match="wirepool enroll"):
        registry.agents.require("web9")


def test_quarantine_is_bounded_and_keeps_count(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MAX_ROWS", 10)

    def add(sequence: int) -> bool:
        return registry.quarantine.add(
            received_ns=1,
            stream="CAPTURE",
            sequence=sequence,
            subject="s" * 1000,
            agent="a" * 1000,
            session="",
            reason="r" * 5000,
            message=b"m" * 100_000,
            deliveries=1,
        )

    assert add(0)
    assert not add(0), "the same message again"
    for sequence in range(1, 40):
        add(sequence)
    entries = registry.quarantine.all()
    assert len(entries) == 10
    assert len(entries[0].opening) == quarantine.OPENING_BYTES
    assert len(entries[0].reason) == quarantine.MAX_TEXT
    assert entries[0].size == 100_000
    assert registry.counters()["quarantined"] == 40


def test_threads_write_side_by_side(registry: Registry) -> None:
    def work() -> None:
        for _ in range(20):
            registry.count("things")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.counters()["things"] == 80
