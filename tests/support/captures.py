"""A second opinion on capture files: a reader of pcap and pcapng that shares no code with wirepool, and a
comparison.

Written from draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng only, slow and plain, so that a mistake in
`wire._columns` can't hide in a test that reads with the same mistake.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Packet:
    timestamp_ns: int
    original_bytes: int
    link_type: int
    data: bytes
    interface: str = field(default="", compare=False)
    flags: int = field(default=0, compare=False)
    """epb_flags, 0 when the block has none."""

    def describe(self) -> str:
        seconds, nanoseconds = divmod(self.timestamp_ns, 10**9)
        head = self.data[:48].hex(" ", 2)
        size = f"{len(self.data)}/{self.original_bytes} B"
        return f"{seconds}.{nanoseconds:09d} {size} link type {self.link_type}: {head}…"


@dataclass(slots=True)
class Interface:
    link_type: int
    snaplen: int
    name: str
    units_per_second: int
    offset_s: int
    filter_text: str
    statistics: dict[int, int] = field(default_factory=dict)
    """Option code → value of the last interface statistics block (4 ifrecv, 5 ifdrop, 6 filteraccept, 7
    osdrop, 8 usrdeliv)."""


@dataclass(slots=True)
class Capture:
    packets: list[Packet]
    interfaces: list[Interface]
    complaint: str | None
    """Why reading stopped before the end of the file; None when it is whole."""


_PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
MAX_PACKET_BYTES = 262144


def read_capture(source: Path | bytes) -> Capture:
    """All packets up to the end or up to the first thing that can't be right (`complaint`)."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        return _read_pcapng(data)
    if data[:4] in _PCAP_MAGIC:
        return _read_pcap(data)
    return Capture([], [], "neither pcap nor pcapng")


def _read_pcap(data: bytes) -> Capture:
    order, nanoseconds_per_unit = _PCAP_MAGIC[data[:4]]
    if len(data) < 24:
        return Capture([], [], "truncated file header")
    snaplen, network = struct.unpack_from(order + "II", data, 16)
    # The upper bits carry the FCS length (draft-ietf-opsawg-pcap, section 4).
    link_type = network & 0xFFFF
    capture = Capture([], [Interface(link_type, snaplen, "", 10**9 // nanoseconds_per_unit, 0, "")], None)
    at = 24
    while at < len(data):
        if at + 16 > len(data):
            capture.complaint = "truncated record header"
            break
        seconds, fraction, captured, original = struct.unpack_from(order + "IIII", data, at)
        if captured > MAX_PACKET_BYTES:
            capture.complaint = f"record of {captured} bytes"
            break
        if at + 16 + captured > len(data):
            capture.complaint = "truncated record"
            break
        stamp = seconds * 10**9 + fraction * nanoseconds_per_unit
        capture.packets.append(Packet(stamp, original, link_type, data[at + 16 : at + 16 + captured]))
        at += 16 + captured
    return capture


def _options(order: str, data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from(order + "HH", data, at)
        if code == 0 or at + 4 + length > len(data):
            break
        found.setdefault(code, data[at + 4 : at + 4 + length])
        at += 4 + (length + 3) // 4 * 4
    return found


def _read_interface(order: str, body: bytes) -> Interface:
    link_type, _, snaplen = struct.unpack_from(order + "HHI", body)
    options = _options(order, body[8:])
    resolution = options.get(9, b"\x06")[0]
    units = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    offset = struct.unpack(order + "q", options[14])[0] if len(options.get(14, b"")) == 8 else 0
    name = options.get(2, b"").decode(errors="replace")
    filter_text = options.get(11, b"\0")[1:].decode(errors="replace")
    return Interface(link_type, snaplen, name, units, offset, filter_text)


def _read_pcapng(data: bytes) -> Capture:
    capture = Capture([], [], None)
    section: list[Interface] = []
    order = "<"
    at = 0
    while at < len(data):
        if at + 12 > len(data):
            capture.complaint = "truncated block header"
            break
        if data[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            section = []
        kind, length = struct.unpack_from(order + "II", data, at)
        if length < 12 or length % 4 or at + length > len(data):
            capture.complaint = f"block of {length} bytes"
            break
        body = data[at + 8 : at + length - 4]
        at += length
        try:
            _read_block(capture, section, order, kind, body)
        except (IndexError, struct.error, ValueError) as problem:
            capture.complaint = f"block type {kind}: {problem}"
            break
    return capture


def _read_block(capture: Capture, section: list[Interface], order: str, kind: int, body: bytes) -> None:
    if kind == 1:
        section.append(_read_interface(order, body))
        capture.interfaces.append(section[-1])
    elif kind in (2, 6):
        if kind == 6:
            number, high, low, captured, original = struct.unpack_from(order + "IIIII", body)
        else:
            number, _, high, low, captured, original = struct.unpack_from(order + "HHIIII", body)
        if 20 + captured > len(body):
            raise ValueError(f"{captured} captured bytes in a block of {len(body)}")
        interface = section[number]
        units = high << 32 | low
        stamp = units * 10**9 // interface.units_per_second + interface.offset_s * 10**9
        options = _options(order, body[20 + (captured + 3) // 4 * 4 :])
        flags = struct.unpack(order + "I", options[2])[0] if len(options.get(2, b"")) == 4 else 0
        data = body[20 : 20 + captured]
        capture.packets.append(Packet(stamp, original, interface.link_type, data, interface.name, flags))
    elif kind == 3:
        (original,) = struct.unpack_from(order + "I", body)
        interface = section[0]
        captured = min(original, interface.snaplen or original, len(body) - 4)
        capture.packets.append(
            Packet(0, original, interface.link_type, body[4 : 4 + captured], interface.name)
        )
    elif kind == 5:
        (number,) = struct.unpack_from(order + "I", body)
        for code, value in _options(order, body[12:]).items():
            if len(value) == 8 and code >= 4:
                section[number].statistics[code] = struct.unpack(order + "Q", value)[0]


def difference(expected: Iterable[Packet], found: Iterable[Packet], *, show: int = 5) -> str:
    """ "" when both hold the same packets, byte for byte and stamp for stamp, each as often; else what
    differs.

    Order is not compared: two sockets on one interface may queue packets of different processors in another
    order. A packet with the same bytes but another stamp is named as such, for then only the clock reading
    differs.
    """
    wanted, got = Counter(expected), Counter(found)
    missing, extra = list((wanted - got).elements()), list((got - wanted).elements())
    if not missing and not extra:
        return ""
    lines = [
        f"{wanted.total()} expected, {got.total()} found: {len(missing)} missing, {len(extra)} unexpected"
    ]
    by_bytes: dict[bytes, list[Packet]] = {}
    for packet in extra:
        by_bytes.setdefault(packet.data, []).append(packet)
    for packet in missing[:show]:
        lines.append(f"  missing    {packet.describe()}")
        for twin in by_bytes.get(packet.data, [])[:1]:
            lines.append(
                f"    same bytes at {twin.timestamp_ns - packet.timestamp_ns:+d} ns, {twin.describe()}"
            )
    lines += [f"  unexpected {packet.describe()}" for packet in extra[:show]]
    return "\n".join(lines)
