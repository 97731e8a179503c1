"""Frames of every kind that the decoder knows, each with what its columns must hold."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from hub.observe.observations import Layers, Tunnel

A4, B4, C4, D4 = "10.0.0.1", "10.0.0.2", "192.0.2.1", "192.0.2.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
DATA = b"sixteen bytes ok"
MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def ether(payload: bytes, kind: int, *tags: tuple[int, int]) -> bytes:
    """tags: (type, id) each, with a priority that isn't part of the id."""
    shown = b"".join(struct.pack(">HH", tag, 0xA000 | number) for tag, number in tags)
    return MAC_B + MAC_A + shown + struct.pack(">H", kind) + payload


def ip4(
    protocol: int,
    payload: bytes,
    *,
    ends: tuple[str, str] = (A4, B4),
    options: bytes = b"",
    fragment: int = 0,
    total: int | None = None,
    ttl: int = 64,
    traffic_class: int = 0xB9,
    number: int = 0x1234,
) -> bytes:
    words = 5 + len(options) // 4
    size = 4 * words + len(payload) if total is None else total
    head = struct.pack(
        ">BBHHHBBH", 0x40 | words, traffic_class, size, number, fragment, ttl, protocol, 0xBEEF
    )
    return head + b"".join(ipaddress.ip_address(end).packed for end in ends) + options + payload


def ip6(
    protocol: int, payload: bytes, *, ends: tuple[str, str] = (A6, B6), length: int | None = None
) -> bytes:
    size = len(payload) if length is None else length
    head = struct.pack(">IHBB", 0x6B912345, size, protocol, 61)  # class 0xb9
    return head + b"".join(ipaddress.ip_address(end).packed for end in ends) + payload


def tcp(
    payload: bytes = DATA, *, flags: int = 0x18, options: bytes = b"", ports: tuple[int, int] = (50000, 443)
) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(">HHIIHHHH", *ports, 0xFFFFFFFA, 77, words << 12 | flags, 512, 0xBEEF, 0)
    return head + options + payload


def udp(payload: bytes = DATA, *, ports: tuple[int, int] = (50000, 5000), length: int | None = None) -> bytes:
    return struct.pack(">HHHH", *ports, 8 + len(payload) if length is None else length, 0xBEEF) + payload


def echo(kind: int = 8, payload: bytes = DATA) -> bytes:
    return struct.pack(">BBHHH", kind, 0, 0xBEEF, 0x0102, 0x0304) + payload


def arp(operation: int = 1) -> bytes:
    ends = ipaddress.ip_address(A4).packed, ipaddress.ip_address(B4).packed
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + MAC_A + ends[0] + bytes(6) + ends[1]


def vxlan(frame: bytes, *, vni: int = 5001, port: int = 4789) -> bytes:
    return udp(struct.pack(">II", 0x08000000, vni << 8) + frame, ports=(40000, port))


def geneve(inner: bytes, kind: int, *, options: bytes = b"") -> bytes:
    head = struct.pack(">BBHI", len(options) // 4, 0, kind, 77 << 8)
    return udp(head + options + inner, ports=(40000, 6081))


@dataclass(frozen=True, slots=True)
class Case:
    """A frame and its columns; those not named hold 0 (or what belongs to the named ones by themselves)."""

    frame: bytes
    columns: dict[str, object]
    link_type: int = 1


_ETHER = {"source_mac": MAC_A, "destination_mac": MAC_B}
_IP4 = {"ip_version": 4, "source_address": A4, "destination_address": B4, "ttl": 64, "dscp": 46, "ecn": 1,
        "ip_id": 0x1234}  # fmt: skip
_IP6 = {"ip_version": 6, "source_address": A6, "destination_address": B6, "ttl": 61, "dscp": 46, "ecn": 1}
_TCP = {"protocol": 6, "source_port": 50000, "destination_port": 443, "tcp_sequence": 0xFFFFFFFA, "tcp_window": 512,
        "tcp_acknowledgement": 77, "tcp_flags": 0x18, "tcp_sequence_end": 10, "payload_bytes": 16,
        "payload_captured_bytes": 16}  # fmt: skip
_UDP = {"protocol": 17, "source_port": 50000, "destination_port": 5000, "payload_bytes": 16,
        "payload_captured_bytes": 16}  # fmt: skip
_ECHO = {"protocol": 1, "icmp_type": 8, "icmp_id": 0x0102, "icmp_sequence": 0x0304, "payload_bytes": 16,
         "payload_captured_bytes": 16}  # fmt: skip
_IP, _FLOW, _E = Layers.IP, Layers.FLOW | Layers.PORTS, Layers.ETHERNET
_TCP4 = (
    _ETHER
    | _IP4
    | _TCP
    | {"ethertype": 0x0800, "layers": _E | _IP | _FLOW | Layers.TCP, "ip_total_bytes": 56}
)
_OUTER = {"outer_version": 4, "outer_source_address": C4, "outer_destination_address": D4, "outer_ttl": 64,
          "tunnels": 1}  # fmt: skip
_OUTSIDE = (C4, D4)
_HOP = bytes([6, 0]) + bytes(6)
_SLL = struct.pack(">HHH", 0, 1, 6) + MAC_A + bytes(2)

CASES = {
    "tcp": Case(ether(ip4(6, tcp()), 0x0800), _TCP4 | {"network_offset": 14, "payload_offset": 54}),
    "padding": Case(
        ether(ip4(17, udp(b"x")), 0x0800) + bytes(17),
        _ETHER | _IP4 | _UDP
        | {"ethertype": 0x0800, "layers": _E | _IP | _FLOW | Layers.UDP, "ip_total_bytes": 29, "network_offset": 14,
           "payload_offset": 42, "payload_bytes": 1, "payload_captured_bytes": 1},
    ),
    "options": Case(
        ether(ip4(6, tcp(options=b"\1\1\1\0"), options=b"\1\1\1\0" * 2), 0x0800),
        _TCP4 | {"network_offset": 14, "payload_offset": 66, "ip_total_bytes": 68},
    ),
    "syn": Case(
        ether(ip4(6, tcp(b"", flags=2)), 0x0800),
        _TCP4 | {"network_offset": 14, "payload_offset": 54, "payload_bytes": 0, "payload_captured_bytes": 0,
                 "tcp_flags": 2, "tcp_sequence_end": 0xFFFFFFFB, "ip_total_bytes": 40},
    ),
    "accurate ecn and fin": Case(
        ether(ip4(6, tcp(flags=0x1C1)), 0x0800),
        _TCP4 | {"network_offset": 14, "payload_offset": 54, "tcp_flags": 0x1C1, "tcp_sequence_end": 11},
    ),
    "one tag": Case(
        ether(ip4(6, tcp()), 0x0800, (0x8100, 7)),
        _TCP4 | {"network_offset": 18, "payload_offset": 58, "vlan_tags": 1, "vlan_outer": 7},
    ),
    "three tags": Case(
        ether(ip4(6, tcp()), 0x0800, (0x88A8, 7), (0x9100, 8), (0x8100, 9)),
        _TCP4 | {"network_offset": 26, "payload_offset": 66, "vlan_tags": 3, "vlan_outer": 7, "vlan_inner": 9},
    ),
    "snap": Case(
        ether(b"\xaa\xaa\3\0\0\0\x08\0" + ip4(6, tcp()), 64) + bytes(5),
        _TCP4 | {"network_offset": 22, "payload_offset": 62},
    ),
    "spanning tree": Case(
        ether(b"\x42\x42\3" + bytes(35), 38) + bytes(8),
        _ETHER | {"layers": _E, "network_offset": 14, "payload_offset": 14, "payload_bytes": 38,
                  "payload_captured_bytes": 38},
    ),
    "ipv6": Case(
        ether(ip6(6, tcp()), 0x86DD),
        _TCP4 | _IP6 | {"ethertype": 0x86DD, "ip_id": 0, "ip_total_bytes": 76, "network_offset": 14,
                        "payload_offset": 74},
    ),
    "extension headers": Case(
        ether(ip6(0, bytes([60, 0]) + bytes(6) + bytes([43, 1]) + bytes(14) + _HOP + tcp()), 0x86DD),
        _TCP4 | _IP6 | {"ethertype": 0x86DD, "ip_id": 0, "ip_total_bytes": 108, "network_offset": 14,
                        "payload_offset": 106, "layers": _E | _IP | _FLOW | Layers.TCP | Layers.EXTENSIONS},
    ),
    "authentication header": Case(
        ether(ip4(51, bytes([6, 4]) + bytes(22) + tcp()), 0x0800),
        _TCP4 | {"network_offset": 14, "payload_offset": 78, "ip_total_bytes": 80,
                 "layers": _E | _IP | _FLOW | Layers.TCP | Layers.EXTENSIONS},
    ),
    "first fragment": Case(
        ether(ip4(17, udp(length=2000), fragment=0x2000), 0x0800),
        _ETHER | _IP4 | _UDP
        | {"ethertype": 0x0800, "layers": _E | _IP | _FLOW | Layers.UDP | Layers.FRAGMENT, "ip_total_bytes": 44,
           "network_offset": 14, "payload_offset": 42, "more_fragments": True},
    ),
    "later fragment": Case(
        ether(ip4(17, DATA, fragment=0x00B9), 0x0800),
        _ETHER | _IP4
        | {"ethertype": 0x0800, "layers": _E | _IP | Layers.FRAGMENT, "ip_total_bytes": 36, "network_offset": 14,
           "payload_offset": 34, "fragment_offset_bytes": 1480, "protocol": 17, "payload_bytes": 16,
           "payload_captured_bytes": 16},
    ),
    "later fragment of ipv6": Case(
        ether(ip6(44, struct.pack(">BBHI", 17, 0, 1448 | 1, 0xDEADBEEF) + DATA), 0x86DD),
        _ETHER | _IP6
        | {"ethertype": 0x86DD, "layers": _E | _IP | Layers.FRAGMENT | Layers.EXTENSIONS, "ip_total_bytes": 64,
           "network_offset": 14, "payload_offset": 62, "fragment_offset_bytes": 1448, "more_fragments": True,
           "protocol": 17, "payload_bytes": 16, "payload_captured_bytes": 16, "ip_id": 0xDEADBEEF},
    ),
    "before offload": Case(
        ether(ip4(6, tcp(bytes(70_000)), total=0), 0x0800),
        _TCP4 | {"network_offset": 14, "payload_offset": 54, "ip_total_bytes": 70_040, "payload_bytes": 70_000,
                 "payload_captured_bytes": 70_000, "tcp_sequence_end": 69_994},
    ),
    "icmp": Case(
        ether(ip4(1, echo()), 0x0800),
        _ETHER | _IP4 | _ECHO
        | {"ethertype": 0x0800, "layers": _E | _IP | Layers.FLOW | Layers.ICMP, "ip_total_bytes": 44,
           "network_offset": 14, "payload_offset": 42},
    ),
    "icmp error": Case(
        ether(ip4(1, bytes([3, 4]) + bytes(6) + ip4(6, tcp())[:28]), 0x0800),
        _ETHER | _IP4
        | {"ethertype": 0x0800, "layers": _E | _IP | Layers.FLOW | Layers.ICMP, "ip_total_bytes": 56, "protocol": 1,
           "network_offset": 14, "payload_offset": 42, "icmp_type": 3, "icmp_code": 4, "payload_bytes": 28,
           "payload_captured_bytes": 28},
    ),
    "icmpv6": Case(
        ether(ip6(58, echo(129)), 0x86DD),
        _ETHER | _IP6 | _ECHO
        | {"ethertype": 0x86DD, "layers": _E | _IP | Layers.FLOW | Layers.ICMP, "ip_total_bytes": 64,
           "network_offset": 14, "payload_offset": 62, "protocol": 58, "icmp_type": 129},
    ),
    "sctp": Case(
        ether(ip4(132, struct.pack(">HHII", 50000, 5000, 1, 2) + DATA), 0x0800),
        _ETHER | _IP4 | _UDP
        | {"ethertype": 0x0800, "layers": _E | _IP | _FLOW, "protocol": 132, "ip_total_bytes": 48,
           "network_offset": 14, "payload_offset": 46},
    ),
    "esp": Case(
        ether(ip4(50, DATA), 0x0800),
        _ETHER | _IP4
        | {"ethertype": 0x0800, "layers": _E | _IP | Layers.FLOW, "protocol": 50, "ip_total_bytes": 36,
           "network_offset": 14, "payload_offset": 34, "payload_bytes": 16, "payload_captured_bytes": 16},
    ),
    "arp": Case(
        ether(arp(2), 0x0806) + bytes(18),
        _ETHER
        | {"ethertype": 0x0806, "layers": _E | Layers.ARP, "arp_operation": 2, "network_offset": 14,
           "payload_offset": 42, "source_address": A4, "destination_address": B4},
    ),
    "mpls": Case(
        ether(bytes.fromhex("0001004000020140") + ip4(6, tcp()), 0x8847),
        _TCP4 | {"ethertype": 0x8847, "network_offset": 22, "payload_offset": 62,
                 "layers": _E | _IP | _FLOW | Layers.TCP | Layers.MPLS},
    ),
    "pppoe": Case(
        ether(bytes.fromhex("11000001003a0021") + ip4(6, tcp()) + bytes(3), 0x8864),
        _TCP4 | {"ethertype": 0x8864, "network_offset": 22, "payload_offset": 62,
                 "layers": _E | _IP | _FLOW | Layers.TCP | Layers.PPPOE},
    ),
    "gre": Case(
        ether(ip4(47, bytes.fromhex("b0000800 00000000 0000002a 00000001") + ip4(6, tcp()), ends=_OUTSIDE), 0x0800),
        _TCP4 | _OUTER | {"tunnel_kind": Tunnel.GRE, "tunnel_id": 42, "outer_protocol": 47, "network_offset": 50,
                          "payload_offset": 90},
    ),
    "gre with a frame": Case(
        ether(ip4(47, bytes.fromhex("00006558") + ether(ip4(6, tcp()), 0x0800, (0x8100, 9)), ends=_OUTSIDE), 0x0800),
        _TCP4 | _OUTER | {"tunnel_kind": Tunnel.GRE, "outer_protocol": 47, "network_offset": 56, "payload_offset": 96},
    ),
    "erspan": Case(
        ether(ip4(47, bytes.fromhex("100088be 00000001 10080017 00000000") + ether(ip4(6, tcp()), 0x0800),
                  ends=_OUTSIDE), 0x0800),
        _TCP4 | _OUTER | {"tunnel_kind": Tunnel.ERSPAN, "tunnel_id": 23, "outer_protocol": 47, "network_offset": 64,
                          "payload_offset": 104},
    ),
    "vxlan": Case(
        ether(ip4(17, vxlan(ether(ip4(6, tcp()), 0x0800)), ends=_OUTSIDE), 0x0800, (0x8100, 7)),
        _TCP4 | _OUTER | {"tunnel_kind": Tunnel.VXLAN, "tunnel_id": 5001, "outer_protocol": 17,
                          "outer_source_port": 40000, "outer_destination_port": 4789, "network_offset": 68,
                          "payload_offset": 108, "vlan_tags": 1, "vlan_outer": 7},
    ),
    "vxlan on linux' port": Case(
        ether(ip4(17, vxlan(ether(arp(), 0x0806), port=8472), ends=_OUTSIDE), 0x0800),
        _ETHER | _OUTER
        | {"tunnel_kind": Tunnel.VXLAN, "tunnel_id": 5001, "outer_protocol": 17, "outer_source_port": 40000,
           "outer_destination_port": 8472, "ethertype": 0x0800, "layers": _E | Layers.ARP, "arp_operation": 1,
           "source_address": A4, "destination_address": B4, "network_offset": 64, "payload_offset": 92},
    ),
    "geneve": Case(
        ether(ip4(17, geneve(ip6(6, tcp()), 0x86DD, options=bytes(8)), ends=_OUTSIDE), 0x0800),
        _TCP4 | _IP6 | _OUTER
        | {"tunnel_kind": Tunnel.GENEVE, "tunnel_id": 77, "outer_protocol": 17, "outer_source_port": 40000,
           "outer_destination_port": 6081, "network_offset": 58, "payload_offset": 118, "ip_total_bytes": 76,
           "ip_id": 0},
    ),
    "6in4 in vxlan": Case(
        ether(ip4(17, vxlan(ether(ip4(41, ip6(6, tcp()), ends=("1.1.1.1", "2.2.2.2")), 0x0800)), ends=_OUTSIDE),
              0x0800),
        _TCP4 | _IP6 | _OUTER
        | {"tunnel_kind": Tunnel.VXLAN, "tunnel_id": 5001, "outer_protocol": 17, "outer_source_port": 40000,
           "outer_destination_port": 4789, "network_offset": 84, "payload_offset": 144, "ip_total_bytes": 76,
           "ip_id": 0, "tunnels": 2},
    ),
    "raw ipv4": Case(ip4(6, tcp()), _TCP4 | {"layers": _IP | _FLOW | Layers.TCP, "payload_offset": 40}, 101),
    "raw ipv6": Case(
        ip6(6, tcp()),
        _TCP4 | _IP6 | {"layers": _IP | _FLOW | Layers.TCP, "payload_offset": 60, "ip_total_bytes": 76, "ip_id": 0},
        12,
    ),
    "null": Case(
        b"\2\0\0\0" + ip4(6, tcp()),
        _TCP4 | {"layers": _IP | _FLOW | Layers.TCP, "network_offset": 4, "payload_offset": 44},
        0,
    ),
    "loop": Case(
        b"\0\0\0\x1e" + ip6(6, tcp()),
        _TCP4 | _IP6 | {"layers": _IP | _FLOW | Layers.TCP, "network_offset": 4, "payload_offset": 64,
                        "ip_total_bytes": 76, "ip_id": 0},
        108,
    ),
    "cooked": Case(
        _SLL + b"\x08\0" + ip4(6, tcp()),
        _TCP4 | {"layers": _IP | _FLOW | Layers.TCP, "network_offset": 16, "payload_offset": 56},
        113,
    ),
    "cooked 2": Case(
        b"\x08\0" + bytes(6) + struct.pack(">HBB", 1, 0, 6) + MAC_A + bytes(2) + ip4(6, tcp()),
        _TCP4 | {"layers": _IP | _FLOW | Layers.TCP, "network_offset": 20, "payload_offset": 60},
        276,
    ),
    "netlink": Case(
        struct.pack(">HHH", 4, 824, 0) + bytes(8) + struct.pack(">H", 0x0800) + DATA,
        {"network_offset": 16, "payload_offset": 16, "payload_bytes": 16, "payload_captured_bytes": 16},
        113,
    ),
}  # fmt: skip
for _case in CASES.values():  # what has no link header to say it
    if _case.link_type != 1:
        _case.columns.pop("destination_mac", None)
    if _case.link_type not in (1, 113, 276):
        _case.columns.pop("source_mac", None)
        _case.columns.pop("ethertype", None)
