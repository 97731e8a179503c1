"""TCP and UDP of the tree."""

from hub.decode.network import TCP_FLAGS
from hub.decode.packet_line import need, u8, u16, u32
from hub.dissect.application import tcp_application, udp_application
from hub.dissect.tree import Field, Tree

_OPTIONS = {0: "End of options", 1: "No operation", 2: "Maximum segment size", 3: "Window scale", 4: "SACK permitted",
            5: "SACK", 8: "Timestamps", 19: "MD5 signature", 28: "User timeout", 29: "TCP-AO",
            34: "Fast open"}  # fmt: skip


def tcp(tree: Tree, offset: int) -> None:
    """RFC 9293; sequence numbers as they are on the wire."""
    data = tree.data[: tree.end]
    layer = tree.layer("Transmission Control Protocol", offset, 20)
    source, destination = u16(data, offset, "tcp"), u16(data, offset + 2, "tcp")
    layer.value = f"{source} → {destination}"
    tree.add(layer.parts, "Source port", source, offset, 2)
    tree.add(layer.parts, "Destination port", destination, offset + 2, 2)
    tree.add(layer.parts, "Sequence number", u32(data, offset + 4, "tcp"), offset + 4, 4)
    tree.add(layer.parts, "Acknowledgment number", u32(data, offset + 8, "tcp"), offset + 8, 4)
    header, bits = (u8(data, offset + 12, "tcp") >> 4) * 4, u8(data, offset + 13, "tcp")
    tree.add(layer.parts, "Header length", f"{header} bytes", offset + 12, 1, wrong=header < 20)
    names = ", ".join(name for bit, name in TCP_FLAGS if bits & bit) or "none"
    layer.value += f" [{names}]"
    flags = tree.add(layer.parts, "Flags", f"0x{bits:02x} ({names})", offset + 13, 1)
    tree.bits(flags, bits, sorted(TCP_FLAGS, reverse=True))
    tree.add(layer.parts, "Window", u16(data, offset + 14, "tcp"), offset + 14, 2)
    tree.add(layer.parts, "Checksum", f"0x{u16(data, offset + 16, 'tcp'):04x}", offset + 16, 2)
    tree.add(layer.parts, "Urgent pointer", u16(data, offset + 18, "tcp"), offset + 18, 2)
    if header < 20:
        return
    need(data, offset, header, "tcp")
    layer.length = header
    if header > 20:
        options = tree.add(layer.parts, "Options", f"{header - 20} bytes", offset + 20, header - 20)
        _options(tree, options, data, offset + 20, offset + header)
    if tree.end > offset + header:
        tcp_application(tree, offset + header, source, destination)


def _options(tree: Tree, to: Field, data: bytes, at: int, end: int) -> None:
    while at < end:
        kind = data[at]
        name = _OPTIONS.get(kind, f"Option {kind}")
        if kind < 2:
            tree.add(to.parts, name, "", at, 1)
            at += 1
            if kind == 0:
                return
            continue
        size = data[at + 1] if at + 1 < end else 0
        if size < 2 or at + size > end:
            tree.add(to.parts, name, f"of length {size}", at, end - at, wrong=True)
            return
        value = ""
        if kind == 2 and size == 4:
            value = f"{u16(data, at + 2, 'tcp')} bytes"
        elif kind == 3 and size == 3:
            value = f"{data[at + 2]} (multiply by {1 << min(14, data[at + 2])})"
        elif kind == 8 and size == 10:
            value = f"value {u32(data, at + 2, 'tcp')}, echo {u32(data, at + 6, 'tcp')}"
        elif kind == 5:
            edges = [u32(data, at + 2 + i, "tcp") for i in range(0, size - 2 - (size - 2) % 4, 4)]
            value = ", ".join(map(str, edges))
        elif size > 2:
            value = data[at + 2 : at + size].hex(" ")
        tree.add(to.parts, name, value, at, size)
        at += size


def udp(tree: Tree, offset: int) -> None:
    """RFC 768."""
    data = tree.data[: tree.end]
    layer = tree.layer("User Datagram Protocol", offset, 8)
    source, destination = u16(data, offset, "udp"), u16(data, offset + 2, "udp")
    layer.value = f"{source} → {destination}"
    tree.add(layer.parts, "Source port", source, offset, 2)
    tree.add(layer.parts, "Destination port", destination, offset + 2, 2)
    length = u16(data, offset + 4, "udp")
    tree.add(layer.parts, "Length", length, offset + 4, 2, wrong=0 < length < 8)
    checksum = u16(data, offset + 6, "udp")
    tree.add(layer.parts, "Checksum", f"0x{checksum:04x}" if checksum else "none", offset + 6, 2)
    if length >= 8:
        tree.end = min(tree.end, offset + length)
    if tree.end > offset + 8 and not 0 < length < 8:
        udp_application(tree, offset + 8, source, destination)
