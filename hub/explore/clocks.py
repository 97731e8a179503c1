"""The agents' clocks as curves: how far each is ahead of the pool's, with the interval that holds the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hub.pool.store import OffsetRow

WIDTH, HEIGHT = 1000, 120
MAX_POINTS = 600
"""Of one curve; more are thinned out, the widest interval of each step kept."""


@dataclass(frozen=True, slots=True)
class ClockView:
    """One agent's clock."""

    agent: str
    now: OffsetRow | None
    """The newest known; None: nothing was ever told."""
    band: str
    """SVG points of the interval's polygon, in WIDTH × HEIGHT; "" when it isn't known."""
    lines: Sequence[str]
    """SVG points of the estimate, a line for each stretch without a gap."""
    low_ns: int
    high_ns: int
    """What the picture's lower and upper edge mean."""
    notes: Sequence[OffsetRow]
    """Steps, false matches, …"""
    rows: Sequence[OffsetRow]
    """For the table: at most 50, evenly chosen."""

    @property
    def known(self) -> bool:
        """Whether its offset is known now."""
        return self.now is not None and self.now.estimate_ns is not None

    @property
    def is_anchor(self) -> bool:
        """Whether it is the pool's clock."""
        return self.now is not None and self.now.anchor == self.agent


def clocks_view(
    rows: Sequence[OffsetRow], agents: Sequence[str], since_ns: int, until_ns: int
) -> list[ClockView]:
    """Of each agent, also of those of which nothing is known. rows: in order of time."""
    by_agent: dict[str, list[OffsetRow]] = {agent: [] for agent in sorted(agents)}
    for row in rows:
        by_agent.setdefault(row.agent, []).append(row)
    return [_clock(agent, found, since_ns, until_ns) for agent, found in by_agent.items()]


def _clock(agent: str, rows: Sequence[OffsetRow], since_ns: int, until_ns: int) -> ClockView:
    known = [
        row
        for row in rows
        if row.low_ns is not None and row.high_ns is not None and row.estimate_ns is not None
    ]
    edges = [
        value for row in known for value in (row.low_ns, row.high_ns, row.estimate_ns) if value is not None
    ]
    low, high = min(edges, default=0), max(edges, default=0)
    margin = max((high - low) // 10, 1_000)
    low, high = low - margin, high + margin
    bands, lines = [], []
    for stretch in _stretches(rows):
        thin = _thinned(stretch)
        upper = [_point(row.at_ns, row.high_ns, since_ns, until_ns, low, high) for row in thin]
        lower = [_point(row.at_ns, row.low_ns, since_ns, until_ns, low, high) for row in reversed(thin)]
        bands.append(" ".join([*upper, *lower]))
        points = [_point(row.at_ns, row.estimate_ns, since_ns, until_ns, low, high) for row in thin]
        lines.append(" ".join(points if len(points) > 1 else points * 2))  # one point alone is drawn as a dot
    step = max(1, len(rows) // 50)
    return ClockView(
        agent,
        rows[-1] if rows else None,
        "|".join(bands),
        lines,
        low,
        high,
        [row for row in rows if row.note][-20:],
        list(rows)[::-1][::step][:50],
    )


def _stretches(rows: Sequence[OffsetRow]) -> list[list[OffsetRow]]:
    """Runs of known offsets: where it is unknown the curve is interrupted, not drawn on."""
    found: list[list[OffsetRow]] = [[]]
    for row in rows:
        if row.estimate_ns is None or row.low_ns is None or row.high_ns is None:
            found.append([])
        else:
            found[-1].append(row)
    return [stretch for stretch in found if stretch]


def _thinned(rows: Sequence[OffsetRow]) -> Sequence[OffsetRow]:
    step = -(-len(rows) // MAX_POINTS)
    if step <= 1:
        return rows
    pieces = (rows[at : at + step] for at in range(0, len(rows), step))
    return [max(piece, key=lambda row: (row.high_ns or 0) - (row.low_ns or 0)) for piece in pieces]


def _point(at_ns: int, value: int | None, since_ns: int, until_ns: int, low: int, high: int) -> str:
    x = WIDTH * (at_ns - since_ns) / max(1, until_ns - since_ns)
    y = HEIGHT * (high - (value or 0)) / max(1, high - low)
    return f"{x:.1f},{y:.1f}"


def offset_map(row: OffsetRow) -> Mapping[str, Any]:
    """As JSON."""
    return {
        "agent": row.agent,
        "at_ns": str(row.at_ns),
        "anchor": row.anchor,
        "estimate_ns": row.estimate_ns,
        "low_ns": row.low_ns,
        "high_ns": row.high_ns,
        "drift_ppb": row.drift_ppb,
        "origin": row.origin,
        "note": row.note,
    }
