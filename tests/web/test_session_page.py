"""Sessions: the list and its addresses, the time line, downloads that break and go on, what a name is good for."""

from __future__ import annotations

import re
import time
from pathlib import Path
from random import Random

import pytest

from hub.registry import Registry
from hub.registry.sessions import MAX_EVENTS
from hub.web.session_list import PAGE_ROWS, SessionQuery, session_page
from tests.support.nats_backbone import until
from tests.web.fake_agent import udp_packet
from tests.web.site import Browser, site
from tests.web.test_live import stage, start, wait_for_state

PACKETS = 4001
"""More than fits into what a connection buffers, so that a download can break in its middle."""


async def settled(client: Browser, session: str) -> None:
    """Until the session has ended and its books balance."""

    async def balanced() -> bool:
        state = (await client.http.get(f"/api/sessions/{session}")).json()["session"]
        return bool(state["ended"] and state["balanced"] and state["verdict"] == "intact")

    await until(balanced)


async def shown(client: Browser, query: str) -> list[str]:
    text = (await client.get(f"/sessions{query}")).text
    return re.findall(r'<tr data-testid="session-(\w+)"', text)


async def test_every_state_of_the_list_is_in_its_address(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        for agent in ("web1", "db1"):
            page.enrol(agent)
        control, registry = page.hub.sessions, page.hub.registry
        ids = [
            control.start("web1", "eth0", filter=f"port {n}", user="anna" if n % 2 else "ben")
            for n in range(60)
        ]
        other = control.start("db1", "eth1", name="slow <login>", user="carla")
        control.stop(ids[0])
        registry.sessions.end(ids[0], time.time_ns())
        newest_first = [record.id for record in registry.sessions.all()]
        assert await shown(client, "") == newest_first[:PAGE_ROWS]
        assert await shown(client, "?page=2") == newest_first[PAGE_ROWS:]
        assert await shown(client, "?page=3") == []
        assert await shown(client, "?page=x&state=odd") == newest_first[:PAGE_ROWS]
        assert await shown(client, "?q=slow+LOGIN") == [other]
        assert await shown(client, "?q=carla") == [other]
        assert await shown(client, "?agent=db1") == [other]
        assert await shown(client, "?agent=../etc") == newest_first[:PAGE_ROWS]
        assert await shown(client, "?state=ended") == [ids[0]]
        assert len(await shown(client, "?by=anna")) == 30
        assert (
            await shown(client, "?q=port&page=2") == [one for one in newest_first if one != other][PAGE_ROWS:]
        )
        text = (await client.get("/sessions?q=port&state=active")).text
        assert 'href="/sessions?q=port&amp;state=active&amp;page=2"' in text
        assert "slow &lt;login&gt;" in (await client.get("/sessions")).text
        renamed = await client.post(f"/sessions/{ids[1]}/name", {"name": " two \n words " + "x" * 300})
        assert "Kept" in renamed.text
        assert registry.sessions.require(ids[1]).name.startswith("two words xxx")
        assert len(registry.sessions.require(ids[1]).name) == 120
        assert (await client.http.get("/api/sessions", params={"q": "two words"})).json()["sessions"][0][
            "id"
        ] == ids[1]


def test_searching_many_sessions_stops_where_it_says(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "hub.db")
    try:
        registry.agents.add("web1", user_public="U" * 56, signing_public=bytes(32))
        for number in range(45):
            registry.sessions.observe(f"{number:026d}", "web1", "import", number)
        assert not session_page(registry, SessionQuery(words="nothing"), searched=20).searched_all
        assert session_page(registry, SessionQuery(words="nothing")).searched_all
        assert len(session_page(registry, SessionQuery(state="ended"), searched=20).rows) == 20
    finally:
        registry.close()


def test_a_time_line_of_any_length_keeps_its_sums(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "hub.db")
    try:
        session, number = "a" * 26, 3 * MAX_EVENTS + 1
        with registry.transaction():
            for second in range(number):
                registry.sessions.note_event(session, "dropped_ring", second * 10**9, 7)
            registry.sessions.note_event(session, "dropped_ring", 0, 1)
            registry.sessions.note_event(session, "state:running", 5)
        events = registry.sessions.events(session)
        assert len(events) <= MAX_EVENTS
        assert sum(one.packets for one in events) == number * 7 + 1
        assert [one.at_ns for one in events] == sorted(one.at_ns for one in events)
        assert events[-1].at_ns > (number - 10) * 10**9
    finally:
        registry.close()


@pytest.mark.slow
async def test_filters_drops_and_gaps_are_drawn_on_the_time_line(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, agent):
        session = await start(client, name="a session")
        await wait_for_state(client, session, "running")
        await client.post_json(f"/api/sessions/{session}/filter", {"filter": "udp port 9"})
        await agent.send(session, [udp_packet(number) for number in range(3)])
        chain = agent.chains[session]
        chain.sequence += 2  # two batches that nobody ever sees
        await agent.send(session, [udp_packet(number) for number in range(4)])
        chain.books.received += 11
        chain.books.dropped_ring += 11
        await agent.beat()

        async def drawn() -> bool:
            text = (await client.get(f"/sessions/{session}/state")).text
            return (
                'data-testid="time-drops" data-count="1"' in text
                and 'data-testid="time-gaps" data-count="1"' in text
            )

        await until(drawn)
        page = (await client.get(f"/sessions/{session}")).text
        assert "<title>2: udp port 9</title>" in page
        assert (
            'data-testid="controls-name">a session</span>'
            in (await client.get(f"/live?session={session}")).text
        )
        assert "11 packets: ring full" in page
        assert "2 batches missing" in page
        assert "<title>running</title>" in page
        assert not re.search(r'\sstyle="', page)
        words = (await client.get(f"/sessions/{session}/happened")).text
        assert (
            words.index("filter 1: everything")
            < words.index("filter 2: udp port 9")
            < words.index("2 batches missing")
        )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pcapng", "wpz"])
async def test_a_broken_download_goes_on_where_it_was(tmp_path: Path, form: str) -> None:
    async with stage(tmp_path) as (page, client, agent):
        session = await start(client)
        await wait_for_state(client, session, "running")
        path = f"/sessions/{session}/export.{form}"
        await agent.send(session, [udp_packet(1, b"x" * 1000)])
        running = await client.http.get(path, headers={"range": "bytes=5-"})
        assert (running.status_code, running.headers["accept-ranges"]) == (200, "none")
        assert "etag" not in running.headers
        noise = Random(7)
        for first in range(0, PACKETS, 400):
            await agent.send(
                session, [udp_packet(first + number, noise.randbytes(1280)) for number in range(400)]
            )
        await client.post_json(f"/api/sessions/{session}/stop", {})
        await settled(client, session)

        broken = bytearray()
        async with page.client() as other:  # a connection of its own, which breaks
            other.http.cookies = client.http.cookies
            async with other.http.stream("GET", path) as response:
                etag = response.headers["etag"]
                assert response.headers["accept-ranges"] == "bytes"
                assert "content-length" not in response.headers
                async for chunk in response.aiter_raw():
                    broken += chunk
                    if len(broken) > 1_000_000:
                        break
        ranged = {"range": f"bytes={len(broken)}-", "if-range": etag}
        rest = await client.http.get(path, headers=ranged)
        assert rest.status_code == 206
        whole = await client.http.get(path)
        assert whole.headers["etag"] == etag
        assert whole.headers["content-length"] == str(len(whole.content))  # known by now
        assert (
            rest.headers["content-range"]
            == f"bytes {len(broken)}-{len(whole.content) - 1}/{len(whole.content)}"
        )
        assert len(broken) < len(whole.content)
        assert bytes(broken) + rest.content == whole.content
        last = await client.http.get(path, headers={"range": "bytes=-100"})
        assert (last.status_code, last.content) == (206, whole.content[-100:])
        part = await client.http.get(path, headers={"range": "bytes=1000-1999"})
        assert (part.status_code, part.content) == (206, whole.content[1000:2000])
        beyond = await client.http.get(path, headers={"range": f"bytes={len(whole.content)}-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(whole.content)}")
        for odd in ("bytes=2-1", "bytes=0-1,5-6", "lines=1-2", "bytes=-"):
            assert (await client.http.get(path, headers={"range": odd})).content == whole.content

        # What the archive no longer has makes it another file: the client that goes on gets all of it.
        assert (await client.post(f"/sessions/{session}/delete")).status_code == 204
        other_file = await client.http.get(path, headers=ranged)
        assert other_file.status_code == 200
        assert other_file.headers["etag"] != etag
        assert "deleted by admin" in (await client.get(f"/sessions/{session}")).text


@pytest.mark.slow
async def test_a_page_follows_its_download(tmp_path: Path) -> None:
    async with stage(tmp_path) as (page, client, agent):
        session = await start(client)
        await wait_for_state(client, session, "running")
        await agent.send(session, [udp_packet(number, b"x" * 1000) for number in range(500)])
        await client.post_json(f"/api/sessions/{session}/stop", {})
        await settled(client, session)
        text = (await client.get(f"/sessions/{session}")).text
        (address, watch) = re.findall(r'href="(/sessions/\w+/export\.pcapng\?watch=(\w+))"', text)[0]
        assert f'hx-get="/downloads/{watch}"' in text
        assert 'data-state=""' in (await client.get(f"/downloads/{watch}")).text
        await client.http.get(address)
        assert 'data-state="finished"' in (await client.get(f"/downloads/{watch}")).text
        assert (await client.get("/downloads/../../etc")).status_code == 404
        assert (await client.get("/downloads/0123")).status_code == 404
        for number in range(300):
            await client.http.get(f"/sessions/{session}/export.wpz?watch={number:016x}")
            if number == 0:
                assert 'data-state="finished"' in (await client.get(f"/downloads/{number:016x}")).text
        assert (
            'data-state=""' in (await client.get(f"/downloads/{0:016x}")).text
        )  # forgotten: a bounded memory
        assert page.hub.downloads.progress(f"{299:016x}") is not None
