"""Each packet with all its witnesses: how often each place of its path saw it.

A dense table: every packet (piece, see streams) of a direction with every place of that direction, in the order of the
path. What a place that comes later saw has passed all earlier ones; what none of the later ones saw has vanished.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.correlate.places import Places
from hub.correlate.sightings import Rows, runs
from hub.correlate.streams import Pieces


@dataclass(frozen=True, slots=True)
class Packets:
    """Arrays with an entry per packet, in the order of their numbers (Pieces.packet)."""

    stream: NDArray[np.intp]
    first_cell: NDArray[np.intp]
    """Of its cells in Cells; they follow each other."""
    cells: NDArray[np.intp]
    """How many: as many as its stream has places."""
    end: NDArray[np.int64]
    """Of TCP, see Pieces.end."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Arrays with an entry per (packet, place)."""

    packet: NDArray[np.intp]
    place: NDArray[np.intp]
    count: NDArray[np.int64]
    """How often it was seen there; 0: not at all."""
    row: NDArray[np.intp]
    """The first sighting; -1: none."""
    leading: NDArray[np.bool_]
    """Its time is this packet's own."""


def witnesses_of(
    rows: Rows, stream: NDArray[np.intp], places: Places, place: NDArray[np.intp], pieces: Pieces
) -> tuple[Packets, Cells]:
    """Bring the pieces together. pieces: without duplicates' rows."""
    if not len(pieces.row):
        none = np.zeros(0, np.intp)
        wide = none.astype(np.int64)
        return Packets(none, none, none, wide), Cells(none, none, wide, none, none.astype(np.bool_))
    # Sorted by packet and place, the earliest first.
    key = pieces.packet.astype(np.int64) * len(places) + place[pieces.row]
    order = np.argsort(key, kind="stable")  # rows are in order of time within a vantage point, and stay so
    key = key[order]
    begins = runs(key)
    count = np.diff(np.append(begins, len(key)))
    first = pieces.row[order][begins]
    packet_of = pieces.packet[order][begins]
    packets, seen_first = np.unique(packet_of, return_index=True)
    of_stream = stream[first[seen_first]]
    end = pieces.end[order][begins][seen_first]
    starts = runs(places.stream)
    width = np.diff(np.append(starts, len(places)))
    number = np.searchsorted(places.stream[starts], of_stream)
    cells = width[number]
    first_cell = np.cumsum(cells) - cells
    total = int(cells.sum())
    owner = np.repeat(np.arange(len(packets)), cells)
    within = np.arange(total) - np.repeat(first_cell, cells)
    cell_place = np.repeat(starts[number], cells) + within
    dense = np.searchsorted(packets, packet_of)
    at = first_cell[dense] + places_within(place[first], starts[number][dense])
    seen = np.zeros(total, np.int64)
    seen[at] = count
    row = np.full(total, -1, np.intp)
    row[at] = first
    leading = np.zeros(total, np.bool_)
    leading[at] = pieces.leading[order][begins]
    return Packets(of_stream, first_cell, cells, end), Cells(owner, cell_place, seen, row, leading)


def places_within(place: NDArray[np.intp], first: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number of a place within its stream."""
    return place - first


def arrived_later(cells: Cells, packets: Packets, by_rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each cell the highest count at its or a later place. by_rank: counts to be compared, an entry per cell."""
    if not len(by_rank):
        return by_rank
    backwards = by_rank[::-1]
    owner = (len(packets.stream) - 1 - cells.packet[::-1]).astype(np.int64)
    keyed = (owner << 32) | np.minimum(backwards, 2**32 - 1)
    return (np.maximum.accumulate(keyed) & (2**32 - 1))[::-1]
