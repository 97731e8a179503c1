"""Link layers of the tree: Ethernet with VLAN tags, Linux cooked captures, null and raw IP; others are data."""

from hub.decode.link import ETHERTYPES, VLAN_TYPES
from hub.decode.network import ARP, IPV4, IPV6
from hub.decode.packet_line import mac, u8, u16, u32
from hub.dissect.network import arp, ipv4_layer, ipv6_layer
from hub.dissect.tree import Tree, named

_MAX_TAGS = 4
_NAMES = {
    IPV4: "IPv4",
    ARP: "ARP",
    IPV6: "IPv6",
    0x8100: "802.1Q",
    0x88A8: "802.1ad",
    0x9100: "QinQ",
    **ETHERTYPES,
}
_COOKED_KINDS = {0: "to us", 1: "broadcast", 2: "multicast", 3: "to another host", 4: "sent by us"}


def link_layer(tree: Tree, link_type: int) -> None:
    """Read from the first byte; of an unknown link type nothing is read. Raises Cut."""
    match link_type:
        case 1:
            _ethernet(tree)
        case 0 | 108:
            _null(tree)
        case 12 | 14 | 101:
            _raw_ip(tree)
        case 228:
            ipv4_layer(tree, 0)
        case 229:
            ipv6_layer(tree, 0)
        case 113:
            _cooked(tree)
        case 276:
            _cooked2(tree)


def _ethernet(tree: Tree) -> None:
    """IEEE 802.3, with up to four tags of IEEE 802.1Q."""
    data = tree.data
    layer = tree.layer("Ethernet II", 0, 14)
    destination, source = mac(data, 0, "ether"), mac(data, 6, "ether")
    where = tree.add(layer.parts, "Destination", destination, 0, 6)
    tree.bits(where, data[0], ((1, "Group address"), (2, "Locally administered")))
    where = tree.add(layer.parts, "Source", source, 6, 6)
    tree.bits(where, data[6], ((1, "Group address"), (2, "Locally administered")))
    layer.value = f"{source} → {destination}"
    ethertype, offset = u16(data, 12, "ether"), 14
    if ethertype < 0x0600:
        layer.name = "IEEE 802.3"
        tree.add(layer.parts, "Length", ethertype, 12, 2)
        tree.end = min(tree.end, 14 + ethertype) if ethertype else tree.end
        _llc(tree, offset)
        return
    tree.add(layer.parts, "Type", named(_NAMES, ethertype, 4), 12, 2)
    for _ in range(_MAX_TAGS):
        if ethertype not in VLAN_TYPES:
            break
        tag, ethertype = u16(data, offset, "vlan"), u16(data, offset + 2, "vlan")
        layer = tree.layer("VLAN tag (802.1Q)", offset, 4, f"VLAN {tag & 0xFFF}")
        tree.add(layer.parts, "Priority", tag >> 13, offset, 2)
        tree.add(layer.parts, "Drop eligible", "yes" if tag & 0x1000 else "no", offset, 2)
        tree.add(layer.parts, "VLAN id", tag & 0xFFF, offset, 2)
        tree.add(layer.parts, "Type", named(_NAMES, ethertype, 4), offset + 2, 2)
        offset += 4
    _ether_payload(tree, offset, ethertype)


def _ether_payload(tree: Tree, offset: int, ethertype: int) -> None:
    if ethertype == IPV4:
        ipv4_layer(tree, offset)
    elif ethertype == IPV6:
        ipv6_layer(tree, offset)
    elif ethertype in (ARP, 0x8035):
        arp(tree, offset, "RARP" if ethertype == 0x8035 else "ARP")


def _llc(tree: Tree, offset: int) -> None:
    """IEEE 802.2, with SNAP where it says so."""
    data = tree.data
    layer = tree.layer("Logical Link Control", offset, 3)
    dsap, ssap = u8(data, offset, "llc"), u8(data, offset + 1, "llc")
    layer.value = f"DSAP 0x{dsap:02x}, SSAP 0x{ssap:02x}"
    tree.add(layer.parts, "DSAP", f"0x{dsap:02x}", offset, 1)
    tree.add(layer.parts, "SSAP", f"0x{ssap:02x}", offset + 1, 1)
    tree.add(layer.parts, "Control", f"0x{u8(data, offset + 2, 'llc'):02x}", offset + 2, 1)
    if dsap == ssap == 0xAA:
        kind = u16(data, offset + 6, "snap")
        layer.length = 8
        tree.add(layer.parts, "Organization", data[offset + 3 : offset + 6].hex(":"), offset + 3, 3)
        tree.add(layer.parts, "Protocol", named(_NAMES, kind, 4), offset + 6, 2)
        if data[offset + 3 : offset + 6] == bytes(3):
            _ether_payload(tree, offset + 8, kind)


def _raw_ip(tree: Tree) -> None:
    version = u8(tree.data, 0, "ip") >> 4
    if version == 4:
        ipv4_layer(tree, 0)
    elif version == 6:
        ipv6_layer(tree, 0)


def _null(tree: Tree) -> None:
    # The family stands in the byte order of the host that captured, and families differ between the BSDs.
    family = u32(tree.data, 0, "null")
    family = family if family < 0x10000 else int.from_bytes(tree.data[:4], "little")
    layer = tree.layer("Null/Loopback", 0, 4, f"family {family}")
    tree.add(layer.parts, "Address family", family, 0, 4)
    if family == 2:
        ipv4_layer(tree, 4)
    elif family in (10, 24, 28, 30):
        ipv6_layer(tree, 4)


def _cooked(tree: Tree) -> None:
    data = tree.data
    layer = tree.layer("Linux cooked capture", 0, 16)
    kind, hardware, length = u16(data, 0, "sll"), u16(data, 2, "sll"), u16(data, 4, "sll")
    layer.value = _COOKED_KINDS.get(kind, f"packet type {kind}")
    tree.add(layer.parts, "Packet type", named(_COOKED_KINDS, kind), 0, 2)
    tree.add(layer.parts, "Hardware type", hardware, 2, 2)
    tree.add(layer.parts, "Address length", length, 4, 2)
    protocol = u16(data, 14, "sll")
    tree.add(layer.parts, "Source", data[6 : 6 + min(length, 8)].hex(":"), 6, min(length, 8))
    tree.add(layer.parts, "Protocol", named(_NAMES, protocol, 4), 14, 2)
    _cooked_payload(tree, 16, protocol, hardware)


def _cooked2(tree: Tree) -> None:
    data = tree.data
    layer = tree.layer("Linux cooked capture v2", 0, 20)
    protocol, hardware, kind = u16(data, 0, "sll2"), u16(data, 8, "sll2"), u8(data, 10, "sll2")
    length = u8(data, 11, "sll2")
    layer.value = _COOKED_KINDS.get(kind, f"packet type {kind}")
    tree.add(layer.parts, "Protocol", named(_NAMES, protocol, 4), 0, 2)
    tree.add(layer.parts, "Interface index", u32(data, 4, "sll2"), 4, 4)
    tree.add(layer.parts, "Hardware type", hardware, 8, 2)
    tree.add(layer.parts, "Packet type", named(_COOKED_KINDS, kind), 10, 1)
    tree.add(layer.parts, "Address length", length, 11, 1)
    tree.add(layer.parts, "Source", data[12 : 12 + min(length, 8)].hex(":"), 12, min(length, 8))
    _cooked_payload(tree, 20, protocol, hardware)


def _cooked_payload(tree: Tree, offset: int, protocol: int, hardware: int) -> None:
    if hardware == 824:  # ARPHRD_NETLINK: the protocol field isn't an EtherType
        return
    if protocol == 4:
        _llc(tree, offset)
    else:
        _ether_payload(tree, offset, protocol)
