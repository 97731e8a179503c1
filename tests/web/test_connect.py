"""One field for a host: who is meant by an address or a name, and what to do when nobody is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hub.agents.finding import find
from hub.web.routes.connect import agent_name
from tests.support.nats_backbone import until
from tests.web.site import site
from tests.web.test_live import stage


async def test_a_host_is_found_by_address_host_name_and_agent(tmp_path: Path) -> None:
    async with stage(tmp_path) as (page, client, _):
        page.enrol("web1-b", "web1.example")
        await until(lambda: len(page.hub.presence.all()) == 2)

        async def met(host: str) -> list[str]:
            text = (await client.http.get("/connect", params={"host": host})).text
            assert text.count("<h1") == 1
            return re.findall(r'data-testid="match-([a-z0-9-]+)"', text)

        assert await met("10.0.0.7") == ["web1"]
        assert await met("::ffff:10.0.0.7") == ["web1"]
        assert await met(" web1 ") == ["web1"]
        assert await met("WEB1.example.") == ["web1", "web1-b"]
        assert await met("127.0.0.1") != ["web1-b"]  # an address of loopback names no host
        assert await met("10.0.0.70") == []
        found = (await client.get("/connect?host=web1")).text
        assert 'data-testid="start-web1-eth0"' in found
        assert "suggested: it carries the default route" in found
        assert "Debian GNU/Linux 13" in found
        several = (await client.get("/connect?host=web1.example")).text
        assert "2 agents answer to" in several
        form = {"agent": "web1", "interface.web1": "eth0", "exclude_own_traffic": "1"}
        started = await client.post("/live", form)
        assert (started.status_code, started.headers["hx-redirect"][:14]) == (204, "/live?session=")
        (record,) = page.hub.registry.sessions.all()
        assert record.spec is not None
        assert (record.spec.interface, record.spec.exclude_own_traffic) == ("eth0", True)


async def test_an_unknown_host_is_told_how_to_come_in(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("db1")
        await until(lambda: len(page.hub.presence.all()) == 1)
        unknown = (await client.get("/connect?host=203.0.113.9")).text
        assert "No agent answers to 203.0.113.9" in unknown
        assert "wirepool agent request web1 &gt; web1.request" in unknown
        assert 'data-copy="command-1"' in unknown
        assert "Enrolled so far: db1" in unknown
        named = (await client.get("/connect?host=mail-3.invalid")).text
        assert "./wirepool enroll mail-3.request" in named
        hostile = (await client.http.get("/connect", params={"host": "<script>`$(reboot)`" + "x" * 300})).text
        assert "<script>`" not in hostile
        assert 'data-testid="command-0"' not in hostile
        assert "ssh mail-3.invalid wirepool agent request mail-3 |" in named
        assert "$(reboot)" not in re.findall(r'data-testid="command-1">(.*?)</code>', hostile)[0]
        assert "unknown-host" not in (await client.get("/connect")).text


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("mail-3.example.org", "mail-3"),
        ("10.0.0.7", "web1"),
        ("fe80::1", "web1"),
        ("Ünïx!", "n-x"),
        ("", "web1"),
    ],
)
def test_a_name_to_enrol_under(asked: str, name: str) -> None:
    assert agent_name(asked) == name


async def test_a_name_that_no_agent_has_is_looked_up() -> None:
    found = await find([], "localhost")
    assert "127.0.0.1" in found.looked_up
    assert (await find([], "no-such-host.invalid")).looked_up == ()
    assert (await find([], "x" * 300)).matches == ()
