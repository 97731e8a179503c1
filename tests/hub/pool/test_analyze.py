"""Sessions analysed afterwards: their conversations, and a store that refuses or is away half-way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hub.ledger.ledger import Ledger
from hub.ledger.session_books import session_books
from hub.pool.analyze import Analyses, Analysis
from hub.pool.correlation import Correlation
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.observed import ObservedBatch, Pooling
from hub.pool.store import ConversationRow, Put, Store, StoreAway, StoreRefused
from hub.registry import ConflictError
from tests.hub.agent_side import FakeAgent, enrolled
from tests.hub.parts import Parts, parts, running
from tests.hub.pool.made import START_NS, Made
from tests.hub.pool.test_correlation import datagram
from tests.support.nats_backbone import until

WHOLE: dict[str, Any] = {"since_ns": 0, "until_ns": 2**62}


class Moody(EmbeddedStore):
    """The real store; away for conversations, or refusing one boot's batches, when a test says so."""

    away = False
    refused: bytes | None = None

    async def put(self, batches: Sequence[ObservedBatch]) -> Sequence[Put]:
        if any(batch.header.boot == self.refused for batch in batches):
            raise StoreRefused("not this one, says the test")
        return await super().put(batches)

    async def put_conversations(self, rows: Sequence[ConversationRow]) -> None:
        if self.away:
            raise StoreAway("its disk is full, says the test")
        await super().put_conversations(rows)


@dataclass
class Afterwards:
    here: Parts
    analyses: Analyses
    store: EmbeddedStore
    target: Moody

    def of(self, agent: FakeAgent) -> Analysis:
        found = self.analyses.get(agent.session)
        assert found is not None
        return found

    async def analyse(self, agent: FakeAgent, target: str = "other") -> Analysis:
        """To its end."""
        self.analyses.start(agent.session, target)
        await until(lambda: not self.of(agent).active, 20)
        return self.of(agent)

    async def conversations(self, store: Store) -> Sequence[ConversationRow]:
        return (await store.conversations(None, **WHOLE)).rows

    async def archived(self, *agents: FakeAgent, packets: int) -> None:
        def all_in() -> bool:
            books = [session_books(self.here.registry, agent.session) for agent in agents]
            return all(one.archived_packets == packets for one in books)

        await until(all_in, 20)


@asynccontextmanager
async def afterwards(directory: Path) -> AsyncIterator[Afterwards]:
    async with parts(directory) as here:
        bus = here.bus()
        store, target = EmbeddedStore(directory / "pool"), Moody(directory / "other")
        analyses = Analyses(here.registry, bus, {"own": store, "other": target}, key=bytes(16), source=store)
        ledger = Ledger(here.registry, bus)
        async with running(bus.run(), ledger.run(), store.run(), target.run(), analyses.run()):
            await asyncio.gather(store.opened.wait(), target.opened.wait())
            yield Afterwards(here, analyses, store, target)


async def two_places(lab: Afterwards, batches: int = 3) -> tuple[FakeAgent, FakeAgent]:
    """One flow, seen on both sides of a router by sessions that nobody pools."""
    near, far = [await enrolled(lab.here.backbone, lab.here.registry, name) for name in ("web1", "web2")]
    for agent, ttl, delay_ns in ((near, 64, 0), (far, 63, 300_000)):
        lab.here.registry.sessions.observe(agent.session, agent.name, "", START_NS)
        lab.here.registry.sessions.set_pooling(agent.session, Pooling.OFF)
        for number in range(batches):
            frames = [datagram(10 * number + place, back=False, ttl=ttl) for place in range(10)]
            first_ns = START_NS + number * 1_000_000 + delay_ns
            await agent.publish(agent.packets(frames, first_ns=first_ns))
    await lab.archived(near, far, packets=10 * batches)
    return near, far


@pytest.mark.slow
async def test_sessions_that_nobody_pooled_become_one_truth_in_whichever_order(tmp_path: Path) -> None:
    async with afterwards(tmp_path) as lab:
        near, far = await two_places(lab)
        assert (await lab.analyse(far)).state == "done"
        (row,) = await lab.conversations(lab.target)
        assert (row.packets, row.agents) == (30, ("web2",))
        assert (await lab.analyse(near)).state == "done"
        (row,) = await lab.conversations(lab.target)
        assert (row.packets, row.observations, row.agents) == (30, 60, ("web1", "web2"))
        assert sorted(row.sessions) == sorted([near.session, far.session])
        assert (await lab.analyse(near)).packets == 30  # once more
        again = await lab.conversations(lab.target)
        assert [(one.id, one.packets, one.observations) for one in again] == [(row.id, 30, 60)]
        assert await lab.target.count(None, **WHOLE) == 60


@pytest.mark.slow
async def test_what_the_correlation_heard_as_it_came_is_copied_and_not_made_again(tmp_path: Path) -> None:
    async with afterwards(tmp_path) as lab:
        near, _ = await two_places(lab)
        live = Correlation(lab.store)
        live.hear(Made("web1", near.session).frames([datagram(n, back=False, ttl=64) for n in range(7)]))
        await live.evaluate(final=True)
        await live.give_out()
        live.close()
        (before,) = await lab.conversations(lab.store)
        assert (await lab.analyse(near)).state == "done"
        assert await lab.conversations(lab.target) == [before]
        assert (await lab.analyse(near, "own")).state == "done"
        assert await lab.conversations(lab.store) == [before]


@pytest.mark.slow
async def test_a_store_that_is_full_for_conversations_is_waited_for_and_a_stop_loses_none(
    tmp_path: Path,
) -> None:
    async with afterwards(tmp_path) as lab:
        near, _ = await two_places(lab)
        lab.target.away = True
        lab.analyses.start(near.session, "other")
        await until(lambda: lab.of(near).problem == "waiting: its disk is full, says the test", 20)
        with pytest.raises(ConflictError, match="already"):
            lab.analyses.start(near.session, "other")
        lab.analyses.stop(near.session)
        assert (lab.of(near).state, lab.of(near).packets) == ("stopped", 30)
        lab.target.away = False
        found = await lab.analyse(near)
        assert (found.state, found.problem, found.packets) == ("done", "", 30)
        (row,) = await lab.conversations(lab.target)
        assert row.packets == 30


@pytest.mark.slow
async def test_a_hub_that_is_started_anew_half_way_makes_whole_conversations(tmp_path: Path) -> None:
    async with afterwards(tmp_path) as lab:
        near, _ = await two_places(lab)
        lab.target.away = True
        lab.analyses.start(near.session, "other")
        await until(lambda: lab.of(near).problem.startswith("waiting"), 20)
        lab.target.away = False
        others = {"own": lab.store, "other": lab.target}
        anew = Analyses(lab.here.registry, lab.here.bus(), others, key=bytes(16), source=lab.store)
        bus = anew._bus
        lab.analyses.stop(near.session)
        anew.start(near.session, "other")
        async with running(bus.run(), anew.run()):
            await until(lambda: lab.of(near).state == "done", 20)
        (row,) = await lab.conversations(lab.target)
        assert row.packets == lab.of(near).packets == 30


@pytest.mark.slow
async def test_one_batch_that_the_store_refuses_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    async with afterwards(tmp_path) as lab:
        near, _ = await two_places(lab)
        other = near.rebooted()
        lab.target.refused = other.boot
        await other.publish(replace(other).packets([datagram(n, back=False, ttl=64) for n in range(4)]))
        await lab.archived(near, packets=34)
        found = await lab.analyse(near)
        assert (found.state, found.packets, found.refused, found.share) == ("done", 30, 4, 1.0)
        assert await lab.target.count(None, **WHOLE) == 30
