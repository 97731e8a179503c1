"""Kernels over packet columns, in C without the interpreter's lock. Numbers in columns are little endian.

Every function raises ValueError for bytes that don't fit together and never reads or writes outside its buffers.
"""

Buffer = bytes | bytearray | memoryview

def sums(
    timestamp_ns: Buffer,
    captured_bytes: Buffer,
    original_bytes: Buffer,
    flags: Buffer,
    data: Buffer,
    max_captured: int,
    /,
) -> tuple[int, int, int, int, int]:
    """(packets, captured bytes, original bytes, earliest time, latest time).

    ValueError when the columns' lengths differ, a captured length is over `max_captured`, or they don't sum to `data`.
    """

def epb_blocks(
    interface_id: int,
    timestamp_ns: Buffer,
    captured_bytes: Buffer,
    original_bytes: Buffer,
    flags: Buffer,
    data: Buffer,
    /,
) -> bytes:
    """The packets as pcapng Enhanced Packet Blocks, little endian, times in nanoseconds, with epb_flags."""

def pcap_records(
    timestamp_ns: Buffer, captured_bytes: Buffer, original_bytes: Buffer, data: Buffer, /
) -> bytes:
    """The packets as classic pcap records, little endian, times in nanoseconds (file magic 0xA1B23C4D)."""

def read_pcap_records(
    buffer: Buffer,
    offset: int,
    big_endian: bool,
    nanosecond: bool,
    header_bytes: int,
    lengths: int,
    snaplen: int,
    max_packets: int,
    timestamp_ns: bytearray | memoryview,
    captured_bytes: bytearray | memoryview,
    original_bytes: bytearray | memoryview,
    flags: bytearray | memoryview,
    data: bytearray | memoryview,
    /,
) -> tuple[int, int, int, str]:
    """Read records of a classic pcap file from `buffer[offset:]` into the columns given.

    Returns (packets, bytes in data, new offset, why it stopped):
    "full": the columns are full; "more": the buffer ends within a record (or exactly); "invalid": an impossible
    record stands at the new offset. Nothing of an unfinished record is taken.
    header_bytes: 16, or 24 for the "modified" format (magic A1B2CD34). lengths: 0 captured then original; 1 the other
    way round; 2 whichever makes captured the smaller (files of version 2.0 to 2.3).
    snaplen: keep at most this much of each packet (flag TRUNCATED).
    """

def read_pcapng_packets(
    buffer: Buffer,
    offset: int,
    big_endian: bool,
    interfaces: Buffer,
    snaplen: int,
    max_packets: int,
    timestamp_ns: bytearray | memoryview,
    captured_bytes: bytearray | memoryview,
    original_bytes: bytearray | memoryview,
    flags: bytearray | memoryview,
    data: bytearray | memoryview,
    interface_id: bytearray | memoryview,
    /,
) -> tuple[int, int, int, str]:
    """Read packet blocks (enhanced, simple, obsolete) of a pcapng section into the columns given.

    interfaces: per interface of the section, 24 bytes: u32 tsresol byte (if_tsresol; 6 when absent), u32 snaplen of
    the interface (0: none), i64 if_tsoffset in seconds, u64 reserved 0. All little endian.
    Returns (packets, bytes in data, new offset, why it stopped): "full", "more", "invalid" as above, and
    "block": a block that isn't a packet's stands at the new offset (the caller reads it, in Python: few per file).
    interface_id: u32 column.
    """

def select(
    wanted: int,
    interface_id: Buffer,
    timestamp_ns: Buffer,
    captured_bytes: Buffer,
    original_bytes: Buffer,
    flags: Buffer,
    data: Buffer,
    out_timestamp_ns: bytearray | memoryview,
    out_captured_bytes: bytearray | memoryview,
    out_original_bytes: bytearray | memoryview,
    out_flags: bytearray | memoryview,
    out_data: bytearray | memoryview,
    /,
) -> tuple[int, int]:
    """Copy the packets whose interface_id is `wanted` into the other columns: (packets, bytes in data)."""
