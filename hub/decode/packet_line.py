"""The line that decoding fills in, and reading bytes that may not be there."""

import ipaddress
import struct
from dataclasses import dataclass, field

MAX_INFO = 200
MAX_ADDRESS = 64


class Cut(Exception):
    """The packet ends (or the capture was cut) where this layer needs more; the text names the layer."""


@dataclass(slots=True)
class Line:
    """What is known of the packet so far. Lower layers write first, higher ones overwrite."""

    original_bytes: int
    source: str = ""
    destination: str = ""
    protocol: str = ""
    rule: str = ""
    parts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Add to the info, bounded as a whole."""
        if len(self.parts) < 32:
            self.parts.append(text[: MAX_INFO + 1])

    def info(self) -> str:
        """The info so far."""
        return " ".join(self.parts)

    def tell(self, protocol: str, rule: str, info: str = "") -> None:
        """A layer names itself: protocol and text replace those of the layer below, the colour only a weaker one."""
        self.protocol = protocol
        if self.rule not in STRONG_RULES:
            self.rule = rule
        if info:
            self.parts = [part for part in self.parts if part.startswith("[")]
            self.add(info)


STRONG_RULES = frozenset({"bad", "icmp-error", "rst", "handshake"})


def need(data: bytes, offset: int, count: int, layer: str) -> None:
    """Cut unless `count` bytes are at `offset`."""
    if offset < 0 or offset + count > len(data):
        raise Cut(f"|{layer}")


def u8(data: bytes, offset: int, layer: str) -> int:
    """One byte."""
    need(data, offset, 1, layer)
    return data[offset]


def u16(data: bytes, offset: int, layer: str) -> int:
    """Two bytes, network order."""
    need(data, offset, 2, layer)
    return data[offset] << 8 | data[offset + 1]


def u32(data: bytes, offset: int, layer: str) -> int:
    """Four bytes, network order."""
    need(data, offset, 4, layer)
    return int(struct.unpack_from(">I", data, offset)[0])


def mac(data: bytes, offset: int, layer: str) -> str:
    """A hardware address."""
    need(data, offset, 6, layer)
    return data[offset : offset + 6].hex(":")


def ipv4(data: bytes, offset: int, layer: str) -> str:
    """An IPv4 address."""
    need(data, offset, 4, layer)
    return ".".join(map(str, data[offset : offset + 4]))


def ipv6(data: bytes, offset: int, layer: str) -> str:
    """An IPv6 address (RFC 5952)."""
    need(data, offset, 16, layer)
    return str(ipaddress.IPv6Address(data[offset : offset + 16]))


def printable(text: str, limit: int) -> str:
    """Text with what doesn't print made visible (`\\x1b`), at most `limit` characters, `…` where it was cut."""
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text[: limit + 1]
        )
    return text if len(text) <= limit else text[: limit - 1] + "…"


def latin(data: bytes, limit: int = 120) -> str:
    """Bytes as text, one character each."""
    return printable(data[:limit].decode("latin-1"), limit)
