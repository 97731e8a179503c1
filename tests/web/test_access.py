"""Nobody gets in without a login, nothing changes without a token, and every answer carries the safety headers."""

import re
from pathlib import Path

import httpx
import pytest
from litestar.handlers import HTTPRouteHandler

from hub.web.app import create_litestar
from hub.web.auth import COOKIE
from hub.web.guard import HEADERS
from tests.web.site import Browser, site

PUBLIC = {
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/api/login"),
    ("GET", "/healthz"),
    ("GET", "/static/{file_path:path}"),
}
EXAMPLES = {
    "conversation:str": "0123456789abcdef-1",
    "id:str": "0123456789abcdef-1",
    "agent:str": "web1",
    "session_id:str": "a" * 26,
    "watch:str": "0" * 16,
    "file_path:path": "app.css",
}


async def test_every_route_refuses_a_stranger(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        seen = set()
        for route in create_litestar(page.hub).routes:
            for handler in getattr(route, "route_handlers", []):
                assert isinstance(handler, HTTPRouteHandler)
                for method in handler.http_methods - {"OPTIONS", "HEAD"}:
                    seen.add((str(method), route.path_format))
                    path = route.path_format
                    for name, value in EXAMPLES.items():
                        path = path.replace(f"{{{name}}}", value).replace(f"{{{name.split(':')[0]}}}", value)
                    assert "{" not in path, f"give {path} an example"
                    await _refused(client, str(method), path, public=_is_public(str(method), path))
        assert len(seen) > 25
        assert {("POST", "/login"), ("GET", "/agents"), ("GET", "/events/live")} <= seen


def _is_public(method: str, path: str) -> bool:
    return path.startswith("/static/") or (method, path) in PUBLIC


async def _refused(client: Browser, method: str, path: str, *, public: bool) -> None:
    as_browser = await client.http.request(method, path, headers={"accept": "text/html"})
    as_script = await client.http.request(method, path)
    if public:
        assert as_browser.status_code not in (303, 403), (method, path)
        return
    if method == "GET" and not path.startswith("/api/"):
        assert as_browser.status_code == 303, (method, path)
        assert as_browser.headers["location"].startswith("/login"), (method, path)
    else:
        assert as_browser.status_code in (401, 403), (method, path)
    assert as_script.status_code in (401, 403), (method, path)
    assert set(as_script.json()["error"]) == {"status", "message"}


async def test_unsafe_requests_need_the_token_and_the_same_site(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("web1")
        body = {"agent": "web1", "interface": "eth0"}
        for headers in (
            {},
            {"x-csrf-token": "wrong"},
            {"x-csrf-token": client.csrf, "origin": "https://evil.example"},
        ):
            answer = await client.http.post("/api/sessions", json=body, headers=headers)
            assert answer.status_code == 403
        foreign = {"x-csrf-token": client.csrf, "sec-fetch-site": "cross-site"}
        assert (await client.http.post("/api/sessions", json=body, headers=foreign)).status_code == 403
        assert page.hub.registry.sessions.all() == []
        same = {"x-csrf-token": client.csrf, "origin": page.url, "sec-fetch-site": "same-origin"}
        assert (await client.http.post("/api/sessions", json=body, headers=same)).status_code == 201
        assert len(page.hub.registry.sessions.all()) == 1


async def test_login_of_another_site_is_refused(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        form = {"name": "admin", "password": page.password}
        answer = await client.http.post("/login", data=form, headers={"origin": "https://evil.example"})
        assert answer.status_code == 403
        assert COOKIE not in answer.cookies


async def test_every_answer_carries_the_safety_headers(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        paths = ["/login", "/nothing-here", "/static/app.css", "/static/nothing.css", "/agents", "/healthz"]
        answers = [await client.get(path) for path in paths]
        await client.log_in()
        answers += [await client.get(path) for path in ["/agents", "/live", "/sessions", "/password"]]
        answers += [await client.http.post("/logout")]
        for answer in answers:
            for name, value in HEADERS.items():
                assert answer.headers[name] == value, answer.url
        assert "unsafe" not in HEADERS["content-security-policy"]


async def test_no_page_has_inline_code(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        texts = [(await client.get("/login")).text]
        await client.log_in()
        page.enrol("web1")
        paths = (
            "/agents",
            "/agents/web1",
            "/connect?host=x",
            "/live",
            "/sessions",
            "/password",
            "/nothing-here",
        )
        texts += [(await client.get(path)).text for path in paths]
        for text in texts:
            assert not re.search(r"<script(?![^>]*\bsrc=)", text)
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|\bhx-on", text)


async def test_the_cookie_is_locked_down(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        answer = await client.http.post("/login", data={"name": "admin", "password": page.password})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-")
        attributes = {part.strip().lower().partition("=")[0] for part in cookie.split(";")[1:]}
        assert {"secure", "httponly", "samesite", "path"} <= attributes
        assert "domain" not in attributes
        assert "samesite=strict" in cookie.lower()
        token = client.http.cookies[COOKIE]
        stored = page.hub.registry.connection.execute("SELECT * FROM web_sessions").fetchall()
        assert len(stored) == 1
        assert token not in str([tuple(row) for row in stored])


@pytest.mark.parametrize(
    "address", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
async def test_login_leads_to_this_hub_only(tmp_path: Path, address: str) -> None:
    async with site(tmp_path) as page, page.client() as client:
        form = {"name": "admin", "password": page.password, "next": address}
        answer = await client.http.post("/login", data=form)
        assert answer.headers["location"] in ("/agents", "/password")
        logged_in = await client.http.get("/login", params={"next": address})
        assert logged_in.headers["location"] == "/agents"


async def test_a_stranger_is_led_back_to_where_they_wanted(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        answer = await client.get("/live?session=" + "a" * 26)
        assert answer.headers["location"] == "/login?next=/live%3Fsession%3D" + "a" * 26


@pytest.mark.slow
async def test_who_tries_too_many_passwords_is_told_how_long_to_wait(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        answers: list[httpx.Response] = []
        while not answers or answers[-1].status_code == 401:
            assert len(answers) < 50
            answers.append(await client.http.post("/login", data={"name": "admin", "password": "wrong"}))
        assert answers[-1].status_code == 429
        assert all("init --reset-password" in answer.text for answer in answers)
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 3600
        assert "try again in" in answers[-1].text
        right = await client.http.post("/login", data={"name": "admin", "password": page.password})
        assert (right.status_code, "set-cookie" in right.headers) == (429, False)
