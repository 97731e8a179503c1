"""The Python twin of bpf/contract.h: layouts of the maps and places of the programs. A test compares the two."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SLOT_FILTER, SLOT_KEEP, SLOT_INNER_ETHERNET, SLOT_INNER_IP = 0, 1, 2, 3
SLOTS = 4
INNER_AT = 0
"""Of __sk_buff.cb: where the packet inside a tunnel begins."""
FLOW_MARK = 1
"""Of __sk_buff.cb: whether `entry` has found the packet's flow."""

SETTINGS = struct.Struct("=QIIIIII")
"""cutoff_bytes, kept_bytes, once_outgoing, network_at, one_flow_in, look_inside, count_flows."""
COUNTERS = struct.Struct("=QQQQQQ")
"""seen, passed, sampled_out, cut_off, counted, unattributed: packets, per processor."""
SEEN_AT = 0
"""Of `seen` in it, in bytes."""
FLOWS = 32768
FLOW_KEY = struct.Struct("=16s16sHHBBH")
"""lower_address, upper_address, lower_port, upper_port, protocol, version, unused."""
FLOW = struct.Struct("=Q")
"""bytes."""
FLOW_COUNTERS = 32768
ONE_WAY = struct.Struct("=QQ")
"""packets, bytes."""
FLOW_COUNTER = struct.Struct("=16s16sQQ")
"""from_lower, from_upper (ONE_WAY each), first_ns, last_ns."""

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


HASH, ARRAY, PROGRAM_ARRAY, PER_CPU_ARRAY, LRU_HASH, LPM_TRIE = 1, 2, 3, 6, 9, 11  # enum bpf_map_type
MAPS = {
    "jumps": MapShape(PROGRAM_ARRAY, 4, 4, SLOTS),
    "settings": MapShape(ARRAY, 4, SETTINGS.size, 1),
    "counters": MapShape(PER_CPU_ARRAY, 4, COUNTERS.size, 1),
    "parsed": MapShape(PER_CPU_ARRAY, 4, FLOW_KEY.size, 1),
    "flows": MapShape(LRU_HASH, FLOW_KEY.size, FLOW.size, FLOWS),
    "flow_counters": MapShape(LRU_HASH, FLOW_KEY.size, FLOW_COUNTER.size, FLOW_COUNTERS),
    "steering": MapShape(ARRAY, 4, STEERING.size, 1),
    "priority_networks": MapShape(LPM_TRIE, NETWORK_KEY.size, 4, PRIORITY_NETWORKS),
    "priority_ports": MapShape(ARRAY, 4, PORTS_BYTES, 1),
}
PLAIN_BEFORE_4_10 = ("flows", "flow_counters")
"""Maps that are a HASH on kernels without LRU_HASH."""
