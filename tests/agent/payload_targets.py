"""What fuzz_payload.py feeds; the invariant stands there."""

from __future__ import annotations

import struct

from agent.payload import enforce
from tests.agent.test_payload import CASES, columns_of
from wire.payload import HEADERS, PayloadPolicy

LINK_TYPES = (1, 1, 1, 1, 0, 12, 101, 108, 113, 228, 229, 276, 105)
PORTS = PayloadPolicy("masked", None, ((443, 443), (1024, 65535)))
NEIGHBOUR = bytes(12) + b"\x08\x06" + bytes.fromhex("0001080006040001") + bytes(20)


def check(data: bytes) -> None:
    """The target: the first byte chooses the link type, the second where the frame was cut, the rest is the frame."""
    if len(data) < 2:
        return
    link_type, frame = LINK_TYPES[data[0] % len(LINK_TYPES)], data[2:]
    enforce(
        columns_of([frame]), link_type, HEADERS
    )  # alone in its buffer: the sanitizers see where that ends
    headers = kept(frame, link_type, HEADERS)
    for keep_bytes in (0, 1, data[1]):
        expected = frame[: len(headers) + keep_bytes]
        assert kept(frame, link_type, PayloadPolicy("masked", keep_bytes)) == expected
    assert len(kept(frame[: data[1]], link_type, HEADERS)) <= len(headers)
    assert kept(frame, link_type, PORTS) in (headers, frame)


def kept(frame: bytes, link_type: int, policy: PayloadPolicy) -> bytes:
    """What remains of a frame between two others."""
    around = enforce(columns_of([NEIGHBOUR]), link_type, policy)
    after = enforce(columns_of([NEIGHBOUR, frame, NEIGHBOUR]), link_type, policy)
    first, size, last = struct.unpack("<3I", after.captured_bytes)
    data, beside = bytes(after.data), bytes(around.data)
    assert first == last == len(beside)
    assert len(data) == first + size + last
    assert data[:first] == data[first + size :] == beside
    assert frame.startswith(data[first : first + size])
    return data[first : first + size]


def corpus() -> list[bytes]:
    """A frame of every kind, whole and cut, on its link type and without its link header."""
    found = []
    for number, (frame, header) in enumerate(CASES.values()):
        found.append(bytes([number % 4, header - 1]) + frame)
        found.append(bytes([6, 255]) + frame[14:])
        found.append(bytes([8, 255]) + bytes(14) + frame[12:])
    return found
