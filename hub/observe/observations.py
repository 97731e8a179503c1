"""What is told of a batch's packets: a numpy array per column, one entry per packet, in the batch's order.

Where a header isn't there, its columns hold 0: `layers` says which ones were read. All of them describe the innermost
IP or ARP header that could be read; `outer_*` the outermost, where a tunnel (`tunnel_kind`) was followed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from hub.observe import _observe

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.bytes_]


class Layers(IntFlag):
    """Which headers were read."""

    ETHERNET = 1 << 0
    """An Ethernet header: the `_mac` columns are set (on a cooked capture only `source_mac`, without this)."""
    ARP = 1 << 1
    IP = 1 << 2
    EXTENSIONS = 1 << 3
    """IPv6 extension headers or an authentication header."""
    FRAGMENT = 1 << 4
    """A fragment, the first one too."""
    PORTS = 1 << 5
    """TCP, UDP, UDP-Lite, SCTP or DCCP: the `_port` columns are set."""
    TCP = 1 << 6
    """A TCP header as a whole: the `tcp_` columns are set."""
    UDP = 1 << 7
    ICMP = 1 << 8
    """ICMP or ICMPv6."""
    FLOW = 1 << 9
    """Protocol and ports are known: `community_id` is set. Not so in later fragments."""
    MPLS = 1 << 10
    PPPOE = 1 << 11


class Problem(IntEnum):
    """The first thing that kept a packet from being read further.

    CUT_: the capture ends within this header (snaplen, payload policy). SHORT_: the packet itself ends within it.
    BAD_: a field contradicts what is around it. Columns before it are set, those behind it are 0.
    """

    NONE = 0
    CUT_LINK = 1
    CUT_TAG = 2
    CUT_ARP = 3
    CUT_IP = 4
    CUT_EXTENSION = 5
    CUT_TRANSPORT = 6
    """Ports are set where they were still there."""
    CUT_TUNNEL = 7
    SHORT_LINK = 17
    SHORT_TAG = 18
    SHORT_ARP = 19
    SHORT_IP = 20
    SHORT_EXTENSION = 21
    SHORT_TRANSPORT = 22
    SHORT_TUNNEL = 23
    BAD_LINK_TYPE = 32
    """Not one that is known here: nothing was read."""
    BAD_TAGS = 33
    """More than 8 VLAN tags or 16 MPLS labels."""
    BAD_IP_VERSION = 34
    BAD_IP_HEADER_LENGTH = 35
    BAD_IP_TOTAL_LENGTH = 36
    """Shorter than its header (not read further), or longer than what carries it (read to the frame's end)."""
    BAD_EXTENSION = 37
    """Longer than its packet, or more than 12."""
    BAD_TCP_HEADER_LENGTH = 38
    BAD_UDP_LENGTH = 39
    BAD_TUNNELS = 40
    """More than 4 within each other: the columns describe the fifth's outside."""


class Tunnel(IntEnum):
    """What a packet came in."""

    NONE = 0
    GRE = 1
    VXLAN = 2
    GENEVE = 3
    IP_IN_IP = 4
    ERSPAN = 5
    """In GRE: a switch's mirror port."""


class Application(IntEnum):
    """Payload that `hub.observe.application` reads further."""

    NONE = 0
    DNS = 1
    """Port 53, 5353 or 5355."""
    TLS_HELLO = 2
    """TCP that begins with a ClientHello."""
    HTTP_REQUEST = 3
    """TCP that begins with a method of HTTP/1."""


@dataclass(frozen=True, slots=True)
class Observations:
    """The columns. Arrays of 0-terminated bytes and of (packets, 6) or (packets, 16) octets are said to be so."""

    packet_offset: U64
    """Where the packet begins in the batch's `data`, in bytes."""
    hop_hash: U64
    """SipHash-1-3 of what a router leaves as it is; 0: a header is missing. See `docs/decoder.md`."""
    nat_hash: U64
    """SipHash-1-3 of what address and port translation leaves, too; 0: nothing would tell one packet from the next."""
    flow_hash: U64
    """The first 8 bytes of the Community ID's digest: the same for both directions; 0: no flow."""
    network_offset: U32
    """Where the IP or ARP header begins, in bytes from the packet's first; of other packets, what follows the tags."""
    payload_offset: U32
    """Where the payload begins, in bytes from the packet's first; may lie behind what was captured."""
    payload_bytes: U32
    """How long the payload was on the wire by the packet's own headers: without padding and trailers."""
    payload_captured_bytes: U32
    """How much of it there is."""
    ip_total_bytes: U32
    """The IP packet with its header; where the field says 0 (before offload, jumbograms), up to the frame's end."""
    ip_id: U32
    """Identification: 16 bits of IPv4, 32 of an IPv6 fragment header."""
    tcp_sequence: U32
    """As it stands there."""
    tcp_sequence_end: U32
    """Sequence number behind this segment, modulo 2**32: payload, SYN and FIN counted."""
    tcp_acknowledgement: U32
    """As it stands there, also without the ACK flag."""
    tunnel_id: U32
    """VNI of VXLAN or Geneve (24 bits), key of GRE, session of ERSPAN (10 bits); of the outermost tunnel."""
    layers: U16
    """Bits of `Layers`."""
    ethertype: U16
    """Behind all VLAN tags or in SNAP, of the outermost frame; 0: none (a length, raw IP)."""
    vlan_outer: U16
    """VLAN id of the first tag; `vlan_tags` 0: there is none."""
    vlan_inner: U16
    """VLAN id of the last tag where there are two or more."""
    arp_operation: U16
    """1 request, 2 reply, 3 and 4 those of RARP."""
    fragment_offset_bytes: U16
    """Where in the datagram this fragment belongs."""
    source_port: U16
    """Of TCP, UDP, UDP-Lite, SCTP, DCCP."""
    destination_port: U16
    """Alike."""
    tcp_flags: U16
    """12 bits: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128, AE 256."""
    tcp_window: U16
    """As it stands there, unscaled."""
    icmp_id: U16
    """Of echo request and reply."""
    icmp_sequence: U16
    """Of echo request and reply."""
    outer_source_port: U16
    """Of the packet around the tunnel."""
    outer_destination_port: U16
    """Alike; 4789, 8472 VXLAN, 6081 Geneve."""
    problem: U8
    """A `Problem`."""
    vlan_tags: U8
    """How many tags the outermost frame has."""
    ip_version: U8
    """4, 6, or 0: no IP header could be read."""
    protocol: U8
    """IP protocol number behind all extension headers that could be read."""
    ttl: U8
    """Time to live or hop limit."""
    dscp: U8
    """Differentiated services code point, 6 bits."""
    ecn: U8
    """Congestion notification, 2 bits."""
    more_fragments: Bools
    """This isn't the last fragment."""
    icmp_type: U8
    """Of ICMP or ICMPv6, as `protocol` says."""
    icmp_code: U8
    """Alike."""
    flow_reversed: Bools
    """The packet goes from the flow's second end to its first, as the Community ID orders them."""
    application: U8
    """An `Application`."""
    tunnels: U8
    """How many tunnels were followed, at most 4."""
    tunnel_kind: U8
    """The outermost `Tunnel`."""
    outer_version: U8
    """IP version of the packet around the tunnel; 0: no tunnel, or what is in it could not be read."""
    outer_protocol: U8
    """47 GRE, 17 VXLAN or Geneve, 4 or 41 IP in IP."""
    outer_ttl: U8
    """Of the packet around the tunnel."""
    source_mac: U8
    """(packets, 6)."""
    destination_mac: U8
    """(packets, 6)."""
    source_address: U8
    """(packets, 16): IPv6, or IPv4 as ::ffff:a.b.c.d; ARP's sender."""
    destination_address: U8
    """(packets, 16), alike; ARP's target."""
    outer_source_address: U8
    """(packets, 16)."""
    outer_destination_address: U8
    """(packets, 16)."""
    community_id: Bytes
    """Version 1 with seed 0, 30 characters (`1:` and base64); empty: no flow."""

    def __len__(self) -> int:
        """How many packets."""
        return len(self.layers)


DTYPES = {name: np.dtype(kind) for name, kind in _observe.layout()}
ROW_BYTES = sum(dtype.itemsize for dtype in DTYPES.values())
if tuple(DTYPES) != tuple(field.name for field in fields(Observations)):
    raise ImportError("hub.observe._observe is of another version: run `./wirepool setup`")
