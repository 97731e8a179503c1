"""wirepool's own connections, in the form that the capture kernel compares packets with.

Everything to and from these addresses and ports (TCP and UDP, IPv4 and IPv6) is counted as `own_traffic` and not
captured: also other agents' uplinks on a gateway. Without this an agent captures its own publishing of what it has
captured, and never comes to rest.
"""

from __future__ import annotations

import ipaddress
import logging
import struct
from collections.abc import Iterable

MAX_ENTRIES = 256
"""The kernel compares one after the other, for each TCP or UDP packet."""

log = logging.getLogger(__name__)

_ENTRY = struct.Struct(">BBH16s")


def that_fit(addresses: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """As many of the (IP address, port) pairs as a table holds, in order; what doesn't fit is logged, and captured."""
    found = sorted(set(addresses))
    room = MAX_ENTRIES
    for number, (text, _) in enumerate(found):
        room -= len(_forms(text))
        if room < 0:
            log.warning(
                "%d addresses of servers, hubs and own_traffic.extra; only the first %d can be left out of captures",
                len(found),
                number,
            )
            return found[:number]
    return found


def _forms(text: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """How an address can stand in a packet."""
    address = ipaddress.ip_address(
        text.partition("%")[0].strip("[]")
    )  # fe80::1%eth0: the scope isn't in packets
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return [address, address.ipv4_mapped]
    return [address]


def own_traffic_table(addresses: Iterable[tuple[str, int]]) -> bytes:
    """The table for `agent._tpacket.Ring.read`: an entry per (IP address, port), each once.

    An IPv4-mapped IPv6 address stands for both. ValueError for what is no IP address (resolve names first), no port,
    or more than MAX_ENTRIES.
    """
    entries: dict[bytes, None] = {}
    for text, port in addresses:
        if not 1 <= port <= 65535:
            raise ValueError(f"{port} is no port")
        for form in _forms(text):
            entries[_ENTRY.pack(form.version, 0, port, form.packed.ljust(16, b"\0"))] = None
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"{len(entries)} addresses of own traffic; at most {MAX_ENTRIES} can be left out")
    return b"".join(entries)
