"""Rows of the live list as the page gets them: JSON, since most of them are never drawn and all of them are kept.

What an update's rows share (agent, interface, boot, session, lane) is said once, so that a page that holds 100,000
rows holds little more than their differences. Text is made visible as in every page; the page sets it as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import orjson

from hub.decode.summary import Row
from hub.web.pages import visible


def older_json(rows: Sequence[Row], archived: int | None) -> str:
    """As rows_json, with `archived`: about how many packets before these only the archive has; null when it doesn't
    answer."""
    return orjson.dumps(_lines(rows) | {"archived": archived}).decode()


def rows_json(rows: Sequence[Row]) -> str:
    """`{"sources": [[agent, interface, "agent/boot/session/lane"]], "rows": [[…]]}` on one line.

    A row: index of its source; sequence and index of the packet; capture time and time of its receipt by the hub, ns as
    texts; source, destination, protocol; length in bytes; info; colour rule; flags, joined by ", ".
    """
    return orjson.dumps(_lines(rows)).decode()


def _lines(rows: Sequence[Row]) -> dict[str, object]:
    sources: dict[tuple[str, str, str], int] = {}
    lines = []
    for row in rows:
        shared, line = _line(row)
        lines.append((sources.setdefault(shared, len(sources)), *line))
    return {"sources": list(sources), "rows": lines}


@lru_cache(maxsize=4096)
def _line(row: Row) -> tuple[tuple[str, str, str], tuple[str | int, ...]]:
    """(its source, its other members): made once, however many pages show the row."""
    prefix, sequence, index = row.observation.rsplit("/", 2)
    return (visible(row.agent), visible(row.interface), prefix), (
        sequence,
        index,
        str(row.time_ns),
        str(row.heard_ns),
        visible(row.source),
        visible(row.destination),
        visible(row.protocol),
        row.length,
        visible(row.info),
        row.rule,
        visible(", ".join(row.flags)),
    )
