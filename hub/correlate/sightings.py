"""The rows that the correlation works on: one per packet and vantage point, as a structured numpy array.

One array and not columns: rows are taken, joined, sorted and written out as a whole all the time, and 104 bytes per
packet are all that is kept of it. Every function of this package is of the set of rows: sorting them by SORT_KEYS first
makes any result the same in whatever order batches came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.observe.observations import Layers, Observations
from wire.body import DIRECTION_MASK
from wire.errors import WireError

Rows = NDArray[np.void]
"""Of dtype SIGHTING."""

SIGHTING = np.dtype(
    [
        ("timestamp_ns", "<i8"),  # raw: by the vantage point's own clock
        ("flow_hash", "<u8"),  # 0: none (yet: a later fragment takes its first one's)
        ("hop_hash", "<u8"),
        ("nat_hash", "<u8"),
        ("datagram", "<u8"),  # of addresses, protocol, identification: what fragments share; 0: no IPv4
        ("batch", "<u8"),  # names the observation, together with index
        ("index", "<u4"),
        ("sequence", "<u4"),
        ("sequence_end", "<u4"),
        ("acknowledgement", "<u4"),
        ("original_bytes", "<u4"),
        ("ip_payload_bytes", "<u4"),  # of UDP, ICMP and fragments: what lies behind the IP header
        ("payload_bytes", "<u4"),
        ("ip_id", "<u4"),
        ("fragment_offset", "<u2"),
        ("layers", "<u2"),
        ("tcp_flags", "<u2"),
        ("vantage", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("ttl", "u1"),
        ("direction", "u1"),  # 0 unknown, 1 in, 2 out
        ("reversed", "?"),  # from the flow's second end to its first
        ("more_fragments", "?"),
        ("tunnelled", "?"),
        ("spare", "u1"),
    ]
)
SORT_KEYS = ("index", "batch", "hop_hash", "timestamp_ns", "vantage", "flow_hash")
"""For np.lexsort: the last is the first to be compared."""
MAX_VANTAGES = 2**16
LATEST_NS = 2**61 - 1
"""In the year 2043: later stamps are taken for this, so that no difference overflows."""

_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)


@dataclass(frozen=True, slots=True)
class Vantage:
    """A place where packets are captured."""

    clock: int
    """Index of the clock that stamps them: interfaces of one host share one; an imported file has one of its own."""
    agent: str
    interface: str


def sightings_of(
    seen: Observations,
    timestamp_ns: NDArray[np.uint64],
    original_bytes: NDArray[np.uint32],
    flags: NDArray[np.uint16],
    *,
    vantage: int,
    batch: int,
) -> Rows:
    """One batch's packets as rows; those without an IP header are left out (nothing tells one from the next).

    flags: of wire.body.FLAGS. batch: a number of the caller's that names the batch, below 2**64.
    """
    kept = np.flatnonzero((seen.layers & Layers.IP) != 0)
    rows = np.zeros(len(kept), SIGHTING)
    rows["timestamp_ns"] = np.minimum(timestamp_ns[kept], LATEST_NS)
    rows["original_bytes"] = original_bytes[kept]
    rows["direction"] = flags[kept] & DIRECTION_MASK
    rows["vantage"], rows["batch"], rows["index"] = vantage, batch, kept
    for name in ("flow_hash", "hop_hash", "nat_hash", "payload_bytes", "ip_id", "layers", "tcp_flags"):
        rows[name] = getattr(seen, name)[kept]
    for name in ("protocol", "ip_version", "ttl", "more_fragments"):
        rows[name] = getattr(seen, name)[kept]
    rows["sequence"], rows["sequence_end"] = seen.tcp_sequence[kept], seen.tcp_sequence_end[kept]
    rows["acknowledgement"] = seen.tcp_acknowledgement[kept]
    rows["fragment_offset"] = seen.fragment_offset_bytes[kept]
    rows["reversed"] = seen.flow_reversed[kept]
    rows["tunnelled"] = seen.tunnels[kept] > 0
    headed = ((rows["layers"] & (Layers.UDP | Layers.ICMP)) != 0) & (rows["fragment_offset"] == 0)
    rows["ip_payload_bytes"] = rows["payload_bytes"] + 8 * headed.astype(np.uint32)
    rows["datagram"] = datagrams_of(
        seen.source_address[kept], seen.destination_address[kept], rows["protocol"], rows["ip_id"]
    ) * (rows["ip_version"] == 4)
    return rows


def datagrams_of(
    source: NDArray[np.uint8], destination: NDArray[np.uint8], protocol: NDArray[Any], ip_id: NDArray[Any]
) -> NDArray[np.uint64]:
    """What the fragments of one datagram share, never 0. source, destination: (packets, 16)."""
    words = np.concatenate([source, destination], axis=1).view(np.uint64).reshape(-1, 4)
    mixed = mix(words[:, 0], words[:, 1], words[:, 2], words[:, 3])
    return mix(mixed, ip_id.astype(np.uint64), protocol.astype(np.uint64)) | np.uint64(1)


def mix(*columns: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Columns mixed to one of 64 bits (splitmix64's finisher after each), not against who knows how."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for number, column in enumerate(columns):
        mixed = (mixed ^ column) + _MIX[number % 4]
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def in_order(rows: Rows) -> Rows:
    """The rows sorted, whatever order they came in; an observation that came twice is kept once."""
    if not len(rows):
        return rows
    rows = rows[np.lexsort([rows[name] for name in SORT_KEYS])]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows["batch"][1:] != rows["batch"][:-1]) | (rows["index"][1:] != rows["index"][:-1])
    return rows[new]


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows one after the other."""
    return np.concatenate(parts) if parts else np.zeros(0, SIGHTING)


def to_bytes(rows: Rows) -> bytes:
    """As they are kept in a file."""
    return np.ascontiguousarray(rows).tobytes()


def from_bytes(data: bytes) -> Rows:
    """The rows again. WireError when it can't be rows."""
    if len(data) % SIGHTING.itemsize:
        raise WireError(f"sightings: {len(data)} bytes don't divide into rows of {SIGHTING.itemsize}")
    return np.frombuffer(data, SIGHTING)


def runs(*columns: NDArray[Any]) -> NDArray[np.intp]:
    """Where a run of equal entries begins, of sorted columns: indices, the first of them 0."""
    if not len(columns[0]):
        return np.zeros(0, np.intp)
    new = np.ones(len(columns[0]), np.bool_)
    new[1:] = False
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(new)


def run_numbers(length: int, begins: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each of `length` entries the number of its run."""
    marks = np.zeros(length, np.intp)
    marks[begins[1:]] = 1
    return np.cumsum(marks)


def spans(begins: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """All indices from each beginning up to before its end, one span after the other."""
    count = ends - begins
    total = np.cumsum(count)
    within = np.arange(int(total[-1]) if len(total) else 0) - np.repeat(total - count, count)
    return np.asarray(np.repeat(begins, count) + within, np.intp)
