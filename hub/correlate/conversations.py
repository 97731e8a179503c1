"""Many conversations evaluated at once, out of nothing but their sightings.

`evaluate` is a function of a set of rows: it gives the same for the same rows, whatever order they came in, however
they were divided, and whenever it is called. What needs the clocks is worked out afterwards (`described`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.correlate.clock_samples import Samples, neighbours_of, samples_of
from hub.correlate.hops import Fates, Hops, follow
from hub.correlate.places import Places, places_of
from hub.correlate.sightings import Rows, runs
from hub.correlate.streams import pieces_of, sequences_of
from hub.correlate.translation import Joins, conversation_of
from hub.correlate.witnesses import Cells, Packets, witnesses_of

_SYN, _ACK = 2, 16
_INITIAL = np.array([32, 64, 128, 255])


@dataclass(frozen=True, slots=True)
class Conversations:
    """Arrays with an entry per conversation, sorted by id, unless they are said to be of something else."""

    id: NDArray[np.uint64]
    """The lowest of its flows' hashes."""
    flow: NDArray[np.uint64]
    """Of each flow: its hash; sorted by conversation."""
    conversation: NDArray[np.intp]
    """Of each flow: the index of its conversation."""
    confidence: NDArray[np.uint8]
    """translation.Confidence of its weakest join; 0: it has one flow."""
    begun_by: NDArray[np.uint8]
    """The way (0 or 1) of the packets of who began."""
    begun_certain: NDArray[np.bool_]
    """Its opening was seen; otherwise who was seen first is taken."""
    near_flow: NDArray[np.uint64]
    """The flow as nearest to who began."""
    near_reversed: NDArray[np.bool_]
    """Who began is that flow's second end."""
    packets: NDArray[np.int64]
    """Distinct ones, and each time they were sent."""
    bytes: NDArray[np.int64]
    """On the wire, of the place that saw most, both ways."""
    sightings: NDArray[np.int64]
    sent_again: NDArray[np.int64]
    lost: NDArray[np.int64]
    unclear: NDArray[np.int64]
    undecided: NDArray[np.int64]
    places: Places
    """`stream` is 2 × index of the conversation + way."""
    missed: NDArray[np.int64]
    """Of each place: what passed it unseen."""
    hops: Hops
    samples: Samples
    sample_of: NDArray[np.uint64]
    """Of each sample: its conversation's id."""
    rows: Rows
    """Without what has no flow, sorted."""
    fates: Fates
    witnesses: tuple[Packets, Cells]
    """Over `rows` without duplicates (`kept`)."""
    kept: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.id)


def evaluate(
    rows: Rows, joins: Joins, clock_of: NDArray[np.intp], watching: NDArray[np.int64] | None = None
) -> Conversations:
    """All conversations of these rows.

    rows: in order (sightings.in_order), fragments with their flows (flows.with_fragments). joins: of these flows
    (translation.find_joins). clock_of: the clock of each vantage point. watching: (vantage points, 2), first and last
    raw time at which each is known to have captured; None: what the rows show.
    """
    rows = rows[rows["flow_hash"] != 0]
    vantages = len(clock_of)
    if watching is None:
        watching = watched(rows, vantages)
    flows = rows["flow_hash"][runs(rows["flow_hash"])]
    lowest, turned = conversation_of(flows, joins)
    ids, of_flow = np.unique(lowest, return_inverse=True)
    at = np.searchsorted(flows, rows["flow_hash"])
    way = (rows["reversed"] ^ turned[at]).astype(np.intp)
    stream = 2 * of_flow[at] + way
    places, place, duplicate = places_of(rows, stream)
    kept = np.flatnonzero(~duplicate)
    single, of_single = rows[kept], stream[kept]
    sequences = sequences_of(single, of_single)
    several = (np.bincount(of_flow, minlength=len(ids)) > 1)[of_flow[at[kept]]]
    pieces = pieces_of(single, of_single, sequences, several)
    packets, cells = witnesses_of(single, of_single, places, place[kept], pieces)
    pairs = neighbours_of(single, places, packets, cells)
    samples, sampled = samples_of(single, cells, pairs, clock_of)
    owner = of_single[cells.row[pairs.near[sampled]]]
    hops, fates, missed = follow(
        single, of_single, sequences.acknowledged, places, packets, cells, pairs, watching
    )
    count = len(ids)
    begun, certain = _begun_by(rows, stream, count)
    near_flow, near_reversed = _nearest(rows, stream, begun, count)
    order = np.lexsort((flows, of_flow))
    return Conversations(
        ids,
        flows[order],
        of_flow[order],
        _confidence(joins, flows, of_flow, count),
        begun,
        certain,
        near_flow,
        near_reversed,
        _per_conversation(packets.stream, fates.sent, count),
        _most_bytes(places, count),
        _per_conversation(places.stream, places.sightings, count),
        _per_conversation(packets.stream, np.maximum(fates.sent - 1, 0), count),
        _per_conversation(hops.stream, hops.lost, count),
        _per_conversation(hops.stream, hops.unclear, count),
        _per_conversation(hops.stream, hops.undecided, count),
        places,
        missed,
        hops,
        samples,
        ids[owner // 2],
        rows,
        fates,
        (packets, cells),
        kept,
    )


def watched(rows: Rows, vantages: int) -> NDArray[np.int64]:
    """(vantage points, 2): the first and the last time each is seen to capture; nothing: first after last."""
    found = np.empty((vantages, 2), np.int64)
    found[:, 0], found[:, 1] = 2**62, -(2**62)
    np.minimum.at(found[:, 0], rows["vantage"], rows["timestamp_ns"])
    np.maximum.at(found[:, 1], rows["vantage"], rows["timestamp_ns"])
    return found


def _per_conversation(stream: NDArray[np.intp], amount: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.bincount(stream // 2, weights=amount, minlength=count).astype(np.int64)


def _most_bytes(places: Places, count: int) -> NDArray[np.int64]:
    most = np.zeros(2 * count, np.int64)
    np.maximum.at(most, places.stream, places.bytes)
    return most[0::2] + most[1::2]


def _confidence(
    joins: Joins, flows: NDArray[np.uint64], of_flow: NDArray[np.intp], count: int
) -> NDArray[np.uint8]:
    weakest = np.full(count, 255, np.uint8)
    inside = np.isin(joins.near, flows) & np.isin(joins.far, flows)
    of_join = of_flow[np.searchsorted(flows, joins.near[inside])]
    np.minimum.at(weakest, of_join, joins.confidence[inside])
    return np.where(weakest == 255, 0, weakest).astype(np.uint8)


def _begun_by(
    rows: Rows, stream: NDArray[np.intp], count: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Which way began each conversation, and whether that was seen: a SYN, or one vantage point's first packet."""
    begun = np.zeros(count, np.uint8)
    # Of the vantage point with the lowest number, the earliest: a guess that doesn't depend on anything else.
    order = np.lexsort((rows["timestamp_ns"], rows["vantage"], stream // 2))
    firsts = order[runs((stream // 2)[order])]
    begun[stream[firsts] // 2] = stream[firsts] & 1
    opening = rows["tcp_flags"] & (_SYN | _ACK)
    syn, answer = stream[opening == _SYN], stream[opening == _SYN | _ACK]
    by = np.zeros((count, 2), np.int64)
    np.add.at(by, (syn // 2, syn & 1), 1)
    np.add.at(by, (answer // 2, 1 - (answer & 1)), 1)
    certain = (by[:, 0] > 0) != (by[:, 1] > 0)
    return np.where(certain, by[:, 1] > 0, begun).astype(np.uint8), certain


def _nearest(
    rows: Rows, stream: NDArray[np.intp], begun: NDArray[np.uint8], count: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The flow as nearest to who began, by the TTL of its packets (or of the answers, where only these were seen)."""
    hops = _INITIAL[np.searchsorted(_INITIAL, np.minimum(rows["ttl"], 255))] - rows["ttl"]
    sent = (stream & 1) == begun[stream // 2]
    distance = np.where(sent, hops, 1_000 - hops)
    order = np.lexsort((rows["flow_hash"], distance, stream // 2))
    firsts = order[runs((stream // 2)[order])]
    flow, turned = np.zeros(count, np.uint64), np.zeros(count, np.bool_)
    flow[stream[firsts] // 2] = rows["flow_hash"][firsts]
    turned[stream[firsts] // 2] = rows["reversed"][firsts] ^ ~sent[firsts]
    return flow, turned
