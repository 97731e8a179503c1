"""Traffic on the simulated path, evaluated; and the truth beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.correlate.clock_estimate import UNKNOWN, Offsets, estimate_offsets
from hub.correlate.conversations import Conversations, evaluate
from hub.correlate.flows import with_fragments
from hub.correlate.sightings import Rows, in_order
from hub.correlate.translation import Joins, find_joins
from tests.support.path_simulator import CLOCKS, START_NS, VANTAGES, Path, Simulator, Truth

CLOCK_OF = np.array([one.clock for one in VANTAGES], np.intp)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the correlation made of the simulator's traffic."""

    rows: Rows
    truth: Truth
    joins: Joins
    found: Conversations
    offsets: Offsets


def seen(simulator: Simulator) -> Seen:
    rows, truth = simulator.rows()
    joins = find_joins(rows, simulator.flows())
    found = evaluate(in_order(with_fragments(rows)), joins, CLOCK_OF)
    return Seen(rows, truth, joins, found, estimate_offsets(found.samples, CLOCKS))


def web(
    path: Path, connections: int = 70, *, every_ns: int = 170_000_000, seed: int = 1, answer: int = 9_000
) -> Simulator:
    """Connections one after the other."""
    simulator = Simulator(path, seed)
    for number in range(connections):
        simulator.connection().exchange(START_NS + number * every_ns, 500, answer)
    return simulator


def true_offsets(path: Path, offsets: Offsets, clock: int) -> NDArray[np.float64]:
    """At the middle of each window."""
    anchor = path.clocks[offsets.anchor]
    elapsed = (offsets.middle_ns - START_NS - anchor.offset_ns) / (1 + anchor.drift)
    return np.array(
        [path.clocks[clock].offset_at(START_NS + t) - anchor.offset_at(START_NS + t) for t in elapsed]
    )


def judged(path: Path, offsets: Offsets) -> tuple[int, int, float, float]:
    """(windows and clocks with an interval, those that hold the truth, worst error of estimates in ns, share known)."""
    total = held = known = 0
    worst = 0.0
    for clock in range(CLOCKS):
        if clock == offsets.anchor:
            continue
        truth = true_offsets(path, offsets, clock)
        total += len(truth)
        held += int(((offsets.low_ns[clock] <= truth) & (truth <= offsets.high_ns[clock])).sum())
        told = offsets.estimate_ns[clock] != UNKNOWN
        known += int(told.sum())
        if told.any():
            worst = max(worst, float(np.abs(offsets.estimate_ns[clock][told] - truth[told]).max()))
    return total, held, worst, known / max(total, 1)
