"""Templates treat every text as hostile; errors have one shape; numbers read well."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.decode.summary import Row
from hub.web import pages
from hub.web.live_rows import rows_json
from hub.web.pages import TEMPLATES, visible
from tests.support.nats_backbone import until
from tests.web.site import site

HOSTILE = "\u202e<script>alert(1)</script>\"'\x00\x1b[31m\u2066&amp;" + "x" * 300


@given(st.text())
def test_no_invisible_character_survives(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    shown.encode()  # lone surrogates would fail here
    unseen = "\u202a\u202e\u2066\u2069\u200b\u200f\ufeff\x00\x1b\x7f\x85\u2028"
    assert not any(character in shown for character in unseen)


def test_every_text_in_a_template_is_escaped_and_made_visible(tmp_path: Path) -> None:
    env = pages.environment()
    for template in (
        "{{ x }}",
        '<a title="{{ x }}">',
        "{{ x | upper }}",
        "{{ x ~ 'y' }}",
        "{{ [x] | join }}",
    ):
        shown = env.from_string(template).render(x=HOSTILE)
        assert "<script" not in shown.lower()
        assert "\u202e" not in shown
        assert "\x00" not in shown
        assert "⟨202E⟩" in shown


def test_a_missing_name_is_an_error_and_every_template_compiles() -> None:
    env = pages.environment()
    with pytest.raises(Exception, match="undefined"):
        env.from_string("{{ nothing }}").render()
    names = [str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*.html")]
    assert len(names) > 15
    for name in names:
        env.get_template(name)
        assert "|safe" not in (TEMPLATES / name).read_text().replace(" ", "")


def test_hostile_texts_of_a_packet_stay_text() -> None:
    name = f"web1/{'0' * 32}/{'a' * 26}/bulk/0/0"
    row = Row(1, "web1", "a" * 26, HOSTILE, HOSTILE, HOSTILE, "UDP", 60, HOSTILE, "udp", (HOSTILE,), name)
    text = rows_json([row])
    assert "\u202e" not in text
    assert len(text.splitlines()) == 1, "an event of one line"
    assert len(json.loads(text)["rows"][0]) == 12


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (pages.count(1234567), "1\u202f234\u202f567"),
        (pages.count(None), "not counted"),
        (pages.size(0), "0 B"),
        (pages.size(999), "999 B"),
        (pages.size(1_234_567), "1.23 MB"),
        (pages.rate(1240.0, "bit/s"), "1.24 kbit/s"),
        (pages.rate(0.5), "0.5"),
        (pages.duration(0.0123), "12 ms"),
        (pages.duration(75), "1 min 15 s"),
        (pages.duration(90061), "1 d 1 h"),
        (pages.offset(-12345), "-12.3 µs"),
        (pages.utc(1_700_000_000_123_456_789), "2023-11-14 22:13:20.123456789"),
        (pages.utc(2**63 - 1), "2262-04-11 23:47:16.854775807"),
        (pages.utc(None), "–"),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.integers(0, 2**64 - 1))
def test_times_and_sizes_never_fail(value: int) -> None:
    assert pages.utc(value)
    assert "<time" in pages.time_tag(value)
    assert pages.size(value)
    assert pages.duration(value)


async def test_errors_are_a_page_for_people_and_json_for_programs(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        for path, status in (
            ("/nothing-here", 404),
            ("/sessions/" + "a" * 26, 404),
            ("/sessions/UPPER", 422),
            ("/live?session=" + ",".join(["a" * 26]), 404),
            ("/live?session=x", 422),
            ("/live?agent=../etc", 422),
            ("/sessions/" + "a" * 26 + "/export.pcapng", 404),
        ):
            as_page = await client.get(path)
            assert (path, as_page.status_code) == (path, status)
            assert 'data-testid="error-title"' in as_page.text
            as_json = await client.http.get(path)
            assert as_json.status_code == status
            assert as_json.json()["error"]["status"] == status
            assert as_json.json()["error"]["message"]
        assert (await client.http.delete("/agents")).status_code in (403, 405)
        too_large = await client.http.post(
            "/api/sessions", content=b"x" * 400_000, headers={"x-csrf-token": client.csrf}
        )
        assert too_large.status_code == 413


async def test_the_page_serves_without_a_nats_server_and_says_so(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        health = await client.http.get("/healthz")
        assert health.status_code == 503
        assert health.json()["parts"]["nats"] == "away"
        assert health.json()["parts"]["registry"] == "ok"
        await client.log_in()
        assert "No agent yet" in (await client.get("/agents")).text
        page.enrol("web1", HOSTILE)
        await until(lambda: any(status.id == "web1" for status in page.hub.presence.all()))
        text = (await client.get("/agents")).text
        assert "<script>alert" not in text
        assert 'data-testid="agent-web1"' in text
        assert "<script>alert" not in (await client.get("/agents/web1")).text
        steps = (await client.get("/events/agents/web1/test")).text
        assert "no connection to the NATS server" in steps
        assert 'data-testid="step-agent" data-state="skipped"' in steps


async def test_the_start_form_says_what_is_wrong_next_to_each_field(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("web1")
        empty = {"filter": "", "snaplen": "0", "max_packets": "many", "overflow": "drop_oldest"}
        answer = await client.post("/live", empty)
        assert answer.status_code == 422
        assert "Choose at least one agent" in answer.text
        assert "A whole number from 1 to 262144" in answer.text
        assert 'value="many"' in answer.text
        assert "<html" not in answer.text
        no_interface = await client.post(
            "/live", {"agent": "web1", "snaplen": "96", "overflow": "drop_oldest"}
        )
        assert "Name an interface of web1" in no_interface.text
        assert page.hub.registry.sessions.all() == []
        form = {
            "agent": "web1",
            "interface.web1": "eth0",
            "snaplen": "96",
            "overflow": "stop",
            "max_packets": "1000",
            "flow_cutoff_bytes": "4096",
        }
        started = await client.post("/live", form)
        assert started.status_code == 204
        (record,) = page.hub.registry.sessions.all()
        assert started.headers["hx-redirect"] == f"/live?session={record.id}"
        assert record.spec is not None
        assert (record.spec.snaplen, record.spec.overflow, record.spec.max_packets) == (96, "stop", 1000)
        assert (record.spec.flow_cutoff_bytes, record.spec.flow_sampling) == (4096, None)
        shown = (await client.get(f"/sessions/{record.id}")).text
        assert f"the first {pages.count(4096)} bytes" in shown
        panel = (await client.get(f"/sessions/{record.id}/filter")).text
        assert 'name="flow_cutoff_bytes" value="4096"' in panel
        change = {"filter": "", "snaplen": "96", "flow_cutoff_bytes": "", "flow_sampling": "7"}
        for name, wrong in (("flow_cutoff_bytes", "0"), ("flow_sampling", "65537")):
            refused = await client.post(f"/sessions/{record.id}/filter", change | {name: wrong})
            assert refused.status_code == 422
            assert "a whole number from 1" in refused.text
        assert (await client.post(f"/sessions/{record.id}/filter", change)).status_code == 200
        changed = page.hub.registry.sessions.require(record.id).spec
        assert changed is not None
        assert (changed.flow_cutoff_bytes, changed.flow_sampling, changed.filter_revision) == (None, 7, 2)
        assert record.spec.exclude_own_traffic is False  # the box wasn't ticked
        assert record.requested_by == "admin"


async def test_the_api_starts_and_steers_sessions(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("web1")
        body = {"agent": "web1", "interface": "eth0", "snaplen": 96}
        for wrong in (
            body | {"snaplen": "96"},
            body | {"snaplen": True},
            body | {"colour": "red"},
            body | {"overflow": "never"},
            body | {"flow_sampling": 0},
            body | {"interface": ""},
            body | {"agent": "../x"},
            {"agent": "web1"},
        ):
            assert (await client.post_json("/api/sessions", wrong)).status_code == 422, wrong
        assert (await client.post_json("/api/sessions", [1])).status_code == 422
        assert (await client.post_json("/api/sessions", body | {"agent": "nobody"})).status_code == 404
        session = (await client.post_json("/api/sessions", body)).json()["session"]
        path = f"/api/sessions/{session['id']}"
        assert session["state"] == "requested"
        assert (await client.post_json(f"{path}/resume", {})).status_code == 409
        assert (await client.post_json(f"{path}/pause", {})).json()["session"]["wanted"] == "paused"
        assert (await client.post_json(f"{path}/resume", {})).json()["session"]["wanted"] == "running"
        changed = (await client.post_json(f"{path}/filter", {"filter": "tcp", "snaplen": 128})).json()[
            "session"
        ]
        assert (changed["filter"], changed["filter_revision"], changed["snaplen"]) == ("tcp", 2, 128)
        rules = {"filter": "tcp", "flow_cutoff_bytes": 500, "flow_sampling": 3}
        changed = (await client.post_json(f"{path}/filter", rules)).json()["session"]
        assert (changed["flow_cutoff_bytes"], changed["flow_sampling"], changed["snaplen"]) == (500, 3, 128)
        changed = (await client.post_json(f"{path}/filter", {"filter": "tcp", "flow_cutoff_bytes": 0})).json()
        assert changed["session"]["flow_cutoff_bytes"] is None
        assert changed["session"]["flow_sampling"] == 3
        stopped = (await client.post_json(f"{path}/stop", {})).json()["session"]
        assert stopped["state"] == "stopping"
        assert (await client.post_json(f"{path}/stop", {})).status_code == 409
        found = (await client.http.get("/api/sessions", params={"q": "web1 TCP"})).json()["sessions"]
        assert [one["id"] for one in found] == [session["id"]]
        assert (await client.http.get("/api/sessions", params={"q": "elsewhere"})).json()["sessions"] == []
        deleted = await client.post(f"/sessions/{session['id']}/delete")
        assert deleted.status_code == 409
