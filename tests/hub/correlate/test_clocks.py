"""Clocks against the simulator's truth: the interval always holds it, the estimate is near, steps are named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hub.correlate.clock_constraints import NONE, bounds_of, distances, without_contradictions
from hub.correlate.clock_estimate import UNKNOWN, estimate_offsets
from hub.correlate.clock_samples import Samples
from hub.correlate.drift import drift_of
from tests.hub.correlate.made import judged, seen, true_offsets, web
from tests.support.path_simulator import CLOCKS, START_NS, Clock, Path

PLAIN = Path()
ASYMMETRIC = {
    "even": PLAIN,
    "1 ms": replace(PLAIN, there_ns=(200_000, 2_500_000, 1_000_000)),
    "20 ms": replace(PLAIN, there_ns=(200_000, 22_000_000, 500_000)),
}
SECOND = 1_000_000_000


@pytest.mark.parametrize("name", ASYMMETRIC)
def test_the_truth_is_in_the_interval_and_the_estimate_near(name: str) -> None:
    path = ASYMMETRIC[name]
    found = seen(web(path))
    total, held, worst, known = judged(path, found.offsets)
    assert total >= 40
    assert held == total
    assert known == 1
    assert not found.offsets.steps
    assert not found.offsets.contradictions
    if name != "20 ms":
        assert worst < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_over_many_paths(seed: int) -> None:
    """Delays, jitter, loss, drift, offloading and missing places drawn anew; 99 % of windows must hold the truth."""
    pick = np.random.default_rng(seed)

    def delays() -> tuple[int, int, int]:
        near, middle, far = pick.integers([20_000, 500_000, 50_000], [1_000_000, 40_000_000, 5_000_000])
        return int(near), int(middle), int(far)

    path = Path(
        clocks=tuple(
            Clock(int(pick.integers(-3_000, 2_000)) * 1_000_000, pick.uniform(-50e-6, 50e-6))
            for _ in range(5)
        ),
        there_ns=delays(),
        back_ns=delays(),
        jitter_ns=int(pick.integers(10_000, 3_000_000)),
        loss=tuple(pick.uniform(0, 0.03, 3)),
        mss_merge=int(pick.choice([1, 8, 44])),
        missing=frozenset(pick.choice(7, int(pick.integers(0, 3)), replace=False).tolist()),
    )
    found = seen(web(path, 400, seed=seed, answer=40_000))
    total, held, _, _ = judged(path, found.offsets)
    assert held >= 0.99 * total, (held, total)
    # What vanished, and where: never more than the truth, and all of it where every place looked on
    lost = sum(found.truth.lost.values())
    told = int(found.found.lost.sum() + found.found.unclear.sum() + found.found.undecided.sum())
    assert int(found.found.lost.sum()) <= lost
    assert path.missing or told >= 0.999 * lost


@pytest.mark.parametrize("step_ns", [50_000_000, -2_000_000])
def test_a_step_is_found_and_believed_by_nobody(step_ns: int) -> None:
    path = replace(PLAIN, clocks=(*PLAIN.clocks[:4], Clock(-1_234_567_890, -35e-6, 6.3, step_ns)))
    found = seen(web(path))
    (step,) = found.offsets.steps
    assert step.clock == 4
    assert abs(step.amount_ns - step_ns) < abs(step_ns) // 4
    truth = true_offsets(path, found.offsets, 4)
    held = (found.offsets.low_ns[4] <= truth) & (truth <= found.offsets.high_ns[4])
    assert held.all()
    told = found.offsets.estimate_ns[4] != UNKNOWN
    assert told.sum() >= len(truth) - 4
    assert np.abs(found.offsets.estimate_ns[4] - truth)[told].max() < 1_000_000


def test_the_anchors_own_step_is_its_own() -> None:
    moved = Clock(-3_000_000_000, 50e-6, 6.3, 80_000_000)
    found = seen(web(replace(PLAIN, clocks=(PLAIN.clocks[0], moved, *PLAIN.clocks[2:]))))
    assert found.offsets.anchor == 1
    assert {step.clock for step in found.offsets.steps} == {1}


def test_without_packets_back_nothing_is_guaranteed_on_that_side() -> None:
    one_way = made([(0, 1, t * SECOND // 10, 5_000_000, True) for t in range(50)])
    offsets = estimate_offsets(one_way, 3, anchor=0)
    assert (offsets.high_ns[1] < NONE).all()
    assert (offsets.low_ns[1] == -NONE).all()
    assert (offsets.estimate_ns[1] == UNKNOWN).all()
    assert (offsets.high_ns[2] == NONE).all(), "a clock that shares nothing is unknown"


def test_bounds_go_through_clocks_between() -> None:
    """0 and 2 share nothing; over 1 they are bounded, one-way pairs included."""
    rows = []
    for t in range(0, 3_000, 50):
        at = t * 1_000_000
        rows += [(0, 1, at, 7_000_000, True), (1, 2, at, 4_000_000, True), (2, 0, at, -9_000_000, True)]
    offsets = estimate_offsets(made(rows), 3, anchor=0)
    # off2 - off0 ≤ 7 + 4 ms; off0 - off2 ≤ -9 ms
    known = offsets.estimate_ns[2] != UNKNOWN
    assert known.sum() == 3
    low, high = offsets.low_ns[2][known], offsets.high_ns[2][known]
    assert np.all((low >= 8_900_000) & (low <= 9_000_000))
    assert np.all((high >= 11_000_000) & (high <= 11_100_000))


def test_false_matches_do_not_move_a_bound() -> None:
    rows = [(0, 1, t * SECOND // 20, 2_000_000, True) for t in range(200)]
    rows += [(1, 0, t * SECOND // 20, 1_000_000, True) for t in range(200)]
    false = [(0, 1, 3 * SECOND + i, -200_000_000, True) for i in range(2)]
    clean, dirty = (estimate_offsets(made(more), 2, anchor=0) for more in (rows, rows + false))
    assert np.abs(clean.high_ns - dirty.high_ns).max() < 60_000
    # a whole burst of them makes a cycle, whose culprit is named and dropped
    burst = [(0, 1, 3 * SECOND + i, -200_000_000, True) for i in range(9)]
    found = estimate_offsets(made(rows + burst), 2, anchor=0)
    (contradiction,) = found.contradictions
    assert contradiction.culprit == (0, 1)
    assert np.all((found.low_ns[1] <= 0) & (found.high_ns[1] >= 1_000_000))


def test_where_all_is_wrong_nothing_is_claimed() -> None:
    rows = [(0, 1, t * SECOND // 20, -50_000_000, True) for t in range(200)]
    rows += [(1, 0, t * SECOND // 20, 1_000_000, True) for t in range(200)]
    found = estimate_offsets(made(rows), 2, anchor=0)
    assert found.contradictions
    assert all(one.culprit is None for one in found.contradictions)
    assert (found.estimate_ns[1] == UNKNOWN).all()
    assert (found.high_ns[1] == NONE).all()


def test_shortest_paths_are_those_of_floyd_and_warshall() -> None:
    pick = np.random.default_rng(5)
    clocks = 7
    offset = pick.integers(-(10**9), 10**9, clocks)
    rows = [
        (a, b, int(t) * SECOND, int(offset[b] - offset[a] + pick.integers(0, 10**7)), True)
        for a in range(clocks)
        for b in range(clocks)
        if a != b and pick.random() < 0.5
        for t in range(3)
    ]
    bounds, found = without_contradictions(bounds_of(made(rows), np.zeros(clocks, np.int64), 100), clocks)
    assert not found
    for window in range(len(bounds.window)):
        table = np.full((clocks, clocks), NONE)
        np.fill_diagonal(table, 0)
        table[bounds.before, bounds.after] = bounds.limit[:, window]
        for k in range(clocks):
            through = np.where(
                (table[:, k, None] < NONE) & (table[None, k] < NONE), table[:, k, None] + table[None, k], NONE
            )
            table = np.minimum(table, through)
        for source in range(clocks):
            assert (distances(bounds, clocks, source)[:, window] == table[source]).all()
            assert (distances(bounds, clocks, source, backwards=True)[:, window] == table[:, source]).all()


def test_drift_lies_between_the_hulls() -> None:
    pick = np.random.default_rng(3)
    time = np.arange(120, dtype=np.float64)
    line = 40e-6 * time * 1e9
    found = drift_of(
        time, line - pick.exponential(300_000, 120), line + pick.exponential(300_000, 120), 500e-6
    )
    assert found is not None
    assert found.low <= 40e-6 <= found.high
    assert found.high - found.low < 10e-6
    assert drift_of(time[:5], line[:5] - 1, line[:5] + 1, 500e-6) is None
    kinked = np.where(time < 60, 0.0, (time - 60) * 200_000.0)
    assert drift_of(time, kinked - 1_000, kinked + 1_000, 500e-6) is None, "no line fits"


def test_no_pairs_no_claim() -> None:
    offsets = estimate_offsets(Samples.joined([]), CLOCKS)
    assert offsets.anchor == -1
    low, high, estimate = offsets.at(0, np.array([START_NS]))
    assert (low[0], high[0], estimate[0]) == (-NONE, NONE, UNKNOWN)


def made(rows: list[tuple[int, int, int, int, bool]]) -> Samples:
    """(before, after, time, gap, ordered)."""
    before, after, time, gap, ordered = zip(*rows, strict=True)
    return Samples(
        np.array(before, np.intp),
        np.array(after, np.intp),
        np.array(time, np.int64),
        np.array(gap, np.int64),
        np.array(ordered),
    )
