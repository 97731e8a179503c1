"""A session on several interfaces as it is asked for: in the form, shown as what it is, not of an agent that can't."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import pytest

from tests.web.site import site
from tests.web.test_payload import OLDER, tell
from wire.report import CAN_SEVERAL_INTERFACES

ABLE = replace(OLDER, version="0.2.0", capabilities=("ring", CAN_SEVERAL_INTERFACES))
FORM = {"agent": "web1", "interface.web1": "eth0", "snaplen": "96"}


@pytest.mark.parametrize(
    ("fields", "kept", "shown"),
    [
        ({"interface.web1": "any"}, "any", "every interface that is up"),
        ({"interfaces.web1": "eth0, eth1"}, "eth0,eth1", "interfaces <code>eth0, eth1</code>"),
        ({"interfaces.web1": ""}, "eth0", "interface <code>eth0</code>"),
    ],
)
async def test_what_was_typed_is_what_is_declared(
    tmp_path: Path, fields: dict[str, str], kept: str, shown: str
) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("web1")
        tell(page.hub.registry, ABLE)
        answer = await client.post("/live", FORM | fields)
        assert answer.status_code == 204, answer.text
        (record,) = page.hub.registry.sessions.all()
        assert record.spec is not None
        assert record.spec.interface == kept
        assert shown in (await client.get(f"/sessions/{record.id}")).text


async def test_what_is_no_list_is_refused_and_an_older_agent_gets_none(tmp_path: Path) -> None:
    async with site(tmp_path) as page, page.client() as client:
        await client.log_in()
        page.enrol("web1")
        tell(page.hub.registry, ABLE)
        for typed, complaint in (("eth0,,eth1", "a name is missing"), ("eth0, any", "any stands for all")):
            answer = await client.post("/live", FORM | {"interfaces.web1": typed})
            assert answer.status_code == 422
            assert complaint in html.unescape(answer.text)
        tell(page.hub.registry, OLDER)
        for fields in ({"interfaces.web1": "eth0,eth1"}, {"interface.web1": "any"}):
            answer = await client.post("/live", FORM | fields)
            assert "captures on one interface per session: update it" in html.unescape(answer.text)
        assert page.hub.registry.sessions.all() == []
        assert (await client.post("/live", FORM)).status_code == 204
