"""One packet in a few words, from its first bytes: addresses, protocol, what TCP, UDP, ICMP or ARP headers say.

Only for lines on a terminal: link layer to transport, read by struct. It believes no length field, and a packet that
doesn't parse is shown as what could be read of it, never an error: malformed packets are what captures are for.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

LINKTYPES = {
    0: "NULL",
    1: "EN10MB",
    101: "RAW",
    105: "IEEE802_11",
    108: "LOOP",
    113: "LINUX_SLL",
    127: "IEEE802_11_RADIO",
    228: "IPV4",
    229: "IPV6",
    276: "LINUX_SLL2",
}
_ETHERTYPES = {
    0x0800: "IPv4",
    0x86DD: "IPv6",
    0x0806: "ARP",
    0x88CC: "LLDP",
    0x8847: "MPLS",
    0x8863: "PPPoE-D",
}
_ETHERTYPES |= {0x8864: "PPPoE", 0x888E: "EAPOL", 0x8035: "RARP"}
_VLANS = (0x8100, 0x88A8, 0x9100)
_PROTOCOLS = {2: "IGMP", 4: "IPIP", 41: "IPv6-in-IP", 47: "GRE", 50: "ESP", 51: "AH", 89: "OSPF", 103: "PIM"}
_PROTOCOLS |= {112: "VRRP", 115: "L2TP", 132: "SCTP", 136: "UDPLite"}
_ICMP = {
    0: "echo reply",
    3: "unreachable",
    4: "source quench",
    5: "redirect",
    8: "echo request",
    11: "time exceeded",
}
_ICMP6 = {1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply"}
_ICMP6 |= {133: "router solicitation", 134: "router advertisement", 135: "neighbor solicitation"}
_ICMP6 |= {136: "neighbor advertisement", 143: "listener report v2"}
_EXTENSIONS = (0, 43, 60, 135, 139, 140)
_MAX_NESTING = 8


@dataclass(frozen=True, slots=True)
class Summary:
    """What a line says of a packet."""

    source: str
    """Address, with the port where there is one; "" when not known."""
    destination: str
    protocol: str
    info: str

    def __str__(self) -> str:
        ends = f"{self.source} > {self.destination} " if self.source or self.destination else ""
        return f"{ends}{self.protocol} {self.info}".rstrip()


def summarise(link_type: int, data: bytes | memoryview) -> Summary:
    """Describe one packet; never raises, whatever the bytes."""
    data = bytes(data[:512])
    try:
        return _link(link_type, data)
    except (struct.error, IndexError):
        return Summary("", "", LINKTYPES.get(link_type, f"link type {link_type}"), "cut off or malformed")


def _link(link_type: int, data: bytes) -> Summary:
    if link_type == 1:
        destination, source = data[0:6].hex(":"), data[6:12].hex(":")
        (ethertype,) = struct.unpack_from(">H", data, 12)
        return _ethertype(ethertype, data, 14, source, destination)
    if link_type == 113:
        return _ethertype(struct.unpack_from(">H", data, 14)[0], data, 16, data[6:12].hex(":"), "")
    if link_type == 276:
        return _ethertype(struct.unpack_from(">H", data, 0)[0], data, 20, data[12:18].hex(":"), "")
    if link_type in (12, 14, 101, 228, 229):
        return _ip(data, 0)
    if link_type in (0, 108):
        return _ip(data, 4)
    return Summary("", "", LINKTYPES.get(link_type, f"link type {link_type}"), "")


def _ethertype(ethertype: int, data: bytes, offset: int, source: str, destination: str) -> Summary:
    tags: list[str] = []
    while ethertype in _VLANS and len(tags) < _MAX_NESTING:
        tag, ethertype = struct.unpack_from(">HH", data, offset)
        tags.append(f"vlan {tag & 0xFFF} ")
        offset += 4
    if ethertype in (0x0800, 0x86DD):
        inner = _ip(data, offset)
    elif ethertype == 0x0806:
        inner = _arp(data, offset, source, destination)
    elif ethertype <= 1500:
        inner = Summary(source, destination, "802.3", f"LLC {data[offset : offset + 3].hex()}")
    else:
        inner = Summary(source, destination, _ETHERTYPES.get(ethertype, f"ethertype 0x{ethertype:04x}"), "")
    return Summary(inner.source, inner.destination, inner.protocol, "".join(tags) + inner.info)


def _arp(data: bytes, offset: int, source: str, destination: str) -> Summary:
    operation = struct.unpack_from(">H", data, offset + 6)[0]
    if data[offset + 4 : offset + 6] != b"\x06\x04" or len(data) < offset + 28:
        return Summary(source, destination, "ARP", f"operation {operation}")
    sender, target = _ipv4(data, offset + 14), _ipv4(data, offset + 24)
    if operation == 1:
        return Summary(source, destination, "ARP", f"who has {target}? tell {sender}")
    return Summary(source, destination, "ARP", f"{sender} is at {data[offset + 8 : offset + 14].hex(':')}")


def _ipv4(data: bytes, offset: int) -> str:
    if len(data) < offset + 4:
        raise IndexError
    return ".".join(map(str, data[offset : offset + 4]))


def _ip(data: bytes, offset: int) -> Summary:
    version = data[offset] >> 4
    if version == 4:
        header = (data[offset] & 15) * 4
        _, _, total, _, fragment, _, protocol = struct.unpack_from(">BBHHHBB", data, offset)
        source, destination = _ipv4(data, offset + 12), _ipv4(data, offset + 16)
        if header < 20:
            return Summary(source, destination, "IPv4", "impossible header length")
        if fragment & 0x1FFF:
            return Summary(source, destination, "IPv4", f"fragment at {(fragment & 0x1FFF) * 8}")
        return _transport(protocol, data, offset + header, source, destination, max(0, total - header))
    if version == 6:
        total, protocol = struct.unpack_from(">HB", data, offset + 4)
        if len(data) < offset + 40:
            raise IndexError
        source = str(IPv6Address(data[offset + 8 : offset + 24]))
        destination = str(IPv6Address(data[offset + 24 : offset + 40]))
        at = offset + 40
        for _ in range(_MAX_NESTING):
            if protocol in _EXTENSIONS:
                protocol, length = data[at], data[at + 1]
                at += 8 + 8 * length
            elif protocol == 44:
                protocol, fragment = data[at], struct.unpack_from(">H", data, at + 2)[0] & 0xFFF8
                if fragment:
                    return Summary(source, destination, "IPv6", f"fragment at {fragment}")
                at += 8
            else:
                break
        return _transport(protocol, data, at, source, destination, max(0, total - (at - offset - 40)))
    return Summary("", "", "IP", f"version {version}")


def _transport(protocol: int, data: bytes, at: int, source: str, destination: str, size: int) -> Summary:
    try:
        if protocol == 6:
            sport, dport, seq, ack, header, flags, window = struct.unpack_from(">HHIIBBH", data, at)
            names = "".join(name for bit, name in enumerate("FSRPAUEC") if flags >> bit & 1) or "none"
            payload = max(0, size - (header >> 4) * 4)
            acked = f" ack {ack}" if flags & 16 else ""
            info = f"[{names}] seq {seq}{acked} win {window} len {payload}"
            return Summary(_end(source, sport), _end(destination, dport), "TCP", info)
        if protocol == 17:
            sport, dport, length = struct.unpack_from(">HHH", data, at)
            return Summary(_end(source, sport), _end(destination, dport), "UDP", f"len {max(0, length - 8)}")
        if protocol in (1, 58):
            kind, code = struct.unpack_from(">BB", data, at)
            name = (_ICMP if protocol == 1 else _ICMP6).get(kind, f"type {kind}")
            info = f"{name}" + (f" code {code}" if code else "")
            if "echo" in name and len(data) >= at + 8:
                info += " id {} seq {}".format(*struct.unpack_from(">HH", data, at + 4))
            return Summary(source, destination, "ICMP" if protocol == 1 else "ICMPv6", info)
    except struct.error:
        name = {6: "TCP", 17: "UDP", 1: "ICMP", 58: "ICMPv6"}[protocol]
        return Summary(source, destination, name, "cut off")
    return Summary(source, destination, _PROTOCOLS.get(protocol, f"IP protocol {protocol}"), f"len {size}")


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
