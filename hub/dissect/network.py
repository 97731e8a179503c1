"""ARP, IPv4, IPv6 and ICMP of the tree."""

from hub.decode.network import ICMP, ICMPV6, PROTOCOLS, UNREACHABLE
from hub.decode.packet_line import ipv4, ipv6, mac, need, u8, u16, u32
from hub.dissect.transport import tcp, udp
from hub.dissect.tree import Field, Tree, byte_count, named

_MAX_NESTED = 4
"""IP in IP, or in an ICMP error, this deep."""
_MAX_HEADERS = 12
_NAMES = {1: "ICMP", 4: "IPv4", 6: "TCP", 17: "UDP", 41: "IPv6", 58: "ICMPv6", **PROTOCOLS}
_EXTENSIONS = {0: "Hop-by-hop options", 43: "Routing", 44: "Fragment", 51: "Authentication", 60: "Destination options",
               135: "Mobility", 139: "HIP", 140: "Shim6"}  # fmt: skip
_ECN = {0: "not ECT", 1: "ECT(1)", 2: "ECT(0)", 3: "CE"}
_ARP = {1: "request", 2: "reply", 3: "reverse request", 4: "reverse reply"}
_ND_OPTIONS = {1: "Source link-layer address", 2: "Target link-layer address", 3: "Prefix information", 5: "MTU",
               24: "Route information", 25: "Recursive DNS server", 31: "DNS search list"}  # fmt: skip


def arp(tree: Tree, offset: int, name: str) -> None:
    """RFC 826; addresses by the lengths that the packet itself gives."""
    data = tree.data
    layer = tree.layer(name, offset, 8)
    hardware, protocol = u16(data, offset, "arp"), u16(data, offset + 2, "arp")
    sizes = u8(data, offset + 4, "arp"), u8(data, offset + 5, "arp")
    operation = u16(data, offset + 6, "arp")
    layer.value = named(_ARP, operation)
    tree.add(layer.parts, "Hardware type", named({1: "Ethernet"}, hardware), offset, 2)
    tree.add(layer.parts, "Protocol type", named({0x0800: "IPv4"}, protocol, 4), offset + 2, 2)
    tree.add(layer.parts, "Hardware address length", sizes[0], offset + 4, 1)
    tree.add(layer.parts, "Protocol address length", sizes[1], offset + 5, 1)
    tree.add(layer.parts, "Operation", named(_ARP, operation), offset + 6, 2)
    layer.length = 8 + 2 * sum(sizes)
    tree.end = min(tree.end, offset + layer.length)
    at = offset + 8
    for who in ("Sender", "Target"):
        for kind, size in (("hardware", sizes[0]), ("protocol", sizes[1])):
            need(data, at, size, "arp")
            piece = data[at : at + size]
            text = ipv4(piece, 0, "arp") if kind == "protocol" and size == 4 else piece.hex(":")
            tree.add(layer.parts, f"{who} {kind} address", text, at, size)
            at += size


def ipv4_layer(tree: Tree, offset: int, depth: int = 0) -> None:
    """RFC 791."""
    data = tree.data
    layer = tree.layer("Internet Protocol version 4", offset, 20)
    first = u8(data, offset, "ip")
    header = (first & 15) * 4
    tree.add(layer.parts, "Version", first >> 4, offset, 1, wrong=first >> 4 != 4)
    tree.add(layer.parts, "Header length", f"{header} bytes", offset, 1, wrong=header < 20)
    need(data, offset, 20, "ip")
    layer.value = f"{ipv4(data, offset + 12, 'ip')} → {ipv4(data, offset + 16, 'ip')}"
    service, total = data[offset + 1], u16(data, offset + 2, "ip")
    tree.add(layer.parts, "DSCP", service >> 2, offset + 1, 1)
    tree.add(layer.parts, "ECN", named(_ECN, service & 3), offset + 1, 1)
    # A length of 0 comes with segmentation offload: the frame's own end counts then.
    tree.add(layer.parts, "Total length", total, offset + 2, 2, wrong=0 < total < header)
    tree.add(layer.parts, "Identification", f"0x{u16(data, offset + 4, 'ip'):04x}", offset + 4, 2)
    place = u16(data, offset + 6, "ip")
    flags = tree.add(layer.parts, "Flags", f"0x{place >> 13:x}", offset + 6, 1)
    tree.bits(flags, place, ((0x4000, "Don't fragment"), (0x2000, "More fragments")))
    tree.add(layer.parts, "Fragment offset", (place & 0x1FFF) * 8, offset + 6, 2)
    tree.add(layer.parts, "Time to live", data[offset + 8], offset + 8, 1)
    protocol = data[offset + 9]
    tree.add(layer.parts, "Protocol", named(_NAMES, protocol), offset + 9, 1)
    if first >> 4 != 4 or header < 20:
        return
    need(data, offset, header, "ip")
    layer.length = header
    right = _header_sum(data[offset : offset + header]) == 0xFFFF
    text = f"0x{u16(data, offset + 10, 'ip'):04x} ({'correct' if right else 'not correct'})"
    tree.add(layer.parts, "Header checksum", text, offset + 10, 2, wrong=not right)
    tree.add(layer.parts, "Source", ipv4(data, offset + 12, "ip"), offset + 12, 4)
    tree.add(layer.parts, "Destination", ipv4(data, offset + 16, "ip"), offset + 16, 4)
    tree.rest(layer, "Options", offset + 20, offset + header)
    if total >= header:
        tree.end = min(tree.end, offset + total)
    if place & 0x1FFF:
        return  # a later fragment begins in the middle of something
    _transport(tree, offset + header, protocol, depth)


def _header_sum(header: bytes) -> int:
    """RFC 1071 over an even number of bytes; 0xffff when the checksum in it is right."""
    total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, len(header), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv6_layer(tree: Tree, offset: int, depth: int = 0) -> None:
    """RFC 8200, with up to twelve extension headers, each a layer of its own."""
    data = tree.data
    layer = tree.layer("Internet Protocol version 6", offset, 40)
    word = u32(data, offset, "ip6")
    tree.add(layer.parts, "Version", word >> 28, offset, 1, wrong=word >> 28 != 6)
    tree.add(layer.parts, "DSCP", word >> 22 & 0x3F, offset, 2)
    tree.add(layer.parts, "ECN", named(_ECN, word >> 20 & 3), offset + 1, 1)
    tree.add(layer.parts, "Flow label", f"0x{word & 0xFFFFF:05x}", offset + 1, 3)
    length, following = u16(data, offset + 4, "ip6"), u8(data, offset + 6, "ip6")
    tree.add(layer.parts, "Payload length", length, offset + 4, 2)
    tree.add(layer.parts, "Next header", named({**_NAMES, **_EXTENSIONS}, following), offset + 6, 1)
    tree.add(layer.parts, "Hop limit", u8(data, offset + 7, "ip6"), offset + 7, 1)
    source, destination = ipv6(data, offset + 8, "ip6"), ipv6(data, offset + 24, "ip6")
    layer.value = f"{source} → {destination}"
    tree.add(layer.parts, "Source", source, offset + 8, 16)
    tree.add(layer.parts, "Destination", destination, offset + 24, 16)
    if word >> 28 != 6:
        return
    if length:
        tree.end = min(tree.end, offset + 40 + length)
    offset += 40
    for _ in range(_MAX_HEADERS):
        if following not in _EXTENSIONS:
            break
        size = u8(data, offset + 1, "ip6 ext")
        size = 8 if following == 44 else (size + 2) * 4 if following == 51 else (size + 1) * 8
        layer = tree.layer(f"IPv6 {_EXTENSIONS[following]}", offset, size)
        kind, following = following, data[offset]
        tree.add(layer.parts, "Next header", named({**_NAMES, **_EXTENSIONS}, following), offset, 1)
        if kind == 44:
            place = u16(data, offset + 2, "frag")
            tree.add(layer.parts, "Fragment offset", place & 0xFFF8, offset + 2, 2)
            tree.add(layer.parts, "More fragments", "set" if place & 1 else "not set", offset + 3, 1)
            tree.add(layer.parts, "Identification", f"0x{u32(data, offset + 4, 'frag'):08x}", offset + 4, 4)
            if place & 0xFFF8:
                return
        else:
            tree.add(layer.parts, "Length", byte_count(size), offset + 1, 1)
            tree.rest(layer, "Content", offset + 2, min(offset + size, len(data)))
        need(data, offset, size, "ip6 ext")
        offset += size
    _transport(tree, offset, following, depth)


def _transport(tree: Tree, offset: int, protocol: int, depth: int) -> None:
    if offset >= tree.end:
        return
    if protocol == 6:
        tcp(tree, offset)
    elif protocol == 17:
        udp(tree, offset)
    elif protocol == 1:
        _icmp(tree, offset, depth)
    elif protocol == 58:
        _icmpv6(tree, offset, depth)
    elif protocol in (4, 41) and depth < _MAX_NESTED:
        (ipv4_layer if protocol == 4 else ipv6_layer)(tree, offset, depth + 1)


def _icmp(tree: Tree, offset: int, depth: int) -> None:
    """RFC 792; an error holds the beginning of the packet it is about, which is read as one."""
    data = tree.data
    layer = tree.layer("Internet Control Message Protocol", offset, 8)
    kind, code = u8(data, offset, "icmp"), u8(data, offset + 1, "icmp")
    names = {3: "Destination unreachable", 11: "Time exceeded", **ICMP}
    layer.value = names.get(kind, f"type {kind}")
    tree.add(layer.parts, "Type", named(names, kind), offset, 1)
    tree.add(layer.parts, "Code", named(UNREACHABLE, code) if kind == 3 else code, offset + 1, 1)
    tree.add(layer.parts, "Checksum", f"0x{u16(data, offset + 2, 'icmp'):04x}", offset + 2, 2)
    if kind in (0, 8, 13, 14, 17, 18):
        _echo(tree, layer, offset)
    else:
        need(data, offset, 8, "icmp")
        tree.rest(layer, "Rest of header", offset + 4, offset + 8)
    if kind in (3, 4, 5, 11, 12) and depth < _MAX_NESTED and tree.end > offset + 8:
        ipv4_layer(tree, offset + 8, depth + 1)


def _echo(tree: Tree, layer: Field, offset: int) -> None:
    number, sequence = u16(tree.data, offset + 4, "icmp"), u16(tree.data, offset + 6, "icmp")
    tree.add(layer.parts, "Identifier", f"{number} (0x{number:04x})", offset + 4, 2)
    tree.add(layer.parts, "Sequence number", sequence, offset + 6, 2)


def _icmpv6(tree: Tree, offset: int, depth: int) -> None:
    """RFC 4443, and RFC 4861 for neighbour discovery."""
    data = tree.data
    layer = tree.layer("Internet Control Message Protocol v6", offset, 8)
    kind = u8(data, offset, "icmp6")
    layer.value = ICMPV6.get(kind, f"type {kind}")
    tree.add(layer.parts, "Type", named(ICMPV6, kind), offset, 1)
    tree.add(layer.parts, "Code", u8(data, offset + 1, "icmp6"), offset + 1, 1)
    tree.add(layer.parts, "Checksum", f"0x{u16(data, offset + 2, 'icmp6'):04x}", offset + 2, 2)
    need(data, offset, 8, "icmp6")
    if kind in (128, 129):
        _echo(tree, layer, offset)
        return
    if kind in (135, 136, 137):
        flags = tree.add(layer.parts, "Flags", f"0x{data[offset + 4]:02x}", offset + 4, 1)
        if kind == 136:
            tree.bits(flags, data[offset + 4], ((0x80, "Router"), (0x40, "Solicited"), (0x20, "Override")))
        tree.add(layer.parts, "Target", ipv6(data, offset + 8, "icmp6"), offset + 8, 16)
        layer.length, options = 24, offset + 24
        if kind == 137:
            tree.add(layer.parts, "Destination", ipv6(data, offset + 24, "icmp6"), offset + 24, 16)
            layer.length, options = 40, offset + 40
    elif kind in (133, 134):
        if kind == 134:
            tree.add(layer.parts, "Hop limit", data[offset + 4], offset + 4, 1)
            tree.add(layer.parts, "Router lifetime", f"{u16(data, offset + 6, 'icmp6')} s", offset + 6, 2)
            tree.add(layer.parts, "Reachable time", f"{u32(data, offset + 8, 'icmp6')} ms", offset + 8, 4)
            tree.add(layer.parts, "Retransmit timer", f"{u32(data, offset + 12, 'icmp6')} ms", offset + 12, 4)
            layer.length = 16
        options = offset + layer.length
    else:
        tree.rest(layer, "Rest of header", offset + 4, offset + 8)
        if kind < 128 and depth < _MAX_NESTED and tree.end > offset + 8:
            ipv6_layer(tree, offset + 8, depth + 1)
        return
    _discovery_options(tree, layer, options)


def _discovery_options(tree: Tree, layer: Field, at: int) -> None:
    data = tree.data[: tree.end]
    while at < tree.end:
        kind, size = u8(data, at, "nd"), u8(data, at + 1, "nd") * 8
        if size == 0:
            tree.add(layer.parts, "Option", "of length 0", at, 2, wrong=True)
            return
        need(data, at, size, "nd")
        value = mac(data, at + 2, "nd") if kind in (1, 2) and size == 8 else byte_count(size - 2)
        tree.add(layer.parts, _ND_OPTIONS.get(kind, f"Option {kind}"), value, at, size)
        at += size
        layer.length = at - layer.offset
