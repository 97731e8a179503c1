"""The live feed: real batches over the real server to viewers, in time order, bounded, verified once."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hub.live.feed import MAX_ROWS, LiveFeed, Update, Viewer
from hub.registry import UnknownError
from tests.hub.agent_side import FakeAgent, enrolled, udp_packet
from tests.hub.parts import Parts, parts, running, settled
from tests.support.nats_backbone import until
from wire.control import Domain, unseal
from wire.keys import SigningKey
from wire.names import new_session_id


async def joined(hub: Parts, name: str) -> FakeAgent:
    agent = await enrolled(hub.backbone, hub.registry, name)
    hub.registry.sessions.observe(agent.session, name, "", 1)
    return agent


async def updates_until(viewer: Viewer, enough: Callable[[list[Update]], bool]) -> list[Update]:
    updates: list[Update] = []
    async with asyncio.timeout(10):
        async for update in viewer:
            updates.append(update)
            if enough(updates):
                break
    return updates


def packets_told(updates: list[Update]) -> int:
    return sum(len(update.rows) + update.not_shown for update in updates)


async def test_rows_counts_and_watch_notices(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        assert web1.connection is not None
        notices: list[bytes] = []

        async def noted(message) -> None:  # type: ignore[no-untyped-def]
            notices.append(message.data)

        await web1.connection.subscribe("ctl.web1.watch", cb=noted)
        await web1.connection.request("$JS.API.DIRECT.GET.KV_desired.$KV.desired.web1", b"", timeout=5)
        bus = hub.bus()
        async with running(bus.run()):
            await bus.client()
            feed = LiveFeed(bus, hub.registry, hub.key)
            with pytest.raises(UnknownError):
                async with feed.watch([new_session_id()]):
                    pass
            async with running(feed.run()), feed.watch([web1.session]) as viewer:
                await until(lambda: len(notices) == 1, 0.5)
                envelope = unseal(
                    notices[0], Domain.WATCH, public=hub.key.public, agent="web1", now_ns=time.time_ns()
                )
                assert envelope.body["session"] == web1.session
                assert envelope.expires_ns is not None
                assert 5e9 < envelope.expires_ns - envelope.issued_ns <= 6e9
                await settled(bus)
                await web1.publish(web1.packets([udp_packet(i) for i in range(3)]))
                first = await updates_until(viewer, lambda u: packets_told(u) >= 3)
                rows = [row for update in first for row in update.rows]
                assert [row.protocol for row in rows] == ["UDP"] * 3
                assert (rows[0].source, rows[0].destination) == ("10.0.0.1", "10.0.0.2")
                assert rows[2].observation == f"web1/{web1.boot.hex()}/{web1.session}/bulk/0/2"
                # A flood: 20 batches of 500; every packet is shown or counted, and at most 40 rows a time.
                for _ in range(20):
                    await web1.publish(web1.packets([udp_packet(i) for i in range(500)]))
                flood = await updates_until(viewer, lambda u: packets_told(u) >= 10_000)
                assert packets_told(flood) == 10_000
                assert max(len(update.rows) for update in flood) <= 40
                totals = flood[-1].totals[web1.session]
                assert totals.packets == 10_003
                assert totals.packets_per_second > 0
                assert totals.dropped == {"ring": 0, "newest": 0, "oldest": 0, "invalid": 0}
                assert totals.lag_s is not None
                assert totals.lag_s < 60
                await until(lambda: len(notices) >= 2, 4)
            assert feed.viewers == 0
            assert feed._watched == {}
            count = len(notices)
            await asyncio.sleep(2.5)
            assert len(notices) == count, "nobody watches, nobody is told to hurry"


async def test_merges_agents_by_time(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1, web2 = await joined(hub, "web1"), await joined(hub, "web2")
        bus = hub.bus()
        async with running(bus.run()):
            await bus.client()
            feed = LiveFeed(bus, hub.registry, hub.key)
            async with feed.watch([web1.session, web2.session]) as viewer:
                await settled(bus)
                base = time.time_ns()
                # Interleaved in time, and web2's batch of each pair comes later although it is older.
                for turn in range(10):
                    await web1.publish(
                        web1.packets(
                            [udp_packet(1), udp_packet(2)], first_ns=base + turn * 10_000_000 + 5_000_000
                        )
                    )
                    await web2.publish(
                        web2.packets([udp_packet(3), udp_packet(4)], first_ns=base + turn * 10_000_000)
                    )
                updates = await updates_until(viewer, lambda u: packets_told(u) >= 40)
        rows = [row for update in updates for row in update.rows]
        assert len(rows) == 40
        assert {row.agent for row in rows} == {"web1", "web2"}
        for update in updates:
            times = [row.time_ns for row in update.rows]
            assert times == sorted(times)


async def test_one_that_never_reads_and_one_that_does(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()
        async with running(bus.run()):
            await bus.client()
            feed = LiveFeed(bus, hub.registry, hub.key)
            async with (
                feed.watch([web1.session], max_rows=10_000) as asleep,
                feed.watch([web1.session]) as awake,
            ):
                await settled(bus)
                for _ in range(40):
                    await web1.publish(web1.packets([udp_packet(i) for i in range(400)]))
                seen = await updates_until(awake, lambda u: packets_told(u) >= 16_000)
                assert packets_told(seen) == 16_000
                assert len(asleep._waiting) == MAX_ROWS, "what waits is one update's rows"
                late = await updates_until(asleep, lambda u: packets_told(u) >= 16_000)
                assert packets_told(late) == 16_000


async def test_forged_batches_are_counted_and_never_shown(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        assert web1.connection is not None
        forger = FakeAgent(replace(web1.keys, signing=SigningKey.generate()), session=web1.session)
        bus = hub.bus()
        async with running(bus.run()):
            await bus.client()
            feed = LiveFeed(bus, hub.registry, hub.key)
            async with feed.watch([web1.session]) as viewer:
                await settled(bus)
                forged = forger.packets([udp_packet(1)])
                await web1.connection.publish(forged.subject, forged.data)
                await web1.connection.publish(forged.subject, b"{}")
                await web1.publish(web1.packets([udp_packet(2)]))
                updates = await updates_until(viewer, lambda u: packets_told(u) >= 1)
        assert packets_told(updates) == 1
        assert updates[-1].totals[web1.session].unverified == 2
