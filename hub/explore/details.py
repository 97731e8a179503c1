"""What the correlation says of a conversation, out of a row's `details`: JSON, read as if a stranger had written it.

Every key is optional; what is missing or of the wrong form is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from hub.explore.lanes import Lane, Segment, Sight

MAX_BYTES = 256 * 1024
MAX_PLACES = 64
MAX_SEGMENTS = 2_000
MAX_TEXT = 300


def _read(details: bytes) -> Mapping[str, Any]:
    if not details or len(details) > MAX_BYTES:
        return {}
    try:
        found = orjson.loads(details)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) and found.get("version") == 1 else {}


def _listed(found: Mapping[str, Any], name: str, most: int) -> Sequence[Any]:
    value = found.get(name)
    return value[:most] if isinstance(value, list) else []


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def places_of(details: bytes) -> list[Lane]:
    """The vantage points in the order of the path."""
    lanes: list[Lane] = []
    for place in _listed(_read(details), "places", MAX_PLACES):
        if not isinstance(place, dict):
            return []  # the numbers of those behind it would be wrong
        lanes.append(
            Lane(
                len(lanes),
                _text(place.get("agent")),
                _text(place.get("interface")),
                _integer(place.get("hop")),
                _integer(place.get("packets")) or 0,
                _integer(place.get("bytes")) or 0,
                _integer(place.get("first_ns")),
                _integer(place.get("last_ns")),
                _integer(place.get("missing")),
                _text(place.get("note")),
            )
        )
    return lanes


def segments_of(details: bytes, places: int) -> list[Segment]:
    """The packets, in order of time; none where a place or a time is wrong."""
    segments = []
    for one in _listed(_read(details), "segments", MAX_SEGMENTS):
        if not isinstance(one, dict):
            continue
        sights = [
            sight for seen in _listed(one, "seen", MAX_PLACES) if (sight := _sight(seen, places)) is not None
        ]
        if not sights:
            continue
        kind = _text(one.get("kind"))
        lost_after = _integer(one.get("lost_after"))
        missing = [place for place in _listed(one, "missing", MAX_PLACES) if _is_place(place, places)]
        segments.append(
            Segment(
                one.get("forward") is not False,
                _text(one.get("label")),
                _integer(one.get("bytes")) or 0,
                "",
                "again" if kind in ("retransmission", "duplicate", "again") else "",
                tuple(sights),
                tuple(missing),
                lost_after if _is_place(lost_after, places) else None,
            )
        )
    return segments


def _is_place(value: object, places: int) -> bool:
    number = _integer(value)
    return number is not None and 0 <= number < places


def _sight(seen: object, places: int) -> Sight | None:
    """[place, time_ns, low_ns, high_ns, observation, copies]"""
    if not isinstance(seen, list) or len(seen) < 2 or not _is_place(seen[0], places):
        return None
    time_ns = _integer(seen[1])
    if time_ns is None:
        return None
    padded = [*seen, *[None] * 6]
    return Sight(
        seen[0],
        time_ns,
        _integer(padded[2]),
        _integer(padded[3]),
        _text(padded[4]),
        max(1, _integer(padded[5]) or 1),
    )


def unknown_of(details: bytes) -> list[str]:
    """What could not be decided, as sentences."""
    return [text for one in _listed(_read(details), "unknown", 50) if (text := _text(one))]
