"""One conversation as it is told to people: corrected times, delays as intervals, where packets vanished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hub.correlate.clock_constraints import NONE
from hub.correlate.clock_estimate import UNKNOWN, Offsets
from hub.correlate.conversations import Conversations
from hub.correlate.sightings import Vantage
from hub.correlate.translation import Confidence

MOST_PLACES = 256


@dataclass(frozen=True, slots=True)
class Interval:
    """Nanoseconds. None: unbounded; `estimate` None: unknown."""

    low_ns: int | None
    high_ns: int | None
    estimate_ns: int | None


@dataclass(frozen=True, slots=True)
class Stop:
    """A place on the way of one direction."""

    agent: str
    interface: str
    direction: int
    """0 unknown, 1 in, 2 out."""
    hops: int
    """Routers passed, by the TTL."""
    rank: int
    """Stops of the same rank are in no known order."""
    packets: int
    bytes: int
    duplicates: int
    missed: int
    """Passed it unseen."""
    first_raw_ns: int
    last_raw_ns: int
    first: Interval
    """By the anchor's clock."""
    last: Interval


@dataclass(frozen=True, slots=True)
class Link:
    """From the stops of one rank to those of the next."""

    from_rank: int
    near: tuple[str, str] | None
    """(agent, interface) that the delay was measured from, and to; None: no packet was seen at both."""
    far: tuple[str, str] | None
    passed: int
    lost: int
    unclear: int
    """Vanished on it or between the nearer stops."""
    undecided: int
    least_delay: Interval
    median_delay: Interval


@dataclass(frozen=True, slots=True)
class Described:
    """A conversation."""

    id: str
    """16 hexadecimal digits."""
    flows: tuple[int, ...]
    confidence: str
    """none (one flow), likely, certain."""
    begun_certain: bool
    near_flow: int
    near_reversed: bool
    packets: int
    bytes: int
    sightings: int
    sent_again: int
    lost: int | None
    """None: unknown, nobody could have seen it."""
    first_ns: int
    """Corrected where the clock is known, else raw."""
    last_ns: int
    there: tuple[Stop, ...]
    """The way of who began, in order."""
    back: tuple[Stop, ...]
    there_links: tuple[Link, ...]
    back_links: tuple[Link, ...]


def described(found: Conversations, index: int, offsets: Offsets, vantages: Sequence[Vantage]) -> Described:
    """One of the conversations; at most MOST_PLACES stops each way."""
    begun = int(found.begun_by[index])
    ways = [2 * index + begun, 2 * index + 1 - begun]
    stops = [_stops(found, stream, offsets, vantages) for stream in ways]
    links = [_links(found, stream, offsets, vantages) for stream in ways]
    times = [
        t
        for way in stops
        for stop in way
        for t in (_best(stop.first, stop.first_raw_ns), _best(stop.last, stop.last_raw_ns))
    ]
    watched = any(links)
    return Described(
        f"{int(found.id[index]):016x}",
        tuple(int(flow) for flow in found.flow[found.conversation == index]),
        Confidence(int(found.confidence[index])).name.lower(),
        bool(found.begun_certain[index]),
        int(found.near_flow[index]),
        bool(found.near_reversed[index]),
        int(found.packets[index]),
        int(found.bytes[index]),
        int(found.sightings[index]),
        int(found.sent_again[index]),
        int(found.lost[index]) if watched else None,
        min(times, default=0),
        max(times, default=0),
        stops[0],
        stops[1],
        links[0],
        links[1],
    )


def _best(time: Interval, raw_ns: int) -> int:
    return raw_ns if time.estimate_ns is None else time.estimate_ns


def _stops(
    found: Conversations, stream: int, offsets: Offsets, vantages: Sequence[Vantage]
) -> tuple[Stop, ...]:
    places = found.places
    begin, end = np.searchsorted(places.stream, [stream, stream + 1])
    stops = []
    for at in range(begin, min(end, begin + MOST_PLACES)):
        vantage = vantages[int(places.vantage[at])]
        first, last = int(places.first_ns[at]), int(places.last_ns[at])
        stops.append(
            Stop(
                vantage.agent,
                vantage.interface,
                int(places.direction[at]),
                int(places.hops[at]),
                int(places.rank[at]),
                int(places.sightings[at] - places.duplicates[at]),
                int(places.bytes[at]),
                int(places.duplicates[at]),
                int(found.missed[at]),
                first,
                last,
                _corrected(first, vantage.clock, offsets),
                _corrected(last, vantage.clock, offsets),
            )
        )
    return tuple(stops)


def _links(
    found: Conversations, stream: int, offsets: Offsets, vantages: Sequence[Vantage]
) -> tuple[Link, ...]:
    hops, places = found.hops, found.places
    begin, end = np.searchsorted(hops.stream, [stream, stream + 1])
    links = []
    for at in range(begin, min(end, begin + MOST_PLACES)):
        measured = int(hops.gap_count[at]) > 0
        near = vantages[int(places.vantage[hops.near[at]])] if measured else None
        far = vantages[int(places.vantage[hops.far[at]])] if measured else None
        when = int(places.first_ns[hops.near[at]]) if measured else 0
        links.append(
            Link(
                int(hops.rank[at]),
                None if near is None else (near.agent, near.interface),
                None if far is None else (far.agent, far.interface),
                int(hops.passed[at]),
                int(hops.lost[at]),
                int(hops.unclear[at]),
                int(hops.undecided[at]),
                _delay(int(hops.gap_low_ns[at]), near, far, when, offsets),
                _delay(int(hops.gap_median_ns[at]), near, far, when, offsets),
            )
        )
    return tuple(links)


def _corrected(raw_ns: int, clock: int, offsets: Offsets) -> Interval:
    low, high, estimate = _offset(raw_ns, clock, offsets)
    return Interval(
        None if high is None else raw_ns - high,
        None if low is None else raw_ns - low,
        None if estimate is None else raw_ns - estimate,
    )


def _delay(
    gap_ns: int, near: Vantage | None, far: Vantage | None, near_raw_ns: int, offsets: Offsets
) -> Interval:
    """gap - (offset of far - offset of near); one clock knows it exactly. A delay isn't negative."""
    if near is None or far is None:
        return Interval(None, None, None)
    if near.clock == far.clock:
        return Interval(gap_ns, gap_ns, gap_ns)
    near_low, near_high, near_estimate = _offset(near_raw_ns, near.clock, offsets)
    far_low, far_high, far_estimate = _offset(near_raw_ns + gap_ns, far.clock, offsets)
    low = 0 if far_high is None or near_low is None else max(0, gap_ns - (far_high - near_low))
    high = None if far_low is None or near_high is None else gap_ns - (far_low - near_high)
    estimate = None
    if near_estimate is not None and far_estimate is not None:
        estimate = gap_ns - (far_estimate - near_estimate)
        estimate = max(low, estimate if high is None else min(high, estimate))
    return Interval(low, high, estimate)


def _offset(raw_ns: int, clock: int, offsets: Offsets) -> tuple[int | None, int | None, int | None]:
    if offsets.anchor < 0:
        return None, None, None
    low, high, estimate = (int(part[0]) for part in offsets.at(clock, np.array([raw_ns])))
    return (
        None if low <= -NONE else low,
        None if high >= NONE else high,
        None if estimate == UNKNOWN else estimate,
    )
