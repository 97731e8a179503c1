"""Differences of clocks bounded by pairs: the tightest interval that all bounds together allow.

Each bound says `offset_after - offset_before <= F` within a window of time: a system of difference constraints, whose
tightest solution is the shortest path in the graph of clocks (Cormen et al., Introduction to Algorithms, on shortest
paths from a single source; solved by Bellman and Ford's method for all windows at once). The distance from the anchor
to a clock is the highest its offset can be, minus the distance back the lowest. A negative cycle says that not all
bounds are true: a clock was set within the window, or packets were taken for one that weren't.

`F` is not the smallest gap of a window but the third smallest (of fewer, the largest): two false matches change
nothing, and a larger bound is never a wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.correlate.clock_samples import Samples
from hub.correlate.sightings import runs

WINDOW_NS = 1_000_000_000
SUPPORT = 3
"""Pairs that must agree with a bound, where there are so many."""
DRIFT_LIMIT = 500e-6
"""The fastest two clocks are taken to run apart: crystals stay below 100 ppm each, the kernel's slewing at 500 ppm."""
RESOLUTION_NS = 2_000
"""Of stamps in microseconds: both may be rounded."""
NONE = np.int64(2**61)
"""No bound."""
_MOST_CYCLES = 64
_NEAR_WINDOWS = 15


@dataclass(frozen=True, slots=True)
class Bounds:
    """Per edge and window how large offset_after - offset_before can be."""

    before: NDArray[np.intp]
    """Per edge."""
    after: NDArray[np.intp]
    window: NDArray[np.int64]
    """Numbers of the windows that have any, rising; a window's middle is (number + ½) × WINDOW_NS of the anchor's
    time."""
    limit: NDArray[np.int64]
    """(edges, windows), NONE: no bound."""
    pairs: NDArray[np.int64]
    """Pairs of sightings per edge."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Bounds that can't be true together, and what was done."""

    window: int
    clocks: tuple[int, ...]
    """Along the cycle."""
    amount_ns: int
    """How much they contradict each other, positive."""
    culprit: tuple[int, int] | None
    """(before, after) of the bound that was dropped because it alone is unlike its neighbours in time: false matches.
    None: it can't be told (or a clock was set); all were dropped."""


def bounds_of(
    samples: Samples,
    rough_ns: NDArray[np.int64],
    most_windows: int = 0,
    *,
    windows: NDArray[np.int64] | None = None,
) -> Bounds:
    """Collect the pairs by edge and window.

    rough_ns: each clock's offset, roughly: it brings times into one line, and limits are of what offsets differ from it
    (small numbers, though clocks may be decades apart).

    Kept are these `windows`, or the latest `most_windows`.
    """
    time = samples.time_ns - rough_ns[samples.before]
    window = time // WINDOW_NS
    if windows is None:
        windows = numbered(window)[0][-most_windows:]
    if len(window) and window.min() < windows[0]:
        kept = window >= windows[0]
        samples, time, window = samples.taken(kept), time[kept], window[kept]
    middle = window * WINDOW_NS + WINDOW_NS // 2
    ahead = rough_ns[samples.after] - rough_ns[samples.before]
    gap = (
        samples.gap_ns - ahead + np.ceil(np.abs(time - middle) * DRIFT_LIMIT).astype(np.int64) + RESOLUTION_NS
    )
    clocks = len(rough_ns)
    keys, edge = numbered(samples.before.astype(np.int64) * clocks + samples.after)
    cell, gap = _sorted(edge * len(windows) + np.searchsorted(windows, window), gap)
    begins = runs(cell)
    count = np.diff(np.append(begins, len(cell)))
    limit = np.full((len(keys), len(windows)), NONE, np.int64)
    limit.reshape(-1)[cell[begins]] = gap[begins + np.minimum(SUPPORT, count) - 1]
    return Bounds(
        (keys // max(1, clocks)).astype(np.intp),
        (keys % max(1, clocks)).astype(np.intp),
        windows,
        limit,
        np.bincount(edge, minlength=len(keys)),
    )


def numbered(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The distinct values, rising, and which of them each is; without sorting where they lie close."""
    if not len(values):
        return values, np.zeros(0, np.intp)
    low = values.min()
    span = int(values.max() - low) + 1
    if span > 8 * len(values) + 65_536:
        distinct, number = np.unique(values, return_inverse=True)
        return distinct, number
    there = np.zeros(span, np.bool_)
    there[values - low] = True
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[values - low]


def _sorted(cell: NDArray[np.int64], gap: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By cell, then by gap. As one number where both fit into one: that is several times as fast."""
    if not len(cell):
        return cell, gap
    low = gap.min()
    bits = int(gap.max() - low).bit_length()
    if bits + int(cell.max()).bit_length() > 63:
        order = np.lexsort((gap, cell))
        return cell[order], gap[order]
    both = np.sort((cell << bits) | (gap - low))
    return both >> bits, (both & ((1 << bits) - 1)) + low


def without_contradictions(bounds: Bounds, clocks: int) -> tuple[Bounds, list[Contradiction]]:
    """Drop what makes negative cycles, window by window, and say what it was."""
    limit = bounds.limit.copy()
    found: list[Contradiction] = []
    suspicious = _windows_with_cycles(bounds, limit, clocks)
    for at in suspicious.tolist():
        for _ in range(_MOST_CYCLES):
            cycle = _negative_cycle(clocks, bounds, limit[:, at])
            if not cycle:
                break
            amount = -int(limit[cycle, at].sum())
            culprit = _culprit(bounds.limit, cycle, at, amount)
            dropped = cycle if culprit is None else [culprit]
            limit[dropped, at] = NONE
            named = None if culprit is None else (int(bounds.before[culprit]), int(bounds.after[culprit]))
            found.append(
                Contradiction(
                    int(bounds.window[at]), tuple(int(bounds.before[e]) for e in cycle), amount, named
                )
            )
        else:
            limit[:, at] = NONE  # nothing of this window can be believed
    return Bounds(bounds.before, bounds.after, bounds.window, limit, bounds.pairs), found


def distances(bounds: Bounds, clocks: int, source: int, *, backwards: bool = False) -> NDArray[np.int64]:
    """(clocks, windows): the shortest path from `source`, or to it; NONE: no way. Without negative cycles."""
    begin, end = (bounds.after, bounds.before) if backwards else (bounds.before, bounds.after)
    found = np.full((clocks, bounds.limit.shape[1]), NONE, np.int64)
    found[source] = 0
    for _ in range(clocks):
        if not _relax(found, begin, end, bounds.limit):
            break
    return found


def _relax(
    found: NDArray[np.int64], begin: NDArray[np.intp], end: NDArray[np.intp], limit: NDArray[np.int64]
) -> bool:
    changed = False
    for edge in range(len(begin)):
        through = np.where(
            (found[begin[edge]] < NONE) & (limit[edge] < NONE), found[begin[edge]] + limit[edge], NONE
        )
        better = through < found[end[edge]]
        if better.any():
            found[end[edge]] = np.where(better, through, found[end[edge]])
            changed = True
    return changed


def _windows_with_cycles(bounds: Bounds, limit: NDArray[np.int64], clocks: int) -> NDArray[np.intp]:
    """Windows where relaxing never ends, from all clocks at once."""
    found = np.zeros((clocks, limit.shape[1]), np.int64)
    for _ in range(clocks):
        if not _relax(found, bounds.before, bounds.after, limit):
            return np.zeros(0, np.intp)
    last = found.copy()
    _relax(found, bounds.before, bounds.after, limit)
    return np.flatnonzero((last != found).any(axis=0))


def _negative_cycle(clocks: int, bounds: Bounds, limit: NDArray[np.int64]) -> list[int]:
    """Edges of one, in one window; empty: there is none."""
    edges = [
        (int(bounds.before[e]), int(bounds.after[e]), int(limit[e]), e)
        for e in np.flatnonzero(limit < NONE).tolist()
    ]
    distance = [0] * clocks
    by: list[tuple[int, int] | None] = [None] * clocks
    last = -1
    for _ in range(clocks):
        last = -1
        for before, after, bound, edge in edges:
            if distance[before] + bound < distance[after]:
                distance[after] = distance[before] + bound
                by[after] = (before, edge)
                last = after
        if last < 0:
            return []
    for _ in range(clocks):  # into the cycle
        step = by[last]
        assert step is not None
        last = step[0]
    cycle: list[int] = []
    at = last
    while True:
        step = by[at]
        assert step is not None
        cycle.append(step[1])
        at = step[0]
        if at == last:
            return cycle[::-1]


def _culprit(limit: NDArray[np.int64], cycle: list[int], at: int, amount: int) -> int | None:
    """The one edge that is lower than it is around this window by what the cycle lacks; None: not just one is."""
    around = slice(max(0, at - _NEAR_WINDOWS), at + _NEAR_WINDOWS + 1)
    low = []
    for edge in cycle:
        row = limit[edge, around]
        others = row[(row < NONE) & (np.arange(len(row)) != at - around.start)]
        if len(others) < 3:
            return None
        before, after = limit[edge, around.start : at], limit[edge, at + 1 : around.stop]
        before, after = before[before < NONE], after[after < NONE]
        if (
            len(before)
            and len(after)
            and abs(int(np.median(before)) - int(np.median(after))) > max(amount, RESOLUTION_NS)
        ):
            return None  # it stays different: a clock was set
        if int(np.median(others)) - int(limit[edge, at]) > amount // 2:
            low.append(edge)
    return low[0] if len(low) == 1 else None
