"""From the archive into the pool, by the real server: verified, once each, and nothing lost while a store is away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.ledger.ledger import Ledger
from hub.ledger.session_books import session_books
from hub.pool.analyze import Analyses, Analysis
from hub.pool.books import session_pool
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.ingest import MAX_FETCH, ROUNDS, Ingest
from hub.pool.observed import ObservedBatch, Pooling
from hub.pool.store import Put, StoreAway, StoreRefused
from tests.hub.agent_side import FakeAgent, enrolled, udp_packet
from tests.hub.parts import Parts, parts, running
from tests.hub.pool.made import START_NS
from tests.support.nats_backbone import until

WHOLE: dict[str, Any] = {"since_ns": 0, "until_ns": 2**63 - 1}
KEY = bytes(16)


def packets(count: int, first: int = 0) -> list[bytes]:
    return [udp_packet(first + i) for i in range(count)]


async def _session(here: Parts, agent: FakeAgent, pooling: Pooling | None = None) -> None:
    """As the ledger records it."""
    here.registry.sessions.observe(agent.session, agent.name, "", START_NS)
    here.registry.sessions.set_pooling(agent.session, pooling)


class Moody(EmbeddedStore):
    """The real store, away or refusing when a test says so."""

    away = False
    refused: bytes | None = None
    """A batch whose boot this is."""

    async def put(self, batches: Sequence[ObservedBatch]) -> Sequence[Put]:
        if self.away:
            raise StoreAway("it is away, says the test")
        if any(batch.header.boot == self.refused for batch in batches):
            raise StoreRefused("not this one, says the test")
        return await super().put(batches)


@pytest.mark.slow
async def test_books_add_up_whatever_the_level_and_however_often_a_batch_comes(tmp_path: Path) -> None:
    async with parts(tmp_path) as here:
        levels = [None, Pooling.OFF, Pooling.CONVERSATIONS, Pooling.PAYLOAD]
        agents = [await enrolled(here.backbone, here.registry, f"web{i}") for i in range(len(levels))]
        bus = here.bus()
        ledger = Ledger(here.registry, bus)
        store = EmbeddedStore(tmp_path / "pool")
        ingest = Ingest(here.registry, bus, store, key=KEY)
        heard: list[ObservedBatch] = []
        ingest.on_batch(heard.append)
        async with running(bus.run(), ledger.run(), store.run(), ingest.run()):
            for agent, level in zip(agents, levels, strict=True):
                await _session(here, agent, level)
                for number in range(3):
                    message = agent.packets(packets(10, 10 * number))
                    # The server has forgotten the first one's id when it comes again: stored twice.
                    await agent.publish(
                        message, replace(message, id=f"again-{agent.name}-{number}"), acknowledge=False
                    )
                await agent.publish(agent.closing())
            books = [session_books(here.registry, agent.session) for agent in agents]

            def archived() -> bool:
                nonlocal books
                books = [session_books(here.registry, agent.session) for agent in agents]
                pools = [session_pool(here.registry, agent.session) for agent in agents]
                return all(
                    book.archived_packets == pool.pooled + pool.left_out + pool.refused == 30
                    for book, pool in zip(books, pools, strict=True)
                )

            await until(archived, 20)
            pools = [session_pool(here.registry, agent.session) for agent in agents]
            assert [(pool.pooled, pool.left_out) for pool in pools] == [(30, 0), (0, 30), (0, 30), (30, 0)]
            assert {size.session: size.packets for size in await store.sessions()} == {
                agents[0].session: 30,
                agents[3].session: 30,
            }
            told = {agent.session: sum(b.header.session == agent.session for b in heard) for agent in agents}
            assert told == {
                a.session: 3 * (level is not Pooling.OFF) for a, level in zip(agents, levels, strict=True)
            }
            await until(lambda: ingest.status.counts.duplicates == 12, 20)
            assert ingest.status.lag_p95_s < 5


@pytest.mark.slow
async def test_a_store_that_is_away_makes_the_pool_wait_and_loses_nothing(tmp_path: Path) -> None:
    async with parts(tmp_path) as here:
        agent = await enrolled(here.backbone, here.registry, "web1")
        await _session(here, agent)
        bus = here.bus()
        store = Moody(tmp_path / "pool")
        store.away = True
        ingest = Ingest(here.registry, bus, store, key=KEY)
        async with running(bus.run(), store.run(), ingest.run()):
            await agent.publish(agent.packets(packets(5)), agent.packets(packets(5, 5)))
            await until(lambda: "says the test" in ingest.status.waiting_for, 20)
            assert ingest.status.lag_s > 0
            assert session_pool(here.registry, agent.session).pooled == 0
            store.away = False
            await until(lambda: session_pool(here.registry, agent.session).pooled == 10, 20)
            assert ingest.status.waiting_for == ""
            assert await store.count(None, **WHOLE) == 10


class Slow(EmbeddedStore):
    """The real store, which answers no put before so many are there at a time."""

    puts = 0

    async def put(self, batches: Sequence[ObservedBatch]) -> Sequence[Put]:
        self.puts += 1
        await until(lambda: self.puts >= ROUNDS, 20)
        return await super().put(batches)


@pytest.mark.slow
async def test_a_store_that_answers_slowly_has_several_rounds_in_hand(tmp_path: Path) -> None:
    async with parts(tmp_path) as here:
        agent = await enrolled(here.backbone, here.registry, "web1")
        await _session(here, agent)
        messages = [agent.packets(packets(1, number)) for number in range(ROUNDS * MAX_FETCH)]
        await agent.publish(*messages)
        await agent.publish(replace(messages[-1], id="again"), acknowledge=False)
        bus = here.bus()
        store = Slow(tmp_path / "pool")
        ingest = Ingest(here.registry, bus, store, key=KEY)
        async with running(bus.run(), store.run(), ingest.run()):
            await until(lambda: session_pool(here.registry, agent.session).pooled == len(messages), 20)
            await until(lambda: ingest.status.counts.duplicates == 1, 20)
            assert await store.count(None, **WHOLE) == len(messages)


@pytest.mark.slow
async def test_what_the_store_refuses_is_counted_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with parts(tmp_path) as here:
        agent = await enrolled(here.backbone, here.registry, "web1")
        await _session(here, agent)
        other = agent.rebooted()
        store = Moody(tmp_path / "pool")
        store.refused = other.boot
        bus = here.bus()
        ingest = Ingest(here.registry, bus, store, key=KEY)
        async with running(bus.run(), store.run(), ingest.run()):
            torn = agent.packets(packets(7), captured_bytes=1)  # its header contradicts its body
            await agent.publish(
                agent.packets(packets(5)), other.packets(packets(3)), torn, agent.packets(packets(4))
            )
            await until(lambda: session_pool(here.registry, agent.session).pooled == 9, 20)
        found = session_pool(here.registry, agent.session)
        assert found.refused == 3 + 7
        assert any("says the test" in reason for reason in found.reasons)
        assert any("captured_bytes" in reason for reason in found.reasons)


@pytest.mark.slow
async def test_messages_that_nobody_vouches_for_never_get_in(tmp_path: Path) -> None:
    async with parts(tmp_path) as here:
        web, db = [await enrolled(here.backbone, here.registry, name) for name in ("web1", "db1")]
        await _session(here, web)
        bus = here.bus()
        store = EmbeddedStore(tmp_path / "pool")
        ingest = Ingest(here.registry, bus, store, key=KEY)
        thief = replace(db, session=web.session)  # another agent's session, properly signed
        forged = web.packets(packets(2))
        broken = replace(forged, data=forged.data[:-1] + bytes([forged.data[-1] ^ 1]), id="broken")
        async with running(bus.run(), store.run(), ingest.run()):
            await thief.publish(thief.packets(packets(3)))
            await web.publish(broken, forged)
            await until(lambda: session_pool(here.registry, web.session).pooled == 2, 20)
            await until(lambda: ingest.status.counts.unverified == 2, 20)
            assert await store.count(None, **WHOLE) == 2


@pytest.mark.slow
async def test_a_session_is_analysed_afterwards_goes_on_and_is_there_once(tmp_path: Path) -> None:
    async with parts(tmp_path) as here:
        agent = await enrolled(here.backbone, here.registry, "web1")
        await _session(here, agent, Pooling.OFF)
        bus = here.bus()
        ledger = Ledger(here.registry, bus)
        store, target = EmbeddedStore(tmp_path / "pool"), Moody(tmp_path / "other")
        analyses = Analyses(here.registry, bus, {"other": target}, key=KEY, source=store)
        async with running(bus.run(), ledger.run(), store.run(), target.run(), analyses.run()):
            await agent.publish(*(agent.packets(packets(10, 10 * i)) for i in range(60)))
            await until(lambda: session_books(here.registry, agent.session).archived_packets == 600, 20)

            def now() -> Analysis:
                found = analyses.get(agent.session)
                assert found is not None
                return found

            target.away = True
            analyses.start(agent.session, "other")
            await until(lambda: "waiting: " in now().problem, 20)
            analyses.stop(agent.session)
            target.away = False
            analyses.start(agent.session, "other")
            await until(lambda: now().state == "done", 20)
            found = analyses.get(agent.session)
            assert found is not None
            assert (found.packets, found.refused, found.total, found.share) == (600, 0, 600, 1.0)
            assert await target.count(None, **WHOLE) == 600
            page = await target.packets(None, **WHOLE, limit=1)
            assert abs(int(page.rows[0].values["event.ingested"]) - time.time_ns()) < 60 * 10**9
            analyses.start(agent.session, "other")
            await until(lambda: now().state == "done", 20)
            assert await target.count(None, **WHOLE) == 600
