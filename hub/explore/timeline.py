"""How a result lies in time: a histogram with its bars, what is known to be missing, and where the hours stand.

Places are shares of the width in per cent, so that the picture fits any screen; heights in pixels of HEIGHT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hub.ledger.losses import Loss
from hub.pool.store import Histogram

HEIGHT = 96
BUCKETS = 120
MAX_TICKS = 7
MAX_MARKS = 200
"""Losses drawn; more are joined where they are nearest to each other."""
NS = 10**9
_STEPS_S = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
    172_800,
    604_800,
)
_STEPS_NS = (
    *(base * 10**power for power in range(9) for base in (1, 2, 5)),
    *(step * NS for step in _STEPS_S),
    *(step * 30 * 86_400 * NS for step in (1, 2, 6, 12, 60)),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bucket."""

    x: float
    width: float
    height: float
    since_ns: int
    until_ns: int
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that isn't there."""

    x: float
    width: float
    since_ns: int
    until_ns: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A time on the axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """See the module."""

    since_ns: int
    until_ns: int
    bars: Sequence[Bar]
    """All buckets, also empty ones."""
    marks: Sequence[Mark]
    ticks: Sequence[Tick]
    packets: int
    bytes: int
    top: int
    """Packets of the highest bar."""


def timeline(histogram: Histogram, since_ns: int, until_ns: int, losses: Sequence[Loss]) -> Timeline:
    """Of since_ns to until_ns; losses outside are left out."""
    span = max(1, until_ns - since_ns)
    top = max(histogram.packets, default=0)
    bars = []
    for number, (packets, size) in enumerate(zip(histogram.packets, histogram.bytes, strict=True)):
        first = histogram.since_ns + number * histogram.bucket_ns
        begin, end = max(first, since_ns), min(first + histogram.bucket_ns, until_ns)
        if begin >= end:
            continue
        height = max(2.0, HEIGHT * packets / top) if packets else 0.0
        bars.append(
            Bar(_share(begin - since_ns, span), _share(end - begin, span), height, begin, end, packets, size)
        )
    return Timeline(
        since_ns,
        until_ns,
        bars,
        _marks(losses, since_ns, until_ns),
        _ticks(since_ns, until_ns),
        sum(histogram.packets),
        sum(histogram.bytes),
        top,
    )


def _share(part: int, span: int) -> float:
    return round(100 * part / span, 4)


def _marks(losses: Sequence[Loss], since_ns: int, until_ns: int) -> list[Mark]:
    span = max(1, until_ns - since_ns)
    made = []
    for loss in losses[:MAX_MARKS]:
        begin, end = max(loss.since_ns, since_ns), min(loss.until_ns, until_ns)
        if begin > end:
            continue
        width = max(0.3, _share(end - begin, span))
        x = min(_share(begin - since_ns, span), 100 - width)
        made.append(Mark(x, width, begin, end, loss.kind, loss.words))
    return made


def _ticks(since_ns: int, until_ns: int) -> list[Tick]:
    span = until_ns - since_ns
    step = next((step for step in _STEPS_NS if span / step <= MAX_TICKS), _STEPS_NS[-1])
    first = -(-since_ns // step) * step
    ticks = []
    for number in range(MAX_TICKS + 1):
        at = first + number * step
        x = _share(at - since_ns, span) if span else 0.0
        if 2 <= x <= 96:
            ticks.append(Tick(x, _tick_text(at, step)))
    return ticks


def _tick_text(at_ns: int, step_ns: int) -> str:
    seconds, rest = divmod(at_ns, NS)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    if step_ns >= 86_400 * NS:
        return moment.strftime("%Y-%m-%d")
    if step_ns >= 60 * NS:
        return (
            moment.strftime("%m-%d %H:%M") if moment.hour == moment.minute == 0 else moment.strftime("%H:%M")
        )
    text = moment.strftime("%H:%M:%S")
    digits = next((n for n in range(1, 10) if step_ns % 10 ** (9 - n) == 0), 9)
    return text if step_ns >= NS else f"{text}.{rest:09d}"[: 9 + digits]
