"""What is inside a body: packet columns, or a tombstone's list of what it replaces (flow records: wire/flows.py).

All are a CBOR map with text keys whose values are RFC 8746 typed arrays, little endian (tag 69: u16, 70: u32,
71: u64), or plain byte strings. A reader takes the columns it knows and skips others, and each is one slice of the
buffer: `numpy.frombuffer` reads it without a loop, and nothing is copied here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from wire.errors import WireError
from wire.strict_cbor import MAJOR_BYTES, MAJOR_MAP, MAJOR_TAG, MAJOR_TEXT, check_item, encode_head, read_head

Buffer = bytes | bytearray | memoryview

MAX_BODY_BYTES = 1024 * 1024
MAX_PACKETS = 65536
MAX_CAPTURED_BYTES = 262144
MAX_ORIGINAL_BYTES = 2**32 - 1
"""Of one packet: what its column holds."""
MAX_REPLACED = 16384
MAX_TURNED_AWAY = 2**53 - 1
"""Packets that one tombstone without a list declares: 28 years at ten million a second."""
_MAX_COLUMNS = 64

TAG_U16, TAG_U32, TAG_U64 = 69, 70, 71
_WIDTHS = {TAG_U16: 2, TAG_U32: 4, TAG_U64: 8, None: 1}

PACKET_COLUMNS: dict[str, tuple[int | None, str]] = {
    "timestamp_ns": (
        TAG_U64,
        "When each packet was captured: nanoseconds since 1970, UTC, as the source gave it.",
    ),
    "captured_bytes": (TAG_U32, "How many bytes of each packet are in `data`: at most 262,144."),
    "original_bytes": (TAG_U32, "How long each packet was on the wire."),
    "flags": (TAG_U16, "Bits about each packet; see the table of flags."),
    "data": (None, "The packets' bytes end to end, without gaps."),
}
TOMBSTONE_COLUMNS: dict[str, tuple[int | None, str]] = {
    "header_hash": (
        None,
        "sha256 of the header of each replaced batch, 32 bytes each, in order of sequence.",
    ),
    "packets": (TAG_U32, "How many packets each replaced batch held."),
    "captured_bytes": (TAG_U64, "The sum of their captured bytes."),
    "original_bytes": (TAG_U64, "The sum of their original bytes."),
}

DIRECTION_MASK = 0x0003
DIRECTION_IN, DIRECTION_OUT = 1, 2
RECEPTION_MASK, RECEPTION_SHIFT = 0x001C, 2
VLAN_REINSERTED = 1 << 5
TRUNCATED = 1 << 6
CHECKSUM_NOT_READY = 1 << 7
PRIORITY = 1 << 8
SWAP_INTERVAL = 1 << 9
CHECKSUM_VALID = 1 << 10
HARDWARE_STAMP = 1 << 11

FLAGS: dict[str, tuple[str, str]] = {
    "direction": ("0–1", "0 unknown, 1 inbound, 2 outbound (as pcapng's epb_flags)."),
    "reception": ("2–4", "0 unspecified, 1 unicast, 2 multicast, 3 broadcast, 4 promiscuous (as epb_flags)."),
    "VLAN_REINSERTED": ("5", "The kernel had taken the VLAN tag out; it was put back."),
    "TRUNCATED": ("6", "Shorter than on the wire (snaplen)."),
    "CHECKSUM_NOT_READY": ("7", "Sent by this host before the card filled the checksum in: not an error."),
    "PRIORITY": ("8", "Taken by a priority rule."),
    "SWAP_INTERVAL": (
        "9",
        "Captured while the filter was being exchanged: either filter may have judged it.",
    ),
    "CHECKSUM_VALID": ("10", "The card verified the checksum."),
    "HARDWARE_STAMP": ("11", "The time is the card's own, not the kernel's."),
}


@dataclass(slots=True)
class Columns:
    """Packets as columns. Each is any buffer of bytes; the numbers in it are little endian."""

    timestamp_ns: Buffer
    """u64: nanoseconds since 1970, UTC."""
    captured_bytes: Buffer
    """u32."""
    original_bytes: Buffer
    """u32."""
    flags: Buffer
    """u16."""
    data: Buffer
    """The packets' bytes, end to end."""

    def __len__(self) -> int:
        """How many packets."""
        return memoryview(self.timestamp_ns).nbytes // 8


@dataclass(frozen=True, slots=True)
class Sums:
    """What a batch's header says about its columns."""

    packets: int
    captured_bytes: int
    original_bytes: int
    first_timestamp_ns: int
    """The earliest, not necessarily the first packet's: a ring's CPUs interleave."""
    last_timestamp_ns: int


def sums_of(columns: Columns) -> Sums:
    """Add the columns up in one C call. WireError when they don't fit together or a packet is over its bound."""
    from wire import _columns

    try:
        return Sums(
            *_columns.sums(
                columns.timestamp_ns,
                columns.captured_bytes,
                columns.original_bytes,
                columns.flags,
                columns.data,
                MAX_CAPTURED_BYTES,
            )
        )
    except ValueError as error:
        raise WireError(f"columns: {error}") from None


def encode_body(columns: Columns) -> bytes:
    """The columns as one plain body: one copy, no loop over packets. ValueError when it is too large."""
    if not 1 <= len(columns) <= MAX_PACKETS:
        raise ValueError(f"{len(columns)} packets; a batch holds 1 to {MAX_PACKETS}")
    return encode_map(PACKET_COLUMNS, [getattr(columns, name) for name in PACKET_COLUMNS])


def decode_body(plain: bytes) -> Columns:
    """Find the columns in a plain body; they stay views of it. WireError when they aren't there or don't fit."""
    found = decode_map(plain, PACKET_COLUMNS)
    columns = Columns(**found)
    packets = len(columns)
    if not 1 <= packets <= MAX_PACKETS:
        raise WireError(f"{packets} packets; a batch holds 1 to {MAX_PACKETS}")
    for name, width in (("captured_bytes", 4), ("original_bytes", 4), ("flags", 2)):
        if len(found[name]) != width * packets:
            raise WireError(f"{name}: {len(found[name]) // width} entries for {packets} packets")
    return columns


@dataclass(frozen=True, slots=True)
class Replaced:
    """One batch that a tombstone stands for."""

    sequence: int
    header_hash: bytes
    """sha256 of its header: the chain goes on through it."""
    packets: int
    captured_bytes: int
    original_bytes: int


def encode_replaced(replaced: Sequence[Replaced]) -> bytes:
    """A tombstone's plain body. ValueError unless the sequences follow each other without a gap."""
    if len(replaced) > MAX_REPLACED:
        raise ValueError(f"{len(replaced)} batches; a tombstone holds at most {MAX_REPLACED}")
    if any(b.sequence != a.sequence + 1 for a, b in pairwise(replaced)):
        raise ValueError("a tombstone's sequences must follow each other")
    return encode_map(
        TOMBSTONE_COLUMNS,
        [
            b"".join(one.header_hash for one in replaced),
            b"".join(one.packets.to_bytes(4, "little") for one in replaced),
            b"".join(one.captured_bytes.to_bytes(8, "little") for one in replaced),
            b"".join(one.original_bytes.to_bytes(8, "little") for one in replaced),
        ],
    )


def decode_replaced(plain: bytes, first_sequence: int, count: int) -> list[Replaced]:
    """The `count` batches a tombstone's body lists, the first being `first_sequence`. WireError otherwise."""
    if count > MAX_REPLACED:
        raise WireError(f"a tombstone for {count} batches; at most {MAX_REPLACED} are allowed")
    found = decode_map(plain, TOMBSTONE_COLUMNS)
    for name, width in (("header_hash", 32), ("packets", 4), ("captured_bytes", 8), ("original_bytes", 8)):
        if len(found[name]) != width * count:
            raise WireError(f"{name}: {len(found[name])} bytes for {count} batches")

    def at(name: str, width: int, index: int) -> int:
        return int.from_bytes(found[name][index * width : (index + 1) * width], "little")

    replaced = [
        Replaced(
            first_sequence + index,
            bytes(found["header_hash"][index * 32 : (index + 1) * 32]),
            at("packets", 4, index),
            at("captured_bytes", 8, index),
            at("original_bytes", 8, index),
        )
        for index in range(count)
    ]
    for one in replaced:
        check_sums(one.packets, one.captured_bytes, one.original_bytes, batches=1)
    return replaced


def check_sums(packets: int, captured_bytes: int, original_bytes: int, *, batches: int) -> None:
    """WireError when this many batches of packets can't have such sums: the readers' own sums stay bounded."""
    if packets > batches * MAX_PACKETS:
        raise WireError(f"packets: {packets}; {batches} x {MAX_PACKETS} at most")
    if captured_bytes > batches * MAX_BODY_BYTES:
        raise WireError(f"captured_bytes: {captured_bytes}; {batches} x {MAX_BODY_BYTES} at most")
    if original_bytes > packets * MAX_ORIGINAL_BYTES:
        raise WireError(
            f"original_bytes: {original_bytes} in {packets} packets of {MAX_ORIGINAL_BYTES} at most"
        )


def encode_map(layout: dict[str, tuple[int | None, str]], buffers: list[Buffer]) -> bytes:
    """A body of these columns, in the layout's order. ValueError when it is too large."""
    parts: list[Buffer] = [encode_head(MAJOR_MAP, len(layout))]
    size = 1
    for (name, (tag, _)), buffer in zip(layout.items(), buffers, strict=True):
        view = memoryview(buffer).cast("B")
        head = encode_head(MAJOR_TEXT, len(name)) + name.encode()
        if tag is not None:
            head += encode_head(MAJOR_TAG, tag)
        head += encode_head(MAJOR_BYTES, view.nbytes)
        parts += (head, view)
        size += len(head) + view.nbytes
    if size > MAX_BODY_BYTES:
        raise ValueError(f"a body of {size} bytes; at most {MAX_BODY_BYTES} are allowed")
    return b"".join(parts)


def decode_map(plain: bytes, layout: dict[str, tuple[int | None, str]]) -> dict[str, memoryview]:
    """The layout's columns as views of a plain body; others are skipped. WireError when one isn't as it must be."""
    end = len(plain)
    view = memoryview(plain)
    major, entries, offset = read_head(plain, 0, end)
    if major != MAJOR_MAP or entries > _MAX_COLUMNS:
        raise WireError("a body that isn't a small map")
    found: dict[str, memoryview] = {}
    seen: set[bytes] = set()
    for _ in range(entries):
        major, length, offset = read_head(plain, offset, end)
        if major != MAJOR_TEXT or length > 64 or length > end - offset:
            raise WireError("a body's key that isn't a short text")
        key = plain[offset : offset + length]
        if key in seen:
            raise WireError(f"body: duplicate key {key!r}")
        seen.add(key)
        offset += length
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise WireError("a body's key that isn't UTF-8") from None
        major, value, behind = read_head(plain, offset, end)
        tag = None
        if major == MAJOR_TAG:  # also in front of a column we don't know: any tag, then any allowed item
            tag, offset = value, behind
            major, value, behind = read_head(plain, offset, end)
        if name not in layout:
            offset = check_item(plain, offset, end, max_depth=4, max_items=4096)
            continue
        if tag != layout[name][0] or major != MAJOR_BYTES:
            raise WireError(f"{name}: not the typed array it must be")
        if value > end - behind:
            raise WireError(f"{name}: {value} bytes where {end - behind} are left")
        if value % _WIDTHS[tag]:
            raise WireError(f"{name}: {value} bytes don't divide into numbers of {_WIDTHS[tag]}")
        offset = behind + value
        found[name] = view[behind:offset]
    if offset != end:
        raise WireError(f"{end - offset} bytes left over behind the body")
    for name in layout:
        if name not in found:
            raise WireError(f"{name}: missing")
    return found
