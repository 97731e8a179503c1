"""Whatever goes wrong below /api, the answer is of one shape, and says what is wrong."""

from pathlib import Path

import httpx
import pytest

from hub.http import request_limits
from tests.web.site import site


def _message(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    assert list(content) == ["error"]
    assert set(content["error"]) == {"status", "message"}
    assert content["error"]["status"] == status
    return str(content["error"]["message"])


@pytest.mark.slow
async def test_every_error_has_one_shape(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        ask, nobody = client.http, client.http
        _message(await nobody.get("/api/agents"), 401)
        _message(await nobody.post("/api/login", json={"name": "admin", "password": "wrong"}), 401)
        await client.log_in()
        page.enrol("web1")
        token = {"x-csrf-token": client.csrf, "content-type": "application/json"}
        _message(await ask.post("/api/sessions", json={}), 403)
        _message(await ask.get("/api/no-such-thing", headers={"accept": "text/html"}), 404)
        _message(await ask.get("/api/agents/unknown"), 404)
        wrong_way = await ask.put("/api/agents", headers=token)
        _message(wrong_way, 405)
        assert "GET" in wrong_way.headers["allow"]
        large = await ask.post("/api/sessions", headers=token, content=b"x" * 300_000)
        assert "256 KiB" in _message(large, 413)
        _message(await ask.post("/api/sessions", headers=token, content=b"{"), 400)
        for body, word in (
            ([], "object"),
            ({"agent": "web1"}, "interface"),
            ({"agent": "web1", "interface": "eth0", "fitler": "udp"}, "fitler"),
            ({"agent": "web1", "interface": "eth0", "snaplen": 0}, "snaplen"),
            ({"agent": "web1", "interface": "eth0", "snaplen": "many"}, "snaplen"),
            ({"agent": "web1", "interface": "eth0", "payload": {"policy": "masked"}}, "payload"),
            ({"agent": "web1", "interface": "eth0", "priority": "nonsense"}, "nonsense"),
            ({"agent": "UPPER", "interface": "eth0"}, "UPPER"),
        ):
            assert word in _message(await ask.post("/api/sessions", headers=token, json=body), 422)
        started = await ask.post("/api/sessions", headers=token, json={"agent": "web1", "interface": "eth0"})
        session = started.json()["session"]["id"]
        assert "stop it first" in _message(
            await ask.post(f"/api/sessions/{session}/delete", headers=token), 409
        )
        _message(await ask.post("/api/agents/web1/ping", headers=token), 502)


@pytest.mark.slow
async def test_too_many_requests_and_a_mistake_of_ours_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        monkeypatch.setattr(request_limits, "MAX_REQUESTS", 0)
        _message(await client.http.get("/api/agents"), 503)
        monkeypatch.undo()
        page.hub.presence = None  # type: ignore[assignment]
        _message(await client.http.get("/api/agents"), 500)


@pytest.mark.slow
async def test_a_login_by_the_api_and_a_new_password(tmp_path: Path) -> None:
    async with site(tmp_path, first_login=True) as page, page.client() as client:
        order = {"name": "admin", "password": page.password}
        login = (await client.http.post("/api/login", json=order)).json()
        assert login["must_change_password"] is True
        token = {"x-csrf-token": login["csrf"]}
        assert "choose your own password" in _message(await client.http.get("/api/agents"), 403)
        short = await client.http.post(
            "/api/password", json={"old": page.password, "new": "x"}, headers=token
        )
        _message(short, 422)
        new = {"old": page.password, "new": "a few words in a row"}
        changed = (await client.http.post("/api/password", json=new, headers=token)).json()
        assert changed["must_change_password"] is False
        assert (await client.http.get("/api/agents")).status_code == 200
        token = {"x-csrf-token": changed["csrf"]}
        assert (await client.http.post("/api/logout", headers=token)).status_code == 204
        _message(await client.http.get("/api/agents"), 401)
