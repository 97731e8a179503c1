"""Agents and sessions by the API: found, switched off and on, tested, called something, looked up page by page."""

from pathlib import Path

import pytest

from tests.web.test_live import stage, start

pytestmark = pytest.mark.slow


async def test_an_agent_is_found_tested_and_switched_off_and_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, _):
        ask = client.http
        found = (await ask.get("/api/find-agent", params={"host": "10.0.0.7"})).json()
        assert [match["agent"] for match in found["matches"]] == ["web1"]
        assert (await ask.get("/api/find-agent", params={"host": "192.0.2.1"})).json()["matches"] == []
        steps = (await client.post_json("/api/agents/web1/test", {})).json()["steps"]
        assert {step["name"]: step["state"] for step in steps}["agent"] == "ok"
        session = await start(client, name="before the switch")
        off = (await client.post_json("/api/agents/web1/disable", {"reason": "its disk is full"})).json()
        assert "its disk is full" in off["agent"]["disabled"]
        refused = await client.post_json("/api/sessions", {"agent": "web1", "interface": "eth0"})
        assert refused.status_code == 409
        assert (await client.post_json("/api/agents/web1/disable", {})).status_code == 409
        assert (await ask.get(f"/api/sessions/{session}")).json()["session"]["wanted"] == "stopped"
        on = (await client.post_json("/api/agents/web1/enable", {})).json()
        assert on["agent"]["disabled"] == ""
        await start(client)


async def test_sessions_have_names_revisions_and_pages(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, _):
        sessions = [await start(client, filter="udp", name=f"number {number}") for number in range(3)]
        renamed = await client.post_json(f"/api/sessions/{sessions[1]}/name", {"name": "the slow one"})
        assert renamed.json()["session"]["name"] == "the slow one"
        await client.post_json(f"/api/sessions/{sessions[1]}/filter", {"filter": "tcp"})
        filters = (await client.http.get(f"/api/sessions/{sessions[1]}/filters")).json()["filters"]
        assert [(one["revision"], one["filter"]) for one in filters] == [(1, "udp"), (2, "tcp")]
        found = (await client.http.get("/api/sessions", params={"q": "slow", "agent": "web1"})).json()
        assert [one["id"] for one in found["sessions"]] == [sessions[1]]
        assert found["more"] is False
        second = (await client.http.get("/api/sessions", params={"page": 2})).json()
        assert second == {"sessions": [], "more": False}
