"""The payload policy as it is asked for: on the page and by the API, and never of an agent that would ignore it."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

from hub.agents.sessions import SessionControl
from hub.registry import Registry
from tests.web.fake_agent import CLOCK
from tests.web.site import site
from wire.payload import FULL, HEADERS, PayloadPolicy
from wire.report import CAN_CUT_PAYLOAD, Report, SessionReport
from wire.session import SessionSpec
from wire.strict_cbor import dumps_map

ABLE = Report(
    agent="web1",
    version="0.2.0",
    wire_version=1,
    hostname="web1",
    os="Debian",
    kernel="6.1",
    machine="x86_64",
    boot=bytes(16),
    started_ns=1,
    desired_revision=0,
    capture_path="af_packet+cbpf",
    capabilities=("ring", CAN_CUT_PAYLOAD),
    clock=CLOCK,
)
OLDER = replace(ABLE, version="0.1.0", capabilities=("ring",))
MASKED = PayloadPolicy("masked", 64, ((443, 443), (8000, 8100)))
FORM = {
    "agent": "web1",
    "interface.web1": "eth0",
    "snaplen": "96",
    "overflow": "stop",
    "payload_policy": "masked",
    "payload_keep_bytes": "64",
    "payload_ports_without": "443, 8000-8100",
}


def tell(registry: Registry, report: Report) -> None:
    registry.agents.save_report("web1", dumps_map(report.to_map()), 1)


async def test_the_form_asks_for_it_and_the_sessions_page_says_what_is_in_force(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("web1")
        registry = page.hub.registry
        unknown = await client.post("/live", FORM)
        assert "has not reported yet" in unknown.text
        tell(registry, OLDER)
        unable = await client.post("/live", FORM)
        assert "can&#39;t cut payload and would send whole packets: update it" in unable.text
        assert registry.sessions.all() == []
        tell(registry, ABLE)
        for changes, complaint in (
            ({"payload_keep_bytes": "", "payload_ports_without": ""}, "say how many bytes"),
            ({"payload_keep_bytes": "-1"}, "a whole number from 0 to 262144"),
            ({"payload_keep_bytes": "9" * 30}, "a whole number from 0 to 262144"),
            ({"payload_ports_without": "http"}, "write ports as 443, 8000-8100"),
            ({"payload_policy": "none"}, "choose one of the list"),
        ):
            answer = await client.post("/live", FORM | changes)
            assert answer.status_code == 422
            assert complaint in html.unescape(answer.text)
        assert (await client.post("/live", FORM)).status_code == 204
        (record,) = registry.sessions.all()
        assert record.spec is not None
        assert record.spec.payload == MASKED
        shown = (await client.get(f"/sessions/{record.id}")).text
        assert "payload: the first 64 bytes, none on ports 443, 8000-8100" in shown
        assert "in force on the host" not in shown
        said = SessionReport(id=record.id, state="running", payload=HEADERS, lanes={})
        page.hub.sessions.apply_report("web1", replace(ABLE, sessions=(said,)), 2)
        shown = (await client.get(f"/sessions/{record.id}")).text
        assert "(in force on the host: headers only)" in shown
        panel = (await client.get(f"/sessions/{record.id}/filter")).text
        assert 'value="443, 8000-8100"' in panel
        half = {"filter": "", "snaplen": "96", "payload_policy": "masked"}
        assert (await client.post(f"/sessions/{record.id}/filter", half)).status_code == 422
        lifted = {"filter": "", "snaplen": "96", "payload_policy": "full"}
        assert (await client.post(f"/sessions/{record.id}/filter", lifted)).status_code == 200
        changed = registry.sessions.require(record.id).spec
        assert changed is not None
        assert (changed.payload, changed.filter_revision) == (FULL, 2)


async def test_the_api_takes_and_changes_it(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("web1")
        body = {"agent": "web1", "interface": "eth0", "payload": {"policy": "headers"}}
        assert (await client.post_json("/api/sessions", body)).status_code == 409
        tell(page.hub.registry, ABLE)
        for wrong in (
            "headers",
            {"policy": "none"},
            {"policy": "masked"},
            {"policy": "full", "keep_bytes": 1},
        ):
            assert (await client.post_json("/api/sessions", body | {"payload": wrong})).status_code == 422
        session = (await client.post_json("/api/sessions", body)).json()["session"]
        assert (session["payload"], session["applied_payload"]) == ({"policy": "headers"}, None)
        path = f"/api/sessions/{session['id']}/filter"
        same = (await client.post_json(path, {"filter": ""})).json()["session"]
        assert (same["payload"], same["filter_revision"]) == ({"policy": "headers"}, 1)
        masked = {"policy": "masked", "keep_bytes": 0, "ports_without": [[80, 80]]}
        changed = (await client.post_json(path, {"filter": "", "payload": masked})).json()["session"]
        assert (changed["payload"], changed["filter_revision"]) == (masked, 2)


def test_an_agent_that_became_older_is_stopped(tmp_path: Path) -> None:
    """An older program ignores the key: nothing of that session may go on."""
    registry = Registry(tmp_path / "r.sqlite3")
    try:
        registry.agents.add("web1", user_public="U1", signing_public=bytes(32))
        tell(registry, ABLE)
        control = SessionControl(registry)
        masked = control.start("web1", "eth0", payload=MASKED, user="anna")
        whole = control.start("web1", "eth0", user="anna")
        told = tuple(SessionReport(id=one, state="running", lanes={}) for one in (masked, whole))
        control.apply_report("web1", replace(ABLE, sessions=told), 2)
        assert [_state(registry, one) for one in (masked, whole)] == ["running", "running"]
        assert control.apply_report("web1", replace(OLDER, sessions=told), 3) == [masked]
        assert [_state(registry, one) for one in (masked, whole)] == ["stopped", "running"]
    finally:
        registry.close()


def _state(registry: Registry, session: str) -> str:
    spec = registry.sessions.require(session).spec
    assert spec is not None
    return spec.state


def test_the_order_as_it_travels() -> None:
    spec = SessionSpec(id="a" * 26, interface="eth0", payload=MASKED)
    assert SessionSpec.from_map(spec.to_map()) == spec
    assert "payload" not in replace(spec, payload=FULL).to_map()  # an order an older agent knows whole
