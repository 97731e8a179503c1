"""Captures of ordinary-looking traffic of mixed entropy, to replay at speed: `python -m perf.traffic
OUT.pcap`.

What a compressor gains depends on what it is fed, and one repeated payload says nothing. So the flows here
carry what data centres carry: TLS records (random bytes), HTTP with text (the standard library's own
sources), rows of a database, RPC messages (half random, half text), DNS. Packet sizes follow the simple IMIX
(7 small : 4 medium : 1 full), about 340 B on average.

`DISTINCT` packets are made one by one; a longer capture goes through them again, each time with new time
stamps and with the packet's serial number written into a field that changes from packet to packet anyway (the
TCP time stamp; checksum and id of a DNS message), so every packet of a capture is different and can be told
apart. A cycle is far longer than any compressor's window, so going round again gains it nothing.
"""

from __future__ import annotations

import argparse
import random
import struct
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

DISTINCT = 50_021
FIRST_TIMESTAMP_NS = 1_700_000_000_000_000_000
MEAN_GAP_NS = 3_000
PORTS = {"tls": 443, "http": 80, "db": 5432, "dns": 53, "rpc": 50051}
MIXES: dict[str, dict[str, float]] = {
    "imix": {"tls": 0.55, "http": 0.25, "db": 0.08, "rpc": 0.07, "dns": 0.05},
    "tls": {"tls": 1.0},
    "text": {"http": 1.0},
}
FLOWS = 300
_RECORD = struct.Struct("<IIII")


def _text() -> bytes:
    folder = Path(sysconfig.get_paths()["stdlib"])
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))[:120])


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


@dataclass
class Flow:
    """One connection between a client and a server; `packet` gives its next frame."""

    kind: str
    rng: random.Random
    text: bytes
    left: int = 0
    client: bytes = b""
    server: bytes = b""
    client_port: int = 0
    sequence: list[int] = field(default_factory=list)
    identification: list[int] = field(default_factory=list)
    offset: int = 0

    def __post_init__(self) -> None:
        rng = self.rng
        self.left = rng.randrange(10, 80)
        self.client = bytes([10, 0, rng.randrange(4), rng.randrange(1, 60)])
        self.server = bytes([10, 2, 0, rng.randrange(1, 20)])
        self.client_port = rng.randrange(32768, 60999)
        self.sequence = [rng.getrandbits(32), rng.getrandbits(32)]
        self.identification = [rng.getrandbits(16), rng.getrandbits(16)]
        self.offset = rng.randrange(len(self.text) - 4000)

    def _payload(self, size: int, from_server: bool) -> bytes:
        rng = self.rng
        if not size:
            return b""
        if self.kind == "tls":
            body = rng.randbytes(size)
            return (
                b"\x17\x03\x03" + struct.pack("!H", size) + body[5:]
                if size > 40 and rng.random() < 0.3
                else body
            )
        if self.kind == "db":
            row = b"".join(
                b"D"
                + struct.pack("!IHIQI", 30, 3, 8, rng.randrange(10**6), 10)
                + b"%010d" % rng.randrange(10**10)
                for _ in range(size // 33 + 1)
            )
            return row[:size]
        if self.kind == "rpc":
            half = rng.randbytes(max(0, size // 2 - 5))
            return (b"\0" + struct.pack("!I", size) + half + self._next_text(size))[:size]
        if not from_server:
            request = b"GET /api/v1/items/%d?limit=50 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: lab\r\n"
            cookie = b"Accept: */*\r\nCookie: sid=%016x\r\n\r\n" % rng.getrandbits(64)
            return (request % rng.randrange(9999) + cookie)[: max(size, 60)]
        return self._next_text(size)

    def _next_text(self, size: int) -> bytes:
        piece = self.text[self.offset : self.offset + size]
        self.offset = (self.offset + size) % (len(self.text) - 4000)
        return piece

    def packet(self, size: int, from_server: bool) -> tuple[bytes, int]:
        """The frame and the offset in it of four bytes for a serial number."""
        side = int(from_server)
        ports = (PORTS[self.kind], self.client_port) if from_server else (self.client_port, PORTS[self.kind])
        addresses = self.server + self.client if from_server else self.client + self.server
        macs = (b"\x02\0\0\0" + self.client[2:], b"\x02\0\0\1" + self.server[2:])
        if self.kind == "dns":
            protocol, serial_at = 17, 14 + 20 + 6
            question = b"\x03www\x07example\x08internal\0\0\x01\0\x01"
            message = struct.pack("!HHHHHH", 0, 0x8180 if from_server else 0x0100, 1, side, 0, 0) + question
            if from_server:
                message += b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + self.server
            transport = struct.pack("!HHHH", *ports, 8 + len(message), 0) + message
        else:
            protocol, serial_at = 6, 14 + 20 + 20 + 4
            payload = self._payload(size, from_server)
            numbers = (self.sequence[side] & 0xFFFFFFFF, self.sequence[1 - side] & 0xFFFFFFFF)
            check = self.rng.getrandbits(16)
            head = struct.pack("!HHIIBBHHH", *ports, *numbers, 0x80, 0x18 if payload else 0x10, 502, check, 0)
            transport = head + b"\x01\x01\x08\x0a" + struct.pack("!II", 0, self.rng.getrandbits(31)) + payload
            self.sequence[side] += len(payload)
        self.identification[side] = (self.identification[side] + 1) & 0xFFFF
        header = struct.pack(
            "!BBHHHBB", 0x45, 0, 20 + len(transport), self.identification[side], 0x4000, 64, protocol
        )
        check = _checksum(header + b"\0\0" + addresses)
        ethernet = (macs[0] + macs[1] if from_server else macs[1] + macs[0]) + b"\x08\0"
        return ethernet + header + struct.pack("!H", check) + addresses + transport, serial_at


def _size(rng: random.Random) -> tuple[int, bool]:
    """Payload bytes and whether the server sends them, for about 7:4:1 of small, medium and full packets."""
    dice = rng.random()
    if dice < 0.50:
        return 0, rng.random() < 0.4
    if dice < 0.60:
        return rng.randrange(10, 120), rng.random() < 0.5
    if dice < 0.90:
        return rng.randrange(300, 700), rng.random() < 0.6
    return 1448, True


def make_packets(count: int, mix: str, seed: int) -> list[tuple[bytes, int]]:
    """`count` frames in order, each with the offset of its serial number."""
    rng = random.Random(seed)
    text = _text()
    kinds, weights = list(MIXES[mix]), list(MIXES[mix].values())

    def new_flow() -> Flow:
        return Flow(rng.choices(kinds, weights)[0], rng, text)

    flows = [new_flow() for _ in range(FLOWS)]
    packets = []
    for _ in range(count):
        number = rng.randrange(FLOWS)
        flows[number].left -= 1
        if flows[number].left < 0:
            flows[number] = new_flow()
        packets.append(flows[number].packet(*_size(rng)))
    return packets


def write_capture(output: BinaryIO, packets: int, *, mix: str = "imix", seed: int = 7) -> int:
    """A nanosecond pcap of exactly `packets` packets, all different; the sum of their bytes."""
    frames = make_packets(min(packets, DISTINCT), mix, seed)
    rng = random.Random(seed + 1)
    output.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
    cycle = bytearray()
    places: list[tuple[int, int, int]] = []
    for frame, serial_at in frames:
        places.append((len(cycle), serial_at + _RECORD.size, len(frame)))
        cycle += _RECORD.pack(0, 0, len(frame), len(frame)) + frame
    gaps = [int(rng.expovariate(1 / MEAN_GAP_NS)) + 1 for _ in frames]
    now_ns, serial, total = FIRST_TIMESTAMP_NS, 0, 0
    stamp_into, serial_into = struct.Struct("<II").pack_into, struct.Struct("!I").pack_into
    while serial < packets:
        end = len(cycle)
        for (at, serial_at, length), gap in zip(places, gaps, strict=True):
            if serial == packets:
                end = at
                break
            now_ns += gap
            stamp_into(cycle, at, now_ns // 10**9, now_ns % 10**9)
            serial_into(cycle, at + serial_at, serial)
            serial += 1
            total += length
        output.write(memoryview(cycle)[:end])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="the pcap to write")
    parser.add_argument("--packets", type=int, default=1_000_003, metavar="N")
    parser.add_argument("--mix", choices=MIXES, default="imix")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    with open(arguments.output, "wb") as output:
        total = write_capture(output, arguments.packets, mix=arguments.mix, seed=arguments.seed)
    mean = total / arguments.packets
    print(f"{arguments.output}: {arguments.packets:,} packets, {total:,} bytes, {mean:.0f} B on average")


if __name__ == "__main__":
    main()
