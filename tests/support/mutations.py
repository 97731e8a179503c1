"""Captures bent out of shape on purpose: the same seed gives the same bytes, so a failure names its input.

Two kinds. `bend_packets` damages what is *in* the packets and writes a sound file around them: it must come
out of the whole chain as it went in. `bend_file` damages the file itself: whoever reads it must stop with a
clear error, keep what came before, and survive.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from tests.support.captures import Packet

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def write_pcap(packets: Sequence[Packet], *, link_type: int, snaplen: int = 262144) -> bytes:
    """A nanosecond pcap, little endian, written here so that it owes nothing to the code under test."""
    parts = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snaplen, link_type)]
    for packet in packets:
        seconds, fraction = divmod(packet.timestamp_ns, 10**9)
        parts.append(
            struct.pack("<IIII", seconds & 0xFFFFFFFF, fraction, len(packet.data), packet.original_bytes)
        )
        parts.append(packet.data)
    return b"".join(parts)


def _bend_bytes(data: bytes, rng: random.Random) -> bytes:
    bent = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        if not bent:
            return bytes(rng.randbytes(rng.randrange(1, 40)))
        at = rng.randrange(len(bent))
        match rng.randrange(6):
            case 0:
                bent[at] ^= 1 << rng.randrange(8)
            case 1:
                del bent[at:]
            case 2:
                bent[at:at] = rng.randbytes(rng.randrange(1, 64))
            case 3:
                width = rng.choice((1, 2, 4))
                value = rng.choice(_INTERESTING) & (256**width - 1)
                bent[at : at + width] = value.to_bytes(width, rng.choice(("big", "little")))
            case 4:
                bent[at : at + 32] = bent[at : at + 32] * 3
            case _:
                del bent[at : at + rng.randrange(1, 32)]
    return bytes(bent)


def bend_packets(packets: Sequence[Packet], rng: random.Random) -> list[Packet]:
    """Every third packet or so damaged, shortened, emptied, lengthened; stamps unchanged."""
    bent = []
    for packet in packets:
        data = packet.data
        if rng.random() < 0.35:
            data = _bend_bytes(data, rng)[:65535]
        bent.append(
            Packet(packet.timestamp_ns, max(packet.original_bytes, len(data)), packet.link_type, data)
        )
    return bent


def bend_file(data: bytes, rng: random.Random) -> bytes:
    """The file with a few bytes flipped, cut, doubled, or with lengths that can't be."""
    return _bend_bytes(data, rng)
