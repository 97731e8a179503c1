"""What fuzz_bulk.py feeds; the invariant stands there."""

from __future__ import annotations

import numpy as np
import orjson

from hub.pool.elastic import _bulk
from hub.pool.elastic.lines import Kind

WIDTHS = {
    Kind.UNSIGNED: (1, 2, 4, 8),
    Kind.SIGNED: (1, 2, 4, 8),
    Kind.TIME: (8,),
    Kind.BOOLEAN: (1,),
    Kind.IP: (16,),
    Kind.MAC: (6,),
    Kind.HASH: (8,),
    Kind.WORD: (1, 2, 4, 8),
    Kind.TEXT: (1, 5, 30),
    Kind.BYTES: (16,),
}
WORDS = [orjson.dumps(word) for word in ("", "tcp", 'a "b" \\', "\u2028é")]
ENDS = np.cumsum([len(word) for word in WORDS], dtype=np.uint32)


def check(data: bytes) -> None:
    """The target: the first byte says how many packets, then a column per kind byte, as long as there is something."""
    if not data:
        return
    packets = data[0] % 9
    columns: list[_bulk.Column] = []
    at = 1
    while at < len(data) and len(columns) < 12:
        column, at = one(data, at, packets, len(columns))
        columns.append(column)
    ends = np.empty(packets, np.uint64)
    try:
        lines = _bulk.lines(packets, 0, packets, b'{"create":{"_id":"x-', b'"a":1', tuple(columns), ends.data)
    except ValueError:
        return
    begin = 0
    for number, end in enumerate(ends.tolist()):
        action, document, rest = lines[begin:end].split(b"\n")
        assert rest == b""
        assert orjson.loads(action)["create"]["_id"] == f"x-{number}"
        assert "a" in orjson.loads(document)
        begin = end
    assert begin == len(lines)


def one(data: bytes, at: int, packets: int, number: int) -> tuple[_bulk.Column, int]:
    """A column out of what follows; now and then one that doesn't fit."""
    kind = list(Kind)[data[at] % len(Kind)]
    width = WIDTHS[kind][(data[at] >> 4) % len(WIDTHS[kind])]
    at += 1
    size = packets * width
    values = data[at : at + size]
    if data[at : at + 1] != b"\x17":  # a column that is cut is one of the cases, but not all of them
        values = values.ljust(size, b"\0")
    at += size
    if kind is Kind.WORD and values[:1] != b"\xff":
        values = bytes(value % len(WORDS) if place % width == 0 else 0 for place, value in enumerate(values))
    if kind is Kind.BYTES and values[:1] != b"\xff":
        values = bytes(value % 60 if place % 8 == 0 else 0 for place, value in enumerate(values))
    present = None
    if data[at : at + 1] > b"\x80":
        present = bytes(byte & 1 for byte in data[at : at + packets].ljust(packets, b"\0"))
        at += packets
    words = {Kind.WORD: b"".join(WORDS), Kind.BYTES: bytes(range(64))}.get(kind)
    ends = ENDS.data if kind is Kind.WORD else None
    return (int(kind), b',"f%d":' % number, values, width, present, words, ends), at


def told(packets: int, *columns: tuple[Kind, int, bytes, bool]) -> bytes:
    """An input that `check` reads as these columns: (kind, which of its widths, values, whether some are absent)."""
    parts = [bytes([packets])]
    for kind, choice, values, some in columns:
        widths = len(WIDTHS[kind])
        begin = next(n for n in range(256) if n % len(Kind) == kind and (n >> 4) % widths == choice)
        absent = (b"\x81\x82" * packets)[:packets] if some else b""
        parts += [
            bytes([begin]),
            values.ljust(packets * WIDTHS[kind][choice], values[-1:])[: packets * 16],
            absent,
        ]
    return b"".join(parts)


EDGES: dict[Kind, list[bytes]] = {
    Kind.UNSIGNED: [bytes(8), b"\xfe" * 8, (2**63).to_bytes(8, "little")],
    Kind.SIGNED: [(2**63).to_bytes(8, "little"), (10**18).to_bytes(8, "little"), b"\xfe" * 8],
    Kind.TIME: [
        value.to_bytes(8, "little", signed=True)
        for value in (0, -1, 2**63 - 1, -(2**63), 951_782_400 * 10**9, 1_790_000_000_000_000_001)
    ],
    Kind.BOOLEAN: [b"\0\1"],
    Kind.IP: [
        bytes(16),
        bytes(10) + b"\xff\xff\x0a\0\0\xff",
        b"\x20\1\x0d\xb8" + bytes(11) + b"\1",  # one run of zeros, which is written as ::
        b"\x20\1" + bytes(4) + b"\0\1" + bytes(7) + b"\1",  # two, of which the longer is
        bytes(range(1, 17)),
    ],
    Kind.MAC: [b"\xfe" * 6, bytes(range(6))],
    Kind.HASH: [bytes(8), b"\xfe" * 8, (2**64 - 2).to_bytes(8, "little")],
    Kind.WORD: [b"\0", b"\2", b"\3"],
    Kind.TEXT: [b"a", b'"', b"\\", b"\0", b"a\0b", b"\x1f", b"\xc3\xa9", b"abcdefghijklmnopqrstuvwxyz0123"],
    Kind.BYTES: [
        bytes(16),
        (3).to_bytes(8, "little") + (40).to_bytes(8, "little"),
        (59).to_bytes(8, "little") + (5).to_bytes(8, "little"),  # ends before it begins
    ],
}
"""Values at which a kind's writing changes."""


def corpus() -> list[bytes]:
    """Every kind alone, all together, and each at its edges: in every width, with and without absent values."""
    alone = [bytes([3, kind]) + bytes(range(48)) for kind in Kind]
    wide = [bytes([2, kind | 0x30]) + bytes(range(200, 232)) for kind in Kind]
    together = bytes([2]) + b"".join(bytes([kind]) + bytes(range(32)) for kind in Kind)
    edges = [
        told(packets, (kind, choice, (value * packets)[: packets * WIDTHS[kind][choice]], some))
        for kind, values in EDGES.items()
        for choice in range(len(WIDTHS[kind]))
        for value in values
        for packets, some in ((1, False), (8, True))
    ]
    many = told(8, *((kind, 0, EDGES[kind][0] * 8, kind % 2 == 0) for kind in Kind))
    return [*alone, *wide, together, *edges, many]
