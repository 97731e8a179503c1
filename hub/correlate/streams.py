"""What makes two sightings one packet: the same hash, or the same bytes where hosts see them cut differently.

TCP is compared by sequence space: a sender with segmentation offload shows 64 KB where the wire has 45 segments, a
receiver merges them again. Each direction of a connection is cut at every boundary that any vantage point saw, and the
*pieces* between are compared. A datagram that was fragmented anywhere is cut alike, by its offsets. Everything else is
one piece named by its hash. A retransmission brings the same piece again: pieces are counted, not only seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.correlate.sightings import Rows, mix, run_numbers, runs
from hub.observe.observations import Layers

MOST_PIECES = 512
"""Of one sighting. One that would be cut finer stays whole and is compared by its hash alone."""
PIECES_PER_ROW = 8
"""On average, beyond which the finest cut ones stay whole: memory is bounded whatever is on the wire."""
FEWEST_PIECES = 65_536

_POSITION_BITS = 40
_MIDDLE = 1 << (_POSITION_BITS - 1)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Arrays with an entry per sighting of a piece."""

    row: NDArray[np.intp]
    packet: NDArray[np.intp]
    """Number of the piece: sightings of the same have the same, from 0 without gaps."""
    leading: NDArray[np.bool_]
    """The sighting begins with this piece: its time is this piece's."""
    end: NDArray[np.int64]
    """TCP: relative sequence number behind it, comparable with `acknowledged`; else 0."""
    uncut: int
    """Sightings that would have had to be cut too finely."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Each row's place in its direction's sequence space, without wrapping. Arrays with an entry per row."""

    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    acknowledged: NDArray[np.int64]
    """What it acknowledges of the other direction, in that one's numbers; -2**62: nothing that can be compared."""


NOTHING = -(2**62)


def sequences_of(rows: Rows, stream: NDArray[np.intp]) -> Sequences:
    """Unwrap. stream: 2 × conversation + way per row; only TCP rows are read."""
    begin = np.zeros(len(rows), np.int64)
    acknowledged = np.full(len(rows), NOTHING, np.int64)
    tcp = np.flatnonzero((rows["layers"] & Layers.TCP) != 0)
    if not len(tcp):
        return Sequences(begin, begin.copy(), acknowledged)
    tcp = tcp[np.lexsort((rows["timestamp_ns"][tcp], rows["vantage"][tcp], stream[tcp]))]
    number, vantage, streams = rows["sequence"][tcp].astype(np.int64), rows["vantage"][tcp], stream[tcp]
    starts = runs(streams, vantage)
    of_stream = runs(streams)
    reference = number[of_stream][run_numbers(len(tcp), of_stream)]
    step = np.zeros(len(tcp), np.int64)
    step[1:] = _signed(number[1:] - number[:-1])
    step[starts] = 0
    way = np.cumsum(step)
    length = np.diff(np.append(starts, len(tcp)))
    begin[tcp] = way - np.repeat(way[starts], length) + np.repeat(_signed(number - reference)[starts], length)
    end = begin + _signed(rows["sequence_end"].astype(np.int64) - rows["sequence"])
    # Acknowledgements against the other direction's reference, where its numbers span less than half the circle.
    span = np.maximum.reduceat(begin[tcp], of_stream) - np.minimum.reduceat(begin[tcp], of_stream)
    known, first = streams[of_stream], number[of_stream]
    at = np.minimum(np.searchsorted(known, stream ^ 1), len(known) - 1)
    usable = (known[at] == stream ^ 1) & (span[at] < 2**31) & ((rows["layers"] & Layers.TCP) != 0)
    usable &= (rows["tcp_flags"] & 16) != 0
    acknowledged[usable] = _signed(rows["acknowledgement"].astype(np.int64) - first[at])[usable]
    return Sequences(begin, end, acknowledged)


def _signed(difference: NDArray[Any]) -> NDArray[np.int64]:
    """Modulo 2**32, between -2**31 and 2**31 - 1."""
    return ((difference + 2**31) & 0xFFFFFFFF) - 2**31


def pieces_of(
    rows: Rows, stream: NDArray[np.intp], sequences: Sequences, translated: NDArray[np.bool_]
) -> Pieces:
    """Cut the rows. translated: rows whose conversation has several flows (compared by nat_hash where there is one)."""
    ranged, key, begin, end = _ranges(rows, stream, sequences)
    position = np.clip(begin + _MIDDLE, 0, 2 * _MIDDLE - 1).astype(np.int64)
    base = key.astype(np.int64) << _POSITION_BITS
    first, last = base + position, base + np.clip(end + _MIDDLE, 0, 2 * _MIDDLE - 1)
    cuts = np.unique(np.concatenate([first, last]))
    low, high = np.searchsorted(cuts, first), np.searchsorted(cuts, last)
    whole = _too_fine(high - low, len(rows))
    ranged_kept, low, high = ranged[~whole], low[~whole], high[~whole]
    count = high - low
    row = np.repeat(ranged_kept, count)
    begins = np.cumsum(count) - count
    within = np.arange(len(row)) - np.repeat(begins, count)
    cut = np.repeat(low, count) + within
    behind = cuts[np.minimum(cut + 1, len(cuts) - 1)] if len(cuts) else cut
    tcp = (rows["layers"][row] & Layers.TCP) != 0
    piece_end = np.where(tcp, (behind & (2 * _MIDDLE - 1)) - _MIDDLE, 0)
    _, packet = np.unique(cut, return_inverse=True)
    cut_packets = int(packet.max()) + 1 if len(packet) else 0

    named = np.ones(len(rows), np.bool_)
    named[ranged_kept] = False
    others = np.flatnonzero(named & (rows["hop_hash"] != 0))
    by_nat = translated[others] & (rows["nat_hash"][others] != 0)
    name = np.where(by_nat, rows["nat_hash"][others], rows["hop_hash"][others])
    _, numbered = np.unique(mix(name, stream[others].astype(np.uint64)), return_inverse=True)
    return Pieces(
        np.concatenate([row, others]),
        np.concatenate([packet, numbered + cut_packets]),
        np.concatenate([within == 0, np.ones(len(others), np.bool_)]),
        np.concatenate([piece_end, np.zeros(len(others), np.int64)]),
        int(whole.sum()),
    )


def _ranges(
    rows: Rows, stream: NDArray[np.intp], sequences: Sequences
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
    """Rows that are compared by ranges, the number of the space they are ranges of, and where they begin and end."""
    tcp = ((rows["layers"] & Layers.TCP) != 0) & (sequences.end > sequences.begin)
    tcp &= (rows["layers"] & Layers.FRAGMENT) == 0
    of_tcp = np.flatnonzero(tcp)
    of_datagram, datagram = _fragmented(rows, stream)
    spaces = np.concatenate([stream[of_tcp].astype(np.uint64), datagram])
    kind = np.concatenate([np.zeros(len(of_tcp), np.uint64), np.ones(len(of_datagram), np.uint64)])
    _, key = np.unique(mix(spaces, kind), return_inverse=True)
    offset = rows["fragment_offset"][of_datagram].astype(np.int64)
    begin = np.concatenate([sequences.begin[of_tcp], offset])
    end = np.concatenate([sequences.end[of_tcp], offset + rows["ip_payload_bytes"][of_datagram]])
    return np.concatenate([of_tcp, of_datagram]), key, begin, end


def _fragmented(rows: Rows, stream: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """Rows of datagrams that were fragmented somewhere, and which datagram each is of: one of its own stream."""
    fragment = ((rows["layers"] & Layers.FRAGMENT) != 0) & (rows["datagram"] != 0)
    none = np.zeros(0, np.intp)
    if not fragment.any():
        return none, none.astype(np.uint64)
    # An identification is of one datagram at a time, but not for long: other hosts' streams may have the same.
    name = mix(rows["datagram"], stream.astype(np.uint64))
    cut = np.unique(name[fragment])
    of = np.isin(name, cut) & (rows["datagram"] != 0)
    at = np.flatnonzero(of)
    datagram = name[at]
    # In front of translation the datagram has another name; where it was whole on both sides its content tells.
    content = mix(rows["nat_hash"], stream.astype(np.uint64))
    whole = of & ~fragment & (rows["nat_hash"] != 0)
    told, where = np.unique(content[whole], return_index=True)
    named = name[whole][where]
    if len(told):
        others = np.flatnonzero(~of & (rows["nat_hash"] != 0))
        found = np.minimum(np.searchsorted(told, content[others]), len(told) - 1)
        same = told[found] == content[others]
        at = np.concatenate([at, others[same]])
        datagram = np.concatenate([datagram, named[found[same]]])
    return at, datagram


def _too_fine(count: NDArray[np.intp], length: int) -> NDArray[np.bool_]:
    """Which rows stay whole so that all together stay within the bound."""
    whole: NDArray[np.bool_] = count > MOST_PIECES
    budget = max(FEWEST_PIECES, PIECES_PER_ROW * length)
    if int(count[~whole].sum()) > budget:
        order = np.argsort(count, kind="stable")
        whole[order] |= np.cumsum(np.where(whole[order], 0, count[order])) > budget
    return whole
