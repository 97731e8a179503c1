"""One line of summary per packet, for the packets that are shown.

Own struct code from the link layer to TCP/UDP (`link`, `network`, `application` beside this).
Input is hostile: nothing raises, loops are bounded by constants, text is bounded and printable. Where bytes are
missing the line says so, like tcpdump's `[|tcp]`, and the packet keeps what was known before.
"""

from dataclasses import dataclass

from hub.decode.link import link_layer
from hub.decode.packet_line import MAX_ADDRESS, MAX_INFO, Cut, Line, printable
from wire import batch


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
    heard_ns: int = 0
    """When the hub got the packet's batch, by the hub's clock: where to look for it in the archive. 0: unknown."""


def summarize(
    data: bytes | memoryview, link_type: int, original_bytes: int
) -> tuple[str, str, str, str, str]:
    """(source, destination, protocol, info, rule) of one packet's bytes. Never raises.

    data: the captured bytes (the beginning is enough); link_type: a LINKTYPE_ value (tcpdump.org/linktypes.html).
    """
    line = Line(original_bytes)
    try:
        link_layer(line, bytes(data), link_type)
    except Cut as cut:
        line.add(f"[{cut}]")
    except Exception as error:  # a fault of ours must not end anybody's live view
        line.add(f"[not decoded: {type(error).__name__}]")
        line.rule = line.rule or "bad"
    if not line.protocol:
        line.protocol = f"link type {link_type}"
        line.add(f"{original_bytes} bytes")
    return (
        printable(line.source, MAX_ADDRESS),
        printable(line.destination, MAX_ADDRESS),
        printable(line.protocol, 24),
        printable(line.info(), MAX_INFO),
        line.rule or "other",
    )


_FLAG_WORDS: tuple[tuple[int, str], ...] = (
    (batch.TRUNCATED, "truncated"),
    (batch.VLAN_REINSERTED, "vlan"),
    (batch.CHECKSUM_NOT_READY, "checksum-not-ready"),
    (batch.PRIORITY, "priority"),
    (batch.SWAP_INTERVAL, "swap-interval"),
)


def flag_words(flags: int) -> tuple[str, ...]:
    """The words for a packet's flags column (wire.batch)."""
    direction = {1: ("in",), 2: ("out",)}.get(flags & batch.DIRECTION_MASK, ())
    return direction + tuple(word for bit, word in _FLAG_WORDS if flags & bit)
