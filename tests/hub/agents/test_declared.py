"""Sessions, declared state and questions to agents, over the real server."""

import asyncio
import dataclasses
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from hub.agents.control import AgentAway, AgentSilent, AnswerRefused
from hub.agents.declarer import Declarer
from hub.agents.sessions import FlowOptions, SessionControl
from hub.registry import AgentRecord, ConflictError, Registry, UnknownError
from tests.hub.agent_side import FakeAgent, enrolled
from tests.hub.parts import Parts, parts, running
from tests.support.nats_backbone import until
from wire.control import Domain, seal, unseal
from wire.errors import WireError
from wire.keys import SigningKey
from wire.names import desired_get_subject, new_session_id
from wire.session import Desired


async def desired_of(hub: Parts, agent: FakeAgent) -> Desired | None:
    """What the agent reads with its own credentials."""
    assert agent.connection is not None
    reply = await agent.connection.request(desired_get_subject(agent.name), b"", timeout=5)
    if reply.headers and reply.headers.get("Status"):
        return None
    envelope = unseal(
        reply.data, Domain.DESIRED, public=hub.key.public, agent=agent.name, now_ns=time.time_ns()
    )
    return Desired.from_map(envelope.body)


async def test_a_change_by_another_process_reaches_the_agent_within_a_second(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        assert web1.connection is not None
        told: list[bytes] = []

        async def changed(message: Any) -> None:
            told.append(message.data)

        await web1.connection.subscribe("ctl.web1.changed", cb=changed)
        await desired_of(hub, web1)  # answered behind the subscription
        bus = hub.bus()
        declarer = Declarer(
            hub.registry, bus, hub.control(bus), hub.key, own_traffic=lambda: [("10.0.0.9", 4222)]
        )
        async with running(bus.run(), declarer.run()):
            await until(lambda: len(told) == 1)
            first = await desired_of(hub, web1)
            assert first is not None
            assert (first.sessions, first.own_traffic) == ((), (("10.0.0.9", 4222),))
            elsewhere = Registry(hub.registry.path)  # as a CLI command opens it
            session = SessionControl(elsewhere).start("web1", "eth0", filter="tcp port 80", user="cli")
            elsewhere.close()
            await until(lambda: len(told) == 2, 2)
            second = await desired_of(hub, web1)
            assert second is not None
            assert second.revision > first.revision
            assert [(spec.id, spec.filter) for spec in second.sessions] == [(session, "tcp port 80")]
            unseal(told[1], Domain.CONTROL, public=hub.key.public, agent="web1", now_ns=time.time_ns())
            # Nothing changed: nothing is published.
            published = declarer.published
            await asyncio.sleep(1.2)
            assert declarer.published == published
            # An empty bucket heals at the next look.
            await (await bus.jetstream()).purge_stream("KV_desired")
            assert await declarer.publish_changes(audit=True) == ["web1"]
            third = await desired_of(hub, web1)
            assert third is not None
            assert third.revision > second.revision
            # A session whose end the agent confirmed leaves.
            hub.registry.sessions.end(session, time.time_ns())
            await until(lambda: len(told) == 4, 2)
            assert (await desired_of(hub, web1)).sessions == ()  # type: ignore[union-attr]


async def test_renewed_credentials_travel_with_desired_and_survive_a_bad_record(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        await enrolled(hub.backbone, hub.registry, "odd")
        bus = hub.bus()

        def credentials(agent: AgentRecord, now_s: int) -> tuple[str, int, int]:
            if agent.id == "odd":
                raise ValueError("no such key")
            return "renewed.jwt", (now_s + 1) * 10**9, (now_s + 100) * 10**9

        declarer = Declarer(hub.registry, bus, hub.control(bus), hub.key, credentials=credentials)
        async with running(bus.run()):
            assert await declarer.publish_changes() == ["odd", "web1"]
            desired = await desired_of(hub, web1)
        assert desired is not None
        assert desired.user_jwt == "renewed.jwt"
        assert hub.registry.agents.require("web1").user_jwt == "renewed.jwt"


async def test_questions(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        assert web1.connection is not None
        bus = hub.bus()
        control = hub.control(bus)
        key = web1.keys.signing
        forged_nonce: bytes | None = None

        async def answer(message: Any) -> None:
            request = unseal(
                message.data, Domain.CONTROL, public=hub.key.public, agent="web1", now_ns=time.time_ns()
            )
            verb = message.subject.rsplit(".", 1)[1]
            if verb == "quiet":
                return
            body = {
                "ping": {"time_ns": time.time_ns() + 10**9, "version": "1"},
                "check-filter": {"ok": False, "error": "syntax error in filter expression"},
            }.get(verb, {})
            reply = seal(
                Domain.REPLY,
                agent="web1",
                body=body,
                key=key,
                issued_ns=time.time_ns(),
                nonce=forged_nonce or request.nonce,
            )
            await message.respond(reply)

        async with running(bus.run()):
            await bus.client()
            with pytest.raises(AgentAway, match="isn't connected"):
                await control.ping("web1")
            await web1.connection.subscribe("ctl.web1.*", cb=answer)
            await desired_of(hub, web1)  # answered behind the subscription
            ping = await control.ping("web1")
            assert 0.9e9 < ping.offset_ns < 1.1e9
            verdict = await control.check_filter("web1", "tcp prot 80", interface="eth0")
            assert (verdict.accepted, verdict.error) == (False, "syntax error in filter expression")
            with pytest.raises(AgentSilent, match=r"within 0\.3 s"):
                await control.ask("web1", "quiet", timeout_s=0.3)
            with pytest.raises(AnswerRefused, match="oddly"):
                await control.interfaces("web1")
            forged_nonce = b"another-nonce..."
            with pytest.raises(AnswerRefused, match="another question"):
                await control.ping("web1")
            forged_nonce, key = None, SigningKey.generate()
            with pytest.raises(AnswerRefused, match="isn't from agent"):
                await control.ping("web1")
            with pytest.raises(UnknownError):
                await control.ping("nobody")


async def test_steps_of_a_session(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r.sqlite3")
    try:
        registry.agents.add("web1", user_public="U1", signing_public=bytes(32))
        control = SessionControl(registry)
        with pytest.raises(UnknownError):
            control.start("nobody", "eth0", user="anna")
        with pytest.raises(WireError, match="snaplen"):
            control.start("web1", "eth0", snaplen=0, user="anna")
        with pytest.raises(WireError, match="filter"):
            control.start("web1", "eth0", filter="x" * 20_000, user="anna")
        assert registry.sessions.all() == []
        session = control.start("web1", "eth0", user="anna")
        with pytest.raises(ConflictError, match="running already"):
            control.resume(session)
        assert control.change_filter(session, "udp") == 2
        assert control.change_filter(session, " udp ") == 2
        assert control.change_filter(session, "udp", snaplen=96) == 3
        assert control.change_filter(session, "udp", flows=FlowOptions(1000, 4)) == 4
        assert control.change_filter(session, "udp", snaplen=96) == 4
        assert registry.sessions.filters(session) == {1: "", 2: "udp", 3: "udp", 4: "udp"}
        spec = registry.sessions.require(session).spec
        assert spec is not None
        assert (spec.flow_cutoff_bytes, spec.flow_sampling) == (1000, 4)
        with pytest.raises(WireError, match="flow_sampling"):
            control.change_filter(session, "udp", flows=FlowOptions(None, 70_000))
        control.pause(session)
        control.stop(session)
        with pytest.raises(ConflictError, match="stopped already"):
            control.resume(session)
        registry.sessions.end(session, 1)
        with pytest.raises(ConflictError, match="has ended"):
            control.stop(session)
        registry.agents.set_enabled("web1", False, "stolen")
        with pytest.raises(ConflictError, match="revoked"):
            control.start("web1", "eth0", user="anna")
        registry.agents.set_enabled("web1", True)
        for _ in range(64):
            control.start("web1", "eth0", user="anna")
        with pytest.raises(ConflictError, match="64 sessions"):
            control.start("web1", "eth0", user="anna")
        registry.sessions.observe("a" * 26, "web1", "import", 1)
        with pytest.raises(ConflictError, match="not started by this hub"):
            control.stop("a" * 26)
    finally:
        registry.close()


def test_two_processes_may_write_and_a_rollback_leaves_nothing(tmp_path: Path) -> None:
    first, second = Registry(tmp_path / "r.sqlite3"), Registry(tmp_path / "r.sqlite3")
    try:
        before = first.configuration_version()
        second.agents.add("web1", user_public="U1", signing_public=bytes(32))
        assert first.configuration_version() > before

        def half() -> None:
            with first.transaction() as db:
                first.users.add("anna", "hash")
                db.execute("INSERT INTO agent_keys VALUES('nobody', x'00', 'U', 1, NULL, NULL)")

        with pytest.raises(sqlite3.IntegrityError):
            half()
        assert first.users.all() == []
    finally:
        first.close()
        second.close()


async def test_more_orders_than_an_envelope_holds_are_refused_and_stop_nobody(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        await enrolled(hub.backbone, hub.registry, "web1")
        await enrolled(hub.backbone, hub.registry, "web2")
        control = SessionControl(hub.registry)
        long = "not host 10.0.0.1" + " and not host 10.0.0.1" * 700
        first = control.start("web1", "eth0", user="u")
        for _ in range(12):
            control.start("web1", "eth0", filter=long, user="u")
        with pytest.raises(ConflictError, match=r"shorten a filter or .*stop a session"):
            control.start("web1", "eth0", filter=long, user="u")
        with pytest.raises(ConflictError, match="shorten a filter"):
            control.change_filter(first, long)
        # A registry that holds more all the same (of an older version) must not keep the others from their orders.
        spec = hub.registry.sessions.require(first).spec
        assert spec is not None
        for _ in range(8):
            hub.registry.sessions.add("web1", dataclasses.replace(spec, id=new_session_id(), filter=long))
        bus = hub.bus()
        declarer = Declarer(hub.registry, bus, hub.control(bus), hub.key)
        async with running(bus.run()):
            assert await declarer.publish_changes() == ["web2"]
