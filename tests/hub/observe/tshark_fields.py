"""What tshark says of packets, in the decoder's terms: the innermost packet that isn't quoted by ICMP.

tshark gives each field as often as it occurs, outside in; `frame.protocols` says which occurrence belongs where. It
reads packets one by one here: no reassembly, no sequence analysis, so that its answer is about the packet alone.
"""

from __future__ import annotations

import ipaddress
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.captures import Packet

OPTIONS = (
    "ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.desegment_tcp_streams:FALSE",
    "tcp.analyze_sequence_numbers:FALSE", "tcp.relative_sequence_numbers:FALSE",
)  # fmt: skip
QUOTING = ("icmp", "icmpv6", "sflow", "openflow_v4")
"""Protocols in which a packet is data: an error's cause, a switch's sample."""
ABSENT = (
    "ip_version",
    "arp_operation",
    "vlan_tags",
    "tunnel_id",
    "source_port",
    "destination_port",
    "tcp_flags",
)
"""Columns compared also where tshark has nothing: we must not see what it doesn't."""
_EXTENSIONS = {
    "ipv6.hopopts": "ipv6.hopopts.nxt", "ipv6.routing": "ipv6.routing.nxt", "ipv6.dstopts": "ipv6.dstopts.nxt",
    "ipv6.fraghdr": "ipv6.fraghdr.nxt", "ah": "ah.next_header", "mipv6": "mip6.proto", "shim6": "shim6.nxt",
    "hip": "hip.proto",
}  # fmt: skip
_IP4 = {"source_address": "ip.src", "destination_address": "ip.dst", "ttl": "ip.ttl", "dscp": "ip.dsfield.dscp",
        "ecn": "ip.dsfield.ecn", "ip_id": "ip.id", "fragment_offset_bytes": "ip.frag_offset",
        "more_fragments": "ip.flags.mf", "ip_total_bytes": "ip.len", "protocol": "ip.proto"}  # fmt: skip
_IP6 = {"source_address": "ipv6.src", "destination_address": "ipv6.dst", "ttl": "ipv6.hlim",
        "dscp": "ipv6.tclass.dscp", "ecn": "ipv6.tclass.ecn", "ip_total_bytes": "ipv6.plen",
        "protocol": "ipv6.nxt"}  # fmt: skip
_FRAGMENT = {
    "ip_id": "ipv6.fraghdr.ident",
    "fragment_offset_bytes": "ipv6.fraghdr.offset",
    "more_fragments": "ipv6.fraghdr.more",
}
_TRANSPORTS = {
    "tcp": {"source_port": "tcp.srcport", "destination_port": "tcp.dstport", "tcp_flags": "tcp.flags",
            "tcp_sequence": "tcp.seq_raw", "tcp_acknowledgement": "tcp.ack_raw", "payload_bytes": "tcp.len",
            "tcp_window": "tcp.window_size_value"},
    "udp": {"source_port": "udp.srcport", "destination_port": "udp.dstport", "payload_bytes": "udp.length"},
    "sctp": {"source_port": "sctp.srcport", "destination_port": "sctp.dstport"},
    "dccp": {"source_port": "dccp.srcport", "destination_port": "dccp.dstport"},
    "icmp": {"icmp_type": "icmp.type", "icmp_code": "icmp.code"},
    "icmpv6": {"icmp_type": "icmpv6.type", "icmp_code": "icmpv6.code"},
}  # fmt: skip
_ARP = {
    "arp_operation": "arp.opcode",
    "source_address": "arp.src.proto_ipv4",
    "destination_address": "arp.dst.proto_ipv4",
}
_TUNNELS = {"erspan": "erspan.spanid", "gre": "gre.key", "vxlan": "vxlan.vni", "geneve": "geneve.vni"}
_TAGS = {"vlan": ("vlan.id", "vlan.etype"), "ieee8021ad": ("ieee8021ad.id", "")}
_PLAIN = (
    "frame.protocols", "eth.type", "eth.src", "eth.dst", "sll.etype", "sll.src.eth", "vlan.id", "vlan.etype",
    "ieee8021ad.id", "communityid", "icmp.ident", "icmp.seq", "icmpv6.echo.identifier",
    "icmpv6.echo.sequence_number", "llc.type",
)  # fmt: skip
FIELDS = tuple(
    dict.fromkeys(
        (
            *_PLAIN,
            *_EXTENSIONS.values(),
            *_IP4.values(),
            *_IP6.values(),
            *_FRAGMENT.values(),
            *(name for names in _TRANSPORTS.values() for name in names.values()),
            *_ARP.values(),
            *_TUNNELS.values(),
        )
    )
)


def write_pcapng(path: Path, packets: Sequence[Packet]) -> None:
    """One file of all packets, an interface per link type, so that tshark starts once."""
    numbers = {kind: at for at, kind in enumerate(dict.fromkeys(packet.link_type for packet in packets))}
    with path.open("wb") as file:
        file.write(struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28))
        for kind in numbers:
            file.write(struct.pack("<IIHHII", 1, 20, kind, 0, 0, 20))
        for at, packet in enumerate(packets):
            body = packet.data + bytes(-len(packet.data) % 4)
            size = 32 + len(body)
            head = (6, size, numbers[packet.link_type], 0, at, len(packet.data), packet.original_bytes)
            file.write(struct.pack("<7I", *head) + body + struct.pack("<I", size))


def ask(packets: Sequence[Packet], directory: Path) -> list[dict[str, object]]:
    """Each packet by the decoder's column names. A column that tshark has nothing for is missing, or 0 of ABSENT."""
    path = directory / "all.pcapng"
    write_pcapng(path, packets)
    argv = ["tshark", "-n", "-r", str(path), "-T", "fields", "--enable-protocol", "communityid"]
    argv += ["-E", "occurrence=a", "-E", "aggregator=|", "-E", "separator=/t"]
    for option in OPTIONS:
        argv += ["-o", option]
    for name in FIELDS:
        argv += ["-e", name]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == len(packets)
    return [_understood(dict(zip(FIELDS, line.split("\t"), strict=True))) for line in lines]


def _understood(raw: dict[str, str]) -> dict[str, object]:
    fields = {name: value.split("|") for name, value in raw.items() if value}
    found: dict[str, object] = dict.fromkeys(ABSENT, 0)
    names = raw["frame.protocols"].split(":")
    quote = next((at for at, name in enumerate(names) if name in QUOTING), len(names) - 1)
    own = names[: quote + 1]

    def take(columns: dict[str, str], occurrence: int) -> None:
        for column, field in columns.items():
            values = fields.get(field, [])
            if 0 <= occurrence < len(values):
                found[column] = _value(column, values[occurrence])

    _link(fields, own, found)
    inside = max((at for at, name in enumerate(own) if name in ("ip", "ipv6", "arp")), default=-1)
    if inside < 0:
        return found
    kind, occurrence = own[inside], own[: inside + 1].count(own[inside]) - 1
    if kind == "arp":
        take(_ARP, occurrence)
        return found
    found["ip_version"] = 4 if kind == "ip" else 6
    take(_IP4 if kind == "ip" else _IP6, occurrence)
    if kind == "ipv6" and "ip_total_bytes" in found:
        found["ip_total_bytes"] = int(str(found["ip_total_bytes"])) + 40
    for name in own[inside + 1 :]:
        if name in _EXTENSIONS:
            take({"protocol": _EXTENSIONS[name]}, own.count(name) - 1)
        if name == "ipv6.fraghdr":
            take(_FRAGMENT, own.count(name) - 1)
    for name, columns in _TRANSPORTS.items():
        if name in own[inside:]:
            take(columns, own.count(name) - 1)
            if name == "udp" and "payload_bytes" in found:
                found["payload_bytes"] = int(str(found["payload_bytes"])) - 8
            break
    echo = found.get("icmp_type") in ((0, 8) if kind == "ip" else (128, 129))
    for field, column in () if not echo else (("icmp.ident", "icmp_id"), ("icmp.seq", "icmp_sequence"),
                          ("icmpv6.echo.identifier", "icmp_id"),
                          ("icmpv6.echo.sequence_number", "icmp_sequence")):  # fmt: skip
        take({column: field}, 0)
    if "communityid" in fields:
        found["community_id"] = fields["communityid"][-1].encode()
    return found


def _link(fields: dict[str, list[str]], own: list[str], found: dict[str, object]) -> None:
    for column, field in (
        ("source_mac", "eth.src"),
        ("destination_mac", "eth.dst"),
        ("source_mac", "sll.src.eth"),
    ):
        if field in fields:
            found[column] = bytes.fromhex(fields[field][0].replace(":", ""))
    tunnel = next((at for at, name in enumerate(own) if name in ("ip", "ipv6")), len(own))
    tags = [name for name in own[:tunnel] if name in _TAGS]
    ids = {name: list(fields.get(_TAGS[name][0], [])) for name in _TAGS}
    seen = [int(ids[name].pop(0), 0) for name in tags if ids[name]]
    if seen:
        found["vlan_outer"], found["vlan_tags"] = seen[0], len(seen)
    if len(seen) > 1:
        found["vlan_inner"] = seen[-1]
    for name, field in _TUNNELS.items():
        if name in own and field in fields:
            found["tunnel_id"] = int(fields[field][0], 0)
            break


def _value(column: str, text: str) -> object:
    if column.endswith("_address"):
        return str(ipaddress.ip_address(text))
    if text in ("True", "False"):
        return text == "True"
    number = int(text, 0) * (8 if column == "fragment_offset_bytes" else 1)
    return bool(number) if column == "more_fragments" else number
