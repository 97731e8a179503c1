"""The pages with a real NATS server and an agent that answers: events, orders, filters, downloads, deletion."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from hub.ledger.flow_totals import flow_table
from hub.web.pages import count
from tests.support.nats_backbone import backbone, until
from tests.web.fake_agent import FakeAgent, fake_agent, udp_packet
from tests.web.site import Browser, Site, site
from tests.wire import make
from wire.flows import end_text, records_of

PRIME = 101


@asynccontextmanager
async def stage(directory: Path) -> AsyncIterator[tuple[Site, Browser, FakeAgent]]:
    """A hub with one agent online, and a client that is logged in."""
    async with backbone(directory) as bus, site(directory, state=bus.state) as page:
        await page.hub.bus.client()
        async with fake_agent(bus, page.hub.registry, "web1") as agent, page.client() as client:
            await client.log_in()
            await until(lambda: page.hub.presence.status("web1").online)
            yield page, client, agent


class Events:
    """Server-sent events of one stream, parsed."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, str]:
        """(event, data); comments and `retry` are left out."""
        name, data = "", []
        while True:
            async with asyncio.timeout(15):
                line = await anext(self._lines)
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data.append(line[6:])
            elif not line and name:
                return name, "\n".join(data)

    async def end(self) -> None:
        """Read until the server ends the stream."""
        async for _ in self._lines:
            pass

    async def until(self, wanted: str, containing: str = "") -> str:
        """The data of the next event of this name that contains the text."""
        async with asyncio.timeout(30):
            while True:
                name, data = await self.next()
                if name == wanted and containing in data:
                    return data


async def start(client: Browser, **more: object) -> str:
    body = {"agent": "web1", "interface": "eth0"} | more
    answer = await client.post_json("/api/sessions", body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["session"]["id"])


async def watched(client: Browser, agent: FakeAgent) -> str:
    """A session of web1's that the agent has begun, by its id."""
    session = await start(client)
    await until(lambda: session in agent.chains)
    return session


async def wait_for_state(client: Browser, session: str, state: str) -> dict[str, object]:
    """Ask the API until the session is in this state."""

    async def reached() -> bool:
        return bool((await client.http.get(f"/api/sessions/{session}")).json()["session"]["state"] == state)

    await until(reached)
    return dict((await client.http.get(f"/api/sessions/{session}")).json()["session"])


async def test_rows_counters_and_states_arrive_as_events(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, agent):
        session = await start(client)
        await wait_for_state(client, session, "running")
        page = (await client.get(f"/live?session={session}")).text
        assert f'data-stream="/events/live?session={session}"' in page
        assert 'data-testid="pause-capture"' in page
        async with client.http.stream("GET", f"/events/live?session={session}") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = Events(response)
            await events.until("counters")
            await agent.send(session, [udp_packet(number, b"<script>\x1b[2J") for number in range(5)])
            rows = await events.until("rows")
            drawn = json.loads(rows)
            assert drawn["sources"] == [["web1", "eth0", f"web1/{agent.boot.hex()}/{session}/bulk"]]
            assert [(row[0], row[2], row[6]) for row in drawn["rows"]] == [
                (0, str(n), "10.0.0.9") for n in range(5)
            ]
            assert "\x1b" not in rows
            async with client.http.stream("GET", f"/events/live?session={session}") as second_tab:
                older = json.loads(await Events(second_tab).until("older"))
                assert (older["sources"], older["archived"]) == (drawn["sources"], 0)
                heard = 4
                assert [row[:heard] + row[heard + 1 :] for row in older["rows"]] == [
                    row[:heard] + row[heard + 1 :] for row in drawn["rows"]
                ]
            await agent.beat()
            await events.until("counters", 'data-testid="count-packets" data-value="5"')
            await client.post_json(f"/api/sessions/{session}/pause", {})
            await events.until("session", 'data-testid="resume-capture"')
            await client.post_json(f"/api/sessions/{session}/stop", {})
            ended = await events.until("session", 'data-state="stopped"')
            assert 'data-testid="export-pcapng"' in ended
            await events.until("ended")
        async with client.http.stream("GET", f"/events/live?session={session}") as response:
            events = Events(response)
            assert json.loads(await events.until("older"))["rows"] == older["rows"], (
                "the last ones, as they were"
            )
            await events.until("ended")


async def test_a_viewer_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async with stage(tmp_path) as (page, client, _):
        session = await start(client)
        async with page.client() as other:  # a connection of its own, which ends with the block
            other.http.cookies = client.http.cookies
            async with other.http.stream("GET", f"/events/live?session={session}") as response:
                await Events(response).until("counters")
                assert page.hub.live.viewers == 1
        await until(lambda: page.hub.live.viewers == 0)


async def test_agents_arrive_and_change_live(tmp_path: Path) -> None:
    async with (
        stage(tmp_path) as (page, client, agent),
        client.http.stream("GET", "/events/agents") as response,
    ):
        events = Events(response)
        first = await events.until("agents")
        assert 'data-testid="agent-web1"' in first
        assert 'data-state="online"' in first
        session = await start(client)
        await events.until("agent-web1", f"/live?session={session}")
        page.enrol("late")
        await events.until("agents", 'data-testid="agent-late"')
        await agent.connection.close()
        await events.until("agent-web1", 'data-state="offline"')


@pytest.mark.slow
async def test_a_logout_ends_the_event_stream(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, _), client.http.stream("GET", "/events/agents") as response:
        events = Events(response)
        await events.until("agents")
        await client.http.post("/logout", data={"csrf": client.csrf})
        async with asyncio.timeout(30):
            await events.end()


async def test_filters_are_judged_by_the_agents_libpcap(tmp_path: Path) -> None:
    async with stage(tmp_path) as (page, client, agent):
        form = {"agent": "web1", "interface.web1": "eth0", "filter": "tcp prt 80"}
        wrong = await client.post("/live/check-filter", form)
        assert "syntax error" in wrong.text
        assert "for example: tcp port 443" in wrong.text
        assert 'data-kind="error"' in wrong.text
        assert (
            'data-kind="ok"'
            in (await client.post("/live/check-filter", form | {"filter": "tcp port 80"})).text
        )
        refused = await client.post("/live", form | {"snaplen": "96", "overflow": "drop_oldest"})
        assert refused.status_code == 422
        assert "syntax error" in refused.text
        assert "for example: tcp port 443" in refused.text
        assert page.hub.registry.sessions.all() == []
        session = await start(client, filter="udp")
        await wait_for_state(client, session, "running")
        panel = await client.get(f"/sessions/{session}/filter")
        assert 'value="udp"' in panel.text
        path = f"/sessions/{session}/filter"
        refused = await client.post(path, {"filter": "udp prt 9", "snaplen": "96"})
        assert refused.status_code == 422
        assert "syntax error" in refused.text
        changed = await client.post(path, {"filter": "udp port 9", "snaplen": "96"})
        assert (changed.status_code, changed.text) == (200, "")
        agent.answers = False
        silent = await client.post("/live/check-filter", form)
        assert "can&#39;t be asked now" in silent.text


async def test_flow_rules_are_offered_where_the_agent_has_ebpf(tmp_path: Path) -> None:
    async with stage(tmp_path) as (page, client, _):
        form = {"agent": "web1", "interface.web1": "eth0", "snaplen": "96", "overflow": "drop_oldest"}
        inside = {"filter_inside_tunnels": "1"}
        for rule in ({"flow_cutoff_bytes": "500"}, {"flow_sampling": "2"}, inside):
            refused = await client.post("/live", form | rule)
            assert refused.status_code == 422
            assert "web1 can&#39;t: that needs eBPF and a present agent (no BCC on this host)" in refused.text
            body: dict[str, object] = {"agent": "web1", "interface": "eth0"}
            for name, text in rule.items():
                body[name] = int(text) if rule is not inside else True
            answer = await client.post_json("/api/sessions", body)
            assert (answer.status_code, "no BCC" in answer.text) == (422, True)
        assert page.hub.registry.sessions.all() == []
        assert (await client.post("/live", form | {"flow_sampling": "1"})).status_code == 204


async def test_counting_flows_is_offered_where_the_agent_can_and_its_records_are_shown(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as (page, client, agent):
        form = {"agent": "web1", "interface.web1": "eth0", "snaplen": "96", "overflow": "drop_oldest"}
        counted = form | {"flow_records": "1"}
        refused = await client.post("/live", counted)
        assert refused.status_code == 422
        assert "web1 can&#39;t: that needs eBPF and a present agent (no BCC on this host)" in refused.text
        agent.capabilities = ("ring", "count-filtered", "flow-rules")
        await agent.report()
        await until(lambda: page.hub.presence.all()[0].report.capabilities != ())  # type: ignore[union-attr]
        assert "a present agent" in (await client.post("/live", counted)).text, "it has eBPF, and is older"
        body = {"agent": "web1", "interface": "eth0", "flow_records": True}
        answer = await client.post_json("/api/sessions", body)
        assert (answer.status_code, "a present agent" in answer.text) == (422, True)
        assert page.hub.registry.sessions.all() == []
        agent.capabilities = (*agent.capabilities, "flow-records")
        await agent.report()
        await until(lambda: len(page.hub.presence.all()[0].report.capabilities) == 4)  # type: ignore[union-attr]
        session = await start(client, flow_records=True)
        await wait_for_state(client, session, "running")
        path = f"/sessions/{session}"
        assert "Asked for, but not counted" in (await client.get(path)).text, (
            "the fake one doesn't say that it does"
        )
        assert (await client.get(f"/api{path}")).json()["session"]["flow_records"] is True
        records = make.flow_columns(130)
        await agent.send_flows(session, records)
        await until(lambda: len(flow_table(page.hub.registry, session).rows) == 130)
        shown = (await client.get(f"{path}/flows")).text
        assert shown.count('data-testid="flow"') == 100
        assert f"{count(30)} smaller flows" in shown
        assert count(12) in shown
        largest = max(records_of(records), key=lambda one: one.bytes_a + one.bytes_b)
        assert end_text(largest.address_a, largest.port_a) in shown
        answer = await client.get(f"{path}/flows.csv")
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["content-disposition"].endswith('.flows.csv"')
        assert len(answer.text.splitlines()) == 131
        panel = (await client.get(f"{path}/filter")).text
        assert 'name="flow_records" value="1" checked' in panel
        off = await client.post(f"{path}/filter", {"filter": "", "snaplen": "96"})
        assert off.status_code == 200
        spec = page.hub.registry.sessions.require(session).spec
        assert spec is not None
        assert (spec.flow_records, spec.filter_revision) == (False, 2)
        assert "Not counted now" in (await client.get(path)).text
        on = (await client.post_json(f"/api{path}/filter", {"filter": "", "flow_records": True})).json()
        assert on["session"]["flow_records"] is True
        assert (await client.get("/sessions/" + "b" * 26 + "/flows.csv")).status_code == 404


async def test_a_refusal_is_shown_with_its_reason(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, agent):
        agent.refuse["eth9"] = "eth9: <b>no such device</b>"
        session = await start(client, interface="eth9")
        await wait_for_state(client, session, "refused")
        text = (await client.get(f"/live?session={session}")).text
        assert "eth9: &lt;b&gt;no such device&lt;/b&gt;" in text


async def test_the_books_of_an_ended_session_and_its_downloads(tmp_path: Path) -> None:
    async with stage(tmp_path) as (page, client, agent):
        session = await start(client)
        await wait_for_state(client, session, "running")
        await agent.send(session, [udp_packet(number) for number in range(PRIME)])
        await agent.beat()
        await client.post_json(f"/api/sessions/{session}/stop", {})
        await wait_for_state(client, session, "stopped")

        async def archived() -> bool:
            await agent.beat()
            await asyncio.sleep(0.2)
            account = (await client.http.get(f"/api/sessions/{session}")).json()["session"]
            return bool(account["archived_packets"] == PRIME and account["verdict"] == "intact")

        await until(archived, 20)
        account = (await client.http.get(f"/api/sessions/{session}")).json()["session"]
        assert set(account["differences"].values()) == {0}
        assert account["balanced"] is True
        text = (await client.get(f"/sessions/{session}")).text
        assert re.search(r'data-testid="books-received">101<', text)
        assert text.count('data-value="0">0<') >= 5
        for suffix, opening in (("pcapng", b"\x0a\x0d\x0d\x0a"), ("wpz", b"PK")):
            answer = await client.http.get(f"/sessions/{session}/export.{suffix}")
            assert answer.status_code == 200
            assert answer.content.startswith(opening)
            disposition = answer.headers["content-disposition"]
            assert re.fullmatch(
                rf'attachment; filename="wirepool-web1-\d+T\d+Z-{session[:8]}\.{suffix}"', disposition
            )
        listed = (await client.get("/sessions?q=web1&state=ended")).text
        assert f'data-testid="session-{session}"' in listed
        assert (await client.post(f"/sessions/{session}/delete")).status_code == 204
        assert page.hub.export.estimate([session]).packets == 0
        kept = (await client.get(f"/sessions/{session}")).text
        assert "are there no longer" in kept
        assert re.search(r'data-testid="books-received">101<', kept)
