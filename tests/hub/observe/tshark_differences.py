"""Where the decoder and tshark 4.0 differ over the recorded captures: each capture and column, with how many packets.

The test holds the list to what is found, to the packet: a difference more is a failure, and one less, too. What the
reasons say in a sentence stands in docs/decoder.md.
"""

from __future__ import annotations

Found = dict[str, str]
"""Capture → columns as `name:packets`."""

FOLLOWED: Found = {
    "bigtcp-ipv4-geneve-ipv4.pcap": (
        "community_id:1 destination_address:1 destination_port:1 ip_id:1 "
        "ip_total_bytes:1 payload_bytes:1 protocol:1 source_address:1 source_port:1 "
        "tcp_flags:1 ttl:1 tunnel_id:1"
    ),
    "bigtcp-ipv4-vxlan-ipv4.pcap": (
        "community_id:1 destination_address:1 destination_port:1 ip_id:1 "
        "ip_total_bytes:1 payload_bytes:1 protocol:1 source_address:1 source_port:1 "
        "tcp_flags:1 ttl:1 tunnel_id:1"
    ),
    "bigtcp-ipv6-geneve-ipv6.pcap": (
        "destination_address:1 destination_port:1 ip_total_bytes:1 protocol:1 "
        "source_address:1 source_port:1 tcp_flags:1 tunnel_id:1"
    ),
    "bigtcp-ipv6-vxlan-ipv4.pcap": (
        "destination_address:1 destination_port:1 ip_total_bytes:1 ip_version:1 "
        "protocol:1 source_address:1 source_port:1 tcp_flags:1 tunnel_id:1"
    ),
    "vxlan_port_8472.pcap": (
        "arp_operation:2 community_id:10 destination_address:10 destination_port:10 "
        "ip_id:10 ip_total_bytes:10 ip_version:2 payload_bytes:10 protocol:10 "
        "source_address:10 source_port:10 ttl:6 tunnel_id:10"
    ),
}
"""We look into the tunnel, tshark doesn't: in UDP with a length field of 0 (longer than it can say), and VXLAN on
Linux' old port."""

NOT_FOLLOWED: Found = {
    "PIM_register_register-stop.pcap": (
        "community_id:1 destination_address:1 icmp_id:1 icmp_type:1 ip_id:1 "
        "ip_total_bytes:1 protocol:1 source_address:1 ttl:1"
    ),
    "icmp-rfc8335-missing-bytes.pcap": (
        "community_id:1 destination_address:1 icmp_code:1 icmp_type:1 ip_id:1 "
        "ip_total_bytes:1 ip_version:1 protocol:1 source_address:1 ttl:1"
    ),
    "macsec-integonly.pcap": (
        "community_id:1 destination_address:1 icmp_id:1 icmp_sequence:1 icmp_type:1 "
        "ip_id:1 ip_total_bytes:1 ip_version:1 protocol:1 source_address:1 ttl:1"
    ),
    "macsec-short-shorter.pcap": (
        "community_id:1 destination_address:1 destination_port:1 ip_id:1 "
        "ip_total_bytes:1 ip_version:1 payload_bytes:1 protocol:1 source_address:1 "
        "source_port:1 ttl:1"
    ),
    "nsh.pcap": (
        "community_id:1 destination_address:1 destination_port:1 ip_id:1 "
        "ip_total_bytes:1 ip_version:1 payload_bytes:1 protocol:1 source_address:1 "
        "source_port:1 ttl:1"
    ),
    "pim-packet-assortment.pcap": (
        "community_id:37 destination_address:47 destination_port:27 dscp:20 ecn:6 "
        "ip_id:16 ip_total_bytes:47 payload_bytes:27 protocol:27 source_address:46 "
        "source_port:27 ttl:39"
    ),
    "various_gre.pcap": (
        "community_id:12 destination_address:20 icmp_id:10 icmp_sequence:8 icmp_type:5 "
        "ip_id:20 ip_total_bytes:20 protocol:12 source_address:20 ttl:2"
    ),
    "wccp_redirect_gre.pcap": (
        "community_id:1 destination_address:1 destination_port:1 ip_id:1 "
        "ip_total_bytes:1 payload_bytes:1 protocol:1 source_address:1 source_port:1 "
        "tcp_acknowledgement:1 tcp_flags:1 tcp_sequence:1 tcp_window:1 ttl:1"
    ),
}
"""tshark looks into it, we don't: MACsec without encryption, NSH, PIM register, WCCP's and Cisco's metadata in GRE."""

LENGTH_ZERO: Found = {
    "bigtcp-ipv6.pcap": "destination_port:1 ip_total_bytes:1 source_port:1 tcp_flags:1",
    "icmpv6-length-zero.pcapng": "ip_total_bytes:1",
    "ipv6_jumbogram_1.pcap": "ip_total_bytes:1",
    "ipv6_missing_jumbo_payload_option.pcap": "ip_total_bytes:1 protocol:1",
    "quic_32_bit_pointer_overflow.pcap": "ip_total_bytes:1 payload_bytes:1",
}
"""An IPv6 payload length of 0: tshark shows the field, we what the packet really takes (jumbograms, offload)."""

FRAGMENT: Found = {
    "afs.pcap": "community_id:149 payload_bytes:51",
    "babel_update_oobr.pcap": "community_id:2",
    "dhcp6_reconf_asan.pcap": "payload_bytes:1",
    "ip_frag_source.pcapng": "community_id:4",
    "radius_attr_asan.pcap": "payload_bytes:1",
}
"""tshark gives later fragments an id without ports (we none: it would be another flow's), and the datagram's length for
what the first fragment holds."""

CLAIMED: Found = {
    "babel_update_oobr.pcap": "payload_bytes:14",
    "hncp_dhcpv6data-oobr.pcap": "payload_bytes:1",
    "hoobr_aodv_extension.pcap": "payload_bytes:1",
    "hoobr_zephyr_parse_field.pcap": "payload_bytes:1",
    "ip-snmp-leftshift-unsigned.pcap": "payload_bytes:1",
    "isakmp-3948-oobr-2.pcap": "payload_bytes:1",
    "isakmp-rfc3948-oobr.pcap": "payload_bytes:1",
    "kh-timed-001-oobr.pcap": "payload_bytes:1",
    "kh-timed-004-oobr.pcap": "payload_bytes:1",
    "lwres-pointer-arithmetic-ub.pcap": "payload_bytes:1",
    "nfs-attr-oobr.pcap": "payload_bytes:2",
    "olsr-oobr-2.pcap": "payload_bytes:1",
    "rx_ubik-oobr.pcap": "payload_bytes:1",
    "snmp-heapoverflow-1.pcap": "payload_bytes:1",
}
"""tshark shows the length that the UDP header claims, we what its packet has room for (and BAD_UDP_LENGTH or
BAD_IP_TOTAL_LENGTH)."""

HEADER_NOT_WHOLE: Found = {
    "extract_read2_asan.pcap": "community_id:1",
    "hoobr_rt6_print.pcap": "community_id:1 protocol:1",
    "icmp-icmp_print-oobr-1.pcap": "community_id:1",
    "ip_ts_opts_asan.pcap": "community_id:1",
    "ipv4_invalid_length.pcap": "ip_id:1 ip_total_bytes:1 ip_version:1 protocol:1 source_address:1 ttl:1",
    "ipv4_invalid_total_length_2.pcap": "ip_total_bytes:1 ip_version:1",
    "ipv6-next-header-oobr-2.pcap": "community_id:1",
    "ipv6-rthdr-oobr.pcap": "community_id:1 protocol:1",
    "ipv6_39_byte_header.pcap": "ip_total_bytes:1 ip_version:1 protocol:1 source_address:1 ttl:1",
    "ipv6_invalid_length.pcap": "ip_total_bytes:1 ip_version:1 protocol:1 source_address:1 ttl:1",
    "udp-length-heapoverflow.pcap": "community_id:1",
}
"""tshark shows fields of a header that isn't all there or contradicts itself, and makes an id without ports."""

WRONG_VERSION: Found = {
    "kday1.pcap": (
        "destination_address:1 dscp:1 ecn:1 ip_total_bytes:1 ip_version:1 protocol:1 source_address:1"
    ),
    "kday3.pcap": (
        "destination_address:1 dscp:1 ecn:1 ip_total_bytes:1 ip_version:1 protocol:1 source_address:1"
    ),
}
"""The link layer says IPv6, the header another version: tshark reads on, we don't."""

MOBILITY: Found = {
    "ipv6-mobility-header-oobr.pcap": "community_id:1 protocol:1",
    "mobility_opt_asan.pcap": "protocol:2",
    "mobility_opt_asan_3.pcap": "protocol:2",
    "mobility_opt_asan_5.pcap": "protocol:1",
    "mobility_opt_asan_7.pcap": "protocol:2",
}
"""Protocol 62, the mobility header's number in its drafts: tshark takes it for one, we for what IANA says."""

ISL: Found = {
    "DTP.pcap": "destination_mac:5",
}
"""Cisco's ISL: tshark knows its addresses by the prefix 01-00-0c-00-00, we take the frame for Ethernet."""

AX25: Found = {
    "arp-oobr.pcap": "arp_operation:2",
}
"""ARP of hardware type AX.25 has fields of other names in tshark."""

COMMUNITY_ID: Found = {
    "erspan-type-i-4.pcap": "community_id:16",
    "icmp_traceroute.pcapng": "community_id:3",
    "of13_ericsson.pcapng": "community_id:3",
}
"""tshark's id isn't the reference implementation's, ours is: test_community_id.py."""

REASONS = {
    "tunnels we follow": FOLLOWED,
    "not followed": NOT_FOLLOWED,
    "length 0": LENGTH_ZERO,
    "fragments": FRAGMENT,
    "claimed lengths": CLAIMED,
    "headers not whole": HEADER_NOT_WHOLE,
    "wrong version": WRONG_VERSION,
    "mobility header": MOBILITY,
    "ISL": ISL,
    "AX.25": AX25,
    "community id": COMMUNITY_ID,
}
UNKNOWN_LINK_TYPES = {
    9: "PPP",
    104: "Cisco HDLC",
    107: "Frame Relay",
    127: "IEEE 802.11 with radiotap",
    129: "ARCNET",
    178: "Juniper Ethernet",
    195: "IEEE 802.15.4",
    242: "IP over InfiniBand",
    258: "PKTAP",
}
"""Link types that tshark reads and we don't: every packet of them is marked BAD_LINK_TYPE and holds nothing else."""


def expected() -> dict[tuple[str, str], int]:
    """(capture, column) → packets that differ."""
    found: dict[tuple[str, str], int] = {}
    for captures in REASONS.values():
        for capture, columns in captures.items():
            for entry in columns.split():
                column, _, count = entry.partition(":")
                assert (capture, column) not in found
                found[capture, column] = int(count)
    return found
