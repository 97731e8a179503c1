"""What hosts say of their own clocks, and what the control channel shows of them.

A claim (chrony's or the kernel's offset and error) is never a bound: it picks the anchor, it stands in where no traffic
is shared, and it is compared with what was measured. A round trip to an agent is a measurement: the agent read its
clock after the question left and before the answer came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hub.correlate.clock_constraints import NONE
from hub.correlate.clock_estimate import Offsets
from hub.correlate.clock_samples import Samples


@dataclass(frozen=True, slots=True)
class Claim:
    """Of one clock at one time; see wire.clock.Clock."""

    clock: int
    at_ns: int
    """Raw."""
    synchronized: bool
    offset_ns: int | None
    """From UTC, positive: ahead."""
    error_ns: int | None


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A question to an agent and its answer."""

    clock: int
    sent_ns: int
    """By the asking host's clock."""
    agent_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class Disputed:
    """Claims that can't be true by what was measured."""

    clock: int
    claimed_low_ns: int
    """Of the clock's offset from the anchor, by both hosts' claims."""
    claimed_high_ns: int
    measured_low_ns: int
    measured_high_ns: int


def round_trips(trips: Sequence[RoundTrip], asking: int) -> Samples:
    """As pairs in a known order. asking: index of the asking host's clock."""
    clock = np.array([trip.clock for trip in trips], np.intp)
    sent, agent, received = (
        np.array([getattr(trip, name) for trip in trips], np.int64)
        for name in ("sent_ns", "agent_ns", "received_ns")
    )
    asker = np.full(len(trips), asking, np.intp)
    return Samples(
        np.concatenate([asker, clock]),
        np.concatenate([clock, asker]),
        np.concatenate([sent, agent]),
        np.concatenate([agent - sent, received - agent]),
        np.ones(2 * len(trips), np.bool_),
    )


def best_anchor(claims: Sequence[Claim]) -> int | None:
    """The clock whose host says it is nearest to UTC; None: no host claims to be synchronized."""
    latest = _latest(claims)
    good = [
        (abs(claim.offset_ns or 0) + claim.error_ns, claim.clock)
        for claim in latest.values()
        if claim.synchronized and claim.error_ns is not None
    ]
    return min(good)[1] if good else None


def claimed(claims: Sequence[Claim], anchor: int) -> dict[int, tuple[int, int]]:
    """Per clock the interval of its offset from the anchor that both hosts' latest claims allow."""
    bounds = {
        clock: (claim.offset_ns - claim.error_ns, claim.offset_ns + claim.error_ns)
        for clock, claim in _latest(claims).items()
        if claim.synchronized and claim.offset_ns is not None and claim.error_ns is not None
    }
    if anchor not in bounds:
        return {}
    low, high = bounds[anchor]
    return {clock: (mine[0] - high, mine[1] - low) for clock, mine in bounds.items() if clock != anchor}


def disputed(offsets: Offsets, claims: Sequence[Claim]) -> list[Disputed]:
    """Claims that contradict the latest window that has a bound."""
    found = []
    for clock, (low, high) in sorted(claimed(claims, offsets.anchor).items()):
        if clock >= len(offsets.low_ns):
            continue
        lows, highs = offsets.low_ns[clock], offsets.high_ns[clock]
        known = np.flatnonzero((lows > -NONE) | (highs < NONE))
        if len(known) and (low > highs[known[-1]] or high < lows[known[-1]]):
            found.append(Disputed(clock, low, high, int(lows[known[-1]]), int(highs[known[-1]])))
    return found


def _latest(claims: Sequence[Claim]) -> dict[int, Claim]:
    latest: dict[int, Claim] = {}
    for claim in sorted(claims, key=lambda one: (one.at_ns, one.clock)):
        latest[claim.clock] = claim
    return latest
