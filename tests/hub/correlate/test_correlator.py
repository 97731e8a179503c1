"""What is kept between batches: any order, any number of partitions, out of the store again: the same result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hub.correlate.clock_estimate import Offsets
from hub.correlate.correlator import Correlator
from hub.correlate.described import Described, described
from hub.correlate.sightings import Rows, from_bytes, to_bytes
from tests.hub.correlate.made import web
from tests.support.path_simulator import START_NS, VANTAGES, Path, Simulator

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
    kept = len(made._rows)
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
        assert len(made._rows) <= 1_000


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
