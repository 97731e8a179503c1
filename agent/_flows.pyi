"""The map of flow counters, read and compared in C. The GIL is released; every length is checked.

A reading is `keys` (FLOW_KEY of agent.ebpf.contract, end to end), `values` (FLOW_COUNTER) and how many flows they
hold; its `index` is a buffer of 2^n u32, more than flows.
"""

from typing_extensions import Buffer

def read_map(descriptor: int, keys: Buffer, values: Buffer, batches: bool, /) -> int:
    """Fill a reading; how many flows (a flow may come twice without batches).

    batches: by BPF_MAP_LOOKUP_BATCH; OSError (EINVAL) on a kernel before 5.6. Otherwise a key at a time. OSError.
    """

def index(keys: Buffer, values: Buffer, flows: int, index: Buffer, /) -> int:
    """Fill a reading's index, and move flows up where one came twice: how many are left. ValueError for sizes."""

def changes(
    reading: tuple[Buffer, Buffer, int],
    before: tuple[Buffer, Buffer, int, Buffer],
    own: Buffer,
    utc_offset_ns: int,
    columns: tuple[Buffer, ...],
    first: int,
    /,
) -> tuple[int, int, int, int]:
    """What a reading has more than the one before, from flow `first` on, as many as the columns hold.

    reading: keys, values, flows; before: the same and its index. own: a table of agent.own_traffic; its flows are left
    out. utc_offset_ns: what to add to CLOCK_MONOTONIC. columns: in the order of wire.flows.FLOW_COLUMNS.
    Returns (flow to go on with, records written, packets in them, packets of own flows). ValueError for sizes that
    contradict each other.
    """
