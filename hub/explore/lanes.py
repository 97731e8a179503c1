"""Lanes as a picture: one column per vantage point, one row per packet, lines between the places that saw it.

Rows are evenly spaced, in order of time; the times stand beside. A row's line leans: it goes from where the packet was
seen first to where it was seen last. Places in the picture are pixels of a row's height and shares of the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

ROW_PX = 30
LEAN_PX = 8


@dataclass(frozen=True, slots=True)
class Lane:
    """A vantage point."""

    number: int
    agent: str
    interface: str
    hop: int | None
    """Its place on the path, 0 nearest to who began; None: unknown."""
    packets: int
    bytes: int
    first_ns: int | None
    last_ns: int | None
    missing: int | None
    """Packets seen elsewhere on the path and not here; None: unknown."""
    note: str


@dataclass(frozen=True, slots=True)
class Sight:
    """One packet at one place."""

    place: int
    time_ns: int
    """By the pool's clock."""
    low_ns: int | None
    high_ns: int | None
    """The guaranteed interval; None: unknown."""
    observation: str
    copies: int
    """How often it was seen here; above 1: duplicates."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One packet of the conversation."""

    forward: bool
    """From who began."""
    label: str
    bytes: int
    rule: str
    kind: str
    """"": the first time; again: the same once more (a retransmission or a duplicate)."""
    sights: Sequence[Sight]
    missing: Sequence[int]
    """Places it must have passed unseen, or didn't reach."""
    lost_after: int | None
    """The last place that saw it; it vanished behind."""


@dataclass(frozen=True, slots=True)
class Delay:
    """One way between neighbours."""

    near: int
    far: int
    forward: bool
    low_ns: int | None
    high_ns: int | None
    """The guaranteed interval of the median; None: unbounded, or unknown."""
    median_ns: int | None
    """The best guess; None: unknown."""
    packets: int
    """That went over it."""
    lost: int | None
    """That vanished on it; None: unknown."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A packet at a place."""

    x: float
    """Per cent."""
    y: float
    copies: int
    text: str
    observation: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class Cross:
    """Where a packet is missing."""

    x: float
    y: float
    lost: bool
    """It is known to have vanished; else it was only not seen here."""


@dataclass(frozen=True, slots=True)
class DrawnSegment:
    """One row of the picture."""

    segment: Segment
    y: float
    dots: Sequence[Dot]
    crosses: Sequence[Cross]
    lines: Sequence[tuple[float, float, float, float]]
    """(x1, y1, x2, y2), towards where it went."""
    gap_ns: Sequence[int | None]
    """From dot to dot; None where a clock isn't known: the difference would be the clocks'."""


def lane_x(number: int, lanes: int) -> float:
    """Where a lane is, per cent of the width."""
    return round((number + 0.5) * 100 / max(1, lanes), 3)


def drawn(lanes: Sequence[Lane], segments: Sequence[Segment]) -> list[DrawnSegment]:
    """The picture, from above."""
    return [_row(segment, number, lanes) for number, segment in enumerate(segments)]


def _row(segment: Segment, number: int, lanes: Sequence[Lane]) -> DrawnSegment:
    y = ROW_PX * number + ROW_PX / 2
    count = len(lanes)

    def at(place: int) -> float:
        share = place / max(1, count - 1) - 0.5 if count > 1 else 0.0
        return round(y + (share if segment.forward else -share) * LEAN_PX, 2)

    way = sorted(segment.sights, key=lambda sight: sight.place, reverse=not segment.forward)
    dots = [
        Dot(lane_x(s.place, count), at(s.place), s.copies, _told(s, lanes[s.place]), s.observation, s.time_ns)
        for s in way
    ]
    seen = {sight.place for sight in way}
    absent = sorted(set(segment.missing) | (set(range(count)) - seen))
    crosses = [Cross(lane_x(place, count), at(place), place in segment.missing) for place in absent]
    lines = [(a.x, a.y, b.x, b.y) for a, b in pairwise(dots)]
    gaps = [b.time_ns - a.time_ns if _known(a) and _known(b) else None for a, b in pairwise(way)]
    return DrawnSegment(segment, y, dots, crosses, lines, gaps)


def _known(sight: Sight) -> bool:
    return sight.low_ns is not None and sight.high_ns is not None


def _told(sight: Sight, lane: Lane) -> str:
    twice = f", seen {sight.copies} times" if sight.copies > 1 else ""
    if sight.low_ns is None or sight.high_ns is None:
        within = "its clock isn't known"
    else:
        within = f"within {sight.low_ns - sight.time_ns:+,} … {sight.high_ns - sight.time_ns:+,} ns"
    return f"{lane.agent} {lane.interface}, {within}{twice}"
