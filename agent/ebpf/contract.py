"""The Python twin of bpf/contract.h: layouts of the maps and places of the programs. A test compares the two."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SLOT_FILTER, SLOT_KEEP = 0, 1
SLOTS = 2

SETTINGS = struct.Struct("=II")
"""kept_bytes, once_outgoing."""
COUNTERS = struct.Struct("=QQ")
"""seen, passed: packets, per processor."""

PROGRAMS = ("entry", "keep")


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a map must be, as linux/bpf.h numbers it."""

    kind: int
    key_bytes: int
    value_bytes: int
    entries: int


ARRAY, PROGRAM_ARRAY, PER_CPU_ARRAY = 2, 3, 6  # enum bpf_map_type
MAPS = {
    "jumps": MapShape(PROGRAM_ARRAY, 4, 4, SLOTS),
    "settings": MapShape(ARRAY, 4, SETTINGS.size, 1),
    "counters": MapShape(PER_CPU_ARRAY, 4, COUNTERS.size, 1),
}
