"""What TCP and UDP carry, by port and then by its first bytes, as `hub.decode.application` names it in the list."""

from hub.decode.application import is_http, is_tls
from hub.decode.packet_line import u16
from hub.dissect.dhcp import dhcp
from hub.dissect.dns import dns
from hub.dissect.http import http
from hub.dissect.ntp import ntp
from hub.dissect.tls import tls
from hub.dissect.tree import Tree

_NAME_PORTS = {53: "Domain Name System", 5353: "Multicast DNS", 5355: "LLMNR", 137: "NetBIOS name service"}


def udp_application(tree: Tree, offset: int, source: int, destination: int) -> None:
    """The payload of a datagram, which begins at `offset` and ends at `tree.end`."""
    ports = {source, destination}
    name = next((name for port, name in _NAME_PORTS.items() if port in ports), None)
    if name is not None:
        dns(tree, offset, name)
    elif ports & {67, 68}:
        dhcp(tree, offset)
    elif 123 in ports:
        ntp(tree, offset)
    elif 1900 in ports and is_http(tree.data[offset : tree.end]):
        http(tree, offset, "SSDP")


def tcp_application(tree: Tree, offset: int, source: int, destination: int) -> None:
    """What a segment begins with; one that continues a message is data."""
    data = tree.data[offset : tree.end]
    if 53 in (source, destination):
        # Two bytes of length before each message; a segment from the middle of one doesn't begin so.
        if len(data) > 14 and u16(data, 0, "dns") >= 12 and not u16(data, 4, "dns") & 0x0070:
            length = tree.layer("DNS over TCP", offset, 2)
            tree.add(length.parts, "Length", u16(data, 0, "dns"), offset, 2)
            dns(tree, offset + 2, _NAME_PORTS[53])
    elif is_tls(data):
        tls(tree, offset)
    elif is_http(data):
        http(tree, offset, "Hypertext Transfer Protocol")
