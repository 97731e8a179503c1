"""One packet with many witnesses, and what became of it, against the simulator's truth."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hub.correlate.conversations import Conversations, evaluate
from hub.correlate.described import described
from hub.correlate.details import details
from hub.correlate.flows import with_fragments
from hub.correlate.sightings import from_bytes, in_order, to_bytes
from hub.correlate.translation import Confidence, find_joins
from tests.hub.correlate.made import CLOCK_OF, Seen, seen, web
from tests.support.path_simulator import (
    IN,
    MIRROR,
    OUT,
    SERVER,
    START_NS,
    VANTAGES,
    WAN,
    Path,
    Simulator,
)

PLAIN = Path()
LOSSY = replace(PLAIN, loss=(0.02, 0.01, 0.02))
# (link, way) of the simulator → the hop on which it must be found; the mirror stands beside the translating router
LINKS = {
    ("client.eth0", "nat.lan"): ("there", 0),
    ("nat.wan", "mirror.span"): ("there", 1),
    ("nat.wan", "router.in"): ("there", 1),
    ("router.out", "server.eth0"): ("there", 2),
    ("nat.lan", "client.eth0"): ("back", 0),
    ("router.in", "nat.wan"): ("back", 1),
    ("router.in", "mirror.span"): ("back", 1),
    ("mirror.span", "nat.wan"): ("back", 1),
    ("server.eth0", "router.out"): ("back", 2),
}


def lost_per_link(found: Conversations) -> Counter[tuple[str, int]]:
    hops, places = found.hops, found.places
    names = [f"{one.agent}.{one.interface}" for one in VANTAGES]
    counted: Counter[tuple[str, int]] = Counter()
    for at in np.flatnonzero(hops.lost).tolist():
        near, far = (names[int(places.vantage[place[at]])] for place in (hops.near, hops.far))
        counted[LINKS[near, far]] += int(hops.lost[at])
    return counted


def true_losses(made: Seen) -> Counter[tuple[str, int]]:
    counted: Counter[tuple[str, int]] = Counter()
    for (_, way, link), count in made.truth.lost.items():
        counted[way, link] += count
    return counted


@pytest.mark.parametrize("merge", [1, 8], ids=["segments", "offloading"])
def test_losses_are_found_on_their_link(merge: int) -> None:
    made = seen(web(replace(LOSSY, mss_merge=merge), 60, answer=20_000))
    assert lost_per_link(made.found) == true_losses(made)
    assert not made.found.undecided.any()
    assert not made.found.unclear.any()
    assert not made.found.missed.any()


def test_what_a_capture_missed_was_not_lost() -> None:
    path = replace(PLAIN, capture_loss={IN: 0.05, MIRROR: 0.03, WAN: 0.02, SERVER: 0.02})
    made = seen(web(path, 100, every_ns=60_000_000))
    assert sum(made.truth.missed.values()) > 100
    # At the path's end only an acknowledgement can tell: bare ones, and what nobody acknowledged, count as lost there
    ends = lost_per_link(made.found)
    assert set(ends) <= {("there", 2)}
    data_missed = int(made.found.missed.sum() + made.found.lost.sum() + made.found.undecided.sum())
    assert data_missed == sum(made.truth.missed.values())


def test_each_packet_has_all_its_witnesses_and_no_other() -> None:
    """Every pair of sightings that is taken for one packet is one, and every packet's are together."""
    made = seen(web(LOSSY, 40))
    packets, cells = made.found.witnesses
    rows = made.found.rows[made.found.kept]
    truth = dict(zip(made.rows["index"].tolist(), made.truth.packet.tolist(), strict=True))
    once = (cells.count == 1) & (cells.row >= 0)
    unique = np.ones(len(packets.stream), np.bool_)
    np.logical_and.at(unique, cells.packet, cells.count <= 1)
    numbers = np.array([truth[int(index)] for index in rows["index"][cells.row[once]]])
    owner = cells.packet[once]
    spread = np.zeros(len(packets.stream), np.int64)
    low, high = np.full(len(packets.stream), 2**62), np.full(len(packets.stream), -1)
    np.minimum.at(low, owner, numbers)
    np.maximum.at(high, owner, numbers)
    spread = high - low
    assert (spread[unique & (high >= 0)] == 0).all()


def test_translation_is_seen_through_with_stated_confidence() -> None:
    simulator = web(PLAIN, 20)
    for number in range(40):  # DNS: one question, one answer
        asked = simulator.connection(17)
        at = START_NS + number * 31_000_000
        arrived = asked.datagram(True, at, 40)
        assert arrived is not None
        asked.datagram(False, arrived + 100_000, 120)
    made = seen(simulator)
    truth = {frozenset(pair) for pair in made.truth.flows}
    told = {frozenset((int(a), int(b))) for a, b in zip(made.joins.near, made.joins.far, strict=True)}
    assert told == truth
    tcp = dict(zip(made.joins.near.tolist(), made.joins.confidence.tolist(), strict=True))
    assert Confidence.CERTAIN in tcp.values()
    assert Confidence.LIKELY in tcp.values()


def test_alike_questions_of_two_hosts_stay_apart() -> None:
    """Two hosts send the same bytes at the same time: which went out as which can't be told, so nothing is joined."""
    simulator = Simulator(PLAIN)
    for number in range(10):
        pair = [simulator.connection(17), simulator.connection(17)]
        at = START_NS + number * 50_000_000
        for one in pair:
            one.datagram(True, at, 40, content=("the same", number))
            one.datagram(False, at + 9_000_000, 90, content=("the same answer", number))
    made = seen(simulator)
    assert not len(made.joins)
    assert len(made.found) == 40


def test_one_heartbeat_payload_again_and_again_joins_nothing() -> None:
    simulator = Simulator(PLAIN)
    for number in range(4):
        one = simulator.connection(17)
        for beat in range(20):
            one.datagram(True, START_NS + number * 1_000_000 + beat * 100_000_000, 16, content="alive")
    assert not len(seen(simulator).joins)


def test_fragments_are_their_datagram() -> None:
    simulator = Simulator(replace(PLAIN, fragments=True))
    for number in range(30):
        one = simulator.connection(17)
        for step in range(4):
            one.datagram(step % 2 == 0, START_NS + number * 40_000_000 + step * 9_000_000, 1_400)
    made = seen(simulator)
    assert len(made.joins) == 30
    assert len(made.found) == 30
    assert not made.found.lost.any()
    assert not made.found.missed.any()
    assert int(made.found.places.sightings[made.found.places.vantage == SERVER].sum()) == 30 * (2 * 3 + 2)


def test_retransmissions_without_identification_are_counted() -> None:
    simulator = Simulator(replace(LOSSY, loss=(0.05, 0.0, 0.05)))
    for number in range(40):
        simulator.connection(ipv6=True).exchange(START_NS + number * 60_000_000, 500, 9_000)
    made = seen(simulator)
    assert lost_per_link(made.found) == true_losses(made)
    assert made.found.sent_again.sum() > 10
    assert not made.found.places.duplicates.any()


def test_a_mirror_that_shows_everything_twice_shows_duplicates() -> None:
    simulator = web(LOSSY, 15)
    rows, _ = simulator.rows()
    twice = rows[rows["vantage"] == MIRROR].copy()
    twice["timestamp_ns"] += 3_000
    twice["index"] += 10_000_000
    once, both = (
        evaluate(in_order(some), find_joins(in_order(some), simulator.flows()), CLOCK_OF)
        for some in (rows, np.concatenate([rows, twice]))
    )
    assert both.places.duplicates.sum() == len(twice)
    assert (once.lost == both.lost).all()
    assert (once.packets == both.packets).all()


def test_half_a_view_is_half_a_view() -> None:
    """An agent that sees one way only, one that sees nothing of the middle, an end that nobody watches."""
    simulator = web(PLAIN, 20)
    rows, _ = simulator.rows()
    half = rows[
        ~((rows["vantage"] == IN) & (rows["direction"] == 2)) & ~np.isin(rows["vantage"], (OUT, SERVER))
    ]
    found = evaluate(in_order(half), find_joins(in_order(half), simulator.flows()), CLOCK_OF)
    assert len(found) == 20
    assert not found.lost.any()
    assert not found.missed.any()


def test_a_conversation_as_people_read_it() -> None:
    made = seen(web(LOSSY, 20))
    for index in range(len(made.found)):
        one = described(made.found, index, made.offsets, VANTAGES)
        assert one.begun_certain
        assert [stop.agent for stop in one.there] == [
            "client",
            "nat",
            "nat",
            "mirror",
            "router",
            "router",
            "server",
        ]
        assert [stop.rank for stop in one.there] == [0, 1, 2, 3, 3, 4, 5]
        assert [stop.hops for stop in one.back] == [0, 0, 1, 1, 1, 2, 2]
        assert one.confidence == "certain"
        assert one.near_flow in {pair[0] for pair in made.truth.flows}
        for link in one.there_links:
            delay = link.least_delay
            assert delay.low_ns is not None
            assert delay.high_ns is not None
            assert delay.estimate_ns is not None
            assert 0 <= delay.low_ns <= delay.estimate_ns <= delay.high_ns
        wan_to_router = next(link for link in one.there_links if link.near == ("nat", "wan"))
        assert wan_to_router.least_delay.high_ns is not None
        first = one.there[0].first
        assert first.low_ns is not None
        assert first.high_ns is not None
        assert first.low_ns < first.high_ns


def test_rows_come_back_and_their_order_does_not_matter() -> None:
    simulator = web(replace(LOSSY, fragments=True), 40)
    rows, _ = simulator.rows()
    assert (from_bytes(to_bytes(rows)) == rows).all()
    shuffled = np.random.default_rng(1).permutation(np.concatenate([rows, rows[::3]]))
    assert (in_order(shuffled) == rows).all()
    assert (with_fragments(rows)["flow_hash"] != 0).all()


def test_lanes_packet_by_packet() -> None:
    made = seen(web(LOSSY, 20))
    lost = again = 0
    for index in range(len(made.found)):
        told = details(made.found, index, made.offsets, VANTAGES, lambda batch, number: f"{batch}/{number}")
        assert [(place["agent"], place["interface"]) for place in told["places"]] == [
            (one.agent, one.interface) for one in VANTAGES
        ]
        assert not told["unknown"]
        assert json.loads(json.dumps(told)) == told
        for segment in told["segments"]:
            lost += segment["lost_after"] is not None
            again += segment["kind"] == "retransmission"
            times = [sight[1] for sight in segment["seen"] if sight[5] == 1]
            assert all(low <= time <= high for _, time, low, high, *_ in segment["seen"])
            assert (
                times == sorted(times, reverse=not segment["forward"]) or max(times) - min(times) < 10_000_000
            )
    assert lost == int((made.found.fates.lost > 0).sum()) > 0
    assert again > 0
