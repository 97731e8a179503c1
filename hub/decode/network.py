"""ARP, IPv4 and IPv6 with extension headers and fragments, ICMP, TCP, UDP and the other protocols by name."""

from hub.decode.application import tcp_application, udp_application
from hub.decode.packet_line import Line, ipv4, ipv6, mac, need, u8, u16, u32

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
_MAX_HEADERS = 12
_MAX_TUNNELS = 4
PROTOCOLS = {
    0: "HOPOPT", 2: "IGMP", 3: "GGP", 8: "EGP", 9: "IGRP", 33: "DCCP", 46: "RSVP", 47: "GRE", 50: "ESP",
    51: "AH", 54: "NARP", 55: "MOBILE", 59: "No next header", 84: "IPTM", 88: "EIGRP", 89: "OSPF", 94: "IPIP",
    97: "ETHERIP", 98: "ENCAP", 103: "PIM", 108: "IPComp", 112: "VRRP", 115: "L2TP", 124: "IS-IS",
    132: "SCTP", 135: "Mobility", 136: "UDP-Lite", 137: "MPLS-in-IP", 139: "HIP", 140: "Shim6",
}  # fmt: skip
_ROUTING = frozenset({"IGMP", "IGRP", "EIGRP", "OSPF", "PIM", "VRRP", "EGP", "GGP", "IS-IS", "RSVP"})


def arp(line: Line, data: bytes, offset: int, name: str) -> None:
    """RFC 826, for IPv4 over six-byte addresses; others by their numbers."""
    line.tell(name, "arp", f"hardware type {u16(data, offset, 'arp')}")
    operation = u16(data, offset + 6, "arp")
    if data[offset + 2 : offset + 6] != b"\x08\x00\x06\x04":
        line.add(f"protocol 0x{u16(data, offset + 2, 'arp'):04x}, operation {operation}")
        return
    sender_mac, sender = mac(data, offset + 8, "arp"), ipv4(data, offset + 14, "arp")
    target_mac, target = mac(data, offset + 18, "arp"), ipv4(data, offset + 24, "arp")
    match operation:
        case 1 if sender == target:
            text = f"ARP Announcement for {sender}"
        case 1 if sender == "0.0.0.0":  # noqa: S104 - RFC 5227, not a listening address
            text = f"Who has {target}? (ARP Probe)"
        case 1:
            text = f"Who has {target}? Tell {sender}"
        case 2:
            text = f"{sender} is at {sender_mac}"
        case 3:
            text = f"Who is {target_mac}? Tell {sender_mac}"
        case 4:
            text = f"{target_mac} is at {target}"
        case _:
            text = f"operation {operation}"
    line.tell(name, "arp", text)


def ipv4_layer(line: Line, data: bytes, offset: int, depth: int = 0) -> None:
    """RFC 791."""
    line.protocol = "IPv4"
    need(data, offset, 20, "ip")
    if data[offset] >> 4 != 4:
        line.tell("IPv4", "bad", f"Bogus IP version {data[offset] >> 4}")
        return
    header = (data[offset] & 15) * 4
    total = u16(data, offset + 2, "ip")
    line.source, line.destination = ipv4(data, offset + 12, "ip"), ipv4(data, offset + 16, "ip")
    if header < 20:
        line.tell("IPv4", "bad", f"Bogus IP header length {header} (must be at least 20)")
        return
    fragment, protocol = u16(data, offset + 6, "ip"), data[offset + 9]
    if 0 < total < header:
        line.tell("IPv4", "bad", f"Bogus IP length {total}, less than its header of {header}")
        return
    # A length of 0 comes with segmentation offload: the frame's own end counts then. Padding is cut off.
    end = min(len(data), offset + total) if total else len(data)
    missing = max(0, (total or 0) - header) - max(0, end - offset - header)
    if fragment & 0x1FFF:
        name = _name(protocol)
        place = (fragment & 0x1FFF) * 8
        line.tell(
            "IPv4",
            "other",
            f"Fragmented IP protocol (proto={name} {protocol}, off={place}, ID={u16(data, offset + 4, 'ip'):04x})",
        )
        return
    if fragment & 0x2000:
        line.add("[more fragments]")
    _transport(line, data[:end], offset + header, protocol, max(0, missing), depth)


def ipv6_layer(line: Line, data: bytes, offset: int, depth: int = 0) -> None:
    """RFC 8200, with up to twelve extension headers."""
    line.protocol = "IPv6"
    need(data, offset, 40, "ip6")
    if data[offset] >> 4 != 6:
        line.tell("IPv6", "bad", f"Bogus IP version {data[offset] >> 4}")
        return
    length, following = u16(data, offset + 4, "ip6"), data[offset + 6]
    line.source, line.destination = ipv6(data, offset + 8, "ip6"), ipv6(data, offset + 24, "ip6")
    end = min(len(data), offset + 40 + length) if length else len(data)
    missing = max(0, offset + 40 + length - len(data))
    data, offset = data[:end], offset + 40
    for _ in range(_MAX_HEADERS):
        if following in (0, 43, 60, 135, 139, 140):
            size = (u8(data, offset + 1, "ip6 ext") + 1) * 8
        elif following == 51:
            size = (u8(data, offset + 1, "ah") + 2) * 4
        elif following == 44:
            place = u16(data, offset + 2, "frag")
            if place & 0xFFF8:
                more, number = "y" if place & 1 else "n", u32(data, offset + 4, "frag")
                where = f"off={place & 0xFFF8} more={more} ident=0x{number:08x} nxt={_name(data[offset])}"
                line.tell("IPv6", "other", f"IPv6 fragment ({where})")
                return
            if place & 1:
                line.add("[more fragments]")
            size = 8
        else:
            break
        following, offset = u8(data, offset, "ip6 ext"), offset + size
    _transport(line, data, offset, following, missing, depth)


def _name(protocol: int) -> str:
    return {1: "ICMP", 4: "IPIP", 6: "TCP", 17: "UDP", 41: "IPv6", 58: "ICMPv6"}.get(
        protocol
    ) or PROTOCOLS.get(protocol, "unknown")


def _transport(line: Line, data: bytes, offset: int, protocol: int, missing: int, depth: int) -> None:
    if protocol == 6:
        _tcp(line, data, offset, missing)
    elif protocol == 17:
        _udp(line, data, offset)
    elif protocol == 1:
        _icmp(line, data, offset)
    elif protocol == 58:
        _icmpv6(line, data, offset)
    elif protocol in (4, 41) and depth < _MAX_TUNNELS:
        line.parts.clear()
        (ipv4_layer if protocol == 4 else ipv6_layer)(line, data, offset, depth + 1)
    elif protocol == 47:
        _gre(line, data, offset, depth)
    elif protocol == 2:
        kinds = {0x11: "Membership Query", 0x12: "Membership Report", 0x16: "Membership Report", 0x17: "Leave Group",
                 0x22: "Membership Report"}  # fmt: skip
        kind = u8(data, offset, "igmp")
        name = {0x12: "IGMPv1", 0x22: "IGMPv3"}.get(kind, "IGMPv2")
        line.tell(name, "routing", kinds.get(kind, f"type 0x{kind:02x}"))
    elif protocol == 132:
        line.tell("SCTP", "other", f"{u16(data, offset, 'sctp')} → {u16(data, offset + 2, 'sctp')}")
        chunks = {0: "DATA", 1: "INIT", 2: "INIT_ACK", 3: "SACK", 4: "HEARTBEAT", 5: "HEARTBEAT_ACK", 6: "ABORT",
                  7: "SHUTDOWN", 10: "COOKIE_ECHO", 11: "COOKIE_ACK"}  # fmt: skip
        kind = u8(data, offset + 12, "sctp")
        line.add(chunks.get(kind, f"chunk {kind}"))
        line.rule = "bad" if kind == 6 else line.rule
    elif protocol == 50:
        line.tell("ESP", "other", f"ESP (SPI=0x{u32(data, offset, 'esp'):08x})")
    else:
        other = PROTOCOLS.get(protocol)
        rule = "routing" if other in _ROUTING else "other"
        line.tell(
            other or "IP", rule, f"{other or 'unknown'} ({protocol}), {max(0, len(data) - offset)} bytes"
        )


def _gre(line: Line, data: bytes, offset: int, depth: int) -> None:
    flags, kind = u16(data, offset, "gre"), u16(data, offset + 2, "gre")
    line.tell("GRE", "other", f"Encapsulated 0x{kind:04x}")
    offset += 4 + (4 if flags & 0xC000 else 0) + (4 if flags & 0x2000 else 0) + (4 if flags & 0x1000 else 0)
    if depth < _MAX_TUNNELS and not flags & 7:
        if kind == IPV4:
            ipv4_layer(line, data, offset, depth + 1)
        elif kind == IPV6:
            ipv6_layer(line, data, offset, depth + 1)


TCP_FLAGS = (
    (2, "SYN"),
    (1, "FIN"),
    (4, "RST"),
    (8, "PSH"),
    (16, "ACK"),
    (32, "URG"),
    (64, "ECE"),
    (128, "CWR"),
)


def _tcp(line: Line, data: bytes, offset: int, missing: int) -> None:
    """RFC 9293; sequence numbers as they are on the wire."""
    line.tell("TCP", "tcp")
    source, destination = u16(data, offset, "tcp"), u16(data, offset + 2, "tcp")
    line.tell("TCP", "tcp", f"{source} → {destination}")
    need(data, offset, 20, "tcp")
    sequence, acknowledged = u32(data, offset + 4, "tcp"), u32(data, offset + 8, "tcp")
    header, bits = (data[offset + 12] >> 4) * 4, data[offset + 13]
    if header < 20:
        line.tell("TCP", "bad", f"{source} → {destination} Bogus TCP header length {header}")
        line.rule = "bad"
        return
    payload = data[offset + header :]
    length = max(0, len(data) - offset - header) + missing
    names = ", ".join(name for bit, name in TCP_FLAGS if bits & bit)
    text = f"{source} → {destination} [{names or 'none'}] Seq={sequence}"
    if bits & 16:
        text += f" Ack={acknowledged}"
    text += f" Win={u16(data, offset + 14, 'tcp')} Len={length}"
    if bits & 2:
        text += _segment_options(data, offset + 20, offset + header)
    if bits & 4:
        line.rule = "rst"
    elif bits & 3:
        line.rule = "handshake"
    line.tell("TCP", line.rule if line.rule in ("rst", "handshake") else "tcp", text)
    if payload:
        tcp_application(line, payload, source, destination)


def _segment_options(data: bytes, offset: int, end: int) -> str:
    text = ""
    end = min(end, len(data))
    for _ in range(20):
        if offset >= end or data[offset] == 0:
            break
        if data[offset] == 1:
            offset += 1
            continue
        size = data[offset + 1] if offset + 1 < end else 0
        if size < 2:
            break
        if data[offset] == 2 and size == 4 and offset + 4 <= end:
            text += f" MSS={u16(data, offset + 2, 'tcp')}"
        elif data[offset] == 3 and size == 3 and offset + 3 <= end:
            text += f" WS={1 << min(14, data[offset + 2])}"
        elif data[offset] == 4:
            text += " SACK_PERM"
        offset += size
    return text


def _udp(line: Line, data: bytes, offset: int) -> None:
    line.tell("UDP", "broadcast" if line.rule == "broadcast" else "udp")
    source, destination = u16(data, offset, "udp"), u16(data, offset + 2, "udp")
    length = u16(data, offset + 4, "udp")
    line.tell("UDP", line.rule, f"{source} → {destination} Len={max(0, length - 8)}")
    if 0 < length < 8:
        line.tell("UDP", "bad", f"{source} → {destination} Bogus UDP length {length}")
        return
    payload = data[offset + 8 : offset + length] if length else data[offset + 8 :]
    if payload:
        udp_application(line, payload, source, destination)


UNREACHABLE = {
    0: "Network", 1: "Host", 2: "Protocol", 3: "Port", 4: "Fragmentation needed", 5: "Source route failed",
    9: "Network administratively prohibited", 10: "Host administratively prohibited",
    13: "Communication administratively filtered",
}  # fmt: skip
ICMP = {
    0: "Echo (ping) reply", 4: "Source quench", 5: "Redirect", 8: "Echo (ping) request",
    9: "Router advertisement", 10: "Router solicitation", 12: "Parameter problem", 13: "Timestamp request",
    14: "Timestamp reply", 17: "Address mask request", 18: "Address mask reply",
}  # fmt: skip


def _icmp(line: Line, data: bytes, offset: int) -> None:
    line.tell("ICMP", "icmp")
    kind, code = u8(data, offset, "icmp"), u8(data, offset + 1, "icmp")
    if kind == 3:
        line.tell("ICMP", "icmp-error", f"Destination unreachable ({UNREACHABLE.get(code, f'code {code}')})")
    elif kind == 11:
        line.tell(
            "ICMP",
            "icmp-error",
            "Time-to-live exceeded" if code == 0 else "Fragment reassembly time exceeded",
        )
    elif kind in (4, 5, 12):
        line.tell("ICMP", "icmp-error", f"{ICMP[kind]} (code {code})")
    elif kind in (0, 8):
        number, sequence = u16(data, offset + 4, "icmp"), u16(data, offset + 6, "icmp")
        line.tell("ICMP", "icmp", f"{ICMP[kind]}  id=0x{number:04x}, seq={sequence}")
    else:
        line.tell("ICMP", "icmp", ICMP.get(kind, f"type {kind}, code {code}"))


ICMPV6 = {
    1: "Destination Unreachable", 2: "Packet Too Big", 3: "Time Exceeded", 4: "Parameter Problem",
    128: "Echo (ping) request", 129: "Echo (ping) reply", 130: "Multicast Listener Query",
    131: "Multicast Listener Report", 132: "Multicast Listener Done", 133: "Router Solicitation",
    134: "Router Advertisement", 135: "Neighbor Solicitation", 136: "Neighbor Advertisement", 137: "Redirect",
    143: "Multicast Listener Report Message v2",
}  # fmt: skip


def _icmpv6(line: Line, data: bytes, offset: int) -> None:
    line.tell("ICMPv6", "icmp")
    kind, code = u8(data, offset, "icmp6"), u8(data, offset + 1, "icmp6")
    text = ICMPV6.get(kind, f"type {kind}, code {code}")
    line.tell("ICMPv6", "icmp-error" if kind < 128 else "icmp", text)
    if kind in (128, 129):
        line.add(f"id=0x{u16(data, offset + 4, 'icmp6'):04x}, seq={u16(data, offset + 6, 'icmp6')}")
    elif kind == 135:
        line.add(f"for {ipv6(data, offset + 8, 'icmp6')}")
    elif kind == 136:
        line.add(ipv6(data, offset + 8, "icmp6"))
