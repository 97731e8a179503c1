"""Logins: who gets in, how guessing is slowed, and what a password must be."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.registry import Registry
from hub.web import auth
from hub.web.auth import Authentication, LoginBrake, PasswordRefused, TooManyLogins, check_new_password
from tests.web.site import site

ADDRESS = "192.0.2.7"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with contextlib.closing(Registry(tmp_path / "registry.sqlite3")) as registry:
        yield registry


async def test_the_first_user_is_made_once(registry: Registry) -> None:
    password = auth.ensure_first_user(registry)
    assert password is not None
    assert auth.ensure_first_user(registry) is None
    login = await Authentication(registry).log_in("admin", password, ADDRESS)
    assert login is not None
    assert login.user.must_change
    stored = registry.users.all()[0].password_hash
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert password not in stored


async def test_wrong_names_and_passwords_are_refused_alike(registry: Registry) -> None:
    password = auth.ensure_first_user(registry)
    assert password is not None
    authentication = Authentication(registry)
    for name, given_password in (
        ("admin", "wrong"),
        ("nobody", password),
        ("", ""),
        ("x" * 5000, "y" * 5000),
    ):
        assert await authentication.log_in(name, given_password, ADDRESS) is None
    assert registry.connection.execute("SELECT count(*) FROM web_sessions").fetchone()[0] == 0


async def test_an_unknown_name_costs_a_hash_as_well(registry: Registry) -> None:
    auth.ensure_first_user(registry)
    authentication = Authentication(registry)
    verified: list[str] = []
    hasher = authentication._hasher

    class Counting:
        def verify(self, stored: str, password: str) -> bool:
            verified.append(stored)
            return hasher.verify(stored, password)

    authentication._hasher = Counting()  # type: ignore[assignment]
    await authentication.log_in("nobody", "guess", ADDRESS)
    await authentication.log_in("admin", "guess", ADDRESS)
    assert len(verified) == 2
    assert {stored.split("$")[3] for stored in verified} == {"m=65536,t=3,p=1"}


async def test_guessing_is_slowed_and_others_are_not(registry: Registry) -> None:
    password = auth.ensure_first_user(registry)
    assert password is not None
    authentication = Authentication(registry)
    for _ in range(10):
        assert await authentication.log_in("admin", "guess", ADDRESS) is None
    with pytest.raises(TooManyLogins) as slowed:
        await authentication.log_in("admin", password, ADDRESS)
    assert 0 < slowed.value.retry_after_s <= 30
    assert await authentication.log_in("admin", password, "198.51.100.9") is not None


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 100)), max_size=300))
def test_the_brake_is_bounded_and_never_waits_longer_than_it_says(attempts: list[tuple[int, float]]) -> None:
    brake = LoginBrake(burst=3, refill_s=10.0, max_keys=50)
    now_s = 0.0
    for key, later_s in attempts:
        now_s += later_s
        wait_s = brake.wait_s(str(key), now_s)
        assert 0 <= wait_s <= 10.0
        if wait_s == 0:
            brake.take(str(key), now_s)
        elif wait_s > 0:
            assert brake.wait_s(str(key), now_s + wait_s + 1e-6) == 0
        assert len(brake) <= 50


async def test_sessions_expire_idle_and_for_good(registry: Registry) -> None:
    auth.ensure_first_user(registry)
    user = registry.users.all()[0]
    idle = Authentication(registry, idle_s=60, lifetime_s=3600)
    token = idle.open_session(user).token
    session = idle.session_of(token)
    assert session is not None
    assert session.expires_ns <= time.time_ns() + 60 * auth.NS
    # An hour ago it began, two minutes ago it was last seen: the next request may not extend it beyond its life.
    now_ns = time.time_ns()
    with registry.transaction() as db:
        db.execute(
            "UPDATE web_sessions SET created_ns = ?, seen_ns = ?",
            (now_ns - 3590 * auth.NS, now_ns - 120 * auth.NS),
        )
    assert idle.session_of(token) is not None
    extended = idle.session_of(token)
    assert extended is not None
    assert extended.expires_ns <= now_ns + 10 * auth.NS
    with registry.transaction() as db:
        db.execute("UPDATE web_sessions SET expires_ns = ?", (now_ns - 1,))
    assert idle.session_of(token) is None
    assert not idle.is_open(session)


@pytest.mark.parametrize("token", ["", "short", "x" * 5000, "\ud800" * 30, "ä" * 43])
def test_odd_cookies_are_no_session(registry: Registry, token: str) -> None:
    assert Authentication(registry).session_of(token) is None


@pytest.mark.parametrize("new", ["short", "a" * 20, "admin-admin-admin", "old password 1", "x" * 2000])
def test_bad_new_passwords_are_refused(new: str) -> None:
    with pytest.raises(PasswordRefused):
        check_new_password("admin", "old password 1", new)


async def test_changing_the_password_ends_every_other_login(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as other, page.client() as client:
        await other.log_in()
        await client.log_in()
        form = {
            "csrf": client.csrf,
            "old": page.password,
            "new": "five green bottles",
            "again": "five green bottles",
        }
        assert (await client.http.post("/password", data=form | {"old": "wrong"})).status_code == 422
        assert (await client.http.post("/password", data=form | {"again": "other"})).status_code == 422
        assert (await client.http.post("/password", data=form)).status_code == 303
        assert (await client.get("/agents")).status_code == 200
        assert (await other.get("/agents")).status_code == 303
        assert (
            await other.http.post("/login", data={"name": "admin", "password": page.password})
        ).status_code == 401
        await other.log_in("five green bottles")


async def test_logging_out_ends_the_session_on_the_server(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        cookies = dict(client.http.cookies)
        assert (await client.http.post("/logout", data={"csrf": client.csrf})).status_code == 303
        client.http.cookies.clear()
        client.http.cookies.update(cookies)
        assert (await client.get("/agents")).status_code == 303


async def test_the_generated_password_opens_nothing_but_its_own_change(tmp_path: Path) -> None:
    async with site(tmp_path, first_login=True) as page, page.client() as client:
        answer = await client.http.post("/login", data={"name": "admin", "password": page.password})
        assert answer.headers["location"] == "/password"
        await client.log_in()
        for path in ("/agents", "/live", "/sessions"):
            assert (await client.get(path)).headers["location"] == "/password"
        assert (await client.http.get("/events/agents")).status_code == 403
        assert (await client.post_json("/api/sessions", {})).status_code == 403
        assert "must-change" in (await client.get("/password")).text
        form = {
            "csrf": client.csrf,
            "old": page.password,
            "new": "five green bottles",
            "again": "five green bottles",
        }
        assert (await client.http.post("/password", data=form)).status_code == 303
        assert (await client.get("/agents")).status_code == 200
