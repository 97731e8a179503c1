"""How each field of the pool is asked for in the embedded store: an expression in SQL and when there is a value.

p is `packets`, s `sources`, b `batches`, t `spoken`, y `payloads`; a question joins those that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hub.observe.observations import Layers
from hub.pool.embedded.columns import SPOKEN
from hub.pool.fields import BY_NAME, PACKET_FIELDS, Type
from hub.pool.values import DIRECTIONS, NETWORKS, PROBLEMS, TRANSPORTS, TUNNELS
from wire.body import CHECKSUM_NOT_READY, PRIORITY, SWAP_INTERVAL, TRUNCATED

FLOW = "flow_hash"
"""The column that stands for a Community ID: its digest's first eight bytes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One field."""

    type: Type
    value: str
    """Expression; of an address its upper half."""
    present: str = ""
    """Condition under which it has a value; "": always."""
    low: str = ""
    """Of an address, the expression of its lower half."""
    words: Mapping[str, int] | None = None
    """Of a KEYWORD that is kept as a number: word → number."""


def _seen(type_: Type, column: str, layers: Layers | None = None) -> Asked:
    return Asked(type_, f"p.{column}", f"(p.layers & {int(layers)}) <> 0" if layers else "")


def _where(type_: Type, column: str, other: str, least: int = 1) -> Asked:
    return Asked(type_, f"p.{column}", f"p.{other} >= {least}")


def _address(column: str, present: str) -> Asked:
    return Asked(Type.IP, f"p.{column}_high", present, low=f"p.{column}_low")


def _flag(bit: int) -> Asked:
    return Asked(Type.BOOLEAN, f"((p.flags & {bit}) <> 0)")


K, I, B = Type.KEYWORD, Type.INTEGER, Type.BOOLEAN  # noqa: E741
_IP = f"(p.layers & {int(Layers.IP)}) <> 0"
_ADDRESSED = f"(p.layers & {int(Layers.IP | Layers.ARP)}) <> 0"
_NETWORK = f"(CASE WHEN (p.layers & {int(Layers.ARP)}) <> 0 THEN 2 WHEN p.ip_version = 6 THEN 1 ELSE 0 END)"
_NAMED = f"{_IP} AND p.protocol IN ({', '.join(map(str, TRANSPORTS))})"


def _numbered(words: tuple[str, ...]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


ASKED: Mapping[str, Asked] = {
    "@timestamp": Asked(Type.TIME, "p.time_ns"),
    "timestamp_ns": Asked(Type.TIME, "(p.time_ns + p.offset_ns)"),
    "event.ingested": Asked(Type.TIME, "b.stored_ns"),
    "clock.offset_ns": Asked(I, "p.offset_ns", "b.clock_known"),
    "clock.uncertainty_ns": Asked(I, "b.uncertainty_ns", "b.clock_known"),
    "agent_id": Asked(K, "s.agent"),
    "agent_hostname": Asked(K, "s.hostname", "s.hostname <> ''"),
    "agent_ip": Asked(Type.IP, "s.address_high", "s.address_low <> 0", low="s.address_low"),
    "observer.ingress.interface.name": Asked(K, "s.interface"),
    "network.direction": Asked(K, "((p.flags & 3) % 3)", words=_numbered(DIRECTIONS)),
    "wirepool.session": Asked(K, "s.session"),
    "wirepool.boot": Asked(K, "s.boot"),
    "wirepool.lane": Asked(K, "s.lane"),
    "event.sequence": Asked(I, "b.sequence"),
    "wirepool.index": _seen(I, "idx"),
    "network.bytes": _seen(I, "original_bytes"),
    "wirepool.captured_bytes": _seen(I, "captured_bytes"),
    "wirepool.payload_bytes": _seen(I, "payload_bytes"),
    "wirepool.truncated": _flag(TRUNCATED),
    "wirepool.priority": _flag(PRIORITY),
    "wirepool.checksum_not_ready": _flag(CHECKSUM_NOT_READY),
    "wirepool.swap_interval": _flag(SWAP_INTERVAL),
    "wirepool.problem": Asked(
        K, "p.problem", "p.problem <> 0", words={word: number for number, word in PROBLEMS.items()}
    ),
    "source.mac": _seen(Type.MAC, "source_mac", Layers.ETHERNET),
    "destination.mac": _seen(Type.MAC, "destination_mac", Layers.ETHERNET),
    "network.vlan.id": _where(I, "vlan_outer", "vlan_tags"),
    "network.inner.vlan.id": _where(I, "vlan_inner", "vlan_tags", 2),
    "wirepool.ethertype": _where(I, "ethertype", "ethertype"),
    "arp.operation": _seen(I, "arp_operation", Layers.ARP),
    "network.type": Asked(K, _NETWORK, _ADDRESSED, words=_numbered(NETWORKS)),
    "source.ip": _address("source_address", _ADDRESSED),
    "destination.ip": _address("destination_address", _ADDRESSED),
    "network.iana_number": _seen(I, "protocol", Layers.IP),
    "network.transport": Asked(
        K, "p.protocol", _NAMED, words={word: number for number, word in TRANSPORTS.items()}
    ),
    "ip.ttl": _seen(I, "ttl", Layers.IP),
    "ip.dscp": _seen(I, "dscp", Layers.IP),
    "ip.ecn": _seen(I, "ecn", Layers.IP),
    "ip.id": _seen(I, "ip_id", Layers.IP),
    "ip.total_bytes": _seen(I, "ip_total_bytes", Layers.IP),
    "ip.fragment_offset_bytes": _seen(I, "fragment_offset_bytes", Layers.FRAGMENT),
    "ip.more_fragments": _seen(B, "more_fragments", Layers.FRAGMENT),
    "source.port": _seen(I, "source_port", Layers.PORTS),
    "destination.port": _seen(I, "destination_port", Layers.PORTS),
    "network.community_id": Asked(K, f"p.{FLOW}", f"p.{FLOW} <> 0"),
    "tcp.flags": _seen(I, "tcp_flags", Layers.TCP),
    **{
        field.name: Asked(
            B, f"((p.tcp_flags & {field.bit_of[1]}) <> 0)", f"(p.layers & {int(Layers.TCP)}) <> 0"
        )
        for field in PACKET_FIELDS
        if field.bit_of
    },
    "tcp.sequence": _seen(I, "tcp_sequence", Layers.TCP),
    "tcp.acknowledgement": _seen(I, "tcp_acknowledgement", Layers.TCP),
    "tcp.window": _seen(I, "tcp_window", Layers.TCP),
    "icmp.type": _seen(I, "icmp_type", Layers.ICMP),
    "icmp.code": _seen(I, "icmp_code", Layers.ICMP),
    "wirepool.hop_hash": _where(Type.HASH, "hop_hash", "hop_hash"),
    "wirepool.nat_hash": _where(Type.HASH, "nat_hash", "nat_hash"),
    "tunnel.type": Asked(K, "p.tunnel_kind", "p.tunnel_kind <> 0", words=_numbered(TUNNELS)),
    "tunnel.id": _where(I, "tunnel_id", "tunnel_kind"),
    "tunnel.source.ip": _address("outer_source_address", "p.outer_version <> 0"),
    "tunnel.destination.ip": _address("outer_destination_address", "p.outer_version <> 0"),
    **{
        field: Asked(BY_NAME[field].type, f"t.{column}", f"t.{column} IS NOT NULL")
        for column, field in SPOKEN.items()
    },
    "wirepool.payload": Asked(Type.BYTES, "y.payload", "y.payload IS NOT NULL"),
}
if set(ASKED) != set(BY_NAME):
    raise ImportError(f"the embedded store doesn't know {set(ASKED) ^ set(BY_NAME)}")
