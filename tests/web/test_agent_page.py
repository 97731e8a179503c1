"""The page of one agent: its facts, a picture of its books that adds up, disabling and enabling, its test."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from agent.interfaces import list_interfaces
from hub.agents.interface_rates import InterfaceRates
from hub.ledger.session_books import BootBooks, SessionBooks
from hub.web.flow_picture import picture
from hub.web.pages import Pages
from tests.support.nats_backbone import until
from tests.web.fake_agent import udp_packet
from tests.web.test_live import Events, stage, start, wait_for_state
from tests.web.test_pages import HOSTILE
from wire.books import Books
from wire.interface_counters import InterfaceCounters


def added_up(page: str) -> dict[str, int]:
    """The picture's steps, after each was checked against the next one: next = this + what joins - what leaves."""
    found: list[tuple[str, int | None, int]] = []
    for part in re.split(
        r'(?=<li class="flow-step")', page.partition('data-testid="flow"')[2].partition("</ol>")[0]
    )[1:]:
        name, packets = re.findall(r'data-testid="flow-(\w+)" data-packets="(\d*)"', part)[0]
        leaves = sum(map(int, re.findall(r'data-leaves="(-?\d+)"', part)))
        joins = sum(map(int, re.findall(r'data-joins="(-?\d+)"', part)))
        found.append((name, int(packets) if packets else None, joins - leaves))
    assert [name for name, _, _ in found] == [
        "wire",
        "received",
        "captured",
        "spooled",
        "acknowledged",
        "archived",
    ]
    for (name, packets, change), (_, following, _) in itertools.pairwise(found):
        if packets is not None:
            assert packets + change == following, name
    return {name: packets for name, packets, _ in found if packets is not None}


@pytest.mark.parametrize("ended", [True, False])
def test_the_picture_adds_up_whatever_was_lost(ended: bool) -> None:
    books = Books(
        received=1000,
        dropped_ring=7,
        own_traffic=11,
        dropped_invalid=1,
        captured=971,
        dropped_newest=20,
        spooled=950,
        dropped_oldest=30,
        acknowledged=900,
        pending=20,
        filtered=313,
        sampled_out=5,
        cut_off=2,
    )
    account = SessionBooks("a" * 26, "web1", books, [BootBooks(bytes(16), True, books)])
    account.archived_packets, account.declared_kept_packets, account.lost_at_end = 903, 4, 3
    steps = picture([account], ended=ended)
    page = Pages("0").text("fragments/flow_picture.html", steps=steps)
    assert added_up(page) == {
        "wire": 1320,
        "received": 1000,
        "captured": 971,
        "spooled": 950,
        "acknowledged": 900,
        "archived": 903,
    }
    assert 'data-testid="flow-dropped_ring"' in page
    assert ("unexplained" in page) == ended
    assert ("on the way" in page) == (not ended)
    doubled = Pages("0").text("fragments/flow_picture.html", steps=picture([account, account], ended=ended))
    assert added_up(doubled)["received"] == 2000
    uncounted = SessionBooks("b" * 26, "web1", Books(received=5, captured=5), [])
    assert "wire" not in added_up(
        Pages("0").text("fragments/flow_picture.html", steps=picture([uncounted], ended=False))
    )


def test_rates_are_differences_and_never_negative() -> None:
    def counters(name: str, packets: int, size: int) -> InterfaceCounters:
        return InterfaceCounters(
            name=name, received_packets=packets, sent_packets=0, received_bytes=size, sent_bytes=0
        )

    rates = InterfaceRates()
    assert rates.look("web1", [counters("eth0", 100, 1000)], 10.0) == {}
    found = rates.look("web1", [counters("eth0", 300, 2000), counters("new", 5, 5)], 12.0)
    assert (found["eth0"].received_packets, found["eth0"].received_bits) == (100.0, 4000.0)
    assert "new" not in found
    assert rates.look("web1", [counters("eth0", 999, 9999)], 12.1) == found  # too soon for another
    assert rates.look("web1", [counters("eth0", 1, 1)], 14.0) == {}  # another interface of that name
    assert rates.look("web1", [counters("eth0", 2, 2)], 99.0) == {}  # the last look says nothing of now
    assert InterfaceCounters.from_map(counters("eth0", 1, 2).to_map()) == counters("eth0", 1, 2)


def test_what_interfaces_carry_is_told() -> None:
    loopback = next(one for one in list_interfaces() if one.name == "lo")
    assert loopback.packets == loopback.received[0] + loopback.sent[0]
    assert loopback.received[1] >= loopback.received[0] * 14 or loopback.received[0] == 0


@pytest.mark.slow
async def test_an_agents_page_shows_facts_books_and_sessions(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, agent):
        session = await start(client)
        await wait_for_state(client, session, "running")
        await agent.send(session, [udp_packet(number) for number in range(12)])
        await agent.beat()
        page = (await client.get("/agents/web1")).text
        for text in (
            "web1.example",
            "Debian GNU/Linux 13",
            "6.12.48-amd64",
            "af_packet+cbpf",
            "no BCC on this host",
        ):
            assert text in page
        assert "synchronised, chrony, -12.3 µs ± 80 µs" in page
        assert 'data-testid="interface-eth0"' in page
        assert "1 Gbit/s" in page
        assert f'href="/live?session={session}"' in page

        async def archived() -> bool:
            state = (await client.get("/agents/web1/state")).text
            return added_up(state)["archived"] == 12

        await until(archived)
        state = (await client.get("/agents/web1/state")).text
        assert added_up(state)["received"] == 12
        assert "the running session" in state
        assert 'data-testid="disable-agent"' in page
        assert (await client.get("/agents/nobody")).status_code == 404
        assert (await client.get("/agents/..%2fetc")).status_code in (404, 422)


@pytest.mark.slow
async def test_the_list_is_searched_and_narrowed_by_the_address(tmp_path: Path) -> None:
    async with stage(tmp_path) as (page, client, _):
        page.enrol("db1", "the database")
        await until(lambda: len(page.hub.presence.all()) == 2)

        async def shown(query: str) -> set[str]:
            text = (await client.get(f"/agents{query}")).text
            return set(re.findall(r'<tr id="agent-([a-z0-9]+)"', text))

        assert await shown("") == {"web1", "db1"}
        assert await shown("?q=10.0.0.7") == {"web1"}
        assert await shown("?q=DATABASE") == {"db1"}
        assert await shown("?q=debian+igb") == {"web1"}
        assert await shown("?state=never") == {"db1"}
        assert await shown("?q=web1&state=never") == set()
        assert await shown("?state=nonsense") == {"web1", "db1"}
        nothing = (await client.get("/agents?q=10.9.9.9")).text
        assert 'href="/connect?host=10.9.9.9"' in nothing
        narrowed = (await client.get("/agents?state=online&q=web")).text
        assert 'sse-connect="/events/agents?q=web&amp;state=online"' in narrowed
        assert 'data-testid="choice-online" data-count="1"' in narrowed
        async with client.http.stream("GET", "/events/agents?state=disabled") as response:
            events = Events(response)
            assert "No agent fits" in await events.until("agents")
            await client.post("/agents/db1/disable", {"reason": "being rebuilt"})
            assert 'data-testid="agent-db1"' in await events.until("agents", "db1")


async def test_a_disabled_agent_gets_no_sessions_and_its_running_ones_stop(tmp_path: Path) -> None:
    async with stage(tmp_path) as (page, client, agent):
        session = await start(client)
        await wait_for_state(client, session, "running")
        panel = (await client.get("/agents/web1/disable")).text
        assert "The session that runs on it is stopped for good" in panel
        assert (await client.post("/agents/web1/disable", {"reason": "patch day\n<b>"})).status_code == 204
        await wait_for_state(client, session, "stopped")
        assert page.hub.presence.status("web1").online  # trusted as before
        shown = (await client.get("/agents/web1")).text
        assert "disabled by admin: patch day &lt;b&gt;" in shown
        assert 'data-testid="enable-agent"' in shown
        assert 'data-testid="capture-here"' not in shown
        refused = await client.post_json("/api/sessions", {"agent": "web1", "interface": "eth0"})
        assert refused.status_code == 409
        assert "disabled by admin: patch day" in refused.json()["error"]["message"]
        assert "/agents/web1" in refused.json()["error"]["message"]
        form = {"agent": "web1", "interface.web1": "eth0", "snaplen": "96", "overflow": "stop"}
        assert "disabled by admin" in (await client.post("/live", form)).text
        assert "disabled by admin" in (await client.get("/live?new=1")).text
        assert (await client.post("/agents/web1/disable")).status_code == 409
        assert (await client.http.get("/api/agents")).json()["agents"][0][
            "disabled"
        ] == "disabled by admin: patch day <b>"
        assert len(agent.desired.sessions) <= 1

        assert (await client.post("/agents/web1/enable")).status_code == 204
        assert (await client.post("/agents/web1/enable")).status_code == 409
        again = await start(client)
        await wait_for_state(client, again, "running")
        states = [event.kind for event in page.hub.registry.sessions.events(session)]
        assert states[0] == "state:running"
        assert states[-1] == "state:stopped"


@pytest.mark.slow
async def test_the_connectivity_test_times_each_step_and_says_what_to_do(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, agent):
        panel = (await client.get("/agents/web1/test")).text
        assert 'sse-connect="/events/agents/web1/test"' in panel

        async def steps() -> tuple[dict[str, str], str]:
            found: dict[str, str] = {}
            text = ""
            async with client.http.stream("GET", "/events/agents/web1/test") as response:
                events = Events(response)
                while True:
                    name, data = await events.next()
                    text += data
                    if name == "done":
                        return found, text
                    if name == "step":
                        step, state = re.findall(r'data-testid="step-(\w+)" data-state="(\w+)"', data)[0]
                        found[step] = state
                        assert state == "skipped" or re.search(r"\d+\.\d ms", data)

        found, text = await steps()
        assert list(found) == [
            "server", "streams", "agent", "clock", "interfaces", "filter", "orders", "heartbeat", "archive",
        ]  # fmt: skip
        assert set(found.values()) <= {"ok", "warn"}
        assert "signed answer after" in text
        assert "eth0" in text
        assert "tcp port 443" not in text
        agent.answers = False
        found, text = await steps()
        assert (found["server"], found["agent"], found["clock"], found["filter"]) == (
            "ok",
            "bad",
            "skipped",
            "skipped",
        )
        assert "answer &#39;ping&#39; within 3 s" in text
        assert "is its host overloaded" in text
        assert 'data-testid="verdict-bad"' in text
        await agent.connection.close()
        found, text = await steps()
        assert "wirepool agent run" in text


@pytest.mark.slow
async def test_hostile_texts_stay_texts_on_every_page(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, agent):
        agent.hostname = '<script>alert(1)</script>"' + "x" * 200
        await agent.report()
        filter_text = "host 10.0.0.7 or host 10.0.0.8"
        session = await start(client, name=HOSTILE[:120], filter=filter_text)
        await wait_for_state(client, session, "running")
        await client.post("/agents/web1/disable", {"reason": HOSTILE})
        paths = (
            "/agents",
            "/agents/web1",
            "/agents/web1/state",
            "/connect?host=web1",
            "/sessions",
            f"/sessions/{session}",
            f"/sessions/{session}/happened",
        )
        for path in paths:
            text = (await client.get(path)).text
            assert "<script>alert" not in text, path
            assert "\u202e" not in text, path
        for name in ("q", "state", "agent", "by", "page", "host", "session"):
            for path in ("/agents", "/sessions", "/connect"):
                text = (await client.http.get(path, params={name: HOSTILE})).text
                assert "<script>alert" not in text, (path, name)
