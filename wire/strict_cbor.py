"""CBOR (RFC 8949) from elsewhere, with its bounds proved before a decoder sees it.

Allowed: integers of 64 bits, byte and text strings, arrays, maps with text keys, true, false, null, finite floats.
Refused: indefinite lengths, tags (bignums among them), duplicate keys, keys that aren't text, integers and lengths
not in their shortest form, other simple values, NaN and infinities, text that isn't UTF-8, anything left over.

Why not the decoder alone: cbor2 takes duplicate keys (the last wins), tags, megabyte bignums and any key. The
scanner below allocates nothing that grows with what a message *declares*: a declared length is compared with the
bytes that are there before anything else happens.
"""

import math
import struct
from typing import Any

from wire.errors import WireError

MAJOR_UNSIGNED, MAJOR_NEGATIVE, MAJOR_BYTES, MAJOR_TEXT, MAJOR_ARRAY, MAJOR_MAP, MAJOR_TAG, MAJOR_SIMPLE = (
    range(8)
)


def encode_head(major: int, value: int) -> bytes:
    """The shortest head of an item: `major` 0 to 7, `value` 0 to 2^64 - 1."""
    if value < 24:
        return bytes((major << 5 | value,))
    if value < 0x100:
        return bytes((major << 5 | 24, value))
    if value < 0x10000:
        return struct.pack(">BH", major << 5 | 25, value)
    if value < 0x100000000:
        return struct.pack(">BI", major << 5 | 26, value)
    return struct.pack(">BQ", major << 5 | 27, value)


def read_head(data: bytes | memoryview, offset: int, end: int) -> tuple[int, int, int]:
    """Read one head: (major type, value, offset behind it). WireError when cut off, indefinite or not shortest."""
    if offset >= end:
        raise WireError(f"CBOR ends at byte {offset} where an item must begin")
    first = data[offset]
    major, low = first >> 5, first & 31
    if low < 24:
        return major, low, offset + 1
    if low > 27:
        raise WireError(f"CBOR at byte {offset}: indefinite or reserved length")
    size = 1 << (low - 24)
    behind = offset + 1 + size
    if behind > end:
        raise WireError(f"CBOR at byte {offset}: cut off within a length")
    value = int.from_bytes(data[offset + 1 : behind], "big")
    if major != MAJOR_SIMPLE and value < (24, 0x100, 0x10000, 0x100000000)[low - 24]:
        raise WireError(f"CBOR at byte {offset}: a number not in its shortest form")
    return major, value, behind


def check_item(data: bytes, offset: int, end: int, *, max_depth: int, max_items: int) -> int:
    """Prove that one allowed item begins at `offset`; return the offset behind it. WireError otherwise."""
    # One frame per open container: [items still to come, keys seen (None: an array), a key comes next].
    open_containers: list[tuple[list[int], set[bytes] | None]] = []
    items = 0
    while True:
        items += 1
        if items > max_items:
            raise WireError(f"CBOR has more than {max_items} items")
        left: list[int] | None = None
        keys: set[bytes] | None = None
        if open_containers:
            left, keys = open_containers[-1]
        major, value, behind = read_head(data, offset, end)
        if keys is not None and left is not None and left[0] % 2 == 0:
            if major != MAJOR_TEXT:
                raise WireError(f"CBOR at byte {offset}: a map key that isn't text")
            if value > end - behind:
                raise WireError(f"CBOR at byte {offset}: a key longer than the data")
            key = bytes(data[behind : behind + value])
            if key in keys:
                raise WireError(f"CBOR at byte {offset}: duplicate key {key[:40]!r}")
            keys.add(key)
        if major in (MAJOR_ARRAY, MAJOR_MAP):
            count = value * 2 if major == MAJOR_MAP else value
            if count > end - behind:
                raise WireError(f"CBOR at byte {offset}: more elements declared than bytes are left")
            if len(open_containers) >= max_depth:
                raise WireError(f"CBOR at byte {offset}: nested deeper than {max_depth}")
            offset = behind
            if left is not None:
                left[0] -= 1
            open_containers.append(([count], set() if major == MAJOR_MAP else None))
        else:
            offset = _check_scalar(data, offset, major, value, behind, end)
            if left is not None:
                left[0] -= 1
        while open_containers and open_containers[-1][0][0] == 0:
            open_containers.pop()
        if not open_containers:
            return offset


def _check_scalar(data: bytes, offset: int, major: int, value: int, behind: int, end: int) -> int:
    if major in (MAJOR_UNSIGNED, MAJOR_NEGATIVE):
        return behind
    if major in (MAJOR_BYTES, MAJOR_TEXT):
        if value > end - behind:
            raise WireError(f"CBOR at byte {offset}: a string of {value} bytes where {end - behind} are left")
        if major == MAJOR_TEXT:
            try:
                str(data[behind : behind + value], "utf-8")
            except UnicodeDecodeError:
                raise WireError(f"CBOR at byte {offset}: text that isn't UTF-8") from None
        return behind + value
    if major == MAJOR_TAG:
        raise WireError(f"CBOR at byte {offset}: a tag ({value})")
    size = behind - offset
    if size == 1 and value in (20, 21, 22):  # false, true, null
        return behind
    if size in (3, 5, 9):
        (number,) = struct.unpack({3: ">e", 5: ">f", 9: ">d"}[size], data[offset + 1 : behind])
        if math.isfinite(number):
            return behind
        raise WireError(f"CBOR at byte {offset}: a float that isn't finite")
    raise WireError(f"CBOR at byte {offset}: a simple value that isn't true, false or null")


def loads_map(data: bytes, *, max_bytes: int, max_depth: int = 6, max_items: int = 4096) -> dict[str, Any]:
    """Decode one map with text keys that fills `data` exactly. WireError for everything else.

    max_depth counts maps and arrays within each other (the outermost is 1), max_items every key and value.
    """
    if len(data) > max_bytes:
        raise WireError(f"CBOR of {len(data)} bytes where at most {max_bytes} are allowed")
    if not data or data[0] >> 5 != MAJOR_MAP:
        raise WireError("CBOR that isn't a map")
    data = bytes(data)
    behind = check_item(data, 0, len(data), max_depth=max_depth, max_items=max_items)
    if behind != len(data):
        raise WireError(f"{len(data) - behind} bytes left over behind the CBOR map")
    import cbor2

    try:
        decoded = cbor2.loads(data)
    except (
        Exception
    ) as error:  # the scanner proved it well-formed; if they ever disagree, it is still a refusal
        raise WireError(f"CBOR: {error}") from error
    if type(decoded) is not dict:
        raise WireError("CBOR that isn't a map")
    return decoded


def dumps_map(value: dict[str, Any]) -> bytes:
    """Encode a map in the form that `loads_map` accepts, keys in the order given."""
    import cbor2

    encoded: bytes = cbor2.dumps(value)
    return encoded
