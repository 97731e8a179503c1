"""Claims choose the anchor and are checked; round trips bound."""

from __future__ import annotations

import numpy as np

from hub.correlate.clock_estimate import estimate_offsets
from hub.correlate.clock_reports import Claim, RoundTrip, best_anchor, claimed, disputed, round_trips

SECOND = 1_000_000_000
GOOD = Claim(1, 5, True, 1_000, 2_000)
POOR = Claim(0, 5, True, -3_000_000, 4_000_000)
NOT_SYNCHRONIZED = Claim(2, 5, False, 0, 10)


def test_the_best_claim_anchors() -> None:
    assert best_anchor([POOR, GOOD, NOT_SYNCHRONIZED]) == 1
    assert best_anchor([GOOD, Claim(1, 9, False, 0, 0), POOR]) == 0, "the latest counts"
    assert best_anchor([NOT_SYNCHRONIZED]) is None


def test_round_trips_bound_where_no_traffic_is_shared() -> None:
    """The hub (2) is 1 s ahead of agent 0, 40 ms behind agent 1; the ways there and back are not alike."""
    trips = []
    for number in range(12):
        at = number * SECOND
        trips.append(RoundTrip(0, at, at + 2_000_000 - SECOND, at + 3_000_000))
        trips.append(RoundTrip(1, at, at + 1_000_000 + 40_000_000, at + 9_000_000))
    offsets = estimate_offsets(round_trips(trips, 2), 3, anchor=0)
    truth = SECOND + 40_000_000
    known = np.flatnonzero(offsets.high_ns[1] < 2**61)
    assert len(known) >= 10
    assert np.all((offsets.low_ns[1][known] <= truth) & (truth <= offsets.high_ns[1][known]))
    assert np.all(offsets.high_ns[1][known] - offsets.low_ns[1][known] < 15_000_000)


def test_a_claim_that_measurement_contradicts_is_disputed() -> None:
    trips = [RoundTrip(1, n * SECOND, n * SECOND + 501_000_000, n * SECOND + 2_000_000) for n in range(12)]
    offsets = estimate_offsets(round_trips(trips, 0), 2, anchor=0)
    honest = [Claim(0, 1, True, 0, 1_000_000), Claim(1, 1, True, 500_000_000, 1_000_000)]
    assert claimed(honest, 0) == {1: (498_000_000, 502_000_000)}
    assert not disputed(offsets, honest)
    (found,) = disputed(offsets, [honest[0], Claim(1, 1, True, 0, 1_000_000)])
    assert found.clock == 1
    assert found.measured_low_ns > found.claimed_high_ns
