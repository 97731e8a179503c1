"""A conversation's lanes, packet by packet, as the page reads them: plain values for JSON, bounded.

Only of a conversation's first packets: this is Python per packet, for what somebody stores or opens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.correlate.clock_constraints import NONE
from hub.correlate.clock_estimate import UNKNOWN, Offsets
from hub.correlate.conversations import Conversations
from hub.correlate.sightings import Vantage
from hub.observe.observations import Layers

VERSION = 1
MOST_SEGMENTS = 500
MOST_LANES = 64
_FLAGS = ((2, "SYN"), (1, "FIN"), (4, "RST"), (8, "PSH"), (16, "ACK"))


def details(
    found: Conversations,
    index: int,
    offsets: Offsets,
    vantages: Sequence[Vantage],
    observation: Callable[[int, int], str] = lambda batch, number: "",
) -> dict[str, Any]:
    """Lanes in the order of the path, segments in order of time, and what is unknown, as sentences.

    observation: names a sighting by its row's `batch` and `index`.
    """
    begun = int(found.begun_by[index])
    lanes = _lanes(found, index, begun)
    number = {vantage: at for at, vantage in enumerate(lanes)}
    chosen = _in_time(found, index, offsets, vantages)
    segments = [
        _segment(found, packet, number, offsets, vantages, observation, begun)
        for packet in chosen[:MOST_SEGMENTS].tolist()
    ]
    segments.sort(key=lambda one: min(sight[1] for sight in one["seen"]))
    unknown = []
    if len(chosen) > MOST_SEGMENTS:
        unknown.append(f"the first {MOST_SEGMENTS} of {len(chosen)} packets are listed")
    if found.undecided[index]:
        unknown.append(
            f"packets not seen again where nothing says that the next place was capturing: {found.undecided[index]}"
        )
    if found.unclear[index]:
        unknown.append(f"packets that vanished on one link or the one behind it: {found.unclear[index]}")
    loose = [vantages[vantage].agent for vantage in lanes if _open(vantages[vantage].clock, offsets)]
    unknown += [f"the clock of {agent} is unknown" for agent in sorted(set(loose))]
    return {
        "version": VERSION,
        "places": [_lane(found, index, vantage, offsets, vantages) for vantage in lanes],
        "segments": segments,
        "unknown": unknown,
    }


def _in_time(
    found: Conversations, index: int, offsets: Offsets, vantages: Sequence[Vantage]
) -> NDArray[np.intp]:
    """The conversation's packets, roughly in order of time."""
    packets, cells = found.witnesses
    chosen = np.flatnonzero(packets.stream // 2 == index)
    width = packets.cells[chosen]
    begins = np.cumsum(width) - width
    within = np.arange(int(width.sum())) - np.repeat(begins, width)
    seen = cells.row[np.repeat(packets.first_cell[chosen], width) + within]
    rows = found.rows[found.kept[np.maximum(seen, 0)]]
    clock = np.array([one.clock for one in vantages], np.intp)[rows["vantage"]]
    time = np.where(seen < 0, 2**62, rows["timestamp_ns"] - offsets.rough_ns[clock])
    first = np.minimum.reduceat(time, begins)
    return np.asarray(chosen[np.argsort(first, kind="stable")])


def _lanes(found: Conversations, index: int, begun: int) -> list[int]:
    """Vantage points as packets of who began pass them; then those that saw only answers."""
    lanes: list[int] = []
    for stream in (2 * index + begun, 2 * index + 1 - begun):
        low, high = np.searchsorted(found.places.stream, [stream, stream + 1])
        lanes += [one for one in found.places.vantage[low:high].tolist() if one not in lanes]
    return list(dict.fromkeys(lanes))[:MOST_LANES]


def _lane(
    found: Conversations, index: int, vantage: int, offsets: Offsets, vantages: Sequence[Vantage]
) -> dict[str, Any]:
    places = found.places
    mine = np.flatnonzero((places.stream // 2 == index) & (places.vantage == vantage))
    ends = np.array([places.first_ns[mine].min(), places.last_ns[mine].max()])
    _, _, times = _corrected(ends, vantages[vantage].clock, offsets)
    return {
        "agent": vantages[vantage].agent,
        "interface": vantages[vantage].interface,
        "hop": int(places.hops[mine[0]]),
        "packets": int((places.sightings - places.duplicates)[mine].sum()),
        "bytes": int(places.bytes[mine].sum()),
        "first_ns": int(times[0]),
        "last_ns": int(times[1]),
        "missing": int(found.missed[mine].sum()),
        "note": f"{int(places.duplicates[mine].sum())} seen twice" if places.duplicates[mine].any() else "",
    }


def _segment(
    found: Conversations,
    packet: int,
    number: dict[int, int],
    offsets: Offsets,
    vantages: Sequence[Vantage],
    observation: Callable[[int, int], str],
    begun: int,
) -> dict[str, Any]:
    packets, cells = found.witnesses
    rows = found.rows
    first = int(packets.first_cell[packet])
    seen: list[list[Any]] = []
    missing: list[int] = []
    lost_after: int | None = None
    reached = -1
    shown: Any = None
    for cell in range(first, first + int(packets.cells[packet])):
        place = int(cells.place[cell])
        lane = number.get(int(found.places.vantage[place]))
        if lane is None:
            continue
        if cells.row[cell] < 0:
            missing.append(lane)
            continue
        reached = cell
        row = rows[found.kept[cells.row[cell]]]
        shown = row if shown is None else shown
        clock = vantages[int(row["vantage"])].clock
        low, high, time = _corrected(np.array([row["timestamp_ns"]]), clock, offsets)
        bounds = [
            None if abs(int(one[0])) >= NONE // 2 else int(row["timestamp_ns"]) - int(one[0])
            for one in (high, low)
        ]
        name = observation(int(row["batch"]), int(row["index"]))
        seen.append([lane, int(time[0]), bounds[0], bounds[1], name, int(cells.count[cell])])
        if found.fates.lost[packet] and int(found.places.rank[place]) == int(found.fates.after_rank[packet]):
            lost_after = lane
    after = [
        number.get(int(found.places.vantage[int(cells.place[c])]))
        for c in range(reached + 1, first + int(packets.cells[packet]))
    ]
    assert shown is not None
    return {
        "forward": int(packets.stream[packet]) % 2 == begun,
        "label": _label(shown),
        "bytes": int(shown["payload_bytes"]),
        "kind": "retransmission" if found.fates.sent[packet] > 1 else "",
        "seen": seen,
        "missing": [lane for lane in missing if lost_after is None or lane not in after],
        "lost_after": lost_after,
    }


def _label(row: Any) -> str:
    if int(row["layers"]) & Layers.TCP:
        flags = " ".join(name for bit, name in _FLAGS if int(row["tcp_flags"]) & bit)
        return f"{flags} seq {int(row['sequence'])}"
    if int(row["layers"]) & Layers.FRAGMENT:
        return f"fragment at {int(row['fragment_offset'])}"
    return f"{int(row['payload_bytes'])} bytes"


def _corrected(
    raw_ns: NDArray[np.int64], clock: int, offsets: Offsets
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(low and high of the offset, the estimated time; raw where there is no estimate)."""
    low, high, estimate = offsets.at(clock, raw_ns)
    return low, high, np.where(estimate == UNKNOWN, raw_ns, raw_ns - estimate)


def _open(clock: int, offsets: Offsets) -> bool:
    return offsets.anchor < 0 or bool((offsets.estimate_ns[clock] == UNKNOWN).all())
