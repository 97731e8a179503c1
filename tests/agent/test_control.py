"""Questions and notices over a real server: the hub's are answered, everybody else's are counted and ignored."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client

from agent.control import ControlPoint
from agent.credentials import Credentials
from agent.desired import DesiredState
from agent.link import Link, tls_context
from tests.agent.home import Home
from tests.support.nats_backbone import backbone, until
from wire.control import Domain, Envelope, seal, unseal
from wire.keys import SigningKey
from wire.session import SessionSpec

SESSION = "a" * 26


@dataclass
class Setup:
    home: Home
    hub: Client
    link: Link
    control: ControlPoint
    watched: list[tuple[str, int]] = field(default_factory=list)
    changed: list[bool] = field(default_factory=list)

    def question(self, **changes: Any) -> bytes:
        """As the hub asks; changes make it something else."""
        now_ns = time.time_ns()
        fields: dict[str, Any] = {
            "domain": Domain.CONTROL,
            "agent": "web1",
            "body": {},
            "key": self.home.hub_key(),
            "issued_ns": now_ns,
            "expires_ns": now_ns + 10**10,
            "nonce": os.urandom(16),
        } | changes
        return seal(fields.pop("domain"), **fields)

    async def ask(self, verb: str, message: bytes, timeout_s: float = 5.0) -> Envelope:
        answer = await self.hub.request(f"ctl.web1.{verb}", message, timeout=timeout_s)
        public = self.home.keys.signing.public
        return unseal(answer.data, Domain.REPLY, public=public, agent="web1", now_ns=time.time_ns())


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    async with backbone(tmp_path) as bus:
        home = Home.new(bus, tmp_path / "web1")
        identity = home.identity
        link = Link(
            identity.enrolment.servers,
            agent="web1",
            tls=tls_context(identity.enrolment.ca_pem),
            credentials=Credentials(identity.jwt_path, identity.seed_path),
        )
        watched: list[tuple[str, int]] = []
        changed: list[bool] = []
        control = ControlPoint(
            identity,
            link,
            watch=lambda session, until_ns: watched.append((session, until_ns)),
            changed=lambda: changed.append(True),
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(link.run()), group.create_task(control.run())]
            await link.wait_connected()
            yield Setup(home, await bus.connect_hub(), link, control, watched, changed)
            for task in tasks:
                task.cancel()


async def test_ping_and_interfaces(setup: Setup) -> None:
    nonce = os.urandom(16)
    answer = await setup.ask("ping", setup.question(nonce=nonce))
    assert answer.nonce == nonce
    assert abs(answer.body["time_ns"] - time.time_ns()) < 10**10
    interfaces = (await setup.ask("interfaces", setup.question())).body["interfaces"]
    assert "lo" in [one["name"] for one in interfaces]


async def test_filters_are_judged_by_our_libpcap(setup: Setup) -> None:
    def question(**body: Any) -> bytes:
        return setup.question(body={"snaplen": 262144} | body)

    good = (await setup.ask("check-filter", question(filter="tcp port 80", link_type=1))).body
    assert good["ok"] is True
    assert good["instructions"] > 5
    bad = (await setup.ask("check-filter", question(filter="tcp prot 80", interface="lo"))).body
    assert bad["ok"] is False
    assert "syntax error" in bad["error"]
    nowhere = (await setup.ask("check-filter", question(filter="tcp", interface="wan7"))).body
    assert "no interface 'wan7'" in nowhere["error"]
    for several, error in (("any", ""), ("lo,wan7", "no interface 'wan7'"), ("lo,lo", "one name twice")):
        answer = (await setup.ask("check-filter", question(filter="tcp", interface=several))).body
        assert error in answer.get("error", "")
        assert answer["ok"] == (not error)
    odd = (await setup.ask("check-filter", question(filter=7))).body
    assert "text is needed" in odd["error"]


async def test_notices(setup: Setup) -> None:
    await setup.hub.publish("ctl.web1.changed", setup.question())
    now_ns = time.time_ns()
    for until_ns in (now_ns + 6 * 10**9, now_ns + 10**18):
        body = {"session": SESSION, "until_ns": until_ns}
        message = setup.question(domain=Domain.WATCH, body=body, nonce=None)
        await setup.hub.publish("ctl.web1.watch", message)
    await until(lambda: len(setup.watched) == 2 and bool(setup.changed))
    assert setup.watched[0] == (SESSION, now_ns + 6 * 10**9)
    assert setup.watched[1][1] <= time.time_ns() + 60 * 10**9  # nobody watches for years


async def test_what_is_not_the_hubs_is_ignored(setup: Setup) -> None:
    asked = setup.question()
    await setup.ask("ping", asked)
    now_ns = time.time_ns()
    bad = [
        asked,  # once is enough
        b"",
        b"\xff" * 60,
        setup.question(key=SigningKey.generate()),
        setup.question(agent="web2"),
        setup.question(domain=Domain.REPLY),
        setup.question(issued_ns=now_ns - 10**11, expires_ns=now_ns - 10**9),
        setup.question(issued_ns=now_ns + 10**12, expires_ns=now_ns + 2 * 10**12),
        setup.question(nonce=None),
        setup.question(expires_ns=None),
        b"x" * 70_000,
    ]
    for message in bad:
        with pytest.raises((TimeoutError, nats.errors.TimeoutError)):
            await setup.ask("ping", message, timeout_s=0.15)
    assert setup.control.counters["refused"] == len(bad)
    assert setup.control.counters["replayed"] == 1
    with pytest.raises((TimeoutError, nats.errors.TimeoutError)):
        await setup.ask("format-disk", setup.question(), timeout_s=0.15)
    assert setup.control.counters["unknown"] == 1
    await setup.hub.publish("ctl.web1.watch", setup.question(body={"session": SESSION, "until_ns": 1}))
    await setup.ask("ping", setup.question())
    assert setup.watched == []


async def test_orders_are_verified_remembered_and_never_older(setup: Setup) -> None:
    home, hub = setup.home, setup.hub
    desired = DesiredState(home.identity, setup.link)
    assert desired.load() is None
    waiting = asyncio.ensure_future(desired.next())  # noqa: TID251 - the test waits on it and on events in turn
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await home.declare(hub, 5, SessionSpec(id=SESSION, interface="eth0"))
    desired.ask()
    async with asyncio.timeout(10):
        assert (await waiting).revision == 5

    again = DesiredState(home.identity, setup.link)  # a new life, the server away
    found = again.load()
    assert found is not None
    assert (found.revision, found.sessions[0].id) == (5, SESSION)
    for content in (b"", b"garbage", (home.directory / "desired.cbor").read_bytes()[:-1]):
        (home.directory / "desired.cbor").write_bytes(content)
        assert DesiredState(home.identity, setup.link).load() is None

    await home.declare(hub, 4)
    assert await again._fetch() is None
    assert again.revision == 5
    await hub.jetstream().publish("$KV.desired.web1", b"not signed")
    assert await again._fetch() is None
    assert again.refused == 1


async def test_renewed_credentials_are_taken_over(setup: Setup) -> None:
    from hub.backbone import enrolment

    home = setup.home
    two_months_ago_s = int(time.time()) - 61 * 86_400
    old = enrolment.agent_jwt(home.bus.state, "web1", home.keys.request.user_public, two_months_ago_s)
    assert old.token != home.keys.jwt.token
    home.identity.jwt_path.write_text(old.token)
    jwt = home.keys.jwt
    await home.declare(setup.hub, 7, user_jwt=jwt.token)
    desired = DesiredState(home.identity, setup.link)
    await desired.next()
    await desired.renew_credentials()
    await until(lambda: setup.link.connections == 2)
    assert home.identity.jwt_path.read_text() == jwt.token
    assert home.identity.renew(jwt.token) is False
    await setup.ask("ping", setup.question())
