"""Between neighbours on a path: how long packets took, how many vanished, and what is only known to be unknown.

A packet that a place saw and no later one has vanished behind that place, if the next place was watching at the time:
when it saw anything at all both before and after. A TCP segment that its
receiver acknowledged has arrived, whoever missed it. What a place missed though later ones saw it, was lost by the
capture and not by the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.correlate.clock_samples import Neighbours
from hub.correlate.places import Places
from hub.correlate.sightings import Rows, runs
from hub.correlate.streams import NOTHING
from hub.correlate.witnesses import Cells, Packets, arrived_later

FAR = 2**62


@dataclass(frozen=True, slots=True)
class Hops:
    """From the places of one rank to those of the next. Arrays with an entry per (stream, rank but the last)."""

    stream: NDArray[np.intp]
    rank: NDArray[np.intp]
    """Of the nearer places."""
    passed: NDArray[np.int64]
    """Packets (TCP: pieces, each time they were sent) that went over it for certain."""
    lost: NDArray[np.int64]
    """That vanished on it."""
    unclear: NDArray[np.int64]
    """That vanished on it or before it, between places of the nearer rank."""
    undecided: NDArray[np.int64]
    """Not seen again, while nothing says that the further places were watching."""
    gap_count: NDArray[np.int64]
    """Packets that both ends saw once and as they were."""
    gap_low_ns: NDArray[np.int64]
    """Smallest difference of their stamps, the further place's minus the nearer one's; raw."""
    gap_median_ns: NDArray[np.int64]
    gap_high_ns: NDArray[np.int64]
    near: NDArray[np.intp]
    """Places whose stamps these are; -1: none."""
    far: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.stream)


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of each packet. Arrays with an entry per Packets."""

    lost: NDArray[np.int64]
    """Copies that vanished for certain."""
    after_rank: NDArray[np.intp]
    """Behind places of which rank (the last such); -1: nowhere."""
    sent: NDArray[np.int64]
    """How often it was seen where it was seen most: sent again, when more than once."""


def follow(
    rows: Rows,
    stream: NDArray[np.intp],
    acknowledged: NDArray[np.int64],
    places: Places,
    packets: Packets,
    cells: Cells,
    pairs: Neighbours,
    watching: NDArray[np.int64],
) -> tuple[Hops, Fates, NDArray[np.int64]]:
    """Hops, fates, and per place what it missed though it passed.

    acknowledged: see streams.Sequences. watching: (vantage points, 2), the first and the last raw time at which each is
    known to have captured.
    """
    starts = np.flatnonzero(_rises(places))
    hop_of_place = np.cumsum(_rises(places)) - 1  # number of the level: (stream, rank)
    levels = len(starts)
    if not len(cells.packet):
        return (
            _no_hops(),
            Fates(*[np.zeros(0, kind) for kind in (np.int64, np.intp, np.int64)]),
            np.zeros(len(places), np.int64),
        )
    level_of_cell = hop_of_place[cells.place]
    begins = runs(cells.packet, level_of_cell)
    size = np.diff(np.append(begins, len(cells.packet)))
    seen = np.maximum.reduceat(cells.count, begins)
    packet, level = cells.packet[begins], level_of_cell[begins]
    passed = arrived_later(Cells(packet, level, seen, level, seen > 0), packets, seen)
    behind = np.append(passed[1:], 0)
    last = np.append(packet[1:] != packet[:-1], True)
    vanished = np.where(last, 0, np.maximum(passed - behind, 0))
    arrived = _arrived(stream, acknowledged, packets)[packet] & (behind == 0) & (vanished > 0)
    vanished = np.where(arrived, 0, vanished)
    # What was acknowledged went all the way, though nobody saw it there.
    reached = np.zeros(len(packets.stream), np.int64)
    reached[packet[arrived]] = passed[arrived]
    passed = np.where(passed == 0, reached[packet], passed)
    behind = np.append(passed[1:], 0)
    # All places of a rank saw it: it left them all. Only some did: it may have ended between them.
    split = np.minimum.reduceat(cells.count, begins) < np.minimum(seen, passed)
    unclear = np.where(split & (size > 1), vanished, 0)
    gaps = _gaps(rows, places, cells, pairs, hop_of_place, levels)
    decided = _was_watched(
        rows, places, cells, begins, seen, packet, level, vanished > 0, pairs, gaps, starts, watching
    )
    undecided = np.where(decided, 0, vanished)
    unclear = np.where(decided, unclear, 0)
    lost = vanished - undecided - unclear
    forward = ~_is_last_level(places, starts)
    names = np.flatnonzero(forward)

    def summed(amount: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(level, weights=amount, minlength=levels).astype(np.int64)[names]

    hops = Hops(
        places.stream[starts][names],
        places.rank[starts][names],
        summed(np.where(last, 0, behind)),
        summed(lost),
        summed(unclear),
        summed(undecided),
        **{name: column[names] for name, column in gaps.items()},
    )
    missing = np.maximum(np.repeat(passed, size) - cells.count, 0) * ~np.repeat(vanished > 0, size)
    missed = np.bincount(cells.place, weights=missing, minlength=len(places)).astype(np.int64)
    first = runs(packet)
    total = np.add.reduceat(lost, first)
    where = np.maximum.reduceat(np.where(lost > 0, places.rank[starts][level], -1), first)
    return hops, Fates(total, where.astype(np.intp), np.maximum.reduceat(seen, first)), missed


def _no_hops() -> Hops:
    whole = np.zeros(0, np.int64)
    number = np.zeros(0, np.intp)
    return Hops(number, number, whole, whole, whole, whole, whole, whole, whole, whole, number, number)


def _rises(places: Places) -> NDArray[np.bool_]:
    """Where a level (stream, rank) begins."""
    new = np.ones(len(places), np.bool_)
    new[1:] = (places.stream[1:] != places.stream[:-1]) | (places.rank[1:] != places.rank[:-1])
    return new


def _is_last_level(places: Places, starts: NDArray[np.intp]) -> NDArray[np.bool_]:
    of = places.stream[starts]
    return np.append(of[1:] != of[:-1], True)


def _arrived(
    stream: NDArray[np.intp], acknowledged: NDArray[np.int64], packets: Packets
) -> NDArray[np.bool_]:
    """Whether the receiver acknowledged each packet."""
    highest = np.full((int(stream.max()) | 1) + 1, NOTHING, np.int64)
    np.maximum.at(highest, stream ^ 1, acknowledged)
    return np.asarray((packets.end != 0) & (highest[packets.stream] >= packets.end))


def _gaps(
    rows: Rows,
    places: Places,
    cells: Cells,
    pairs: Neighbours,
    level_of_place: NDArray[np.intp],
    levels: int,
) -> dict[str, NDArray[Any]]:
    """Differences of stamps per level, of the pair of places that most packets have in common."""
    usable = cells.leading[pairs.near] & cells.leading[pairs.far]
    near, far = pairs.near[usable], pairs.far[usable]
    one, other = cells.place[near], cells.place[far]
    adjacent = level_of_place[other] == level_of_place[one] + 1
    near, far, one, other = near[adjacent], far[adjacent], one[adjacent], other[adjacent]
    gap = rows["timestamp_ns"][cells.row[far]] - rows["timestamp_ns"][cells.row[near]]
    order = np.lexsort((gap, other, one))
    found: dict[str, NDArray[Any]] = {
        name: np.zeros(levels, np.int64)
        for name in ("gap_count", "gap_low_ns", "gap_median_ns", "gap_high_ns")
    }
    found["near"], found["far"] = np.full(levels, -1, np.intp), np.full(levels, -1, np.intp)
    if not len(order):
        return found
    gap, one, other = gap[order], one[order], other[order]
    begins = runs(one, other)
    count = np.diff(np.append(begins, len(order)))
    level = level_of_place[one[begins]]
    best = np.lexsort((begins, -count, level))
    best = best[runs(level[best])]
    at = level[best]
    found["gap_count"][at] = count[best]
    found["gap_low_ns"][at] = gap[begins[best]]
    found["gap_median_ns"][at] = gap[begins[best] + (count[best] - 1) // 2]
    found["gap_high_ns"][at] = gap[begins[best] + count[best] - 1]
    found["near"][at], found["far"][at] = one[begins[best]], other[begins[best]]
    return found


def _was_watched(
    rows: Rows,
    places: Places,
    cells: Cells,
    begins: NDArray[np.intp],
    seen: NDArray[np.int64],
    packet: NDArray[np.intp],
    level: NDArray[np.intp],
    asked: NDArray[np.bool_],
    pairs: Neighbours,
    gaps: dict[str, NDArray[Any]],
    starts: NDArray[np.intp],
    watching: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """For each packet at each level (where asked): the next level's places captured before and after it.

    By the nearer place's clock: when something that both saw passed it; or, by the median gap between the two, when
    the further vantage point saw anything at all.
    """
    decided = np.zeros(len(packet), np.bool_)
    at = np.flatnonzero(asked)
    if not len(at):
        return decided
    # The stamp of the level's first place that saw it.
    size = np.diff(np.append(begins, len(cells.packet)))
    stamp = np.full(len(cells.packet), FAR, np.int64)
    has = cells.row >= 0
    stamp[has] = rows["timestamp_ns"][cells.row[has]]
    of_near = places.vantage[cells.place]
    near_place = gaps["near"][level]
    reference = np.repeat(np.where(near_place >= 0, places.vantage[np.maximum(near_place, 0)], -1), size)
    # only stamps of the place that the gap is measured from can be compared
    comparable = np.where(of_near == reference, stamp, FAR)
    time = np.minimum.reduceat(comparable, begins)[at]
    here = level[at]
    far_place = gaps["far"][here]
    known = (far_place >= 0) & (time < FAR)
    there = watching[places.vantage[np.maximum(far_place, 0)]]
    arrival = time + gaps["gap_median_ns"][here]
    decided[at] = known & (arrival >= there[:, 0]) & (arrival <= there[:, 1])
    return decided
