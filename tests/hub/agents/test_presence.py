"""Presence: the verdict's logic with a clock as an argument, and the real thing over the real server."""

import asyncio
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hub.agents import presence as presence_module
from hub.agents.declarer import Declarer
from hub.agents.presence import Presence
from hub.agents.sessions import SessionControl, session_state
from hub.agents.sighting import Sighting
from hub.backbone import first_start
from hub.registry.agents import Agents
from tests.hub.agent_side import FakeAgent, enrolled
from tests.hub.parts import Parts, parts, running, settled
from tests.support.nats_backbone import until
from wire.keys import SigningKey

BOOT = b"b" * 16


def test_never_seen_then_online_then_silent() -> None:
    agent = Sighting(100.0)
    assert agent.state(500.0) == "never"
    assert agent.heartbeat(BOOT, 1, 500.0)
    assert agent.state(514.9) == "online"
    assert agent.state(515.0) == "offline"
    assert agent.heartbeat(BOOT, 2, 600.0)
    assert agent.state(600.0) == "online"


def test_a_killed_agent_is_offline_within_two_seconds_and_a_reconnect_is_no_absence() -> None:
    agent = Sighting(0.0)
    agent.connected("s:1", "10.0.0.1")
    agent.heartbeat(BOOT, 1, 10.0)
    agent.disconnected("s:1", "Client Closed", 11.0)
    assert agent.state(12.0) == "online"
    assert agent.state(12.6) == "offline"
    agent.connected("s:2", "10.0.0.1")
    assert agent.state(12.6) == "online"
    # Renewed credentials: the new connection opens before or just after the old one ends.
    agent.connected("s:3", "10.0.0.1")
    agent.disconnected("s:2", "", 13.0)
    assert agent.state(20.0) == "online"


def test_a_busy_agent_is_alive_by_its_batches_and_is_asked_before_a_verdict() -> None:
    agent = Sighting(0.0)
    agent.heartbeat(BOOT, 1, 0.0)
    assert not agent.wants_probe(8.0)
    assert agent.wants_probe(10.0)
    assert not agent.wants_probe(11.0), "asked at most every two seconds"
    assert agent.wants_probe(12.5)
    agent.life(13.0)  # it answered, or a batch came
    assert agent.state(27.0) == "online"
    agent.disconnected("s:1", "", 27.0)
    assert not agent.wants_probe(36.0), "a closed connection can't answer"


def test_replayed_heartbeats_change_nothing() -> None:
    agent = Sighting(0.0)
    assert agent.heartbeat(BOOT, 5, 1.0)
    assert not agent.heartbeat(BOOT, 5, 2.0)
    assert not agent.heartbeat(BOOT, 4, 3.0)
    assert agent.heartbeat(b"c" * 16, 1, 4.0)
    assert not agent.heartbeat(BOOT, 6, 5.0), "a boot that is over doesn't come back"
    assert agent.last_life_s == 4.0


def test_the_hubs_own_absence_is_nobodys() -> None:
    agent = Sighting(0.0)
    agent.heartbeat(BOOT, 1, 10.0)
    agent.forget_connections()
    agent.resume(100.0)
    assert agent.state(101.0) == "unknown"
    assert agent.state(114.9) == "unknown"
    assert agent.state(115.0) == "offline"
    agent.heartbeat(BOOT, 2, 116.0)
    assert agent.state(116.0) == "online"


def presence_of(hub: Parts) -> tuple[Presence, list]:  # type: ignore[type-arg]
    bus, system = hub.bus(), hub.bus(system=True)
    presence = Presence(
        hub.registry,
        bus,
        system_bus=system,
        account=first_start.account_public(hub.backbone.state),
        control=hub.control(bus),
    )
    return presence, [bus, system, presence]


async def test_online_and_offline_within_two_seconds_for_real(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        presence, works = presence_of(hub)
        assert presence.status("web1").reason.startswith(("never seen", "unknown"))
        async with running(*(work.run() for work in works)):
            await until(lambda: len(presence._bus._subscriptions) == 2 and presence._bus.connected)
            await settled(presence._bus)
            assert web1.connection is not None
            with presence.changes() as changes:
                await web1.beat(spool_bytes=42_000_000)
                await until(lambda: presence.status("web1").online)
                async with asyncio.timeout(1):
                    assert "web1" in await anext(aiter(changes))
            status = presence.status("web1")
            assert (status.reason, status.packets_per_second, status.spool_bytes) == (
                "online",
                1.0,
                42_000_000,
            )
            # A second connection with the same credentials is told.
            clone = await hub.backbone.connect_agent(web1.keys)
            again = await hub.backbone.connect_agent(web1.keys)
            await until(lambda: any("connections use" in w for w in presence.status("web1").warnings))
            await clone.close()
            await again.close()
            await until(lambda: not any("connections use" in w for w in presence.status("web1").warnings))
            began = time.monotonic()
            web1.connection._transport.close()  # type: ignore[union-attr]
            web1.connection.options["allow_reconnect"] = False
            await until(lambda: presence.status("web1").state == "offline", 5)
            assert time.monotonic() - began < 2.5
            assert "42 MB spooled" in presence.status("web1").reason


async def test_only_the_agents_own_signature_counts(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        assert web1.connection is not None
        presence, works = presence_of(hub)
        forger = FakeAgent(replace(web1.keys, signing=SigningKey.generate()), connection=web1.connection)
        async with running(*(work.run() for work in works)):
            await until(lambda: len(presence._bus._subscriptions) == 2 and presence._bus.connected)
            await settled(presence._bus)
            await forger.beat()
            await web1.connection.publish("hb.web1", b"\x00" * 100)
            heartbeat = web1.heartbeat()
            await web1.connection.publish("rep.web1", heartbeat)  # signed, for another purpose
            await web1.connection.flush()
            await until(lambda: presence.rejected == 3)
            assert presence.status("web1").state == "never"
            await web1.connection.publish("hb.web1", heartbeat)
            await web1.connection.publish("hb.web1", heartbeat)
            await web1.connection.flush()
            await until(lambda: presence.rejected == 4)
            assert presence.status("web1").online
            await web1.beat(alerts=("the spool's disk refuses",))
            await until(lambda: "the spool's disk refuses" in presence.status("web1").warnings)


async def test_reports_move_sessions_to_their_end(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        control = SessionControl(hub.registry)
        session = control.start("web1", "eth0", user="anna")
        presence, works = presence_of(hub)
        assert session_state(hub.registry.sessions.require(session))[0] == "requested"
        async with running(*(work.run() for work in works)):
            await until(lambda: len(presence._bus._subscriptions) == 2 and presence._bus.connected)
            await settled(presence._bus)

            def state() -> str:
                return session_state(hub.registry.sessions.require(session))[0]

            await web1.report(1, {session: "running"})
            await until(lambda: state() == "running")
            control.pause(session)
            assert state() == "pausing"
            await web1.report(2, {session: "paused"})
            await until(lambda: state() == "paused")
            control.stop(session)
            assert state() == "stopping"
            await web1.report(3, {session: "stopped"})
            await until(lambda: state() == "stopped")
            assert hub.registry.sessions.all(active_only=True) == []
            assert presence.status("web1").online, "a report is a sign of life"


async def test_a_registry_that_cannot_be_written_ends_neither_presence_nor_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "SAVE_S", 0.05)
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        bus = hub.bus()
        presence = Presence(hub.registry, bus)
        declarer = Declarer(hub.registry, bus, hub.control(bus), hub.key)
        async with running(bus.run(), presence.run(), declarer.run()):
            await until(lambda: declarer.published == 1)
            await settled(bus)
            writer = sqlite3.connect(hub.registry.path, isolation_level=None)
            writer.execute("BEGIN IMMEDIATE")  # another process writes, and for long
            monkeypatch.setattr("hub.registry.connection.BUSY_TIMEOUT_MS", 50)
            for connection in hub.registry._all:
                connection.execute("PRAGMA busy_timeout = 50")
            failed = []
            real = Agents.save_heartbeats

            def counted(agents: Agents, beats: dict[str, tuple[bytes, int]]) -> None:
                try:
                    real(agents, beats)
                except sqlite3.Error as error:
                    failed.append(error)
                    raise

            monkeypatch.setattr(Agents, "save_heartbeats", counted)
            await web1.beat()
            await until(lambda: bool(failed))
            assert presence.status("web1").online
            writer.execute("ROLLBACK")
            writer.close()
            await until(lambda: hub.registry.agents.require("web1").heartbeat is not None)
