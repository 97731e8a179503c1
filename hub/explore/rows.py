"""Rows of the pool as lines of a table: the columns of the live view, and the time by the pool's clock.

Like there, source and destination are addresses; ports stand before what is known of the packet. All text is as it
came (hub.pool bounds it and makes it printable) and NOT escaped for HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hub.pool.store import PacketRow, Value

MAX_INFO = 200
_TCP_FLAGS = (
    ("SYN", 2),
    ("FIN", 1),
    ("RST", 4),
    ("PSH", 8),
    ("ACK", 16),
    ("URG", 32),
    ("ECE", 64),
    ("CWR", 128),
)
_ICMP_ERRORS = {"icmp": {3, 4, 5, 11, 12}, "ipv6-icmp": {1, 2, 3, 4}}
_ICMP = {
    "icmp": {0: "Echo reply", 3: "Unreachable", 5: "Redirect", 8: "Echo request", 11: "Time exceeded"},
    "ipv6-icmp": {
        1: "Unreachable",
        2: "Too big",
        3: "Time exceeded",
        128: "Echo request",
        129: "Echo reply",
        133: "Router solicitation",
        134: "Router advertisement",
        135: "Neighbour solicitation",
        136: "Neighbour advertisement",
    },
}
_WORDS = (
    ("wirepool.truncated", "truncated"),
    ("wirepool.checksum_not_ready", "checksum-not-ready"),
    ("wirepool.priority", "priority"),
    ("wirepool.swap_interval", "swap-interval"),
)


@dataclass(frozen=True, slots=True)
class ShownPacket:
    """A line of the table."""

    observation: str
    time_ns: int
    """By the pool's clock."""
    raw_ns: int
    """By the agent's."""
    corrected: bool
    """The two clocks' offset was known."""
    uncertainty_ns: int | None
    stored_ns: int
    """When the archive stored it: where it is looked for."""
    agent: str
    interface: str
    source: str
    destination: str
    protocol: str
    length: int
    info: str
    rule: str
    """Colour, as hub.decode.summary names it."""
    flags: tuple[str, ...]
    community_id: str


def shown(row: PacketRow) -> ShownPacket:
    """One observation as a line."""
    values = row.values
    protocol, info, rule = _told(values)
    direction = {"ingress": ("in",), "egress": ("out",)}.get(str(values.get("network.direction", "")), ())
    return ShownPacket(
        str(row.observation),
        row.time_ns,
        _number(values, "timestamp_ns") or row.time_ns,
        "clock.offset_ns" in values,
        _number(values, "clock.uncertainty_ns"),
        _number(values, "event.ingested") or row.time_ns,
        _text(values, "agent_id"),
        _text(values, "observer.ingress.interface.name"),
        _text(values, "source.ip") or _text(values, "source.mac"),
        _text(values, "destination.ip") or _text(values, "destination.mac"),
        protocol,
        _number(values, "network.bytes") or 0,
        info[:MAX_INFO],
        rule,
        direction + tuple(word for name, word in _WORDS if values.get(name) is True),
        _text(values, "network.community_id"),
    )


def _text(values: Mapping[str, Value], name: str) -> str:
    value = values.get(name)
    return "" if value is None else str(value)


def _number(values: Mapping[str, Value], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def _told(values: Mapping[str, Value]) -> tuple[str, str, str]:
    """(protocol, info, rule)."""
    protocol, info, rule = _carried(values)
    parts = []
    source, destination = _number(values, "source.port"), _number(values, "destination.port")
    if source is not None and destination is not None:
        parts.append(f"{source} → {destination}")
    if tunnel := _text(values, "tunnel.type"):
        parts.append(f"[{tunnel} {_text(values, 'tunnel.id')}]".replace(" ]", "]"))
    if vlan := _text(values, "network.vlan.id"):
        parts.append(f"[VLAN {vlan}]")
    if _number(values, "ip.fragment_offset_bytes") or values.get("ip.more_fragments") is True:
        parts.append(f"[fragment at {_number(values, 'ip.fragment_offset_bytes') or 0}]")
    if problem := _text(values, "wirepool.problem"):
        parts.append(f"[{problem.replace('_', ' ')}]")
        rule = "bad" if problem.startswith(("bad", "short")) else rule
    return protocol, " ".join(filter(None, [*parts, info])), rule


def _carried(values: Mapping[str, Value]) -> tuple[str, str, str]:
    transport = _text(values, "network.transport")
    if "dns.type" in values:
        code = _number(values, "dns.response_code")
        answer = "" if not code else f" (code {code})"
        return "DNS", f"{_text(values, 'dns.type')} {_text(values, 'dns.question.name')}{answer}", "dns"
    if "tls.client.server_name" in values or "tls.client.alpn" in values:
        return "TLS", f"Client hello {_text(values, 'tls.client.server_name')}".strip(), "tls"
    if "http.request.method" in values:
        request = (_text(values, name) for name in ("http.request.method", "url.original", "url.domain"))
        return "HTTP", " ".join(filter(None, request)), "http"
    if "arp.operation" in values:
        word = {1: "Who has", 2: "Is at"}.get(_number(values, "arp.operation") or 0, "")
        return "ARP", f"{word} {_text(values, 'destination.ip')}".strip(), "arp"
    if transport in _ICMP:
        kind = _number(values, "icmp.type")
        info = _ICMP[transport].get(-1 if kind is None else kind, "" if kind is None else f"type {kind}")
        rule = "icmp-error" if kind in _ICMP_ERRORS[transport] else "icmp"
        return "ICMPv6" if transport == "ipv6-icmp" else "ICMP", info, rule
    if transport == "tcp":
        return "TCP", *_tcp(values)
    size = _number(values, "wirepool.payload_bytes")
    info = f"Len={size}" if transport == "udp" and size is not None else ""
    known = transport or _text(values, "network.type")
    if not known:
        ethertype = _number(values, "wirepool.ethertype")
        return (f"0x{ethertype:04x}" if ethertype else "–"), "", "other"
    return known.upper(), info, "udp" if transport == "udp" else "other"


def _tcp(values: Mapping[str, Value]) -> tuple[str, str]:
    flags = _number(values, "tcp.flags") or 0
    words = ", ".join(word for word, bit in _TCP_FLAGS if flags & bit)
    numbers = (
        ("Seq", "tcp.sequence"),
        ("Ack", "tcp.acknowledgement" if flags & 16 else ""),
        ("Win", "tcp.window"),
        ("Len", "wirepool.payload_bytes"),
    )
    told = [f"{word}={value}" for word, name in numbers if (value := _number(values, name)) is not None]
    rule = "rst" if flags & 4 else "handshake" if flags & 3 else "tcp"
    return " ".join([f"[{words}]", *told]) if words else " ".join(told), rule
