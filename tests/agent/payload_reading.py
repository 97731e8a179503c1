"""A second opinion on where payload begins: Ethernet and tags by hand, the rest by dpkt.

Shares no code with `agent/_payload.h` and is strict in the same direction, so the two can be compared packet by packet.
None: dpkt can't say (a damaged packet), then only the bounds hold.
"""

from __future__ import annotations

import dpkt

TAGS = (0x8100, 0x88A8, 0x9100, 0x9200)
FIRST = {dpkt.ip.IP_PROTO_TCP: 20, dpkt.ip.IP_PROTO_UDP: 8}


def header_bytes(frame: bytes, link_type: int) -> int | None:
    """Bytes before the payload of a whole, well-formed frame."""
    at = {1: 14, 101: 0, 113: 16}.get(link_type)
    if at is None:
        return 0 if link_type not in (0, 12, 14, 108, 228, 229, 276) else None
    if len(frame) < at:
        return len(frame)
    if link_type == 101:
        version = frame[0] >> 4 if frame else 0
        return {4: _ip4, 6: _ip6}[version](frame, 0) if version in (4, 6) else 0
    kind = int.from_bytes(frame[12:14] if link_type == 1 else frame[14:16], "big")
    while kind in TAGS:
        if len(frame) < at + 4:
            return len(frame)
        kind, at = int.from_bytes(frame[at + 2 : at + 4], "big"), at + 4
    if kind in (0x0806, 0x8035):
        plain = frame[at : at + 6] == bytes.fromhex("000108000604")
        return min(at + 28, len(frame)) if plain else None
    if kind == 0x88CC:
        return len(frame)
    if kind == 0x0800:
        return _ip4(frame, at)
    return _ip6(frame, at) if kind == 0x86DD else at


def _ip4(frame: bytes, at: int) -> int | None:
    try:
        packet = dpkt.ip.IP(frame[at:])
    except dpkt.UnpackError:
        return None
    behind = at + 4 * int(packet.hl)
    if (
        packet.v != 4
        or packet.len < 4 * packet.hl
        or packet.len > len(frame) - at
        or packet.p == dpkt.ip.IP_PROTO_AH
    ):
        return None  # cut, or a segment of unknown length: dpkt's own lengths don't hold
    if packet.offset:
        return behind
    return _transport(frame[behind : at + packet.len], behind, packet.p, dpkt.ip.IP_PROTO_ICMP)


def _ip6(frame: bytes, at: int) -> int | None:
    try:
        packet = dpkt.ip6.IP6(frame[at:])
    except (dpkt.UnpackError, IndexError, KeyError):
        return None
    if packet.v != 6 or not packet.plen or packet.plen > len(frame) - at - 40:
        return None
    behind = at + 40
    for header in packet.all_extension_headers:
        if isinstance(header, dpkt.ip6.IP6ESPHeader):
            return behind
        behind += int(header.length) if not isinstance(header, dpkt.ip6.IP6FragmentHeader) else 8
        if isinstance(header, dpkt.ip6.IP6FragmentHeader) and header.frag_off:
            return behind
    return _transport(frame[behind : at + 40 + packet.plen], behind, packet.p, dpkt.ip.IP_PROTO_ICMP6)


def _transport(rest: bytes, behind: int, protocol: int, icmp: int) -> int | None:
    if protocol == dpkt.ip.IP_PROTO_TCP:
        try:
            segment = dpkt.tcp.TCP(rest)
        except dpkt.UnpackError:
            return None
        return behind + min(4 * int(segment.off), len(rest))
    if protocol in (dpkt.ip.IP_PROTO_UDP, icmp):
        return behind + min(8, len(rest))
    return behind
