"""What a page begins with: the newest packets, none twice, none missing where they meet what comes live."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from hub.decode.summary import Row
from hub.live import backlog
from hub.live.feed import BACKLOG_ROWS, MAX_ROWS, LiveFeed
from hub.live.viewer import Viewer
from tests.hub.agent_side import FakeAgent, Message, enrolled, udp_packet
from tests.hub.parts import Parts, parts, running
from tests.support.nats_backbone import until
from wire.names import Lane


async def joined(hub: Parts, name: str) -> FakeAgent:
    agent = await enrolled(hub.backbone, hub.registry, name)
    hub.registry.sessions.observe(agent.session, name, "", 1)
    return agent


class Page:
    """All that a viewer got, as a page would hold it."""

    def __init__(self) -> None:
        self.older: list[Row] = []
        self.rows: list[Row] = []
        self.not_shown = 0
        self.looks = 0
        self.away = False

    async def follow(self, viewer: Viewer) -> None:
        async for update in viewer:
            self.rows += update.rows
            self.not_shown += update.not_shown
            if update.older is not None:
                self.looks += 1
                self.older += update.older
                self.away = update.archive_away

    def names(self) -> list[str]:
        return [row.observation for row in self.older + self.rows]


def names(agent: FakeAgent, *messages: Message, lane: str = "bulk") -> list[str]:
    return [
        f"{agent.name}/{agent.boot.hex()}/{agent.session}/{lane}/{message.sequence}/{index}"
        for message in messages
        for index in range(message.packets)
    ]


async def test_it_begins_with_the_newest_of_all_sessions_and_lanes(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1, web2 = await joined(hub, "web1"), await joined(hub, "web2")
        bus = hub.bus()
        base = time.time_ns() - 10**9
        sent = []
        for turn in range(6):
            for place, (agent, lane) in enumerate(((web1, Lane.BULK), (web2, Lane.BULK), (web1, Lane.PRIO))):
                first_ns = base + turn * 10_000_000 + place * 20_000  # interleaved: 50 packets take 50 µs
                message = agent.packets([udp_packet(n) for n in range(50)], first_ns=first_ns, lane=lane)
                await agent.publish(message)
                sent += [
                    (first_ns + n * 1000, name)
                    for n, name in enumerate(names(agent, message, lane=lane.value))
                ]
        forged = FakeAgent(web2.keys, session=web1.session).packets([udp_packet(1)])
        assert web1.connection is not None
        await web1.connection.publish(f"cap.web1.{web1.session}.bulk", forged.data)
        feed = LiveFeed(bus, hub.registry, hub.key)
        async with running(bus.run(), feed.run()):
            await bus.client()
            page = Page()
            async with (
                feed.watch([web1.session, web2.session], backlog=BACKLOG_ROWS) as viewer,
                running(page.follow(viewer)),
            ):
                await until(lambda: page.looks == 1)
                message = web1.packets([udp_packet(1)])
                await web1.publish(message)
                await until(lambda: len(page.rows) == 1)
        newest = [name for _, name in sorted(sent)][-BACKLOG_ROWS:]
        assert [row.time_ns for row in page.older] == sorted(row.time_ns for row in page.older)
        assert sorted(row.observation for row in page.older) == sorted(newest)
        assert page.names()[-1:] == names(web1, message)
        assert page.older[0].heard_ns > base, "it can be opened"


async def test_nothing_is_missing_or_twice_where_it_meets_the_stream(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()
        sent: list[Message] = []

        async def send() -> None:
            while len(sent) < 300:
                sent.append(web1.packets([udp_packet(len(sent))]))
                await web1.publish(sent[-1])

        feed = LiveFeed(bus, hub.registry, hub.key)
        async with running(bus.run(), feed.run()):
            await bus.client()
            pages = [Page() for _ in range(4)]
            done = asyncio.Event()

            async def look(page: Page, after: int) -> None:
                await until(lambda: len(sent) >= after)
                async with (
                    feed.watch([web1.session], max_rows=MAX_ROWS, backlog=BACKLOG_ROWS) as viewer,
                    running(page.follow(viewer)),
                ):
                    await done.wait()

            # The first page makes the subscription; the others come while another one watches.
            looks = [look(page, after) for page, after in zip(pages, (1, 40, 100, 200), strict=True)]
            async with running(*looks):
                await send()
                await until(lambda: all(len(page.names()) >= 300 for page in pages))
                done.set()
            for page in pages:
                assert page.not_shown == 0
                assert sorted(page.names()) == sorted(names(web1, *sent))
                assert page.names() == names(web1, *sent), "in time order, the older ones first"


async def test_what_is_stored_late_is_found_by_the_second_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "SEAM_S", 0.4)
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()
        feed = LiveFeed(bus, hub.registry, hub.key)
        async with running(bus.run(), feed.run()):
            await bus.client()
            first, page = web1.packets([udp_packet(1)]), Page()
            await web1.publish(first)
            async with (
                feed.watch([web1.session], backlog=BACKLOG_ROWS) as viewer,
                running(page.follow(viewer)),
            ):
                await until(lambda: page.looks == 1)
                # As if the server had passed them on before the subscription, and stored them now.
                watched = feed._watched[web1.session]
                watched.viewers.discard(viewer)
                late = web1.packets([udp_packet(2)])
                await web1.publish(late)
                await until(lambda: len(watched.heard) == 1)
                watched.viewers.add(viewer)
                live = web1.packets([udp_packet(3)])
                await web1.publish(live)
                await until(lambda: page.looks == 2)
                assert page.names() == [*names(web1, first, late), *names(web1, live)]
                await until(lambda: viewer._seam is None)


async def test_a_batch_that_is_sent_again_is_shown_once(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        assert web1.connection is not None
        bus = hub.bus()
        feed, page = LiveFeed(bus, hub.registry, hub.key), Page()
        async with running(bus.run(), feed.run()):
            await bus.client()
            async with (
                feed.watch([web1.session], backlog=BACKLOG_ROWS) as viewer,
                running(page.follow(viewer)),
            ):
                again, other = web1.packets([udp_packet(1)]), web1.packets([udp_packet(2)])
                for message in (again, again, other):
                    await web1.connection.publish(message.subject, message.data)
                await until(lambda: len(page.names()) >= 2)
                assert page.names() == names(web1, again, other)


async def test_an_archive_that_is_away_is_said_and_delays_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "TIMEOUT_S", 0.1)
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()  # never connected
        feed, page = LiveFeed(bus, hub.registry, hub.key), Page()
        async with (
            running(feed.run()),
            feed.watch([web1.session], backlog=BACKLOG_ROWS) as viewer,
            running(page.follow(viewer)),
        ):
            await until(lambda: page.looks == 1)
            assert page.away
            assert not viewer.awaits_older
