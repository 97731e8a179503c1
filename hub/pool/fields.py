"""The one table of what can be asked of the pool. Stores, query language, completion and docs are made from it.

Names are ECS 8 (Elastic Common Schema) where it has one; the others begin with `wirepool.`, or stand beside ECS where
it names the header and lacks the field (`ip.ttl`, `tcp.flags`, `icmp.type`). Addresses and ports describe the innermost
header that was read (hub.observe), `tunnel.*` the outermost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hub.observe.observations import Layers
from hub.pool import values as v
from hub.pool.values import Reader
from wire.body import CHECKSUM_NOT_READY, PRIORITY, SWAP_INTERVAL, TRUNCATED


class Type(StrEnum):
    """What a field's values are, and with it how they are written in a query."""

    KEYWORD = "keyword"
    """Text, compared as a whole."""
    INTEGER = "integer"
    """Whole number that fits 63 bits."""
    TIME = "time"
    """Nanoseconds since 1970, UTC; written as such or in ISO 8601."""
    IP = "ip"
    """Address; compared also with a network."""
    MAC = "mac"
    """aa:bb:cc:dd:ee:ff."""
    BOOLEAN = "boolean"
    HASH = "hash"
    """64 bits, written as 16 hexadecimal digits."""
    BYTES = "bytes"
    """Shown, not asked for."""


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the table."""

    name: str
    type: Type
    meaning: str
    aliases: tuple[str, ...] = field(default=(), kw_only=True)
    """Shorter names in queries."""
    text: bool = field(default=False, kw_only=True)
    """A word without a field's name is looked for here, too."""


@dataclass(frozen=True, slots=True)
class PacketField(Field):
    """Of an observation."""

    read: Reader
    """A batch's values."""
    bit_of: tuple[str, int] | None = field(default=None, kw_only=True)
    """(field, mask): this is a bit of that one, which a store that can compute needn't keep."""


@dataclass(frozen=True, slots=True)
class ConversationField(Field):
    """Of a conversation."""

    attribute: str
    """Of hub.pool.store.ConversationRow; where that is a list, each of its values counts."""


def _bit(name: str, mask: int) -> PacketField:
    word = name.partition(".")[2].upper()
    return PacketField(
        name,
        Type.BOOLEAN,
        f"The TCP flag {word}.",
        lambda batch: v.Values((batch.seen.tcp_flags & mask) != 0, (batch.seen.layers & Layers.TCP) != 0),
        bit_of=("tcp.flags", mask),
    )


K, I, B = Type.KEYWORD, Type.INTEGER, Type.BOOLEAN  # noqa: E741
_ADDRESSED = Layers.IP | Layers.ARP

PACKET_FIELDS: tuple[PacketField, ...] = (
    # When, by whom
    PacketField(
        "@timestamp",
        Type.TIME,
        "When, by the pool's clock as far as it was known when pooled.",
        v.time,
        aliases=("time",),
    ),
    PacketField("timestamp_ns", Type.TIME, "When, by the agent's clock.", v.raw_time, aliases=("raw_time",)),
    PacketField(
        "event.ingested",
        Type.TIME,
        "When the archive stored its batch, by the server's clock.",
        v.number(lambda b: b.stored_ns),
    ),
    PacketField(
        "clock.offset_ns",
        I,
        "What was taken off the agent's time; none: its offset wasn't known.",
        v.number(lambda b: b.clock.estimate_ns if b.clock else None),
    ),
    PacketField(
        "clock.uncertainty_ns",
        I,
        "How far the true offset may lie from it.",
        v.number(lambda b: b.clock.uncertainty_ns if b.clock else None),
    ),
    PacketField(
        "agent_id", K, "Which agent.", v.constant(lambda b: b.header.agent), aliases=("agent",), text=True
    ),
    PacketField(
        "agent_hostname",
        K,
        "Its host's name, as it says.",
        v.constant(lambda b: b.names.hostname),
        aliases=("host",),
        text=True,
    ),
    PacketField("agent_ip", Type.IP, "Its host's address, as it says.", v.address(lambda b: b.names.address)),
    PacketField(
        "observer.ingress.interface.name",
        K,
        "On which interface.",
        v.constant(lambda b: b.header.interface),
        aliases=("interface", "if"),
        text=True,
    ),
    PacketField(
        "network.direction",
        K,
        "Seen from the agent's host: ingress, egress, unknown.",
        v.direction,
        aliases=("direction", "dir"),
    ),
    # Which observation
    PacketField(
        "wirepool.session",
        K,
        "Capture session.",
        v.constant(lambda b: b.header.session),
        aliases=("session",),
    ),
    PacketField(
        "wirepool.boot",
        K,
        "The agent's boot, 32 hexadecimal digits.",
        v.constant(lambda b: b.header.boot.hex()),
    ),
    PacketField(
        "wirepool.lane", K, "bulk or prio.", v.constant(lambda b: b.header.lane.value), aliases=("lane",)
    ),
    PacketField(
        "event.sequence",
        I,
        "Number of the batch in its lane.",
        v.number(lambda b: b.header.sequence),
        aliases=("sequence",),
    ),
    PacketField("wirepool.index", I, "The packet's place in its batch, from 0.", v.index, aliases=("index",)),
    # How long, in which state
    PacketField(
        "network.bytes", I, "Length on the wire.", v.own("original_bytes"), aliases=("bytes", "length", "len")
    ),
    PacketField(
        "wirepool.captured_bytes",
        I,
        "How much of it was captured.",
        v.own("captured_bytes"),
        aliases=("captured",),
    ),
    PacketField(
        "wirepool.payload_bytes",
        I,
        "Length of the payload on the wire.",
        v.column("payload_bytes"),
        aliases=("payload_bytes",),
    ),
    PacketField(
        "wirepool.truncated",
        B,
        "Shorter than on the wire (snaplen).",
        v.flag(TRUNCATED),
        aliases=("truncated",),
    ),
    PacketField("wirepool.priority", B, "Taken by a priority rule.", v.flag(PRIORITY), aliases=("priority",)),
    PacketField(
        "wirepool.checksum_not_ready",
        B,
        "Sent by this host before its card filled the checksum in.",
        v.flag(CHECKSUM_NOT_READY),
    ),
    PacketField(
        "wirepool.swap_interval", B, "Captured while the filter was exchanged.", v.flag(SWAP_INTERVAL)
    ),
    PacketField(
        "wirepool.problem",
        K,
        "What kept it from being read further.",
        v.problem,
        aliases=("problem",),
        text=True,
    ),
    # Link
    PacketField("source.mac", Type.MAC, "Sender on this link.", v.column("source_mac", Layers.ETHERNET)),
    PacketField(
        "destination.mac", Type.MAC, "Receiver on this link.", v.column("destination_mac", Layers.ETHERNET)
    ),
    PacketField(
        "network.vlan.id", I, "First VLAN tag.", v.where("vlan_outer", "vlan_tags"), aliases=("vlan",)
    ),
    PacketField(
        "network.inner.vlan.id",
        I,
        "Last VLAN tag of two or more.",
        lambda b: v.Values(b.seen.vlan_inner, b.seen.vlan_tags > 1),
    ),
    PacketField(
        "wirepool.ethertype", I, "Behind all tags.", v.where("ethertype", "ethertype"), aliases=("ethertype",)
    ),
    PacketField("arp.operation", I, "1 request, 2 reply.", v.column("arp_operation", Layers.ARP)),
    # Network
    PacketField("network.type", K, "ipv4, ipv6 or arp.", v.network, text=True),
    PacketField(
        "source.ip", Type.IP, "Sender.", v.column("source_address", _ADDRESSED), aliases=("src", "src_ip")
    ),
    PacketField(
        "destination.ip",
        Type.IP,
        "Receiver.",
        v.column("destination_address", _ADDRESSED),
        aliases=("dst", "dst_ip"),
    ),
    PacketField(
        "network.iana_number",
        I,
        "IP protocol number.",
        v.column("protocol", Layers.IP),
        aliases=("protocol_number",),
    ),
    PacketField(
        "network.transport",
        K,
        "tcp, udp, icmp, ipv6-icmp, sctp, …",
        v.transport,
        aliases=("protocol", "proto", "transport"),
        text=True,
    ),
    PacketField("ip.ttl", I, "Time to live, hop limit.", v.column("ttl", Layers.IP), aliases=("ttl",)),
    PacketField(
        "ip.dscp", I, "Differentiated services code point.", v.column("dscp", Layers.IP), aliases=("dscp",)
    ),
    PacketField("ip.ecn", I, "Congestion notification.", v.column("ecn", Layers.IP)),
    PacketField("ip.id", I, "Identification.", v.column("ip_id", Layers.IP)),
    PacketField("ip.total_bytes", I, "The IP packet with its header.", v.column("ip_total_bytes", Layers.IP)),
    PacketField(
        "ip.fragment_offset_bytes",
        I,
        "Where in its datagram this fragment belongs.",
        v.column("fragment_offset_bytes", Layers.FRAGMENT),
    ),
    PacketField(
        "ip.more_fragments", B, "Not the last fragment.", v.column("more_fragments", Layers.FRAGMENT)
    ),
    # Transport
    PacketField(
        "source.port",
        I,
        "Sender's port.",
        v.column("source_port", Layers.PORTS),
        aliases=("src_port", "sport"),
    ),
    PacketField(
        "destination.port",
        I,
        "Receiver's port.",
        v.column("destination_port", Layers.PORTS),
        aliases=("dst_port", "dport"),
    ),
    PacketField(
        "network.community_id",
        K,
        "The connection's id, the same in both directions (version 1, seed 0).",
        v.where("community_id", "community_id"),
        aliases=("community_id", "flow"),
        text=True,
    ),
    PacketField("tcp.flags", I, "FIN 1, SYN 2, RST 4, PSH 8, ACK 16, …", v.column("tcp_flags", Layers.TCP)),
    _bit("tcp.fin", 1),
    _bit("tcp.syn", 2),
    _bit("tcp.rst", 4),
    _bit("tcp.psh", 8),
    _bit("tcp.ack", 16),
    PacketField(
        "tcp.sequence", I, "Sequence number, as it stands there.", v.column("tcp_sequence", Layers.TCP)
    ),
    PacketField(
        "tcp.acknowledgement",
        I,
        "Acknowledgement, as it stands there.",
        v.column("tcp_acknowledgement", Layers.TCP),
    ),
    PacketField("tcp.window", I, "Window, unscaled.", v.column("tcp_window", Layers.TCP)),
    PacketField("icmp.type", I, "Of ICMP or ICMPv6.", v.column("icmp_type", Layers.ICMP)),
    PacketField("icmp.code", I, "Alike.", v.column("icmp_code", Layers.ICMP)),
    # Fingerprints
    PacketField(
        "wirepool.hop_hash",
        Type.HASH,
        "The same for one packet on both sides of a router.",
        v.where("hop_hash", "hop_hash"),
        aliases=("hop_hash",),
    ),
    PacketField(
        "wirepool.nat_hash",
        Type.HASH,
        "The same for one packet also on both sides of address translation.",
        v.where("nat_hash", "nat_hash"),
        aliases=("nat_hash",),
    ),
    # Tunnel
    PacketField(
        "tunnel.type", K, "gre, vxlan, geneve, ip_in_ip, erspan.", v.tunnel, aliases=("tunnel",), text=True
    ),
    PacketField(
        "tunnel.id", I, "VNI, key or session.", v.where("tunnel_id", "tunnel_kind"), aliases=("vni",)
    ),
    PacketField(
        "tunnel.source.ip", Type.IP, "Sender outside.", v.where("outer_source_address", "outer_version")
    ),
    PacketField(
        "tunnel.destination.ip",
        Type.IP,
        "Receiver outside.",
        v.where("outer_destination_address", "outer_version"),
    ),
    # Application
    PacketField(
        "dns.question.name",
        K,
        "The name asked for.",
        v.spoken(lambda b: ((m.packet, m.name) for m in b.applications.dns)),
        aliases=("dns",),
        text=True,
    ),
    PacketField(
        "dns.question.type",
        I,
        "Number of the type asked for: 1 A, 28 AAAA, 15 MX, …",
        v.counted(lambda b: ((m.packet, m.type) for m in b.applications.dns if m.type)),
    ),
    PacketField(
        "dns.id",
        I,
        "Transaction.",
        v.counted(lambda b: ((m.packet, m.transaction_id) for m in b.applications.dns)),
    ),
    PacketField(
        "dns.type",
        K,
        "query or answer.",
        v.spoken(lambda b: ((m.packet, "answer" if m.response else "query") for m in b.applications.dns)),
    ),
    PacketField(
        "dns.response_code",
        I,
        "0 no error, 3 no such name.",
        v.counted(lambda b: ((m.packet, m.rcode) for m in b.applications.dns if m.response)),
    ),
    PacketField(
        "tls.client.server_name",
        K,
        "SNI of the ClientHello.",
        v.spoken(lambda b: ((m.packet, m.server_name) for m in b.applications.tls)),
        aliases=("sni",),
        text=True,
    ),
    PacketField(
        "tls.client.alpn",
        K,
        "Protocols the client offers, with commas between.",
        v.spoken(lambda b: ((m.packet, ",".join(m.alpn)) for m in b.applications.tls)),
        aliases=("alpn",),
    ),
    PacketField(
        "http.request.method",
        K,
        "Of HTTP/1.",
        v.spoken(lambda b: ((m.packet, m.method) for m in b.applications.http)),
        aliases=("method",),
    ),
    PacketField(
        "url.domain",
        K,
        "Host of the HTTP/1 request.",
        v.spoken(lambda b: ((m.packet, m.host) for m in b.applications.http)),
        text=True,
    ),
    PacketField(
        "url.original",
        K,
        "Target of the HTTP/1 request.",
        v.spoken(lambda b: ((m.packet, m.target) for m in b.applications.http)),
        aliases=("url",),
        text=True,
    ),
    PacketField(
        "wirepool.payload", Type.BYTES, "Payload as captured; only of sessions that pool it.", v.payload
    ),
)

CONVERSATION_FIELDS: tuple[ConversationField, ...] = (
    ConversationField(
        "@timestamp", Type.TIME, "When it began, by the pool's clock.", "first_ns", aliases=("time",)
    ),
    ConversationField("event.end", Type.TIME, "When it was last seen.", "last_ns"),
    ConversationField("agent_id", K, "An agent that saw it.", "agents", aliases=("agent",), text=True),
    ConversationField("wirepool.session", K, "A capture session it is in.", "sessions", aliases=("session",)),
    ConversationField("source.ip", Type.IP, "Who began.", "source", aliases=("src", "src_ip")),
    ConversationField("destination.ip", Type.IP, "With whom.", "destination", aliases=("dst", "dst_ip")),
    ConversationField("source.port", I, "Of who began.", "source_port", aliases=("src_port", "sport")),
    ConversationField(
        "destination.port", I, "Of the other.", "destination_port", aliases=("dst_port", "dport")
    ),
    ConversationField(
        "network.iana_number", I, "IP protocol number.", "protocol", aliases=("protocol_number",)
    ),
    ConversationField(
        "network.transport",
        K,
        "tcp, udp, icmp, ipv6-icmp, sctp, …",
        "transport",
        aliases=("protocol", "proto", "transport"),
        text=True,
    ),
    ConversationField(
        "network.community_id",
        K,
        "Its id, also any behind address translation.",
        "community_ids",
        aliases=("community_id", "flow"),
        text=True,
    ),
    ConversationField("network.bytes", I, "On the wire.", "bytes", aliases=("bytes",)),
    ConversationField("network.packets", I, "Distinct packets.", "packets", aliases=("packets",)),
    ConversationField("wirepool.lost_packets", I, "Vanished on the way.", "lost_packets", aliases=("lost",)),
    ConversationField(
        "wirepool.retransmissions", I, "Sent again.", "retransmissions", aliases=("retransmissions",)
    ),
    ConversationField(
        "wirepool.names", K, "Host names spoken in it.", "names", aliases=("name", "sni", "dns"), text=True
    ),
)

EITHER: dict[str, tuple[str, str]] = {
    "ip": ("source.ip", "destination.ip"),
    "port": ("source.port", "destination.port"),
    "mac": ("source.mac", "destination.mac"),
}
"""Names in queries that mean either of two fields."""

BY_NAME: dict[str, PacketField] = {one.name: one for one in PACKET_FIELDS}
BY_ANY_NAME: dict[str, PacketField] = BY_NAME | {alias: one for one in PACKET_FIELDS for alias in one.aliases}
CONVERSATION_BY_ANY_NAME: dict[str, ConversationField] = {
    name: one for one in CONVERSATION_FIELDS for name in (one.name, *one.aliases)
}
