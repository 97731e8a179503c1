"""Each clock's offset from the anchor over time: a guaranteed interval, an estimate in it, drift and steps.

What is guaranteed rests on three things only: causes come before effects (clock_samples), bounds are supported by more
than two packets where there are more (clock_constraints), and clocks drift by less than DRIFT_LIMIT; where an even
drift fits all bounds of a stretch, by less than WANDER off it. How unequal the two ways of a path are can't be known:
the interval is as wide as both ways' delays together, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hub.correlate.clock_constraints import (
    DRIFT_LIMIT,
    NONE,
    WINDOW_NS,
    Bounds,
    Contradiction,
    bounds_of,
    distances,
    numbered,
    without_contradictions,
)
from hub.correlate.clock_samples import Samples
from hub.correlate.drift import Drift, drift_of

UNKNOWN = -(2**62)
"""In estimates: not known."""
MOST_WINDOWS = 4096
WANDER = 5e-6
"""How much an even drift changes within a stretch: temperature."""
STEP_NS = 500_000
"""A shift of both bounds between two windows that is more than this, and more than drift explains, is a step."""
UNEVEN = 50e-6
"""How far drift may be from its median where a step is looked for."""
_FIT_WINDOWS = 15
_AROUND = 5
_MOST_ENTRIES = 2_000_000
"""Of equations that are solved at once."""


@dataclass(frozen=True, slots=True)
class Step:
    """A clock was set."""

    clock: int
    """Whose; of two clocks alone it can't be told which, then it is the one that isn't the anchor."""
    window: int
    """In which, or at whose beginning."""
    amount_ns: int
    """Positive: set forward."""


@dataclass(frozen=True, slots=True)
class Offsets:
    """Offsets of all clocks from the anchor's, positive: ahead of it. Arrays are (clocks, windows)."""

    anchor: int
    """-1: there is none."""
    middle_ns: NDArray[np.int64]
    """Of each window, by the anchor's clock."""
    low_ns: NDArray[np.int64]
    """-NONE: unbounded."""
    high_ns: NDArray[np.int64]
    """NONE: unbounded."""
    estimate_ns: NDArray[np.int64]
    """UNKNOWN where the interval is open."""
    rough_ns: NDArray[np.int64]
    """Per clock: good enough to bring times into one line, claimed by nobody."""
    drift: dict[int, Drift] = field(default_factory=dict)
    """Per clock that has one, of its last stretch without a step."""
    steps: list[Step] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)

    def at(self, clock: int, raw_ns: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """(low, high, estimate) of a clock when it showed these times, carried from the nearest window."""
        if not len(self.middle_ns) or clock < 0:
            wide = np.full(len(raw_ns), NONE)
            return -wide, wide, np.full(len(raw_ns), UNKNOWN)
        time = raw_ns - self.rough_ns[clock]
        right = np.clip(np.searchsorted(self.middle_ns, time), 0, len(self.middle_ns) - 1)
        left = np.maximum(right - 1, 0)
        near = np.where(
            np.abs(time - self.middle_ns[left]) < np.abs(self.middle_ns[right] - time), left, right
        )
        slack = np.ceil(np.abs(time - self.middle_ns[near]) * DRIFT_LIMIT).astype(np.int64)
        low, high, estimate = (part[clock][near] for part in (self.low_ns, self.high_ns, self.estimate_ns))
        low = np.where(low > -NONE, low - slack, -NONE)
        return low, np.where(high < NONE, high + slack, NONE), estimate


def estimate_offsets(samples: Samples, clocks: int, anchor: int | None = None) -> Offsets:
    """What pairs of sightings tell of the clocks. anchor: None takes the clock that most pairs share."""
    if not len(samples):
        none = np.zeros((clocks, 0), np.int64)
        return Offsets(-1, np.zeros(0, np.int64), none, none, none, np.zeros(clocks, np.int64))
    if anchor is None:
        used = np.bincount(samples.before, minlength=clocks) + np.bincount(samples.after, minlength=clocks)
        anchor = int(np.argmax(used))
    rough = rough_offsets(samples, clocks, anchor)
    certain = samples.taken(samples.ordered)
    everything = bounds_of(samples, rough, MOST_WINDOWS)
    bounds, contradictions = without_contradictions(
        bounds_of(certain, rough, windows=everything.window), clocks
    )
    likely = likely_offsets(everything, clocks, anchor)
    high = distances(bounds, clocks, anchor)
    back = distances(bounds, clocks, anchor, backwards=True)
    low = np.where(back < NONE, -back, -NONE)
    estimate = np.full(high.shape, UNKNOWN)
    drift: dict[int, Drift] = {}
    steps: list[Step] = []
    for clock in range(clocks):
        if clock == anchor:
            estimate[clock] = 0
            continue
        whole = np.flatnonzero((low[clock] > -NONE) & (high[clock] < NONE))
        for stretch in _stretches(whole, bounds, clock, low[clock], high[clock], steps):
            found = _narrow(bounds.window, stretch, low[clock], high[clock])
            if found is not None:
                drift[clock] = found
            lows, highs = low[clock][stretch], high[clock][stretch]
            estimate[clock][stretch] = _fit(bounds.window[stretch], lows, highs, likely[clock][stretch])
    by = rough[:, None]
    high, low = np.where(high < NONE, high + by, NONE), np.where(low > -NONE, low + by, -NONE)
    estimate = np.where(estimate != UNKNOWN, estimate + by, UNKNOWN)
    middle = bounds.window * WINDOW_NS + WINDOW_NS // 2
    return Offsets(
        anchor, middle, low, high, estimate, rough, drift, _blamed(steps, clocks, anchor), contradictions
    )


def rough_offsets(samples: Samples, clocks: int, anchor: int) -> NDArray[np.int64]:
    """Each clock's median offset along the best used pairs; 0 where nothing leads to the anchor."""
    keys, edge = numbered(samples.before.astype(np.int64) * clocks + samples.after)
    order = np.argsort(edge.astype(np.uint16) if len(keys) < 2**16 else edge, kind="stable")
    parts = np.split(samples.gap_ns[order], np.cumsum(np.bincount(edge))[:-1])
    gaps: dict[tuple[int, int], int] = {
        divmod(key, clocks): int(np.partition(part, (len(part) - 1) // 2)[(len(part) - 1) // 2])
        for key, part in zip(keys.tolist(), parts, strict=True)
    }
    neighbours: dict[int, set[int]] = {}
    for one, other in gaps:
        neighbours.setdefault(one, set()).add(other)
        neighbours.setdefault(other, set()).add(one)
    rough = np.zeros(clocks, np.int64)
    reached, waiting = {anchor}, [anchor]
    while waiting:
        at = waiting.pop(0)
        for other in sorted(neighbours.get(at, ())):
            if other in reached:
                continue
            there, back = gaps.get((at, other)), gaps.get((other, at))
            both = [gap for gap in (there, None if back is None else -back) if gap is not None]
            rough[other] = rough[at] + sum(both) // len(both)
            reached.add(other)
            waiting.append(other)
    return rough


def _stretches(
    whole: NDArray[np.intp],
    bounds: Bounds,
    clock: int,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    steps: list[Step],
) -> list[NDArray[np.intp]]:
    """Windows with both bounds, parted where the clock was set; those next to that moment lose their bounds.

    A window in which the clock is set has bounds of before and of after at once: they look narrow and are wrong.
    """
    count = len(whole)
    if not count:
        return []
    lows, highs = low[whole], high[whole]
    slack = np.diff(bounds.window[whole]) * (WINDOW_NS * DRIFT_LIMIT)
    time = (bounds.window[whole] - bounds.window[whole[0]]) * np.float64(WINDOW_NS)
    trend = (_slope(time, (lows - lows[0] + highs - lows[0]) / 2) * time).astype(np.int64)
    set_at = np.zeros(count, np.bool_)
    apart = np.flatnonzero((lows[1:] > highs[:-1] + slack) | (highs[1:] < lows[:-1] - slack))
    set_at[apart] = set_at[apart + 1] = True
    amount = np.zeros(count, np.int64)
    if count > 2:
        amount[1:-1], sudden = _shifts(bounds.window[whole], lows - trend, highs - trend)
        amount[-1] = amount[-2]
        set_at[1:-1] |= sudden
    if not set_at.any():
        return [whole]
    low[whole[set_at]], high[whole[set_at]] = -NONE, NONE
    begins = np.flatnonzero(np.diff(np.concatenate([[0], set_at.astype(np.int8), [0]])) == 1)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], set_at.astype(np.int8), [0]])) == -1)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        sizes = amount[begin:end]
        steps.append(Step(clock, int(bounds.window[whole[end - 1]]), int(sizes[np.argmax(np.abs(sizes))])))
    return [
        part
        for part in np.split(whole, np.unique(np.concatenate([begins, ends])))
        if len(part) and low[part[0]] > -NONE
    ]


def _shifts(
    window: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """By how much envelopes (what jitter can't move) differ around each window but the first and the last one.

    And whether that is sudden: as much below as above, and more than drift explains.
    """
    at = np.arange(1, len(window) - 1)
    up = _ahead(high, np.minimum)[2:] - _ahead(high[::-1], np.minimum)[:1:-1]
    down = _ahead(low, np.maximum)[2:] - _ahead(low[::-1], np.maximum)[:1:-1]
    amount = (up + down) // 2
    last, first = np.minimum(at + _AROUND, len(window) - 1), np.maximum(at - _AROUND, 0)
    span = (window[last] - window[first]) * WINDOW_NS
    many = np.minimum(at, len(window) - 1 - at) >= 2
    sudden = many & (np.abs(up - down) < np.abs(amount) // 4) & (np.abs(amount) > STEP_NS + span * UNEVEN)
    return amount, sudden


def _ahead(value: NDArray[np.int64], of: np.ufunc) -> NDArray[np.int64]:
    """For each entry the least (or largest) of it and the _AROUND - 1 that follow."""
    found = value.copy()
    for step in range(1, min(_AROUND, len(value))):
        of(found[:-step], value[step:], out=found[:-step])
    return found


def _slope(time: NDArray[np.float64], value: NDArray[np.float64]) -> float:
    """The median of rises over a few windows: one step doesn't move it."""
    if len(time) <= _AROUND:
        return 0.0
    rise = (value[2:] - value[:-2]) / (time[2:] - time[:-2])
    return float(np.clip(np.median(rise), -DRIFT_LIMIT, DRIFT_LIMIT))


def _narrow(
    window: NDArray[np.int64], stretch: NDArray[np.intp], low: NDArray[np.int64], high: NDArray[np.int64]
) -> Drift | None:
    """Carry the bounds of a stretch from window to window, in place; the drift if it is even."""
    base = int(low[stretch[0]])
    time_s = (window[stretch] - window[stretch[0]]) * (WINDOW_NS * 1e-9)
    lows, highs = (low[stretch] - base).astype(np.float64), (high[stretch] - base).astype(np.float64)
    drift = drift_of(time_s, lows, highs, DRIFT_LIMIT)
    slow, fast = (-DRIFT_LIMIT, DRIFT_LIMIT) if drift is None else (drift.low - WANDER, drift.high + WANDER)
    rise, fall = fast * 1e9 * time_s, slow * 1e9 * time_s
    highs = np.minimum.accumulate(highs - rise) + rise  # from earlier windows
    highs = np.minimum.accumulate((highs - fall)[::-1])[::-1] + fall  # from later ones
    lows = np.maximum.accumulate(lows - fall) + fall
    lows = np.maximum.accumulate((lows - rise)[::-1])[::-1] + rise
    if (lows > highs).any():
        return None  # it isn't as even as taken for: each window stands for itself
    low[stretch] = base + np.floor(lows).astype(np.int64)
    high[stretch] = base + np.ceil(highs).astype(np.int64)
    return drift


def likely_offsets(bounds: Bounds, clocks: int, anchor: int) -> NDArray[np.int64]:
    """(clocks, windows): offsets by weighted least squares, taking both ways between two clocks as equally long.

    Each pair of clocks with gaps in both directions says `(there - back) / 2`, with the weight 1 / (there + back)²;
    UNKNOWN where no such pairs lead to the anchor.
    """
    found = np.full((clocks, len(bounds.window)), UNKNOWN)
    edges = {(int(a), int(b)): e for e, (a, b) in enumerate(zip(bounds.before, bounds.after, strict=True))}
    both = [(a, b, e, edges[b, a]) for (a, b), e in edges.items() if a < b and (b, a) in edges]
    if not both:
        return found
    one, other, there, back = (np.array(column) for column in zip(*both, strict=True))
    usable = (bounds.limit[there] < NONE) & (bounds.limit[back] < NONE)
    alike, number = np.unique(usable, axis=1, return_inverse=True)
    for at in range(alike.shape[1]):  # windows in which the same clocks were seen together
        reached = _reached(one[alike[:, at]], other[alike[:, at]], clocks, anchor)
        pairs = np.flatnonzero(alike[:, at] & reached[one])
        if not len(pairs):
            continue
        free = np.flatnonzero(reached & (np.arange(clocks) != anchor))
        every = np.flatnonzero(number.reshape(-1) == at)
        for windows in np.array_split(every, 1 + len(every) * clocks**2 // _MOST_ENTRIES):
            forth, home = bounds.limit[there[pairs]][:, windows], bounds.limit[back[pairs]][:, windows]
            guess = _balanced(one[pairs], other[pairs], forth, home, clocks, anchor)
            found[np.ix_(free, windows)] = guess[free]
    return found


def _balanced(
    a: NDArray[np.intp],
    b: NDArray[np.intp],
    forth: NDArray[np.int64],
    home: NDArray[np.int64],
    clocks: int,
    anchor: int,
) -> NDArray[np.int64]:
    """(clocks, windows), by the gaps (pairs, windows) from a to b and back, which connect all of these clocks."""
    difference = forth // 2 - home // 2
    # Small numbers around a first guess: offsets may be years.
    guess = _guess(a, b, difference, clocks, anchor)
    rest = (difference - (guess[b] - guess[a])).astype(np.float64)
    weight = 1.0 / np.maximum(np.abs(forth + home), 20_000).astype(np.float64) ** 2
    weight /= weight.max(axis=0)
    windows = forth.shape[1]
    matrix, side = np.zeros((windows, clocks, clocks)), np.zeros((windows, clocks))
    for pair, (one, other) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        matrix[:, one, one] += weight[pair]
        matrix[:, other, other] += weight[pair]
        matrix[:, one, other] -= weight[pair]
        matrix[:, other, one] -= weight[pair]
        side[:, one] -= weight[pair] * rest[pair]
        side[:, other] += weight[pair] * rest[pair]
    free = np.setdiff1d(np.union1d(a, b), [anchor])
    solved = np.linalg.solve(matrix[:, free[:, None], free], side[:, free, None])[:, :, 0]
    guess[free] += np.rint(solved.T).astype(np.int64)
    return guess


def _reached(a: NDArray[np.intp], b: NDArray[np.intp], clocks: int, anchor: int) -> NDArray[np.bool_]:
    reached = np.zeros(clocks, np.bool_)
    reached[anchor] = True
    for _ in range(clocks):
        before = int(reached.sum())
        reached[b[reached[a]]] = True
        reached[a[reached[b]]] = True
        if int(reached.sum()) == before:
            break
    return reached


def _guess(
    a: NDArray[np.intp], b: NDArray[np.intp], difference: NDArray[np.int64], clocks: int, anchor: int
) -> NDArray[np.int64]:
    """Along any tree: (clocks, windows)."""
    guess, known = np.zeros((clocks, difference.shape[1]), np.int64), np.zeros(clocks, np.bool_)
    known[anchor] = True
    for _ in range(clocks):
        before = int(known.sum())
        for pair, (one, other) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
            if known[one] and not known[other]:
                guess[other], known[other] = guess[one] + difference[pair], True
            elif known[other] and not known[one]:
                guess[one], known[one] = guess[other] - difference[pair], True
        if int(known.sum()) == before:
            break
    return guess


def _fit(
    window: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64], likely: NDArray[np.int64]
) -> NDArray[np.int64]:
    """A line through the likely offsets around (the middle where there is none), kept within each interval.

    Weighted by 1 / width² of the interval.
    """
    base = int(low[0])
    middle = ((low - base) + (high - base)) / 2.0
    point = np.where(likely != UNKNOWN, np.clip(likely, low, high) - base, middle)
    weight = 1.0 / np.maximum(high - low, 1_000).astype(np.float64) ** 2
    weight /= weight.max()
    time = (window - window[0]).astype(np.float64)
    w, t, m = (_around(column) for column in (weight, time, point))
    t = t - time[:, None]
    total, first, second = w.sum(axis=1), (w * t).sum(axis=1), (w * t * t).sum(axis=1)
    level, slope = (w * m).sum(axis=1), (w * t * m).sum(axis=1)
    determinant = total * second - first * first
    certain = determinant > 1e-9 * total * np.maximum(second, 1e-30)
    fitted = np.where(
        certain, (level * second - slope * first) / np.where(certain, determinant, 1.0), level / total
    )
    return np.asarray(np.clip(base + np.rint(fitted).astype(np.int64), low, high), np.int64)


def _around(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """(entries, 2 × _FIT_WINDOWS + 1): each with its neighbours, 0 beyond the ends."""
    padded = np.pad(column, _FIT_WINDOWS)
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * _FIT_WINDOWS + 1)


def _blamed(steps: list[Step], clocks: int, anchor: int) -> list[Step]:
    """Steps of all other clocks at once by one amount are the anchor's."""
    at_window: dict[int, list[Step]] = {}
    for step in steps:
        at_window.setdefault(step.window, []).append(step)
    blamed: list[Step] = []
    for window, found in sorted(at_window.items()):
        amounts = [step.amount_ns for step in found]
        alike = max(amounts) - min(amounts) < STEP_NS + abs(amounts[0]) // 4
        if alike and len(found) > 1 and len({step.clock for step in found}) == clocks - 1:
            blamed.append(Step(anchor, window, -sum(amounts) // len(amounts)))
        else:
            blamed += found
    return blamed
