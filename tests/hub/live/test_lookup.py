"""A packet by its name: out of the recent batches, out of the archive, or with the word that it is gone."""

import time
from pathlib import Path

import pytest

from hub.archive.reading import ArchiveError
from hub.live.feed import LiveFeed
from hub.live.lookup import PacketGone, PacketLookup
from hub.live.recent import RecentBatches
from hub.observation import BatchName, Observation
from hub.registry import UnknownError
from tests.hub.agent_side import FakeAgent, enrolled, udp_packet
from tests.hub.parts import Parts, parts, running, settled
from wire.errors import WireError
from wire.names import Lane, new_session_id


async def joined(hub: Parts, name: str) -> FakeAgent:
    agent = await enrolled(hub.backbone, hub.registry, name)
    hub.registry.sessions.observe(agent.session, name, "", 1)
    return agent


def named(agent: FakeAgent, sequence: int, index: int) -> Observation:
    return Observation(BatchName(agent.name, agent.boot, agent.session, Lane.BULK, sequence), index)


async def test_recent_then_archived_then_gone(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()
        async with running(bus.run()):
            await bus.client()
            feed = LiveFeed(bus, hub.registry, hub.key)
            lookup = PacketLookup(hub.registry, bus, feed.recent)
            packets = [udp_packet(number, size=60 + number) for number in range(5)]
            async with feed.watch([web1.session]) as viewer:
                await settled(bus)
                for number in range(20):  # the one that is asked for isn't the first of its session
                    await web1.publish(web1.packets([udp_packet(number)]))
                await web1.publish(web1.packets(packets))
                rows = []
                async for update in viewer:
                    rows += update.rows
                    if rows and rows[-1].observation == str(named(web1, 20, 4)):
                        break
            assert abs(time.time_ns() - rows[-1].heard_ns) < 60e9
            wanted = Observation.parse(rows[-1].observation)
            found = await lookup.find(wanted, rows[-1].heard_ns)
            assert (found.data, found.original_bytes, found.time_ns) == (packets[4], 64, rows[-1].time_ns)

            # The hub forgot it (here: it never had it): the archive has it, from the time the row says on.
            archived = PacketLookup(hub.registry, bus, RecentBatches())
            assert await archived.find(wanted, rows[-1].heard_ns) == found
            assert await archived.find(wanted, 0) == found
            with pytest.raises(PacketGone, match="holds 5 packets"):
                await archived.find(named(web1, 20, 5), 0)
            with pytest.raises(PacketGone, match="no longer"):
                await archived.find(named(web1, 21, 0), rows[-1].heard_ns)
            with pytest.raises(PacketGone, match="no longer"):  # nothing was stored after such a time
                await archived.find(wanted, 2**63 - 1)
            other = await joined(hub, "web2")
            stranger = BatchName("web1", other.boot, other.session, Lane.BULK, 0)
            with pytest.raises(UnknownError, match="isn't one of"):
                await archived.find(Observation(stranger, 0), 0)
            nowhere = BatchName("web1", web1.boot, new_session_id(), Lane.BULK, 0)
            with pytest.raises(UnknownError):
                await archived.find(Observation(nowhere, 0), 0)


async def test_an_archive_that_is_away_is_said_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.live.lookup.READ_TIMEOUT_S", 0.2)
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        lookup = PacketLookup(hub.registry, hub.bus(), RecentBatches())  # a bus that never connects
        with pytest.raises(ArchiveError):
            await lookup.find(named(web1, 0, 0), 0)


def test_recent_batches_are_bounded_by_bytes_and_by_number() -> None:
    def name(sequence: int) -> BatchName:
        return BatchName("web1", bytes(16), "a" * 26, Lane.BULK, sequence)

    recent = RecentBatches(max_bytes=100, max_batches=3)
    for sequence in range(3):
        recent.keep(name(sequence), bytes([sequence]) * 40)
    assert [recent.get(name(sequence)) is None for sequence in range(3)] == [True, False, False]
    recent.keep(name(1), b"another")
    assert recent.get(name(1)) == b"\1" * 40, "the first of a name stays"
    recent.keep(name(9), bytes(101))
    assert recent.get(name(9)) is None, "what is larger than all of the bound is not kept"
    assert recent.get(name(2)) is not None
    for sequence in range(10, 20):
        recent.keep(name(sequence), b"x")
    assert [sequence for sequence in range(20) if recent.get(name(sequence))] == [17, 18, 19]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web1",
        "web1/" + "00" * 16 + "/" + "a" * 26 + "/bulk/0",
        "web1/" + "00" * 15 + "/" + "a" * 26 + "/bulk/0/0",
        "web1/" + "zz" * 16 + "/" + "a" * 26 + "/bulk/0/0",
        "web1/" + "00" * 16 + "/" + "a" * 26 + "/bulk/-1/0",
        "web1/" + "00" * 16 + "/" + "a" * 26 + "/bulk/0/99999999999999999999",
        "web1/" + "00" * 16 + "/" + "a" * 26 + "/fast/0/0",
        "web.1/" + "00" * 16 + "/" + "a" * 26 + "/bulk/0/0",
        "web1/" + "00" * 16 + "/../../bulk/0/0",
        "x" * 10_000,
    ],
)
def test_what_is_no_packets_name(text: str) -> None:
    with pytest.raises(WireError):
        Observation.parse(text)
    good = "web1/" + "0f" * 16 + "/" + "a" * 26 + "/bulk/7/3"
    assert str(Observation.parse(good)) == good
