"""Which flows are one conversation on both sides of address translation, and how sure that is.

What a packet keeps through translation (`nat_hash`) only makes candidates: the same question asked twice has the same.
A pair of flows is joined when

- packets vote for it: a hash that no vantage point saw twice in a flow, that as many flows have as there can be steps
  of translation, each at another distance (a router takes one off the TTL), and never two of them on the way in;
- the votes agree on which flow is nearer to the client, in both directions;
- TCP: a vote with sequence and acknowledgement numbers (64 bits that chance doesn't repeat) makes it CERTAIN, the
  opening segments alone (32 bits) LIKELY;
- UDP and ICMP: the flows share an endpoint (translation of one side leaves the other), two votes of different
  packets, and times that differ alike; then LIKELY, and with votes in both directions and more than four CERTAIN;
- neither flow has another partner on the same side.

Everything else is left apart: two conversations shown where there was one are a nuisance, two hosts' traffic shown as
one would be a lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hub.correlate.flows import Flows, find
from hub.correlate.places import repeatable
from hub.correlate.sightings import Rows, runs

MOST_STEPS = 4
"""Flows that one packet can have been part of."""
SPREAD_NS = 2_000_000_000
"""Between a pair's votes: how far their gaps may differ (queues, and clocks that drift)."""
TCP, UDP = 6, 17
_ACK = 16


class Confidence(IntEnum):
    """How sure a join is."""

    NONE = 0
    """Not joined: nothing, too little or something contradictory speaks for it."""
    LIKELY = 1
    """Chance would do it less than once in 10,000."""
    CERTAIN = 2
    """Chance would do it less than once in a billion."""


@dataclass(frozen=True, slots=True)
class Joins:
    """Pairs of flows that are one conversation. Arrays with an entry per pair."""

    near: NDArray[np.uint64]
    """Flow nearer to who sent the votes' first one."""
    far: NDArray[np.uint64]
    turned: NDArray[np.bool_]
    """The two order their ends differently: `reversed` of one is not `reversed` of the other."""
    confidence: NDArray[np.uint8]
    votes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.near)


CANDIDATE = np.dtype(
    [
        ("low", "<u8"),
        ("high", "<u8"),
        ("votes", "<i8"),
        ("confidence", "u1"),
        ("low_nearer", "?"),
        ("turned", "?"),
    ]
)
"""A pair of flows that something speaks for, the lower hash first; see `joins_of` for what else it takes."""


def find_joins(rows: Rows, flows: Flows) -> Joins:
    """The pairs among these rows (in order, see sightings.in_order)."""
    return joins_of(candidates_of(rows, flows))


def candidates_of(rows: Rows, flows: Flows) -> NDArray[np.void]:
    """Of dtype CANDIDATE: what these rows speak for, whoever else does (in order, see sightings.in_order)."""
    votes = _votes(rows)
    if not len(votes):
        return np.zeros(0, CANDIDATE)
    votes = votes[np.lexsort((votes["nat_hash"], votes["between"], votes["high"], votes["low"]))]
    begins = runs(votes["low"], votes["high"])
    count = np.diff(np.append(begins, len(votes)))
    low, high = votes["low"][begins], votes["high"][begins]
    turned = np.add.reduceat(votes["turned"].astype(np.int64), begins)
    nearer = np.add.reduceat(votes["low_nearer"].astype(np.int64), begins)
    spread = _spread(votes, begins)
    numbered = np.add.reduceat(votes["numbered"].astype(np.int64), begins)
    ways = np.add.reduceat(votes["sent_by_first"].astype(np.int64), begins)
    agreed = ((turned == 0) | (turned == count)) & ((nearer == 0) | (nearer == count)) & (spread < SPREAD_NS)
    tcp = votes["protocol"][begins] == TCP
    shared = _share_an_endpoint(flows, low, high, turned > 0)
    certain = np.where(tcp, (numbered > 0) & (count > 1), (count > 4) & (ways > 0) & (ways < count))
    likely = np.where(tcp, (count > 1) | (numbered > 0) | shared, (count > 1) & shared)
    sure = np.where(certain & (tcp | shared), Confidence.CERTAIN, np.where(likely, Confidence.LIKELY, 0))
    found = np.zeros(len(low), CANDIDATE)
    found["low"], found["high"], found["votes"] = low, high, count
    found["confidence"] = np.where(agreed, sure, 0)
    found["low_nearer"], found["turned"] = nearer > 0, turned > 0
    spoken_for: NDArray[np.void] = found[found["confidence"] > 0]
    return spoken_for


def joins_of(candidates: NDArray[np.void]) -> Joins:
    """The candidates neither of whose flows has another partner towards the same of its ends."""
    lone = candidates[_without_rival(candidates)]
    low, high, nearer = lone["low"], lone["high"], lone["low_nearer"]
    return Joins(
        np.where(nearer, low, high),
        np.where(nearer, high, low),
        lone["turned"],
        lone["confidence"],
        lone["votes"],
    )


def _spread(votes: NDArray[np.void], begins: NDArray[np.intp]) -> NDArray[np.int64]:
    """How much each pair's gaps differ, of those between the same two vantage points: clocks may be apart."""
    same = runs(votes["low"], votes["high"], votes["between"])
    spread = np.maximum.reduceat(votes["gap"], same) - np.minimum.reduceat(votes["gap"], same)
    return np.asarray(np.maximum.reduceat(spread, np.searchsorted(same, begins)), np.int64)


_VOTE = np.dtype(
    [("low", "<u8"), ("high", "<u8"), ("nat_hash", "<u8"), ("gap", "<i8"), ("between", "<u4")]
    + [(name, "?") for name in ("turned", "low_nearer", "numbered", "sent_by_first")]
    + [("protocol", "u1")]
)


def _votes(rows: Rows) -> NDArray[np.void]:
    """A row per packet and neighbouring pair of flows that it was part of."""
    picked = rows[(rows["nat_hash"] != 0) & (rows["flow_hash"] != 0)]
    picked = _of_several_flows(picked)
    if len(picked) < 2:
        return np.zeros(0, _VOTE)
    # One row per flow: where it was nearest to its sender. A hash seen twice at one place in a flow can't vote.
    picked = picked[
        np.lexsort(
            (
                picked["timestamp_ns"],
                picked["vantage"],
                255 - picked["ttl"],
                picked["flow_hash"],
                picked["nat_hash"],
            )
        )
    ]
    begins = runs(picked["nat_hash"], picked["flow_hash"])
    lengths = np.diff(np.append(begins, len(picked)))
    twice = np.zeros(len(picked), np.int64)
    shown_again = (picked["hop_hash"][1:] == picked["hop_hash"][:-1]) & ~repeatable(picked[1:])
    twice[1:] = (
        ~shown_again
        & (picked["vantage"][1:] == picked["vantage"][:-1])
        & (picked["ttl"][1:] == picked["ttl"][:-1])
        & (picked["flow_hash"][1:] == picked["flow_hash"][:-1])
        & (picked["nat_hash"][1:] == picked["nat_hash"][:-1])
    )
    repeated = np.add.reduceat(twice, begins) > 0
    nearest, lasts = picked[begins], picked[begins + lengths - 1]
    packets = runs(nearest["nat_hash"])
    steps = np.diff(np.append(packets, len(nearest)))
    bad = np.add.reduceat(repeated.astype(np.int64), packets) > 0
    usable = np.repeat((steps >= 2) & (steps <= MOST_STEPS) & ~bad, steps)
    nearest, lasts = nearest[usable], lasts[usable]
    if len(nearest) < 2:
        return np.zeros(0, _VOTE)
    order = np.lexsort((nearest["flow_hash"], 255 - nearest["ttl"], nearest["nat_hash"]))
    nearest, lasts = nearest[order], lasts[order]
    same = nearest["nat_hash"][1:] == nearest["nat_hash"][:-1]
    # Behind the translation it is nowhere as near as in front of it, and of the same kind.
    apart = (lasts["ttl"][:-1] > nearest["ttl"][1:]) & (nearest["protocol"][1:] == nearest["protocol"][:-1])
    overlapping = np.zeros(len(nearest), np.bool_)
    overlapping[1:] = same & ~apart
    packets = runs(nearest["nat_hash"])
    spoilt = np.logical_or.reduceat(overlapping, packets)
    spoilt = np.repeat(spoilt, np.diff(np.append(packets, len(nearest))))
    at = np.flatnonzero(same & ~spoilt[1:])
    return _pairs(lasts[at], nearest[at + 1])


def _of_several_flows(picked: Rows) -> Rows:
    """Only the rows whose nat_hash more than one flow has: two cheap sorts keep most rows out of the dear one."""
    order = np.argsort(picked["nat_hash"], kind="stable")
    sorted_hash, flow = picked["nat_hash"][order], picked["flow_hash"][order]
    begins = runs(sorted_hash)
    if not len(begins):
        return picked
    several = np.minimum.reduceat(flow, begins) != np.maximum.reduceat(flow, begins)
    kept: Rows = picked[order[np.repeat(several, np.diff(np.append(begins, len(order))))]]
    return kept


def _pairs(near: Rows, far: Rows) -> NDArray[np.void]:
    votes = np.zeros(len(near), _VOTE)
    # The way a vote goes is told by the nearer flow's first end sending; both orders then mean the same pair.
    low_first = near["flow_hash"] < far["flow_hash"]
    votes["low"] = np.where(low_first, near["flow_hash"], far["flow_hash"])
    votes["high"] = np.where(low_first, far["flow_hash"], near["flow_hash"])
    votes["nat_hash"], votes["protocol"] = near["nat_hash"], near["protocol"]
    votes["turned"] = near["reversed"] != far["reversed"]
    low_reversed = np.where(low_first, near["reversed"], far["reversed"])
    votes["sent_by_first"] = ~low_reversed
    votes["low_nearer"] = low_first ^ low_reversed  # nearer to the low flow's first end
    gap = far["timestamp_ns"] - near["timestamp_ns"]
    votes["gap"] = np.where(low_first, gap, -gap)
    one, other = near["vantage"].astype(np.uint32), far["vantage"].astype(np.uint32)
    votes["between"] = np.where(low_first, one << 16 | other, other << 16 | one)
    votes["numbered"] = (
        (near["protocol"] == TCP) & ((near["tcp_flags"] & _ACK) != 0) & (near["acknowledgement"] != 0)
    )
    return votes


def _share_an_endpoint(
    flows: Flows, low: NDArray[np.uint64], high: NDArray[np.uint64], turned: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether one end of both flows has the same address and port (ICMP: address)."""
    a, b = find(flows, low), find(flows, high)
    known = (a >= 0) & (b >= 0)
    shared = np.zeros(len(low), np.bool_)
    if not known.any():
        return shared
    one, other = flows[a[known]], flows[b[known]]
    swap = turned[known]
    icmp = ~one["has_ports"]
    for end, opposite in (("first", "second"), ("second", "first")):
        address = np.where(swap[:, None], other[f"{opposite}_address"], other[f"{end}_address"])
        port = np.where(swap, other[f"{opposite}_port"], other[f"{end}_port"])
        shared[known] |= (one[f"{end}_address"] == address).all(axis=1) & (
            (one[f"{end}_port"] == port) | icmp
        )
    return shared


def _without_rival(candidates: NDArray[np.void]) -> NDArray[np.bool_]:
    low, high, nearer = candidates["low"], candidates["high"], candidates["low_nearer"]
    flow = np.concatenate([low, high])
    to_first = np.concatenate([~nearer, nearer ^ candidates["turned"]])
    order = np.lexsort((to_first, flow))
    begins = runs(flow[order], to_first[order])
    length = np.diff(np.append(begins, len(order)))
    alone = np.zeros(len(order), np.bool_)
    alone[order] = np.repeat(length == 1, length)
    return np.asarray(alone[: len(low)] & alone[len(low) :])


def conversation_of(hashes: NDArray[np.uint64], joins: Joins) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """For each flow (sorted, each once): the lowest flow hash of its conversation, and whether its direction is turned.

    turned: relative to the conversation's lowest flow.
    """
    lowest, turned = hashes.copy(), np.zeros(len(hashes), np.bool_)
    inside = np.isin(joins.near, hashes) & np.isin(joins.far, hashes)
    a, b = np.searchsorted(hashes, joins.near[inside]), np.searchsorted(hashes, joins.far[inside])
    flip = joins.turned[inside]
    for _ in range(MOST_STEPS):
        before = lowest.copy()
        for one, other in ((a, b), (b, a)):
            lower = lowest[one] < lowest[other]
            lowest[other[lower]], turned[other[lower]] = lowest[one[lower]], turned[one[lower]] ^ flip[lower]
        if (before == lowest).all():
            break
    return lowest, turned
