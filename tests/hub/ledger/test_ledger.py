"""The ledger against a real server: exactly once, quarantine, gaps, tombstones, books to zero."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from hub.archive.keeper import Keeper
from hub.archive.reading import first_at, read_subject
from hub.ledger.ledger import Ledger
from hub.ledger.session_books import session_books
from tests.hub.agent_side import FakeAgent, enrolled, udp_packet
from tests.hub.parts import Parts, parts, running, settled
from tests.support.nats_backbone import until
from wire.batch import GOES_ON
from wire.keys import SigningKey
from wire.names import Lane, batch_subject


async def joined(hub: Parts, name: str) -> FakeAgent:
    """An enrolled agent whose session the registry knows."""
    agent = await enrolled(hub.backbone, hub.registry, name)
    hub.registry.sessions.observe(agent.session, agent.name, "", 1)
    return agent


def some(count: int, size: int = 60) -> list[bytes]:
    return [udp_packet(number, size) for number in range(count)]


async def booked(hub: Parts, agent: FakeAgent, batches: int) -> None:
    await until(lambda: session_books(hub.registry, agent.session).batches >= batches)


async def test_books_reach_zero(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            for _ in range(20):
                await web1.publish(web1.packets(some(10)))
            await web1.publish(web1.packets(some(3), lane=Lane.PRIO), web1.closing(), web1.closing(Lane.PRIO))
            await booked(hub, web1, 23)
            ledger.heartbeat(heartbeat_of(web1), 1)
            hub.registry.agents.save_heartbeats({"web1": (body_of(web1), 1)})
            await until(lambda: session_books(hub.registry, web1.session).balanced)
        books = session_books(hub.registry, web1.session)
        assert books.archived_packets == books.books.received == 203
        assert books.differences == dict.fromkeys(books.differences, 0)
        assert [boot.closed for boot in books.boots] == [True]
        (runs,) = hub.registry.connection.execute("SELECT count(*) FROM runs").fetchone()
        assert runs == 2, "an intact chain is one run per lane"


async def test_a_stopped_agents_boot_is_closed_when_the_next_one_names_it(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)

        def closed() -> list[bool]:
            return [boot.closed for boot in session_books(hub.registry, web1.session).boots]

        async with running(bus.run(), ledger.run()):
            end = web1.closing(reason=GOES_ON)
            await web1.publish(end)
            await booked(hub, web1, 1)
            assert closed() == [False], "what comes after it isn't known yet"
            again = web1.rebooted()
            said: dict[str, Any] = {"previous": end.header_hash, "previous_boot": web1.boot}
            await again.publish(again.packets(some(3), **said))
            await booked(hub, web1, 2)
            assert closed() == [True, False]
            await again.publish(again.closing())
            await booked(hub, web1, 3)
            assert closed() == [True, True]


def heartbeat_of(agent: FakeAgent):  # type: ignore[no-untyped-def]
    from wire.control import Domain, unseal
    from wire.report import Heartbeat

    message = agent.heartbeat()
    envelope = unseal(
        message, Domain.HEARTBEAT, public=agent.keys.signing.public, agent=agent.name, now_ns=None
    )
    return Heartbeat.from_map(envelope.body)


def body_of(agent: FakeAgent) -> bytes:
    from wire.strict_cbor import dumps_map

    return dumps_map(heartbeat_of(agent).to_map())


async def test_killed_between_commit_and_acknowledgement_counts_once(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        for _ in range(30):
            await web1.publish(web1.packets(some(7)))

        class Deaf(Ledger):
            """Commits, and dies before it acknowledges."""

            async def _handle(self, stream: str, messages: list) -> None:  # type: ignore[type-arg]
                for message in messages:
                    message._client = None
                try:
                    await super()._handle(stream, messages)
                except AttributeError as error:
                    raise asyncio.CancelledError from error

        bus = hub.bus()
        first = Deaf(hub.registry, bus)
        async with running(bus.run()):
            task = asyncio.get_running_loop().create_task(first.run())
            await until(lambda: first.counts.batches == 30)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        # The durable forgets nothing; a new hub gets all of it again once the acknowledgement wait is over. Here
        # the durable is made anew, which delivers everything at once.
        connection = await hub.backbone.connect_hub()
        await connection.jetstream().delete_consumer("CAPTURE", "ledger-bulk")
        bus = hub.bus()
        second = Ledger(hub.registry, bus)
        async with running(bus.run(), second.run()):
            await until(lambda: second.counts.redelivered == 30)
        books = session_books(hub.registry, web1.session)
        assert (books.archived_packets, books.batches, books.redelivered, books.duplicates) == (
            210,
            30,
            30,
            0,
        )


async def test_stored_twice_is_counted_once_and_told(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        message = web1.packets(some(5))
        again = replace(message, id=message.id + ".r1")
        await web1.publish(message, again)
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            await until(lambda: ledger.counts.duplicates == 1)
        books = session_books(hub.registry, web1.session)
        assert (books.archived_packets, books.duplicates) == (5, 1)


async def test_gap_tombstone_and_recovered_batch(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        batches = [web1.packets(some(10)) for _ in range(8)]
        # 1 is lost without a word, 3 to 5 are declared, of which 4 had been stored.
        await web1.publish(batches[0], batches[2], batches[4], batches[6], batches[7])
        await web1.publish(web1.tombstone(batches[3:6]))
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            await until(lambda: session_books(hub.registry, web1.session).tombstones == 1)
            books = session_books(hub.registry, web1.session)
            assert [(gap.first, gap.last) for gap in books.gaps] == [(1, 1)]
            assert (books.declared_packets, books.declared_kept_packets) == (20, 10)
            assert books.archived_packets == 50
            assert books.broken_links == 0
            # One of the declared arrives after all (published before it was given up, resent by the server's client).
            await web1.publish(batches[3])
            await until(lambda: session_books(hub.registry, web1.session).archived_packets == 60)
        books = session_books(hub.registry, web1.session)
        assert (books.declared_packets, books.declared_kept_packets, books.broken_links) == (10, 20, 0)
        assert not books.balanced


async def test_quarantine(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        web2 = await joined(hub, "web2")
        good = web1.packets(some(5))
        await web1.publish(good)
        assert web1.connection is not None
        assert web2.connection is not None
        jetstream = web1.connection.jetstream()
        # A message in web1's subject signed by another key.
        stranger = FakeAgent(replace(web1.keys, signing=SigningKey.generate()), session=web1.session)
        await jetstream.publish(good.subject, stranger.packets(some(2)).data)
        # web1's own message for another session than it says.
        other = FakeAgent(web1.keys)
        await jetstream.publish(good.subject, other.packets(some(2)).data)
        # The server's acknowledgement, sent by web1's trick to web2's subject.
        target = batch_subject("web2", web2.session, Lane.BULK)
        await web1.connection.publish(good.subject, web1.packets(some(1)).data, reply=target)
        # Damaged: one byte of the body.
        damaged = bytearray(web1.packets(some(5)).data)
        damaged[-1] ^= 1
        await jetstream.publish(good.subject, bytes(damaged))
        # A session that belongs to another agent.
        thief = FakeAgent(web2.keys, session=web1.session, connection=web2.connection)
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            await until(lambda: ledger.counts.quarantined >= 4)
            await thief.publish(thief.packets(some(1)))
            await until(lambda: ledger.counts.quarantined >= 5)
            await until(lambda: ledger.counts.batches >= 2)
            info = await (await bus.jetstream()).consumer_info("CAPTURE", "ledger-bulk")
            await until(lambda: ledger.pending.get("CAPTURE") == 0)
        entries = hub.registry.quarantine.all()
        reasons = "\n".join(f"{entry.subject} {entry.reason}" for entry in entries)
        assert len(entries) == 5, reasons
        assert sum("signature" in entry.reason for entry in entries) == 1, reasons
        assert sum("isn't what its subject says" in entry.reason for entry in entries) == 1, reasons
        assert sum("belongs to agent 'web1'" in entry.reason for entry in entries) == 1, reasons
        acknowledgement = next(
            entry for entry in entries if entry.agent == "web2" and entry.session == web2.session
        )
        assert json.loads(acknowledgement.opening)["stream"] == "CAPTURE"
        assert info.num_redelivered == 0, "what can't be right is not tried again"
        assert session_books(hub.registry, web1.session).archived_packets == 6
        assert session_books(hub.registry, web1.session).quarantined == 4
        assert hub.registry.counters()["quarantined"] == 5


@pytest.mark.slow
async def test_unknown_agent_is_tried_three_times_then_quarantined(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        keys = hub.backbone.agent("ghost")
        ghost = FakeAgent(keys)
        ghost.connection = await hub.backbone.connect_agent(keys)
        await ghost.publish(ghost.packets(some(1)))
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            await until(lambda: ledger.counts.quarantined == 1)
        assert ledger.counts.retried == 2
        assert hub.registry.quarantine.all()[0].deliveries == 3


async def test_old_key_still_verifies_what_it_signed(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        await web1.publish(web1.packets(some(4)))
        new = hub.backbone.agent("web1")
        assert session_books(hub.registry, web1.session).batches == 0
        hub.registry.agents.rekey(
            "web1", user_public=new.request.user_public, signing_public=new.signing.public
        )
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            await booked(hub, web1, 1)
        assert ledger.counts.quarantined == 0


@pytest.mark.slow
async def test_server_killed_while_a_fetch_is_pending(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            await web1.publish(web1.packets(some(4)))
            await booked(hub, web1, 1)
            hub.backbone.kill()
            await hub.backbone.start()
            assert web1.connection is not None
            await until(lambda: web1.connection is not None and web1.connection.is_connected)
            await web1.publish(web1.packets(some(4)))
            await booked(hub, web1, 2)
        assert session_books(hub.registry, web1.session).archived_packets == 8


async def test_boot_that_ended_is_settled_from_its_chain(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        await web1.publish(web1.packets(some(10)))
        web1.books.received += 4  # in the ring when it was killed
        second = web1.packets(some(10))
        await web1.publish(second, acknowledge=False)
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            await booked(hub, web1, 2)
            reborn = web1.rebooted()
            await reborn.publish(reborn.packets(some(5)))
            await booked(hub, web1, 3)
            hub.registry.agents.save_heartbeats({"web1": (body_of(reborn), 1)})
            ledger.heartbeat(heartbeat_of(reborn), 1)
            await until(lambda: session_books(hub.registry, web1.session).balanced)
        books = session_books(hub.registry, web1.session)
        assert books.lost_at_end == 4
        assert books.books.received == 29
        assert books.archived_packets == 25


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        b"PUB cap.web1.\xff\xfe.bulk 3\r\nabc\r\n",
        b"HPUB cap.web1.SESSION.bulk 6 9\r\n\xff\xff\r\n\r\nabc\r\n",
        b"HPUB cap.web1.SESSION.bulk 18 21\r\nNATS/1.0 \xff\xff\xff x\r\n\r\nabc\r\n",
        b"HPUB hb.web1 6 9\r\n\xff\xff\r\n\r\nabc\r\n",
    ],
)
async def test_no_bytes_around_a_message_make_the_hub_deaf(tmp_path: Path, line: bytes) -> None:
    async with parts(tmp_path) as hub:
        web1, web2 = await joined(hub, "web1"), await joined(hub, "web2")
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        heard: list[bytes] = []

        async def on_heartbeat(message: Msg) -> None:
            heard.append(message.data)

        await bus.subscribe("hb.*", on_heartbeat)
        async with running(bus.run(), ledger.run()):
            await settled(bus)
            assert web1.connection is not None
            await web1.connection._send_command(line.replace(b"SESSION", web1.session.encode()))
            await web1.connection.flush()
            await web2.publish(web2.packets(some(3)))
            await booked(hub, web2, 1)
            await web2.beat()
            await until(lambda: bool(heard) and heard[-1] != b"abc")
            await until(lambda: b"cap." not in line or ledger.counts.quarantined == 1)
            assert bus.connections == 1


@pytest.mark.slow
@pytest.mark.parametrize("status", ["100", "404", "408", "409"])
async def test_a_header_that_looks_like_the_servers_word_hides_nothing(tmp_path: Path, status: str) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        first, second, third = (web1.packets(some(3)) for _ in range(3))
        await web1.publish(first)
        assert web1.connection is not None
        headers = {"Nats-Msg-Id": second.id, "Status": status, "Nats-Sequence": "1"}
        await web1.connection.jetstream().publish(second.subject, second.data, headers=headers)
        await web1.publish(third)
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        keeper = Keeper(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            await booked(hub, web1, 3)

            async def confirmed() -> bool:
                return (await keeper.floor("CAPTURE"))[0] == 3

            await until(confirmed)
            read = [stored.sequence async for stored in read_subject(bus, "CAPTURE", first.subject)]
            assert read == [1, 2, 3]
            # What the keeper asks before it purges by age: with the odd one as the oldest that is left.
            await keeper._purge("CAPTURE", first.subject, 2, "test")
            assert await first_at(bus, "CAPTURE", first.subject, "1970-01-01T00:00:00Z") == 2
