"""Pairs of sightings whose order is known: what bounds the difference of two clocks.

A packet that passed vantage point A and then B shows `stamp_B - stamp_A = delay + offset_B - offset_A` with a delay
that isn't negative, so every such gap is an upper bound of `offset_B - offset_A`. Only neighbours on a path are paired:
the bounds of a chain add up to at least as good a one as the direct pair, and so the work is linear in vantage points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.correlate.places import OUT, Places
from hub.correlate.sightings import Rows
from hub.correlate.witnesses import Cells, Packets


@dataclass(frozen=True, slots=True)
class Samples:
    """Arrays with an entry per pair: `before`'s clock stamped a packet, then `after`'s."""

    before: NDArray[np.intp]
    """Clock."""
    after: NDArray[np.intp]
    time_ns: NDArray[np.int64]
    """By the clock `before`, raw."""
    gap_ns: NDArray[np.int64]
    """Stamp of `after` minus stamp of `before`: where they are ordered at least offset_after - offset_before."""
    ordered: NDArray[np.bool_]
    """Known to have passed `before` first. Others, of places that share a rank, are no bounds, but help to estimate."""

    def __len__(self) -> int:
        return len(self.before)

    @classmethod
    def joined(cls, parts: list[Samples]) -> Samples:
        """Several as one."""
        if not parts:
            none = np.zeros(0, np.intp)
            return cls(none, none, none.astype(np.int64), none.astype(np.int64), none.astype(np.bool_))
        return cls(
            *[
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("before", "after", "time_ns", "gap_ns", "ordered")
            ]
        )

    def taken(self, where: NDArray[np.intp] | NDArray[np.bool_]) -> Samples:
        """Some of them."""
        return Samples(
            self.before[where],
            self.after[where],
            self.time_ns[where],
            self.gap_ns[where],
            self.ordered[where],
        )


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Sightings of one packet at places of neighbouring ranks. Arrays with an entry per pair, of indices into Cells."""

    near: NDArray[np.intp]
    far: NDArray[np.intp]


def neighbours_of(rows: Rows, places: Places, packets: Packets, cells: Cells) -> Neighbours:
    """Pairs of sightings that follow each other on the way of a packet that both saw exactly once.

    Where several places share a rank, each is paired with the first of the rank before and of the one behind, and with
    the first of its own.
    """
    seen = np.flatnonzero((cells.count == 1) & (cells.row >= 0))
    if len(seen) < 2:
        none = np.zeros(0, np.intp)
        return Neighbours(none, none)
    packet, rank = cells.packet[seen], places.rank[cells.place[seen]]
    opens = np.ones(len(seen), np.bool_)  # the first of its rank
    opens[1:] = (packet[1:] != packet[:-1]) | (rank[1:] != rank[:-1])
    level = np.cumsum(opens) - 1
    firsts = np.flatnonzero(opens)
    back = np.flatnonzero(level > 0)
    near = firsts[level[back] - 1]
    same = packet[near] == packet[back]
    beside = np.flatnonzero(~opens)
    further = beside[level[beside] + 1 < len(firsts)]
    far = firsts[np.minimum(level[further] + 1, len(firsts) - 1)]
    along = packet[far] == packet[further]
    return Neighbours(
        seen[np.concatenate([near[same], further[along], firsts[level[beside]]])],
        seen[np.concatenate([back[same], far[along], beside])],
    )


def samples_of(
    rows: Rows, cells: Cells, pairs: Neighbours, clock_of: NDArray[np.intp]
) -> tuple[Samples, NDArray[np.intp]]:
    """The neighbours whose clocks differ, and which of the pairs they are. clock_of: clock of each vantage point.

    Their order is certain where a router took one off the TTL between them; or where, on one link, one host sent it and
    the other received it.
    The later sighting must begin with the packet itself: a merged segment's stamp may be earlier than its inside.
    """
    near, far = cells.row[pairs.near], cells.row[pairs.far]
    ttl, direction, vantage, stamp = (rows[name] for name in ("ttl", "direction", "vantage", "timestamp_ns"))
    # In and out are of the hosts' own choosing; an unknown direction proves nothing.
    level = ttl[near] == ttl[far]
    sent = level & (direction[near] == OUT) & (direction[far] == 1)
    ordered = (ttl[near] > ttl[far]) | sent
    tied = level & ~sent & cells.leading[pairs.near]
    before, after = clock_of[vantage[near]], clock_of[vantage[far]]
    kept = np.flatnonzero((ordered | tied) & (before != after) & cells.leading[pairs.far])
    samples = Samples(
        before[kept],
        after[kept],
        stamp[near[kept]],
        stamp[far[kept]] - stamp[near[kept]],
        ordered[kept],
    )
    return samples, kept
