"""The keeper against a real stream that is too small."""

import time
from pathlib import Path

import pytest
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import ServiceUnavailableError

from hub.agents.sessions import SessionControl
from hub.archive.export import Export
from hub.archive.keeper import Keeper
from hub.archive.reading import stream_state
from hub.ledger.ledger import Ledger
from hub.ledger.session_books import session_books
from tests.hub.agent_side import FakeAgent, enrolled, udp_packet
from tests.hub.parts import Parts, parts, running
from tests.support.nats_backbone import until

BATCH = 64 * 1024


async def shrink(hub: Parts, max_bytes: int) -> None:
    """Make the archive tiny."""
    connection = await hub.backbone.connect_hub()
    jetstream = connection.jetstream()
    config = (await jetstream.stream_info("CAPTURE")).config
    config.max_bytes = max_bytes
    await jetstream.update_stream(config)


def batch(agent: FakeAgent):  # type: ignore[no-untyped-def]
    import secrets

    return agent.packets([udp_packet(i, 80) + secrets.token_bytes(1300) for i in range(BATCH // 1380)])


async def publish_until_refused(agent: FakeAgent, limit: int = 500) -> int:
    for number in range(limit):
        try:
            await agent.publish(batch(agent))
        except ServiceUnavailableError as error:
            return number if error.err_code == 10077 else -1
    raise AssertionError("never refused")


async def test_makes_room_for_refused_publishes_but_never_from_the_unconfirmed(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        hub.registry.sessions.observe(web1.session, "web1", "", 1)
        await shrink(hub, 4 << 20)
        stored = await publish_until_refused(web1)
        assert stored > 30
        bus = hub.bus()
        keeper = Keeper(hub.registry, bus)
        async with running(bus.run()):
            assert await keeper.make_room("CAPTURE") == 0, "without the ledger's durable nothing is confirmed"
            assert keeper.status["CAPTURE"].waiting_for == "ledger-bulk"
            ledger = Ledger(hub.registry, bus, mark_bytes=1)
            async with running(ledger.run()):
                await until(lambda: ledger.counts.batches >= stored)
                jetstream = await bus.jetstream()
                await jetstream.add_consumer(
                    "CAPTURE", ConsumerConfig(durable_name="pool", ack_policy=AckPolicy.EXPLICIT)
                )
                assert await keeper.make_room("CAPTURE") == 0, "another purpose has confirmed nothing"
                assert keeper.status["CAPTURE"].waiting_for == "pool"
                await jetstream.delete_consumer("CAPTURE", "pool")
                freed = await keeper.make_room("CAPTURE")
                assert 0 < freed < stored
                state = await stream_state(bus, "CAPTURE")
                assert state.bytes <= 0.76 * (4 << 20)
                assert state.messages == stored - freed
                await web1.publish(batch(web1))
                assert hub.registry.counters()["purged_messages"] == freed
                estimate = Export(hub.registry, bus, hub.key).estimate([web1.session])
                per_batch = session_books(hub.registry, web1.session).archived_packets // (stored + 1)
                assert estimate.purged_packets == pytest.approx(freed * per_batch, rel=0.15)


async def test_each_session_keeps_what_it_asked_for(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        control = SessionControl(hub.registry)
        by_size = FakeAgent(
            web1.keys,
            session=control.start("web1", "eth0", retention_bytes=4 * BATCH, user="anna"),
            connection=web1.connection,
        )
        by_age = FakeAgent(
            web1.keys,
            session=control.start("web1", "eth0", retention_s=3600, user="anna"),
            connection=web1.connection,
        )
        for _ in range(10):
            await by_size.publish(batch(by_size))
            await by_age.publish(batch(by_age))
        bus = hub.bus()
        keeper = Keeper(hub.registry, bus)
        ledger = Ledger(hub.registry, bus, mark_bytes=1)
        async with running(bus.run(), ledger.run()):
            await until(lambda: ledger.counts.batches == 20)
            await until(lambda: _confirmed(keeper))
            assert await keeper.keep_promises(time.time_ns()) == 5, "at least as much as asked stays"
            assert await keeper.keep_promises(time.time_ns()) == 0
            assert await keeper.keep_promises(time.time_ns() + 3700 * 10**9) == 10
            assert (await stream_state(bus, "CAPTURE")).messages == 5


async def _confirmed(keeper: Keeper) -> bool:
    return (await keeper.floor("CAPTURE"))[0] >= 20
