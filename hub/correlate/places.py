"""Where in a packet's path each sighting stands.

A place is a vantage point as packets of one direction of one conversation pass it: (vantage, in or out, pass), the pass
counting when one vantage point sees a packet again with a smaller TTL. Places are ordered by the routers that packets
have passed (their TTL against 32, 64, 128 or 255, where senders begin), and on one link what leaves a host comes before
what enters one. Two places that nothing orders share a *rank*: what happens between them is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.correlate.sightings import Rows, run_numbers, runs

OUT = 2
DUPLICATE_NS = 1_000_000_000
"""A packet whose identification tells it from any other, again at one place within this: seen twice, not sent twice."""
_INITIAL = np.array([32, 64, 128, 255])
_PASSES = 4


@dataclass(frozen=True, slots=True)
class Places:
    """Arrays with an entry per place, sorted by (stream, rank)."""

    stream: NDArray[np.intp]
    """2 × conversation + way."""
    vantage: NDArray[np.intp]
    direction: NDArray[np.uint8]
    """0 unknown, 1 in, 2 out."""
    again: NDArray[np.uint8]
    """How often the vantage point had seen these packets before, with a larger TTL."""
    hops: NDArray[np.int64]
    """Routers passed so far, by the TTL (the median)."""
    rank: NDArray[np.intp]
    """From 0 within the stream; the same where nothing tells which comes first."""
    sightings: NDArray[np.int64]
    duplicates: NDArray[np.int64]
    """Of the sightings, those of a packet that this place had just seen."""
    bytes: NDArray[np.int64]
    """Length on the wire of the sightings, without the duplicates."""
    first_ns: NDArray[np.int64]
    """Raw."""
    last_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.stream)


def places_of(rows: Rows, stream: NDArray[np.intp]) -> tuple[Places, NDArray[np.intp], NDArray[np.bool_]]:
    """The places, each row's place, and which rows are duplicates.

    rows: in order (sightings.in_order). stream: 2 × conversation + way of each.
    """
    again, duplicate = _passes(rows, stream)
    beside = (rows["direction"].astype(np.int64) & 3) * _PASSES + again
    code = (stream.astype(np.int64) << 20) | (rows["vantage"].astype(np.int64) << 4) | beside
    hops = _INITIAL[np.searchsorted(_INITIAL, np.minimum(rows["ttl"], 255))] - rows["ttl"]
    order = np.argsort(code * 256 + hops, kind="stable")
    begins = runs(code[order])
    length = np.diff(np.append(begins, len(order)))
    median = hops[order][begins + (length - 1) // 2].astype(np.int64)
    times = rows["timestamp_ns"][order]
    kept = ~duplicate[order]
    codes = code[order][begins]
    direction = (codes >> 2 & 3).astype(np.uint8)
    of_stream = codes >> 20
    on_link = (direction != OUT).astype(np.int64)
    sorted_places = np.lexsort((codes, on_link, median, of_stream))
    rank = _ranks(of_stream[sorted_places], median[sorted_places] * 2 + on_link[sorted_places])
    size = rows["original_bytes"][order].astype(np.int64)
    unsorted: dict[str, NDArray[Any]] = {
        "stream": of_stream.astype(np.intp),
        "vantage": (codes >> 4 & 0xFFFF).astype(np.intp),
        "direction": direction,
        "again": (codes & 3).astype(np.uint8),
        "hops": median,
        "sightings": length.astype(np.int64),
        "duplicates": length - np.add.reduceat(kept.astype(np.int64), begins) if len(begins) else length,
        "bytes": np.add.reduceat(np.where(kept, size, 0), begins) if len(begins) else length,
        "first_ns": np.minimum.reduceat(times, begins) if len(begins) else length,
        "last_ns": np.maximum.reduceat(times, begins) if len(begins) else length,
    }
    places = Places(rank=rank, **{name: column[sorted_places] for name, column in unsorted.items()})
    new_number = np.empty(len(begins), np.intp)
    new_number[sorted_places] = np.arange(len(begins))
    place = np.empty(len(rows), np.intp)
    place[order] = new_number[run_numbers(len(order), begins)]
    return places, place, duplicate


def _ranks(stream: NDArray[np.int64], level: NDArray[np.int64]) -> NDArray[np.intp]:
    if not len(stream):
        return np.zeros(0, np.intp)
    starts = runs(stream)
    rises = np.zeros(len(stream), np.intp)
    rises[1:] = level[1:] != level[:-1]
    rises[starts] = 0
    total = np.cumsum(rises)
    return total - total[starts][run_numbers(len(stream), starts)]


def _passes(rows: Rows, stream: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How often each row's vantage point saw the packet before with a larger TTL; and which rows are duplicates."""
    again = np.zeros(len(rows), np.int64)
    duplicate = np.zeros(len(rows), np.bool_)
    named = np.flatnonzero(rows["hop_hash"] != 0)
    if not len(named):
        return again, duplicate
    side = rows["vantage"][named].astype(np.uint64) * np.uint64(4) + rows["direction"][named]
    name = (
        rows["hop_hash"][named]
        ^ (side * np.uint64(0x9E3779B97F4A7C15))
        ^ (stream[named].astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F))
    )
    # Most are seen once at a place: one cheap sort finds the others.
    order = np.argsort(name, kind="stable")
    equal = name[order][1:] == name[order][:-1]
    several = np.zeros(len(order), np.bool_)
    several[1:] |= equal
    several[:-1] |= equal
    at = named[order[several]]
    name = name[order[several]]
    if not len(at):
        return again, duplicate
    order = np.lexsort((rows["timestamp_ns"][at], 255 - rows["ttl"][at], name))
    at, name = at[order], name[order]
    same = name[1:] == name[:-1]
    lower = np.zeros(len(at), np.intp)
    lower[1:] = same & (rows["ttl"][at][1:] != rows["ttl"][at][:-1])
    starts = runs(name)
    total = np.cumsum(lower)
    again[at] = np.minimum(total - total[starts][run_numbers(len(at), starts)], _PASSES - 1)
    near = rows["timestamp_ns"][at][1:] - rows["timestamp_ns"][at][:-1] <= DUPLICATE_NS
    once = ~repeatable(rows[at])[1:]
    duplicate[at[1:]] = same & (lower[1:] == 0) & near & once
    return again, duplicate


def repeatable(rows: Rows) -> NDArray[np.bool_]:
    """Whether the packet sent again would look the same: no identification tells the two apart."""
    return np.asarray((rows["ip_version"] != 4) | (rows["ip_id"] == 0))
