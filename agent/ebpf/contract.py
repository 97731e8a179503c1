"""The Python twin of bpf/contract.h: layouts of the maps and places of the programs. A test compares the two."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SLOT_FILTER, SLOT_KEEP, SLOT_INNER_ETHERNET, SLOT_INNER_IP = 0, 1, 2, 3
SLOTS = 4
INNER_AT = 0
"""Of __sk_buff.cb: where the packet inside a tunnel begins."""

SETTINGS = struct.Struct("=QIIIIII")
"""cutoff_bytes, kept_bytes, once_outgoing, network_at, one_flow_in, look_inside, unused."""
COUNTERS = struct.Struct("=QQQQ")
"""seen, passed, sampled_out, cut_off: packets, per processor."""
FLOWS = 32768
FLOW_KEY = struct.Struct("=16s16sHHBBH")
"""lower_address, upper_address, lower_port, upper_port, protocol, version, unused."""
FLOW = struct.Struct("=Q")
"""bytes."""

BY_NETWORK, BY_PORT = 1, 2
STEERING = struct.Struct("=IIII")
"""rings, rules, network_at, unused."""
PRIORITY_NETWORKS = 10000
NETWORK_KEY = struct.Struct("=I16s")
"""bits, address."""
PORTS_BYTES = 8192

PROGRAMS = ("entry", "keep", "steer")


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a map must be, as linux/bpf.h numbers it."""

    kind: int
    key_bytes: int
    value_bytes: int
    entries: int


ARRAY, PROGRAM_ARRAY, PER_CPU_ARRAY, LRU_HASH, LPM_TRIE = 2, 3, 6, 9, 11  # enum bpf_map_type
MAPS = {
    "jumps": MapShape(PROGRAM_ARRAY, 4, 4, SLOTS),
    "settings": MapShape(ARRAY, 4, SETTINGS.size, 1),
    "counters": MapShape(PER_CPU_ARRAY, 4, COUNTERS.size, 1),
    "flows": MapShape(LRU_HASH, FLOW_KEY.size, FLOW.size, FLOWS),
    "steering": MapShape(ARRAY, 4, STEERING.size, 1),
    "priority_networks": MapShape(LPM_TRIE, NETWORK_KEY.size, 4, PRIORITY_NETWORKS),
    "priority_ports": MapShape(ARRAY, 4, PORTS_BYTES, 1),
}
