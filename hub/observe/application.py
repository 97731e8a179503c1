"""The few packets whose payload is read: names asked for in DNS, what a TLS ClientHello says, HTTP/1 requests.

The columns pick them (`application`), so that Python runs for these alone, and for at most MOST_READ of a batch. dpkt
reads DNS, out of a message that is cut down to its header and first question: bounds of its own it has none. It would
refuse a hello or a request that the snaplen or the segment's end cut, and those are common (a hello with a post-quantum
key share is longer than a segment), so these two are read here, as far as they go.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import dpkt.dns
import numpy as np

from hub.observe.observations import Application, Layers, Observations
from wire.body import Columns

MOST_READ = 4096
"""Packets of one batch; the rest is counted in `ApplicationData.unread`."""
_MOST_BYTES = 4096
"""Of one payload: names stand at its beginning."""
_MOST_QUESTION_BYTES = 255 + 4
_MOST_NAME = 255
_MOST_TARGET = 1024
_MOST_EXTENSIONS = 64
_MOST_PROTOCOLS = 16
_MOST_HEADERS = 64


@dataclass(frozen=True, slots=True)
class DnsMessage:
    """RFC 1035, multicast DNS (RFC 6762) and LLMNR (RFC 4795), over UDP or at the beginning of a TCP segment."""

    packet: int
    """Index in the batch."""
    transaction_id: int
    response: bool
    name: str
    """Of the first question, without the last dot; "" for the root or no question."""
    type: int
    """Of the first question; 0: there is none."""
    rcode: int
    """4 bits; 0 no error, 3 no such name."""


@dataclass(frozen=True, slots=True)
class TlsHello:
    """The ClientHello of TLS up to 1.3 (RFC 8446, 4.1.2), as much of it as was in the packet."""

    packet: int
    server_name: str
    """SNI (RFC 6066); "" when there is none (or it wasn't in this packet)."""
    alpn: tuple[str, ...]
    """Protocols offered (RFC 7301), at most 16."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The request line of HTTP/1 (RFC 9112) and its Host."""

    packet: int
    method: str
    target: str
    """At most 1,024 characters."""
    version: str
    """`HTTP/1.1`; "" when the line doesn't end in this packet."""
    host: str


@dataclass(slots=True)
class ApplicationData:
    """What a batch's payloads said. Text is bounded and printable (other bytes as \\x1b), and not escaped for HTML."""

    dns: list[DnsMessage] = field(default_factory=list)
    tls: list[TlsHello] = field(default_factory=list)
    http: list[HttpRequest] = field(default_factory=list)
    unreadable: int = 0
    """Packets that looked like it and weren't, or were cut too early."""
    unread: int = 0
    """Packets beyond MOST_READ."""


def read_applications(columns: Columns, seen: Observations) -> ApplicationData:
    """Read the payloads that `seen` (of the same columns) picks. Whatever they hold, nothing is raised."""
    found = ApplicationData()
    picked = np.flatnonzero(seen.application)
    found.unread = max(0, len(picked) - MOST_READ)
    picked = picked[:MOST_READ]
    data = memoryview(columns.data)
    begin = seen.packet_offset[picked] + seen.payload_offset[picked]
    end = begin + np.minimum(seen.payload_captured_bytes[picked], _MOST_BYTES)
    over_tcp = seen.layers[picked] & Layers.TCP
    kinds = seen.application[picked]
    for packet, kind, at, to, tcp in zip(
        picked.tolist(), kinds.tolist(), begin.tolist(), end.tolist(), over_tcp.tolist(), strict=True
    ):
        payload = bytes(data[at:to])
        try:
            if kind == Application.DNS:
                found.dns.append(_dns(packet, payload[2:] if tcp else payload))
            elif kind == Application.TLS_HELLO:
                found.tls.append(_hello(packet, payload))
            else:
                found.http.append(_request(packet, payload))
        except _Unreadable:
            found.unreadable += 1
    return found


class _Unreadable(Exception):
    """Not what it looked like, or too little of it."""


def _dns(packet: int, message: bytes) -> DnsMessage:
    if len(message) < 12:
        raise _Unreadable
    asked = int.from_bytes(message[4:6], "big") > 0
    questions = b"\0\1" if asked else b"\0\0"
    alone = message[:4] + questions + bytes(6) + message[12 : 12 + _MOST_QUESTION_BYTES * asked]
    try:
        read = dpkt.dns.DNS(alone)
    except Exception:  # dpkt raises a dozen kinds of errors on damaged input
        raise _Unreadable from None
    name, kind = (read.qd[0].name, read.qd[0].type) if asked else ("", 0)
    return DnsMessage(packet, read.id, bool(read.qr), _printable(name, _MOST_NAME), kind, read.rcode)


def _hello(packet: int, payload: bytes) -> TlsHello:
    server_name = ""
    protocols: list[str] = []
    hello = _Reader(payload[5:])  # behind the record's header
    try:
        hello.take(4 + 2 + 32)  # type and length, version, random
        hello.take(hello.number(1))  # session id
        hello.take(hello.number(2))  # cipher suites
        hello.take(hello.number(1))  # compression methods
        hello.number(2)
        for _ in range(_MOST_EXTENSIONS):
            kind = hello.number(2)
            extension = _Reader(hello.take(hello.number(2)))
            if kind == 0:
                extension.take(3)  # the list's length, and that it is a host name
                server_name = _latin(extension.take(extension.number(2)), _MOST_NAME)
            elif kind == 16:
                extension.take(2)
                while extension.left and len(protocols) < _MOST_PROTOCOLS:
                    protocols.append(_latin(extension.take(extension.number(1)), 64))
    except _Unreadable:  # it ends: with the extensions, or because it was cut
        if hello.position < 38:
            raise
    return TlsHello(packet, server_name, tuple(protocols))


class _Reader:
    """Numbers and bytes in their order; _Unreadable where they end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self._data) - self.position

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _Unreadable
        self.position += count
        return self._data[self.position - count : self.position]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")


def _request(packet: int, payload: bytes) -> HttpRequest:
    line, ended, rest = payload.partition(b"\n")
    method, _, behind = line.rstrip(b"\r").partition(b" ")
    target, _, version = behind.rpartition(b" ") if ended else (behind, b"", b"")
    if ended and not version.startswith(b"HTTP/1."):
        raise _Unreadable
    host = b""
    for header in rest.split(b"\n", _MOST_HEADERS)[:_MOST_HEADERS]:
        name, colon, value = header.partition(b":")
        if not header.rstrip(b"\r"):
            break
        if colon and name.strip().lower() == b"host":
            host = value.strip()
            break
    return HttpRequest(
        packet,
        _latin(method, 16),
        _latin(target, _MOST_TARGET),
        _latin(version, 16),
        _latin(host, _MOST_NAME),
    )


def _latin(data: bytes, limit: int) -> str:
    return _printable(data[:limit].decode("latin-1"), limit)


def _printable(text: str, limit: int) -> str:
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text[:limit])
    return shown[:limit]
