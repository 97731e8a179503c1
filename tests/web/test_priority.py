"""Priority rules as they are asked for and changed: on the page and by the API, never of an agent that has no lane."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

from tests.web.site import site
from tests.web.test_payload import OLDER, tell
from wire.priority import parse
from wire.report import CAN_PRIORITISE

ABLE = replace(OLDER, version="0.2.0", capabilities=("ring", CAN_PRIORITISE))
FORM = {"agent": "web1", "interface.web1": "eth0", "snaplen": "96", "priority": "10.1.2.3/8,\r\nport 53"}


async def test_the_form_asks_for_it_and_the_panel_changes_it(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("web1")
        registry = page.hub.registry
        tell(registry, OLDER)
        unable = await client.post("/live", FORM)
        assert "has no priority lane: that needs eBPF" in html.unescape(unable.text)
        tell(registry, ABLE)
        wrong = await client.post("/live", FORM | {"priority": "10.0.0.1, <b>"})
        assert wrong.status_code == 422
        assert "'<b>' is no address, network or port" in html.unescape(wrong.text)
        assert "<b>" not in wrong.text
        assert registry.sessions.all() == []
        assert (await client.post("/live", FORM)).status_code == 204
        (record,) = registry.sessions.all()
        assert record.spec is not None
        assert record.spec.priority == parse("10.0.0.0/8, port 53")
        assert "10.0.0.0/8, port 53" in (await client.get(f"/sessions/{record.id}")).text
        panel = (await client.get(f"/sessions/{record.id}/filter")).text
        assert ">10.0.0.0/8, port 53</textarea>" in panel
        change = {"filter": "", "snaplen": "96"}
        refused = await client.post(f"/sessions/{record.id}/filter", change | {"priority": "port 0"})
        assert refused.status_code == 422
        assert "ports go from 1 to 65535" in refused.text
        for more, rules in (
            ({"priority": "2001:db8::1"}, "2001:db8::1"),
            ({}, "2001:db8::1"),
            ({"priority": ""}, ""),
        ):
            assert (await client.post(f"/sessions/{record.id}/filter", change | more)).status_code == 200
            changed = registry.sessions.require(record.id).spec
            assert changed is not None
            assert (changed.priority.text, changed.filter_revision) == (rules, 1)


async def test_the_api_takes_and_changes_it(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("web1")
        body = {"agent": "web1", "interface": "eth0", "priority": "port 53"}
        assert (await client.post_json("/api/sessions", body | {"priority": "no"})).status_code == 422
        session = (await client.post_json("/api/sessions", body)).json()["session"]
        assert session["priority"] == "port 53"
        path = f"/api/sessions/{session['id']}/filter"
        changed = (await client.post_json(path, {"filter": "", "priority": "10.0.0.1"})).json()["session"]
        assert (changed["priority"], changed["filter_revision"]) == ("10.0.0.1", 1)
