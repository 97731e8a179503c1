"""The host's network interfaces, as the kernel has them (`agent.interface_choice` picks one).

Read by one rtnetlink dump each of links, addresses and IPv4/IPv6 routes (rtnetlink(7)); the driver is asked for by
ioctl, and only the speed comes out of /sys, where virtual interfaces have none. No dependency.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_RTM_NEWLINK, _RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE = 16, 18, 22, 26
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_STATS64 = 1, 3, 4, 10, 18, 23
_IFLA_LINK_NETNSID = 37
_IFLA_INFO_KIND = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE, _RTA_MULTIPATH = 4, 5, 6, 15, 9
_RT_TABLE_MAIN = 254
_RTN_UNICAST = 1
_IFF_UP, _IFF_LOOPBACK, _IFF_LOWER_UP = 0x1, 0x8, 0x10000
_RECEIVE_BYTES = 1 << 16
_SIOCETHTOOL, _ETHTOOL_GDRVINFO = 0x8946, 0x3  # linux/sockios.h, linux/ethtool.h
_DRIVER_INFORMATION_BYTES = 196

# ARPHRD_ (linux/if_arp.h) → LINKTYPE_, as agent.sources.ring_socket can capture it
LINKTYPE_OF_HARDWARE = {
    1: 1,  # ARPHRD_ETHER
    772: 1,  # ARPHRD_LOOPBACK: the kernel gives loopback frames an Ethernet header of zeroes
    65534: 101,  # ARPHRD_NONE: tun, WireGuard: bare IP packets, LINKTYPE_RAW
    519: 101,  # ARPHRD_RAWIP: cellular modems
    768: 101,  # ARPHRD_TUNNEL: IP in IP
    769: 101,  # ARPHRD_TUNNEL6
}


@dataclass(slots=True)
class InterfaceInfo:
    """One interface as the kernel described it just now."""

    name: str
    index: int
    state: str  # "up", "no carrier" (administratively up, nothing plugged in) or "down"
    loopback: bool
    mtu: int
    mac: str  # "" where the hardware has none
    link_type: int | None  # LINKTYPE_ number; None: can't be captured
    speed_mbps: int | None = None
    addresses: list[str] = field(default_factory=list)  # "192.0.2.1/24", IPv4 before IPv6
    packets: int = 0  # received and sent since the interface exists
    received: tuple[int, int] = (0, 0)  # of those: packets, bytes
    sent: tuple[int, int] = (0, 0)
    default_route: int | None = None  # metric of the best default route through it
    gateway: str = ""  # of that route; "" where it has none (point to point) or several
    kind: str = ""  # rtnetlink's kind of a virtual interface: "veth", "bridge", "vlan", …; "" for hardware
    driver: str = ""  # as ethtool -i says; "" where there is none
    master: str = ""  # the bridge or bond that it is a port of
    master_index: int = 0  # its index; 0: none
    peer_elsewhere: bool = False  # the other end of a veth is in another network namespace


class InterfaceError(Exception):
    """The kernel could not be asked."""


def list_interfaces() -> list[InterfaceInfo]:
    """All interfaces of this network namespace by index. InterfaceError when rtnetlink isn't available."""
    found = {link.index: link for link in list_links()}
    for _, body in _dump(_RTM_GETADDR, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)):
        _add_address(found, body)
    for family in (socket.AF_INET, socket.AF_INET6):
        for _, body in _dump(_RTM_GETROUTE, struct.pack("=BBBBBBBBI", family, *([0] * 8))):
            _add_default_route(found, body)
    names = {interface.index: interface.name for interface in found.values()}
    for interface in found.values():
        interface.master = names.get(interface.master_index, "")
        interface.driver = _driver(interface.name)
        interface.speed_mbps = _speed(interface.name)
        interface.addresses.sort(key=lambda text: ":" in text)
    return [found[index] for index in sorted(found)]


def list_links() -> list[InterfaceInfo]:
    """The same by index without addresses, routes, driver and speed: one dump, cheap enough for once a second."""
    request = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)
    links = [_link(body) for kind, body in _dump(_RTM_GETLINK, request) if kind == _RTM_NEWLINK]
    return sorted(links, key=lambda link: link.index)


def _dump(request: int, header: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of one dump: (type, body without the netlink header)."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(5.0)
            netlink.bind((0, 0))
            length = 16 + len(header)
            netlink.send(struct.pack("=IHHII", length, request, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + header)
            while True:
                answer = netlink.recv(_RECEIVE_BYTES)
                at = 0
                while at + 16 <= len(answer):
                    size, kind = struct.unpack_from("=IH", answer, at)
                    if kind == _NLMSG_DONE or size < 16:
                        return
                    if kind == _NLMSG_ERROR:
                        (code,) = struct.unpack_from("=i", answer, at + 16)
                        raise InterfaceError(f"rtnetlink refused a dump (error {-code})")
                    yield kind, answer[at + 16 : at + size]
                    at += (size + 3) & ~3
    except OSError as error:
        raise InterfaceError(f"rtnetlink can't be asked: {error.strerror or error}") from None


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, at)
        if size < 4:
            break
        found[kind & 0x3FFF] = body[at + 4 : at + size]
        at += (size + 3) & ~3
    return found


def _link(body: bytes) -> InterfaceInfo:
    _, hardware, index, flags = struct.unpack_from("=BxHiI", body)
    attributes = _attributes(body, 16)
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="surrogateescape")
    (mtu,) = struct.unpack("=I", attributes.get(_IFLA_MTU, bytes(4)))
    mac = attributes.get(_IFLA_ADDRESS, b"")
    statistics = attributes.get(_IFLA_STATS64, b"")
    received, sent = (0, 0), (0, 0)
    if len(statistics) >= 32:  # struct rtnl_link_stats64 begins with packets and bytes of either direction
        in_packets, out_packets, in_bytes, out_bytes = struct.unpack_from("=QQQQ", statistics)
        received, sent = (in_packets, in_bytes), (out_packets, out_bytes)
    kind = (
        _attributes(attributes.get(_IFLA_LINKINFO, b""), 0).get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    )
    (master,) = struct.unpack("=I", attributes.get(_IFLA_MASTER, bytes(4)))
    state = "down" if not flags & _IFF_UP else "up" if flags & _IFF_LOWER_UP else "no carrier"
    return InterfaceInfo(
        name=name,
        index=index,
        state=state,
        loopback=bool(flags & _IFF_LOOPBACK),
        mtu=mtu,
        mac=mac.hex(":") if len(mac) == 6 else "",
        link_type=LINKTYPE_OF_HARDWARE.get(hardware),
        packets=received[0] + sent[0],
        received=received,
        sent=sent,
        kind=kind,
        master_index=master,
        peer_elsewhere=kind == "veth" and _IFLA_LINK_NETNSID in attributes,
    )


def _add_address(found: dict[int, InterfaceInfo], body: bytes) -> None:
    _, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
    attributes = _attributes(body, 8)
    # IFA_ADDRESS of a point-to-point interface is the peer's; IFA_LOCAL is ours. IPv6 has only the former.
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if packed is not None and index in found and len(packed) in (4, 16):
        found[index].addresses.append(f"{ipaddress.ip_address(packed)}/{prefix}")


def _add_default_route(found: dict[int, InterfaceInfo], body: bytes) -> None:
    _, prefix, _, _, table, _, _, kind = struct.unpack_from("=8B", body)
    attributes = _attributes(body, 12)
    if _RTA_TABLE in attributes:
        (table,) = struct.unpack("=I", attributes[_RTA_TABLE])
    if prefix or kind != _RTN_UNICAST or table != _RT_TABLE_MAIN:
        return
    (metric,) = struct.unpack("=I", attributes.get(_RTA_PRIORITY, bytes(4)))
    packed = attributes.get(_RTA_GATEWAY, b"")
    gateway = str(ipaddress.ip_address(packed)) if len(packed) in (4, 16) else ""
    outputs = [attributes[_RTA_OIF]] if _RTA_OIF in attributes else []
    hops, at = attributes.get(_RTA_MULTIPATH, b""), 0
    while at + 8 <= len(hops):  # struct rtnexthop: u16 length, u8 flags, u8 hops, i32 interface
        (size,) = struct.unpack_from("=H", hops, at)
        outputs.append(hops[at + 4 : at + 8])
        at += max(8, (size + 3) & ~3)
    for output in outputs:
        (index,) = struct.unpack("=i", output)
        if index in found:
            best = found[index].default_route
            if best is None or metric < best:
                found[index].default_route, found[index].gateway = metric, gateway


def _speed(name: str) -> int | None:
    """Mbit/s; None where the driver knows none (virtual interfaces, no carrier)."""
    try:
        speed = int(Path("/sys/class/net", name, "speed").read_text())
    except (OSError, ValueError):
        return None
    return speed if 0 < speed < 1 << 31 else None


def _driver(name: str) -> str:
    """The kernel driver's name; "" where it doesn't say. Asked by ioctl: /sys may show another namespace's."""
    answer = ctypes.create_string_buffer(_DRIVER_INFORMATION_BYTES)
    struct.pack_into("=I", answer, 0, _ETHTOOL_GDRVINFO)
    request = struct.pack("@16sP16x", os.fsencode(name), ctypes.addressof(answer))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket.fileno(), _SIOCETHTOOL, request)
    except OSError:
        return ""
    return answer.raw[4:36].split(b"\0")[0].decode(errors="replace")
