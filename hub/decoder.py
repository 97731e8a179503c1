"""One line of summary per packet. (Signatures first.)"""

from dataclasses import dataclass

MAX_INFO = 200


@dataclass(frozen=True, slots=True)
class Row:
    """A packet as the page shows it. All text is bounded, printable and NOT escaped for HTML."""

    time_ns: int
    """Capture time, ns UTC, as the agent's kernel gave it."""
    agent: str
    session: str
    interface: str
    source: str
    destination: str
    protocol: str
    """Like Wireshark's column: TCP, UDP, DNS, TLSv1.3, ARP, 802.11, …"""
    length: int
    """Original length on the wire in bytes."""
    info: str
    """At most MAX_INFO characters."""
    rule: str
    """Name of the first colour rule that matches, also a CSS class suffix and a word for people who don't see
    colour: bad, icmp-error, arp, icmp, rst, routing, http, handshake, tls, dns, tcp, udp, broadcast, wlan, other."""
    flags: tuple[str, ...]
    """out, in, truncated, vlan, checksum-not-ready, priority, swap-interval."""
    observation: str
    """`agent/boot/session/lane/sequence/index`: names this packet for ever."""


def summarize(
    data: bytes | memoryview, link_type: int, original_bytes: int
) -> tuple[str, str, str, str, str]:
    """(source, destination, protocol, info, rule) of one packet's bytes. Never raises."""
    raise NotImplementedError
