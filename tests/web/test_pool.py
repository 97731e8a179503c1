"""The pool on a session's page and in the API, in the whole hub."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from hub.backbone.state import StateDir
from hub.config import HubSettings
from hub.web.running import Hub
from tests.hub.agent_side import enrolled, udp_packet
from tests.support.nats_backbone import backbone
from tests.web.site import Browser, site


@asynccontextmanager
async def logged_in(
    directory: Path, state: StateDir, settings: HubSettings | None = None
) -> AsyncIterator[tuple[Hub, Browser]]:
    async with site(directory, state=state, settings=settings) as page, page.client() as browser:
        await browser.log_in()
        yield page.hub, browser


async def _until(page: Browser, path: str, **wanted: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(20):
            while True:
                found = (await page.http.get(path)).json()
                if all(found.get(name) == value for name, value in wanted.items()):
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"{path} stays {found}, wanted {wanted}")


@pytest.mark.slow
async def test_a_session_is_pooled_as_its_level_says_and_analysed_later(tmp_path: Path) -> None:
    async with backbone(tmp_path) as server, logged_in(tmp_path, server.state) as (hub, page):
        agent = await enrolled(server, hub.registry, "web1")
        hub.registry.sessions.observe(agent.session, "web1", "", 1)
        here = f"/sessions/{agent.session}"
        answer = await page.post(f"{here}/pooling", {"pooling": "conversations"})
        assert answer.status_code == 200
        assert '<option value="conversations" selected>' in answer.text
        await agent.publish(agent.packets([udp_packet(i) for i in range(20)]))
        await _until(page, f"/api{here}/pool", archived=20, left_out=20, pooled=0, behind=0)
        assert (await page.post_json(f"/api{here}/pooling", {"pooling": "everything"})).status_code == 422
        assert (await page.post_json(f"/api{here}/pooling", {"pooling": "headers"})).json()[
            "pooling"
        ] == "headers"
        await agent.publish(agent.packets([udp_packet(i) for i in range(5)]))
        await _until(page, f"/api{here}/pool", archived=25, left_out=20, pooled=5)
        assert (await page.post_json(f"/api{here}/analyze", {"target": "nowhere"})).status_code == 404
        assert (await page.post(f"{here}/analyze")).status_code == 200
        found = await _until(page, f"/api{here}/pool", behind=0)
        while found["analysis"]["state"] != "done":
            found = await _until(page, f"/api{here}/pool", behind=0)
        assert found["analysis"]["packets"] == 25
        numbers = await _until(page, "/api/pool", ready=True, packets=25, pooled=5, left_out=20, refused=0)
        assert numbers["store"] == "embedded"
        html = (await page.get(here)).text
        assert "Analysed into embedded: 25 packets" in html
        address = re.search(r'href="(/explore[^"]+)" data-testid="explore-session"', html)
        assert address is not None
        looked = await page.get(unescape(address[1]))
        assert looked.text.count("data-observation=") == 25
        hub.registry.sessions.end(agent.session, time.time_ns())
        assert (await page.post(f"{here}/delete")).status_code == 204
        looked = await page.get(unescape(address[1]))
        assert "data-observation=" not in looked.text, "what was deleted can't be found any more"
        assert "explore-session" not in (await page.get(here)).text
        assert (await page.http.get("/healthz")).json()["parts"]["pool"] == "ok"


@pytest.mark.slow
async def test_a_hub_without_a_pool_holds_nothing_back(tmp_path: Path) -> None:
    settings = HubSettings(pool_store="off", pooling="headers")
    async with backbone(tmp_path) as server, logged_in(tmp_path, server.state, settings) as (hub, page):
        agent = await enrolled(server, hub.registry, "web1")
        hub.registry.sessions.observe(agent.session, "web1", "", 1)
        assert (await page.http.get("/api/pool")).json()["store"] == "off"
        assert "switched off" in (await page.get(f"/sessions/{agent.session}")).text
        assert (await page.post(f"/sessions/{agent.session}/analyze")).status_code == 503
