"""What fuzz_packet.py feeds, and the invariant as code."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hub.dissect.packet import Dissection, dissect
from hub.dissect.tree import MAX_FIELDS, MAX_NAME, MAX_VALUE, Field
from tests.support.frames import frame

LINK_TYPES = (1, 1, 1, 0, 12, 101, 108, 113, 228, 229, 276, 147)
MAX_LEVELS = 6
ADDED_FIELDS = 4
"""Beyond the bound: what is unknown, padding, what is left out, and the word of where it stopped."""
PAYLOADS = (
    (53, "123401000001000100000001 0161 0000010001 c00c000100010000000a00040a000001 00002904d0000080000000"),
    (67, "0101060012345678" + "00" * 228 + "63825363 350101 3204 0a000001 0c02 6869 ff"),
    (123, "1b" + "00" * 47),
    (443, "1603010035 01000031 0303" + "00" * 32 + "00 0002 1301 0100 0006 002b0003 020304"),
    (80, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody".hex()),
)
"""(port, payload) of an ordinary message; TCP for the last two."""


def walk(fields: list[Field], level: int = 1) -> Iterator[tuple[int, Field]]:
    """(level, field) of every field, in the order of the tree."""
    for one in fields:
        yield level, one
        yield from walk(one.parts, level + 1)


def judge(dissection: Dissection, data: bytes) -> None:
    """The invariant."""
    every = list(walk(dissection.layers))
    assert len(every) <= MAX_FIELDS + ADDED_FIELDS
    for level, one in every:
        assert level <= MAX_LEVELS
        assert 0 <= one.offset <= len(data)
        assert 0 <= one.length <= len(data) - one.offset
        assert len(one.name) <= MAX_NAME
        assert len(one.value) <= MAX_VALUE
        assert one.name.isprintable()
        assert one.value.isprintable()
        assert "not understood" not in one.name, (one, data.hex())
    covered = bytearray(len(data))
    for layer in dissection.layers:
        covered[layer.offset : layer.offset + layer.length] = b"\1" * layer.length
    assert covered.count(0) == 0, (data.hex(), [layer.name for layer in dissection.layers])


def check(data: bytes) -> None:
    """The target: the first byte chooses the link type, the rest is the packet."""
    if data:
        judge(dissect(data[1:], LINK_TYPES[data[0] % len(LINK_TYPES)], len(data)), data[1:])


def corpus() -> list[bytes]:
    """Frames of all sorts, and one message of each protocol that the tree knows."""
    dice = random.Random(5)
    seeds = [b"\0" + frame(dice, destination=bytes(6), source=bytes(6)) for _ in range(60)]
    for port, text in PAYLOADS:
        payload = bytes.fromhex(text)
        head = port.to_bytes(2, "big") * 2
        tcp = port in (80, 443)
        head += bytes(8) + b"\x50\x18" + bytes(6) if tcp else (8 + len(payload)).to_bytes(2, "big") + b"\0\0"
        size = (20 + len(head) + len(payload)).to_bytes(2, "big")
        ip = b"\x45\0" + size + b"\0\0\0\0\x40" + (b"\x06" if tcp else b"\x11") + bytes(10)
        seeds.append(b"\x05" + ip + head + payload)
    return seeds
