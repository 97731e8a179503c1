"""Write pcapng (draft-ietf-opsawg-pcapng) and classic pcap from columns.

Blocks are little endian with times in nanoseconds. Packets are assembled by one C call per batch; the few blocks
around them here. Writing pcapng: a `section_header`, an `interface_block` for each (agent, boot, interface, link type,
filter revision, snaplen), `packet_blocks` with the number of that interface, at the end `statistics_block`s.
"""

import struct
from typing import TypedDict

from wire import _columns
from wire.body import Columns
from wire.books import Books

APPLICATION = "wirepool"
LINKTYPE_ETHERNET = 1


def _option(code: int, value: bytes) -> bytes:
    value = value[:65535]
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    # An option's length is 16 bits; cut between characters, not within one.
    return (
        _option(code, text.encode("utf-8", "replace")[:65535].decode("utf-8", "ignore").encode())
        if text
        else b""
    )


def _block(type_: int, body: bytes, options: bytes) -> bytes:
    if options:
        options += b"\0\0\0\0"
    length = 12 + len(body) + len(options)
    return struct.pack("<II", type_, length) + body + options + struct.pack("<I", length)


def section_header(
    *, hardware: str = "", os: str = "", application: str = APPLICATION, comment: str = ""
) -> bytes:
    """A Section Header Block of unknown length: it can be written to a pipe."""
    options = _text(1, comment) + _text(2, hardware) + _text(3, os) + _text(4, application)
    return _block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), options)


def interface_block(
    *,
    name: str,
    link_type: int,
    snaplen: int,
    description: str = "",
    filter: str = "",
    os: str = "",
    hardware: str = "",
    speed_bps: int | None = None,
    mac: bytes | None = None,
    comment: str = "",
) -> bytes:
    """An Interface Description Block: if_name, if_description, if_filter (as text), if_os, if_tsresol 9.

    Interfaces are numbered by their order in the section, from 0. `mac` has 6 bytes.
    """
    options = _text(1, comment) + _text(2, name) + _text(3, description)
    if mac is not None and len(mac) == 6:
        options += _option(6, mac)
    if speed_bps is not None:
        options += _option(8, struct.pack("<Q", speed_bps))
    options += _option(9, b"\x09")
    if filter:
        options += _option(11, b"\0" + filter.encode()[:65534].decode("utf-8", "ignore").encode())
    options += _text(12, os) + _text(15, hardware)
    return _block(1, struct.pack("<HHI", link_type, 0, snaplen), options)


def packet_blocks(interface_id: int, columns: Columns) -> bytes:
    """One Enhanced Packet Block per packet, with epb_flags where there is something to say. ValueError if the
    columns don't fit together."""
    return _columns.epb_blocks(
        interface_id,
        columns.timestamp_ns,
        columns.captured_bytes,
        columns.original_bytes,
        columns.flags,
        columns.data,
    )


def statistics_block(
    interface_id: int,
    timestamp_ns: int,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    received: int | None = None,
    dropped: int | None = None,
    filter_accepted: int | None = None,
    os_dropped: int | None = None,
    delivered: int | None = None,
    comment: str = "",
) -> bytes:
    """An Interface Statistics Block. None leaves a counter out: unknown is not 0.

    isb_ifrecv (received), isb_ifdrop (dropped), isb_filteraccept, isb_osdrop, isb_usrdeliv; times in nanoseconds.
    """
    options = _text(1, comment)
    for code, time in ((2, start_ns), (3, end_ns)):
        if time is not None:
            options += _option(code, _split(time))
    counters = ((4, received), (5, dropped), (6, filter_accepted), (7, os_dropped), (8, delivered))
    for code, value in counters:
        if value is not None:
            options += _option(code, struct.pack("<Q", value))
    return _block(5, struct.pack("<I", interface_id) + _split(timestamp_ns), options)


def _split(timestamp_ns: int) -> bytes:
    return struct.pack("<II", timestamp_ns >> 32, timestamp_ns & 0xFFFFFFFF)


def pcap_header(*, link_type: int, snaplen: int) -> bytes:
    """The header of a classic pcap file with nanoseconds (magic A1B23C4D), little endian."""
    return struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snaplen, link_type)


def pcap_records(columns: Columns) -> bytes:
    """The packets as classic pcap records. ValueError when the columns don't fit together or a time is past 2106."""
    return _columns.pcap_records(
        columns.timestamp_ns, columns.captured_bytes, columns.original_bytes, columns.data
    )


class Counters(TypedDict):
    """The counters that `statistics_block` takes from a session's books."""

    received: int
    dropped: int
    filter_accepted: int
    delivered: int


def statistics_of(books: Books) -> Counters:
    """The counters of a statistics block that follow from a session's books.

    isb_ifrecv is what the socket received, and isb_ifdrop carries the ring's drops: so dumpcap writes them, and there
    Wireshark and capinfos look. What an eBPF filter turned away is in isb_ifrecv too; a classic one doesn't count it.
    """
    return {
        "received": books.received + (books.filtered or 0) + (books.sampled_out or 0) + (books.cut_off or 0),
        "dropped": books.dropped_ring,
        "filter_accepted": books.received + (books.sampled_out or 0) + (books.cut_off or 0),
        "delivered": books.captured,
    }
