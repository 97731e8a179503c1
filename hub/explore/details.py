"""What the correlation says of a conversation, out of a row's `details`: JSON, read as if a stranger had written it.

Two forms: hub.correlate.described.Described (`there`, `back` and their links), or, with single packets in it, version
1: `places` in the order of the path, `segments` with what each place saw, `unknown` as sentences.

Every key is optional; what is missing or of the wrong form is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from hub.explore.lanes import Delay, Lane, Segment, Sight

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
    return found if isinstance(found, dict) and (found.get("version") == 1 or "there" in found) else {}


def _listed(found: Mapping[str, Any], name: str, most: int) -> Sequence[Any]:
    value = found.get(name)
    return value[:most] if isinstance(value, list) else []


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def places_of(details: bytes) -> list[Lane]:
    """The vantage points in the order of the path."""
    found = _read(details)
    if "there" in found:
        return _stops_of(found)
    lanes: list[Lane] = []
    for place in _listed(found, "places", MAX_PLACES):
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


def _stops_of(found: Mapping[str, Any]) -> list[Lane]:
    """A lane per (agent, interface): those of the way there, then what only the way back passed."""
    lanes: dict[tuple[str, str], Lane] = {}
    for name in ("there", "back"):
        stops = [stop for stop in _listed(found, name, MAX_PLACES) if isinstance(stop, dict)]
        for stop in stops if name == "there" else reversed(stops):
            place = (_text(stop.get("agent")), _text(stop.get("interface")))
            before = lanes.get(place)
            lanes[place] = Lane(
                before.number if before else len(lanes),
                *place,
                before.hop if before else _integer(stop.get("hops")),
                (before.packets if before else 0) + (_integer(stop.get("packets")) or 0),
                (before.bytes if before else 0) + (_integer(stop.get("bytes")) or 0),
                None,
                None,
                _sum(before.missing if before else 0, _integer(stop.get("missed"))),
                "",
            )
    return list(lanes.values())


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def delays_of(details: bytes, lanes: Sequence[Lane]) -> list[Delay]:
    """Between neighbours, as the correlation guarantees them."""
    found = _read(details)
    numbers = {(lane.agent, lane.interface): lane.number for lane in lanes}
    delays = []
    for name, forward in (("there_links", True), ("back_links", False)):
        for link in _listed(found, name, MAX_PLACES):
            if not isinstance(link, dict):
                continue
            ends = [numbers.get(_place(link.get(end))) for end in ("near", "far")]
            median = link.get("median_delay")
            if None in ends or not isinstance(median, dict):
                continue
            first, last = (number or 0 for number in ends)
            delays.append(
                Delay(
                    first if forward else last,
                    last if forward else first,
                    forward,
                    _integer(median.get("low_ns")),
                    _integer(median.get("high_ns")),
                    _integer(median.get("estimate_ns")),
                    _integer(link.get("passed")) or 0,
                    _integer(link.get("lost")),
                )
            )
    return delays


def _place(value: object) -> tuple[str, str]:
    if isinstance(value, list) and len(value) == 2:
        return (_text(value[0]), _text(value[1]))
    return ("", "")


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
