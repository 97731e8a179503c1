"""DHCP and BOOTP of the tree (RFC 2131, options of RFC 2132)."""

from hub.decode.application import DHCP
from hub.decode.packet_line import ipv4, latin, need, u8, u16, u32
from hub.dissect.tree import Field, Tree, byte_count, named

_MAX_OPTIONS = 128
_COOKIE = b"\x63\x82\x53\x63"
_OPTIONS = {1: "Subnet mask", 2: "Time offset", 3: "Router", 6: "DNS server", 12: "Host name", 15: "Domain name",
            28: "Broadcast address", 42: "NTP server", 43: "Vendor information", 50: "Requested address",
            51: "Lease time", 53: "Message type", 54: "Server", 55: "Parameters requested", 56: "Message",
            57: "Largest message", 58: "Renewal time", 59: "Rebinding time", 60: "Vendor class", 61: "Client id",
            66: "TFTP server", 67: "Boot file", 81: "Client FQDN", 82: "Relay agent", 119: "Domain search",
            121: "Classless routes"}  # fmt: skip
_ADDRESSES = frozenset({1, 3, 6, 28, 42, 50, 54})
_SECONDS = frozenset({51, 58, 59})
_TEXTS = frozenset({12, 15, 56, 60, 66, 67})


def dhcp(tree: Tree, offset: int) -> None:
    """The fixed part, then the options behind the cookie."""
    data = tree.data[: tree.end]
    layer = tree.layer("Dynamic Host Configuration Protocol", offset, len(data) - offset)
    operation, length = u8(data, offset, "dhcp"), u8(data, offset + 2, "dhcp")
    layer.value = {1: "Boot Request", 2: "Boot Reply"}.get(operation, f"operation {operation}")
    tree.add(layer.parts, "Operation", named({1: "Boot Request", 2: "Boot Reply"}, operation), offset, 1)
    tree.add(
        layer.parts, "Hardware type", named({1: "Ethernet"}, u8(data, offset + 1, "dhcp")), offset + 1, 1
    )
    tree.add(layer.parts, "Hardware address length", length, offset + 2, 1)
    tree.add(layer.parts, "Hops", u8(data, offset + 3, "dhcp"), offset + 3, 1)
    tree.add(layer.parts, "Transaction id", f"0x{u32(data, offset + 4, 'dhcp'):08x}", offset + 4, 4)
    tree.add(layer.parts, "Seconds", u16(data, offset + 8, "dhcp"), offset + 8, 2)
    flags = u16(data, offset + 10, "dhcp")
    tree.bits(
        tree.add(layer.parts, "Flags", f"0x{flags:04x}", offset + 10, 2), flags, ((0x8000, "Broadcast"),)
    )
    for place, name in enumerate(("Client address", "Your address", "Server address", "Relay address")):
        tree.add(layer.parts, name, ipv4(data, offset + 12 + 4 * place, "dhcp"), offset + 12 + 4 * place, 4)
    need(data, offset, 236, "dhcp")
    hardware = data[offset + 28 : offset + 28 + min(length, 16)]
    tree.add(layer.parts, "Client hardware address", hardware.hex(":"), offset + 28, len(hardware))
    for place, size, name in ((44, 64, "Server name"), (108, 128, "Boot file")):
        text = data[offset + place : offset + place + size].split(b"\0", 1)[0]
        tree.add(layer.parts, name, latin(text) if text else "not given", offset + place, size)
    if data[offset + 236 : offset + 240] == _COOKIE:
        tree.add(layer.parts, "Magic cookie", "DHCP", offset + 236, 4)
        _options(tree, layer, data, offset + 240)


def _options(tree: Tree, layer: Field, data: bytes, at: int) -> None:
    for _ in range(_MAX_OPTIONS):
        if at >= len(data):
            return
        kind = data[at]
        if kind in (0, 255):
            tree.add(layer.parts, "End of options" if kind else "Padding", "", at, 1)
            at += 1
            if kind:
                return
            continue
        size = u8(data, at + 1, "dhcp")
        need(data, at + 2, size, "dhcp")
        name = f"{_OPTIONS.get(kind, 'Option')} ({kind})"
        tree.add(layer.parts, name, _value(kind, data[at + 2 : at + 2 + size]), at, 2 + size)
        if kind == 53 and size == 1:
            layer.value = f"DHCP {DHCP.get(data[at + 2], 'unknown')}"
        at += 2 + size


def _value(kind: int, content: bytes) -> str:
    size = len(content)
    if kind == 53 and size == 1:
        return named(DHCP, content[0])
    if kind in _ADDRESSES and size and size % 4 == 0:
        return ", ".join(ipv4(content, i, "dhcp") for i in range(0, min(size, 64), 4))
    if kind in _SECONDS and size == 4:
        return f"{u32(content, 0, 'dhcp')} s"
    if kind == 57 and size == 2:
        return f"{u16(content, 0, 'dhcp')} bytes"
    if kind in _TEXTS:
        return latin(content, 200)
    if kind == 55:
        return ", ".join(map(str, content[:64]))
    return content.hex(" ") if size <= 24 else byte_count(size)
