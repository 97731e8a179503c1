"""Spool → a real nats-server, whatever happens to it: every batch is stored exactly once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from agent.credentials import Credentials
from agent.link import Link, LinkAway, NoAnswer, NotTaken, tls_context
from agent.publisher import Publisher
from agent.spool import Spool
from tests.agent.batches import BOOT, SESSION, Feeder, abandon, new_chain, new_spool
from tests.agent.home import Home
from tests.support.nats_backbone import MEBIBYTE, Backbone, backbone, until
from wire.batch import OpenBatch
from wire.names import Lane, message_id


@dataclass
class Running:
    """Publisher and link of one life of an agent."""

    spool: Spool
    link: Link
    publisher: Publisher


@contextlib.asynccontextmanager
async def publishing(home: Home, spool: Spool, **options: Any) -> AsyncIterator[Running]:
    identity = home.identity
    link = Link(
        identity.enrolment.servers,
        agent=identity.name,
        tls=tls_context(identity.enrolment.ca_pem),
        credentials=Credentials(identity.jwt_path, identity.seed_path),
        max_backoff_s=1.0,
    )
    settings = {"timeout_s": 2.0, "max_backoff_s": 0.5} | options
    publisher = Publisher(spool, link, agent=identity.name, **settings)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(link.run()), group.create_task(publisher.run())]
        try:
            yield Running(spool, link, publisher)
        finally:
            for task in tasks:
                task.cancel()


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Backbone]:
    async with backbone(tmp_path) as running:
        yield running


@pytest.fixture
def home(bus: Backbone, tmp_path: Path) -> Home:
    return Home.new(bus, tmp_path / "web1")


def key(batch: OpenBatch) -> tuple[bytes, str, Lane, int]:
    header = batch.header
    return header.boot, header.session, header.lane, header.sequence


def feeder_of(spool: Spool, home: Home, **options: Any) -> Feeder:
    boot = options.pop("boot", BOOT)
    session, lane = options.get("session", SESSION), options.get("lane", Lane.BULK)
    chain = new_chain(boot, session, lane)
    chain._key = home.keys.signing
    return Feeder(spool, boot=boot, chain=chain, **options)


async def check_each_once(bus: Backbone, home: Home, *feeders: Feeder) -> None:
    """What was made is stored, each batch once, and nothing else is."""
    hub = await bus.connect_hub()
    stored = Counter(key(batch) for batch in await home.stored(hub) + await home.stored(hub, "PRIORITY"))
    made = {
        (f.lane.boot, f.lane.session, f.lane.lane, record.first_sequence)
        for f in feeders
        for record, _ in f.made
    }
    assert set(stored) == made
    assert set(stored.values()) <= {1}


async def test_in_order_and_nothing_left(bus: Backbone, home: Home, tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool")
    feeder = feeder_of(spool, home)
    for _ in range(50):
        feeder.feed(40, 1000)
    feeder.close()
    async with publishing(home, spool) as running:
        running.publisher.wake()
        assert await running.publisher.drained(20)
        assert running.publisher.counters == Counter(stored=51)
    hub = await bus.connect_hub()
    stored = await home.stored(hub)
    assert [batch.header.sequence for batch in stored] == list(range(51))
    spool.close()
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.slow
async def test_the_server_is_killed_while_we_publish(bus: Backbone, home: Home, tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool")
    feeder = feeder_of(spool, home)
    async with publishing(home, spool) as running:
        for round_ in range(3):
            for number in range(60):
                feeder.feed(40, 1000)
                running.publisher.wake()
                if number % 10 == 0:
                    await asyncio.sleep(0.01)
            bus.kill()
            for _ in range(20):
                feeder.feed(40, 1000)
                running.publisher.wake()
            await asyncio.sleep(0.1 * round_)
            await bus.start()
            await running.link.wait_connected()
        assert await running.publisher.drained(40)
        assert running.link.connections == 4
        assert running.publisher.counters["no_answer"] == 0  # who waits on a broken connection knows at once
        assert running.publisher.counters["poisoned"] == 0
    await check_each_once(bus, home, feeder)


async def test_no_server_at_start(bus: Backbone, home: Home, tmp_path: Path) -> None:
    bus.kill()
    spool = new_spool(tmp_path / "spool")
    feeder = feeder_of(spool, home)
    for _ in range(10):
        feeder.feed()
    async with publishing(home, spool) as running:
        await until(lambda: running.link.errors.total() >= 2)
        assert not running.link.connected
        await bus.start()
        assert await running.publisher.drained(20)
    await check_each_once(bus, home, feeder)


async def test_no_stream_yet(tmp_path: Path) -> None:
    async with backbone(tmp_path, with_streams=False) as bus:
        home = Home.new(bus, tmp_path / "web1")
        spool = new_spool(tmp_path / "spool")
        feeder = feeder_of(spool, home)
        for _ in range(30):
            feeder.feed()
        async with publishing(home, spool) as running:
            await until(lambda: running.publisher.counters["not_taken"] >= 3)
            assert running.publisher.in_flight == 1  # one batch tries the way, the others wait
            assert "no stream" in running.publisher.waiting_reason
            from hub.backbone import streams

            hub = await bus.connect_hub()
            await streams.ensure_streams(hub, 64 * MEBIBYTE)
            assert await running.publisher.drained(20)
            assert running.publisher.waiting_reason == ""
            assert running.publisher.counters["not_taken"] < 20
        await check_each_once(bus, home, feeder)


async def test_a_full_stream_keeps_batches_in_the_spool(bus: Backbone, home: Home, tmp_path: Path) -> None:
    hub = await bus.connect_hub()
    jetstream = hub.jetstream()
    config = (await jetstream.stream_info("CAPTURE")).config
    config.max_bytes = 200_000
    await jetstream.update_stream(config)
    spool = new_spool(tmp_path / "spool")
    feeder = feeder_of(spool, home)
    for _ in range(20):
        feeder.feed(40, 1000)
    priority = feeder_of(spool, home, lane=Lane.PRIO)
    priority.feed()
    async with publishing(home, spool) as running:
        await until(lambda: "no room" in running.publisher.waiting_reason)
        await until(lambda: priority.lane.pending_batches == 0)  # it has a stream of its own
        stored = await home.stored(hub)
        config.max_bytes = 10_000_000
        await jetstream.update_stream(config)
        assert await running.publisher.drained(20)
    assert 0 < len(stored) < 20
    await check_each_once(bus, home, feeder, priority)


async def test_a_poisoned_message_id_is_noticed(bus: Backbone, home: Home, tmp_path: Path) -> None:
    hub = await bus.connect_hub()
    thief = message_id(BOOT, SESSION, Lane.BULK, 1)
    await hub.jetstream().publish(f"cap.other.{SESSION}.bulk", b"mine", headers={"Nats-Msg-Id": thief})
    spool = new_spool(tmp_path / "spool")
    feeder = feeder_of(spool, home)
    for _ in range(3):
        feeder.feed()
    async with publishing(home, spool) as running:
        assert await running.publisher.drained(20)
        assert running.publisher.counters["poisoned"] == 1
    await check_each_once(bus, home, feeder)


async def test_what_an_earlier_life_sent_is_no_poison(bus: Backbone, home: Home, tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool")
    feeder = feeder_of(spool, home)
    for _ in range(5):
        feeder.feed()
    hub = await bus.connect_agent(home.keys)
    for _ in range(3):  # sent and stored, but the acknowledgement never came
        spooled = spool.next_unsent(feeder.lane, 8)
        assert spooled is not None
        sequence = spooled.record.first_sequence
        headers = {"Nats-Msg-Id": message_id(BOOT, SESSION, Lane.BULK, sequence)}
        await hub.jetstream().publish(f"cap.web1.{SESSION}.bulk", spooled.message, headers=headers)
    abandon(spool)
    again = new_spool(tmp_path / "spool")
    again.recover()
    async with publishing(home, again) as running:
        assert await running.publisher.drained(20)
        assert running.publisher.counters == Counter(stored=2, duplicate=3)
    await check_each_once(bus, home, feeder)


async def test_renewed_credentials_lose_no_publish(bus: Backbone, home: Home, tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool")
    feeder = feeder_of(spool, home)
    async with publishing(home, spool) as running:
        for number in range(100):
            feeder.feed(40, 1000)
            running.publisher.wake()
            await asyncio.sleep(0.002)
            if number in (30, 60):
                await running.link.wait_connected()
                await running.link.force_reconnect()
        assert await running.publisher.drained(20)
        assert running.link.connections == 3
    await check_each_once(bus, home, feeder)


async def test_a_connection_that_closed_for_good_is_made_again(
    bus: Backbone, home: Home, tmp_path: Path
) -> None:
    spool = new_spool(tmp_path / "spool")
    feeder = feeder_of(spool, home)
    async with publishing(home, spool) as running:
        await running.link.wait_connected()
        assert running.link._client is not None
        await running.link._client.close()  # what an expired or revoked JWT comes to
        feeder.feed()
        running.publisher.wake()
        assert await running.publisher.drained(20)
        assert running.link.connections == 2
    await check_each_once(bus, home, feeder)


async def test_sessions_take_turns_and_priority_goes_first(bus: Backbone, home: Home, tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool")
    feeders = [feeder_of(spool, home, session=letter * 26) for letter in "abc"]
    for _ in range(10):
        for feeder in feeders:
            feeder.feed()
    urgent = feeder_of(spool, home, session="d" * 26, lane=Lane.PRIO)
    urgent.feed()
    async with publishing(home, spool, window=1) as running:
        assert await running.publisher.drained(20)
    hub = await bus.connect_hub()
    order = [batch.header.session[0] for batch in await home.stored(hub)]
    assert all(set(order[n : n + 3]) == set("abc") for n in range(0, 30, 3))
    await check_each_once(bus, home, *feeders, urgent)


async def test_a_client_that_closes_itself_does_not_stop_the_agent(
    bus: Backbone, home: Home, tmp_path: Path
) -> None:
    """As on "user authentication expired": nats-py refuses for a moment before it says that the connection is gone."""
    spool = new_spool(tmp_path / "spool")
    feeder = feeder_of(spool, home)
    async with publishing(home, spool) as run:
        feeder.feed()
        run.publisher.wake()
        await until(lambda: spool.drained)
        client = run.link._client
        assert client is not None
        refused = run.link.publish_batch
        tries = 0

        async def counted(*args: Any, **options: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries > 1000:
                await asyncio.sleep(3600)  # it would never yield: fail instead of hanging
            return await refused(*args, **options)

        run.link.publish_batch = counted  # type: ignore[method-assign]
        closing = asyncio.get_running_loop().create_task(client._close(Client.CLOSED, True))
        feeder.feed()
        run.publisher.wake()
        await closing
        await until(lambda: spool.drained)
        assert tries < 100
    await check_each_once(bus, home, feeder)


async def test_a_connection_that_breaks_as_an_answer_is_late(
    bus: Backbone, home: Home, tmp_path: Path
) -> None:
    """Both in one turn of the event loop: the client's own way back must not die of it."""
    spool = new_spool(tmp_path / "spool")
    async with publishing(home, spool) as run:
        await run.link.wait_connected()
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            publishing_one = group.create_task(_late(run.link))
            await asyncio.sleep(0)
            patience = next(iter(run.link._waiting))
            loop.call_soon(patience._on_timeout)  # type: ignore[attr-defined]
            loop.call_soon(run.link._set_up, False)  # raised RuntimeError here
            broken: list[dict[str, Any]] = []
            loop.set_exception_handler(lambda _, context: broken.append(context))
            await asyncio.wait([publishing_one])
        loop.set_exception_handler(None)
        assert broken == []


async def _late(link: Link) -> None:
    with contextlib.suppress(NoAnswer, LinkAway, NotTaken):
        await link.publish_batch("cap.web1.x", b"", message_id="1", stream="CAPTURE", timeout_s=5)
