"""What is kept between batches: any order, any number of partitions, out of the store again: the same result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hub.correlate.clock_estimate import Offsets, estimate_offsets
from hub.correlate.conversations import Conversations, evaluate, watched
from hub.correlate.correlator import Correlator
from hub.correlate.described import Described, described
from hub.correlate.flows import FLOW, with_fragments
from hub.correlate.sightings import SIGHTING, Rows, from_bytes, in_order, to_bytes
from hub.correlate.translation import Joins, find_joins
from hub.observe.observations import Layers
from tests.hub.correlate.made import CLOCK_OF, web
from tests.support.path_simulator import CLOCKS, START_NS, VANTAGES, Path, Simulator

LOSSY = replace(Path(), loss=(0.02, 0.01, 0.02), mss_merge=8, fragments=True)


@pytest.fixture(scope="module")
def traffic() -> Simulator:
    simulator = web(LOSSY, 16, every_ns=150_000_000)
    for number in range(8):
        one = simulator.connection(17)
        for step in range(3):
            one.datagram(step % 2 == 0, START_NS + number * 90_000_000 + step * 9_000_000, 1_400)
    return simulator


def correlator(**settings: int) -> Correlator:
    made = Correlator(**settings)
    for one in VANTAGES:
        made.vantage(one.agent, one.interface, one.clock)
    return made


def batches_of(rows: Rows, size: int = 256) -> list[Rows]:
    """As agents send them: each of one vantage point."""
    found = []
    for vantage in range(len(VANTAGES)):
        mine = rows[rows["vantage"] == vantage]
        mine = mine[np.argsort(mine["timestamp_ns"], kind="stable")]
        found += [mine[at : at + size] for at in range(0, len(mine), size)]
    return found


def told(
    made: Correlator, simulator: Simulator, batches: list[Rows], *, every: int = 20
) -> dict[str, Described]:
    """All conversations as last described, those absorbed left out."""
    flows = simulator.flows()
    for number, batch in enumerate(batches):
        made.add(batch, flows)
        if number % every == every - 1:
            made.update()
    update = made.update(final=True)
    offsets = made.offsets()
    return {
        one.id: one
        for found in update.conversations
        for one in (described(found, index, offsets, VANTAGES) for index in range(len(found)))
    }


def test_any_order_and_any_number_of_partitions(traffic: Simulator) -> None:
    rows, _ = traffic.rows()
    batches = batches_of(rows)
    pick = np.random.default_rng(2)
    shuffled = [batches[at] for at in pick.permutation(len(batches))]
    first = told(correlator(), traffic, batches)
    assert len(first) == 24
    assert told(correlator(partitions=4), traffic, shuffled, every=27) == first
    assert told(correlator(), traffic, [*batches[::-1], *batches[:4]], every=31) == first, "some came twice"


def mixed(seed: int) -> tuple[Simulator, Rows]:
    """Of all a little: losses, fragments, an identification that two datagrams have, what can't be told apart."""
    simulator = Simulator(replace(LOSSY, loss=(0.05, 0.03, 0.05)), seed)
    for number in range(8):
        simulator.connection(ipv6=number % 4 == 3).exchange(START_NS + number * 150_000_000, 500, 6_000)
    for number in range(6):
        one, other = simulator.connection(17), simulator.connection(17)
        for step in range(4):
            at = START_NS + number * 90_000_000 + step * 9_000_000
            one.datagram(step % 2 == 0, at, 1_400)
            other.datagram(step % 2 == 0, at, 60, content=("alive", step % (1 + number)))
    rows, _ = simulator.rows()
    cut = np.unique(rows["datagram"][(rows["layers"] & Layers.FRAGMENT) != 0])
    again = np.isin(rows["datagram"], cut[::5])
    rows["datagram"][again] = cut[0]
    return simulator, in_order(rows)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_however_it_comes_it_is_what_all_rows_at_once_give(seed: int) -> None:
    """Batches of any size in any order, some twice, updates at any time, any number of partitions: one result."""
    simulator, rows = mixed(seed)
    whole = in_order(with_fragments(rows))
    joins = find_joins(whole, simulator.flows())
    found = evaluate(whole, joins, CLOCK_OF, watched(rows, len(VANTAGES)))
    offsets = estimate_offsets(found.samples, CLOCKS)
    expected = {
        one.id: one for one in (described(found, index, offsets, VANTAGES) for index in range(len(found)))
    }
    assert 20 <= len(expected) < len(simulator.flows())
    pick = np.random.default_rng(seed)
    for partitions in (1, 4, 4):
        batches = batches_of(rows, int(pick.choice([7, 60, 256])))
        batches = [batches[at] for at in pick.permutation(len(batches))]
        batches += batches[: int(pick.integers(0, 4))]
        made = correlator(partitions=partitions)
        assert told(made, simulator, batches, every=int(pick.integers(1, 30))) == expected
        told_joins = made.update().joins
        assert pairs_of(told_joins) == pairs_of(joins)
        for one, other in zip(as_arrays(made.offsets(offsets.anchor)), as_arrays(offsets), strict=True):
            assert (one == other).all()


def pairs_of(joins: Joins) -> set[tuple[int, ...]]:
    columns = (joins.near, joins.far, joins.turned, joins.confidence, joins.votes)
    return set(zip(*[column.tolist() for column in columns], strict=True))


def as_arrays(offsets: Offsets) -> list[NDArray[np.int64]]:
    return [offsets.middle_ns, offsets.low_ns, offsets.high_ns, offsets.estimate_ns, offsets.rough_ns]


@pytest.mark.slow
def test_an_update_looks_only_at_what_is_new(traffic: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in rows that are evaluated, not in time: the work of all updates is a small multiple of the rows."""
    rows, _ = traffic.rows()
    evaluated: list[int] = []

    def counting(some: Rows, *others: Any) -> Conversations:
        evaluated.append(len(some))
        return evaluate(some, *others)

    monkeypatch.setattr("hub.correlate.correlator.evaluate", counting)
    made = correlator()
    in_time = rows[np.argsort(rows["timestamp_ns"], kind="stable")]
    for at in range(0, len(rows), 100):
        made.add(in_time[at : at + 100], traffic.flows())
        made.update()
    assert made.held_rows == len(rows)
    assert sum(evaluated) < 8 * len(rows), f"{sum(evaluated)} rows evaluated for {len(rows)}"
    made.update()  # what waited
    evaluated.clear()
    assert not made.update().conversations
    assert not evaluated


def test_fragments_without_a_first_are_bounded_and_counted() -> None:
    made = correlator(most_rows=800)
    rows = np.zeros(1_000, SIGHTING)
    rows["layers"], rows["datagram"] = Layers.IP | Layers.FRAGMENT, np.arange(1_000) + 1
    rows["fragment_offset"], rows["timestamp_ns"], rows["index"] = 576, START_NS, np.arange(1_000)
    made.add(rows, np.zeros(0, FLOW))
    made.update()
    assert made.held_rows <= 100
    assert made.held_rows + made.dropped_fragments == len(rows)


@pytest.mark.slow
def test_state_is_the_rows(traffic: Simulator) -> None:
    """After a restart the observations are added again, as they were stored."""
    rows, _ = traffic.rows()
    batches = batches_of(rows)
    again = [from_bytes(to_bytes(batch)) for batch in batches]
    assert told(correlator(), traffic, again, every=23) == told(correlator(), traffic, batches)


def test_seen_at_the_next_update(traffic: Simulator) -> None:
    rows, _ = traffic.rows()
    made = correlator()
    made.add(rows[rows["vantage"] == 0][:1], traffic.flows())
    (found,) = made.update().conversations
    assert len(found) == 1
    assert described(found, 0, made.offsets(), VANTAGES).lost is None, "one vantage point can't know"


def test_idle_conversations_are_sealed_and_opened_again(traffic: Simulator) -> None:
    rows, _ = traffic.rows()
    made = correlator(idle_ns=500_000_000)
    early = (
        rows["timestamp_ns"]
        < np.array([START_NS + clock_start(v) for v in range(7)])[rows["vantage"]] + 2_000_000_000
    )
    made.add(rows[early], traffic.flows())
    assert made.update(final=True).sealed
    made.add(rows[~early], traffic.flows())
    update = made.update(final=True)
    assert update.sealed
    kept = made.held_rows
    assert kept < len(rows) // 2
    late = rows[early & (rows["flow_hash"] != 0)][:1]
    made.add(late, traffic.flows())
    assert made.update().reopened == [int(late["flow_hash"][0])]


def clock_start(vantage: int) -> int:
    return LOSSY.clocks[VANTAGES[vantage].clock].offset_ns


@pytest.mark.slow
def test_rows_are_bounded(traffic: Simulator) -> None:
    rows, _ = traffic.rows()
    made = correlator(most_rows=1_000)
    for batch in batches_of(rows, 700):
        made.add(batch, traffic.flows())
        made.update()
        assert made.held_rows <= 1_000


def test_a_join_learnt_later_absorbs_what_was_told_before(traffic: Simulator) -> None:
    rows, truth = traffic.rows()
    inside = np.isin(rows["vantage"], (0, 1))
    made = correlator()
    made.add(rows[inside], traffic.flows())
    before = {int(id_) for found in made.update().conversations for id_ in found.id}
    made.add(rows[~inside], traffic.flows())
    update = made.update(final=True)
    after = {int(id_) for found in update.conversations for id_ in found.id}
    assert before - after == set(update.absorbed)
    assert set(update.absorbed.values()) <= after
    assert len(after) == len(truth.flows)


def test_nothing_gives_nothing() -> None:
    made = correlator()
    update = made.update(final=True)
    assert (update.conversations, update.sealed, made.offsets().anchor) == ([], [], -1)
    assert isinstance(made.offsets(), Offsets)
