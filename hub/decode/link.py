"""Link layers: Ethernet with VLAN tags, LLC/SNAP, Linux cooked captures, raw IP, null, PPP, 802.11 by name."""

from hub.decode.network import ARP, IPV4, IPV6, arp, ipv4_layer, ipv6_layer
from hub.decode.packet_line import Line, mac, u8, u16, u32

VLAN_TYPES = frozenset({0x8100, 0x88A8, 0x9100})
_MAX_TAGS = 4
ETHERTYPES = {
    0x0200: "PUP",
    0x0842: "WoL",
    0x22F3: "TRILL",
    0x6003: "DECnet",
    0x8035: "RARP",
    0x809B: "AppleTalk",
    0x80F3: "AARP",
    0x8137: "IPX",
    0x8808: "MAC CTRL",
    0x8809: "Slow protocols",
    0x8847: "MPLS",
    0x8848: "MPLS",
    0x8863: "PPPoED",
    0x8864: "PPPoES",
    0x887B: "HomePlug",
    0x888E: "EAPOL",
    0x8892: "PROFINET",
    0x88A2: "AoE",
    0x88A4: "ECAT",
    0x88CC: "LLDP",
    0x88E1: "HomePlug AV",
    0x88E5: "MACsec",
    0x88E7: "IEEE 802.1ah",
    0x88F7: "PTPv2",
    0x8902: "CFM",
    0x8906: "FCoE",
    0x8915: "RoCE",
    0x9000: "LOOP",
}
_SAPS = {0x42: "STP", 0xAA: "SNAP", 0xE0: "IPX", 0xF0: "NetBIOS", 0xFE: "OSI", 0x06: "IP"}
_CISCO = {0x2000: "CDP", 0x2003: "VTP", 0x2004: "DTP", 0x0111: "UDLD", 0x010B: "STP"}


def link_layer(line: Line, data: bytes, link_type: int) -> None:
    """Decode from the first byte; unknown link types leave `line` empty."""
    match link_type:
        case 1:
            ethernet(line, data)
        case 0 | 108:
            _null(line, data)
        case 9 | 50:
            _ppp(line, data)
        case 12 | 14 | 101:
            _raw_ip(line, data)
        case 228:
            ipv4_layer(line, data, 0)
        case 229:
            ipv6_layer(line, data, 0)
        case 105:
            wlan(line, data, 0)
        case 119:
            wlan(line, data, min(144, len(data)))  # Prism header
        case 127:
            _radiotap(line, data)
        case 113:
            _cooked(line, data)
        case 276:
            _cooked2(line, data)


def ethernet(line: Line, data: bytes, offset: int = 0) -> None:
    """IEEE 802.3 with up to four VLAN tags."""
    line.protocol = "Ethernet"
    line.destination = mac(data, offset, "ether")
    line.source = mac(data, offset + 6, "ether")
    if data[offset] & 1:
        line.rule = "broadcast"
        if line.destination == "ff:ff:ff:ff:ff:ff":
            line.destination = "Broadcast"
    ethertype, offset = u16(data, offset + 12, "ether"), offset + 14
    for _ in range(_MAX_TAGS):
        if ethertype not in VLAN_TYPES:
            break
        line.protocol = "VLAN"
        line.add(f"[VLAN {u16(data, offset, 'vlan') & 0xFFF}]")
        ethertype, offset = u16(data, offset + 2, "vlan"), offset + 4
    if ethertype < 0x0600:
        _llc(line, data, offset)
    else:
        ether_payload(line, data, offset, ethertype)


def ether_payload(line: Line, data: bytes, offset: int, ethertype: int) -> None:
    """What an EtherType announces."""
    if ethertype == IPV4:
        ipv4_layer(line, data, offset)
    elif ethertype == IPV6:
        ipv6_layer(line, data, offset)
    elif ethertype in (ARP, 0x8035):
        arp(line, data, offset, "RARP" if ethertype == 0x8035 else "ARP")
    elif ethertype in (0x8847, 0x8848):
        _mpls(line, data, offset)
    elif ethertype == 0x8864:
        line.tell("PPPoES", "other", f"session 0x{u16(data, offset + 2, 'pppoe'):04x}")
        _ppp_payload(line, data, offset + 8, u16(data, offset + 6, "pppoe"))
    elif ethertype == 0x888E:
        kinds = {0: "EAP", 1: "Start", 2: "Logoff", 3: "Key"}
        line.tell("EAPOL", "other", kinds.get(u8(data, offset + 1, "eapol"), "unknown type"))
    elif ethertype == 0x88CC:
        line.tell("LLDP", "routing", f"{len(data) - offset} bytes")
    else:
        name = ETHERTYPES.get(ethertype)
        line.tell(
            name or f"0x{ethertype:04x}", line.rule or "other", f"{name or 'EtherType'} 0x{ethertype:04x}"
        )


def _mpls(line: Line, data: bytes, offset: int) -> None:
    labels = []
    for _ in range(8):
        entry = u32(data, offset, "mpls")
        offset += 4
        labels.append(str(entry >> 12))
        if entry & 0x100:
            break
    line.tell("MPLS", "other", f"label {' '.join(labels)}")
    version = u8(data, offset, "mpls") >> 4
    if version == 4:
        ipv4_layer(line, data, offset)
    elif version == 6:
        ipv6_layer(line, data, offset)


def _llc(line: Line, data: bytes, offset: int) -> None:
    if data[offset : offset + 2] == b"\xff\xff":
        line.tell("IPX", "other", "raw 802.3")
        return
    dsap, ssap = u8(data, offset, "llc"), u8(data, offset + 1, "llc")
    control = u8(data, offset + 2, "llc")
    if dsap == ssap == 0xAA:
        oui, kind = data[offset + 3 : offset + 6], u16(data, offset + 6, "snap")
        if oui == b"\x00\x00\x0c":
            name = _CISCO.get(kind, "SNAP")
            line.tell(name, "routing" if name != "SNAP" else "other", f"PID 0x{kind:04x}")
        elif oui == b"\x00\x00\x00":
            ether_payload(line, data, offset + 8, kind)
        else:
            line.tell("SNAP", "other", f"OUI {oui.hex(':')} PID 0x{kind:04x}")
        return
    if dsap == 0x42:
        _spanning_tree(line, data, offset + 3)
        return
    name = _SAPS.get(dsap & 0xFE, "LLC")
    text = f"DSAP 0x{dsap:02x} SSAP 0x{ssap:02x} control 0x{control:02x}"
    line.tell(name if name != "SNAP" else "LLC", line.rule or "other", text)


def _spanning_tree(line: Line, data: bytes, offset: int) -> None:
    line.tell("STP", "routing", "bridge protocol")
    version, kind = u8(data, offset + 2, "stp"), u8(data, offset + 3, "stp")
    if kind == 0x80:
        line.tell("STP", "routing", "Topology Change Notification")
        return
    name = {0: "Conf.", 2: "RST.", 3: "MST."}.get(version, f"version {version}")
    root, cost = u16(data, offset + 5, "stp"), u32(data, offset + 13, "stp")
    address, port = mac(data, offset + 7, "stp"), u16(data, offset + 25, "stp")
    line.tell(
        "STP",
        "routing",
        f"{name} Root = {root & 0xF000}/{root & 0xFFF}/{address}  Cost = {cost}  Port = 0x{port:04x}",
    )


def _raw_ip(line: Line, data: bytes) -> None:
    version = u8(data, 0, "ip") >> 4
    if version == 4:
        ipv4_layer(line, data, 0)
    elif version == 6:
        ipv6_layer(line, data, 0)
    else:
        line.tell("raw IP", "bad", f"IP version {version}, {len(data)} bytes")


def _null(line: Line, data: bytes) -> None:
    # Four bytes of address family in the byte order of the host that captured; families differ between the BSDs.
    family = u32(data, 0, "null")
    family = family if family < 0x10000 else int.from_bytes(data[:4], "little")
    line.protocol = "Null/Loopback"
    if family == 2:
        ipv4_layer(line, data, 4)
    elif family in (10, 24, 28, 30):
        ipv6_layer(line, data, 4)
    else:
        line.add(f"address family {family}")


def _ppp(line: Line, data: bytes) -> None:
    offset = 2 if data[:2] == b"\xff\x03" else 0
    protocol = u8(data, offset, "ppp")
    if protocol & 1:
        _ppp_payload(line, data, offset + 1, protocol)
    else:
        _ppp_payload(line, data, offset + 2, u16(data, offset, "ppp"))


def _ppp_payload(line: Line, data: bytes, offset: int, protocol: int) -> None:
    if protocol == 0x21:
        ipv4_layer(line, data, offset)
    elif protocol == 0x57:
        ipv6_layer(line, data, offset)
    else:
        names = {
            0xC021: "PPP LCP",
            0xC023: "PPP PAP",
            0xC223: "PPP CHAP",
            0x8021: "PPP IPCP",
            0x8057: "PPP IPV6CP",
        }
        line.tell(names.get(protocol, "PPP"), "other", f"protocol 0x{protocol:04x}")


def _cooked(line: Line, data: bytes) -> None:
    line.protocol = "SLL"
    kinds = {
        0: "unicast to us",
        1: "broadcast",
        2: "multicast",
        3: "unicast to another host",
        4: "sent by us",
    }
    line.add(kinds.get(u16(data, 0, "sll"), "unknown packet type"))
    if u16(data, 4, "sll") == 6:
        line.source = mac(data, 6, "sll")
    _cooked_payload(line, data, 16, u16(data, 14, "sll"), u16(data, 2, "sll"))


def _cooked2(line: Line, data: bytes) -> None:
    line.protocol = "SLL"
    line.add(f"interface index {u32(data, 4, 'sll2')}")
    if u8(data, 11, "sll2") == 6:
        line.source = mac(data, 12, "sll2")
    _cooked_payload(line, data, 20, u16(data, 0, "sll2"), u16(data, 8, "sll2"))


def _cooked_payload(line: Line, data: bytes, offset: int, ethertype: int, hardware: int) -> None:
    if hardware == 824:  # ARPHRD_NETLINK: the protocol field isn't an EtherType
        line.tell("Netlink", "other", f"family {ethertype}")
    elif ethertype == 4:
        _llc(line, data, offset)
    else:
        ether_payload(line, data, offset, ethertype)


def _radiotap(line: Line, data: bytes) -> None:
    if u8(data, 0, "radiotap") != 0:
        line.tell("802.11", "wlan", "radiotap of an unknown version")
        return
    wlan(line, data, int.from_bytes(data[2:4], "little") if len(data) >= 4 else len(data))


_MANAGEMENT = (
    "Association Request", "Association Response", "Reassociation Request", "Reassociation Response",
    "Probe Request", "Probe Response", "Timing Advertisement", "reserved", "Beacon frame", "ATIM",
    "Disassociate", "Authentication", "Deauthentication", "Action", "Action No Ack", "reserved",
)  # fmt: skip
_CONTROL = {
    4: "Beamforming Report Poll", 5: "VHT NDP Announcement", 7: "Control Wrapper", 8: "802.11 Block Ack Req",
    9: "802.11 Block Ack", 10: "Power-Save poll", 11: "Request-to-send", 12: "Clear-to-send",
    13: "Acknowledgement", 14: "CF-End", 15: "CF-End + CF-Ack",
}  # fmt: skip
_DATA = {0: "Data", 4: "Null function (No data)", 8: "QoS Data", 12: "QoS Null function (No data)"}


def wlan(line: Line, data: bytes, offset: int) -> None:
    """IEEE 802.11 by the name of its frame; addresses and, in beacons and probes, the network's name."""
    line.protocol, line.rule = "802.11", "wlan"
    control = u8(data, offset, "802.11")
    kind, subtype = control >> 2 & 3, control >> 4
    flags = u8(data, offset + 1, "802.11")
    if kind == 0:
        line.add(_MANAGEMENT[subtype])
    elif kind == 1:
        line.add(_CONTROL.get(subtype, f"Control subtype {subtype}"))
    elif kind == 2:
        line.add(_DATA.get(subtype, f"Data subtype {subtype}"))
    else:
        line.add("Extension frame")
    line.destination = mac(data, offset + 4, "802.11")
    if kind == 1 and subtype in (12, 13):
        return
    line.source = mac(data, offset + 10, "802.11")
    if kind == 1:
        return
    line.add(f"SN={int.from_bytes(data[offset + 22 : offset + 24], 'little') >> 4}")
    if flags & 0x40:
        line.add("protected")
    elements = {8: 36, 5: 36, 4: 24, 0: 28, 2: 34}
    if kind == 0 and subtype in elements and not flags & 0x40:
        _network_name(line, data, offset + elements[subtype])
    if kind == 2 and subtype in (0, 8) and not flags & 0x40:
        header = 24 + (6 if flags & 3 == 3 else 0) + (2 if subtype == 8 else 0)
        if data[offset + header : offset + header + 3] == b"\xaa\xaa\x03":
            _llc(line, data, offset + header)


def _network_name(line: Line, data: bytes, offset: int) -> None:
    if data[offset : offset + 1] == b"\x00":
        length = u8(data, offset + 1, "802.11")
        name = data[offset + 2 : offset + 2 + min(length, 32)].decode("utf-8", "replace")
        line.add(f'SSID="{name}"' if name else "SSID=Wildcard (Broadcast)")
