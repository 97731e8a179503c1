"""Frames made at random, rich in what filters ask for: tags, extension headers, fragments, options, runts."""

from __future__ import annotations

import random
import struct

PORTS = (80, 53, 443, 150, 9999)
PROTOCOLS = (1, 6, 17, 132)
TAGS = (0x8100, 0x88A8)


def frame(rng: random.Random, *, destination: bytes, source: bytes) -> bytes:
    """An Ethernet frame with up to three tags; one of ten is cut off anywhere behind its addresses and type."""
    tags = b"".join(
        struct.pack(">HH", rng.choice(TAGS), rng.choice((5, 6, 0xA005, 0, 0xFFFF)))
        for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 2, 3)))
    )
    whole = destination + source + tags + _network(rng) + rng.randbytes(rng.randrange(40))
    return whole if rng.random() < 0.9 else whole[: rng.randrange(14, len(whole) + 1)]


def _network(rng: random.Random) -> bytes:
    """EtherType and what belongs to it."""
    kind = rng.random()
    if kind < 0.45:
        return b"\x08\0" + ip4(rng)
    if kind < 0.85:
        return b"\x86\xdd" + ip6(rng)
    return rng.choice(
        (b"\x08\6", b"\x88\xcc", b"\x88\x47", b"\x88\x64", b"\0\x20", b"\x91\0")
    ) + rng.randbytes(30)


def ip4(rng: random.Random) -> bytes:
    """IPv4 with options and fragments."""
    words = rng.choice((5, 5, 5, 6, 8))
    protocol = rng.choice(PROTOCOLS)
    fragment = rng.choice((0, 0, 0, 0x4000, 0x2000, 0x2005, 5))
    payload = transport(rng, protocol)
    head = struct.pack(
        ">BBHHHBBH4s4s",
        *(0x40 + words, rng.choice((0, 0x10)), 4 * words + len(payload), rng.randrange(1 << 16), fragment),
        *(rng.choice((1, 64, 128)), protocol, 0, _address4(rng), _address4(rng)),
    )
    return head + b"\x01" * (4 * words - 20) + payload


def _address4(rng: random.Random) -> bytes:
    return b"\x0a\0\0" + bytes([rng.choice((1, 2, 3, 200))])


def ip6(rng: random.Random) -> bytes:
    """IPv6 with a chain of extension headers: hop by hop, routing, fragment, destination options."""
    chain = [rng.choice((0, 43, 44, 60)) for _ in range(rng.choice((0, 0, 0, 1, 1, 2)))]
    protocol = rng.choice((6, 17, 58))
    kinds = [*chain, protocol]
    extensions = b""
    for number, kind in enumerate(chain):
        following = kinds[number + 1]
        if kind == 44:
            extensions += struct.pack(">BBHI", following, 0, rng.choice((0, 1, 0x51)), 7)
        else:
            extensions += bytes([following, 0]) + rng.randbytes(6)
    payload = extensions + transport(rng, protocol)
    return (
        b"\x60\0\0\0"
        + struct.pack(">HBB", len(payload), kinds[0], 64)
        + _address6(rng)
        + _address6(rng)
        + payload
    )


def _address6(rng: random.Random) -> bytes:
    return b"\xfd\x99" + bytes(13) + bytes([rng.choice((1, 2, 3))])


def transport(rng: random.Random, protocol: int) -> bytes:
    """TCP, UDP, ICMP or so: ports, flags, a little payload."""
    ports = struct.pack(">HH", rng.choice(PORTS), rng.choice(PORTS))
    payload = rng.choice((b"", b"GET / HTTP/1.1\r\n", bytes(8), b"\0\0\0\0\1"))
    if protocol == 6:
        return (
            ports
            + rng.randbytes(8)
            + struct.pack(">BBHHH", 0x50, rng.choice((2, 16, 18, 24, 1)), 100, 0, 0)
            + payload
        )
    if protocol == 17:
        return ports + struct.pack(">HH", 8 + len(payload), 0) + payload
    return bytes([rng.choice((0, 8, 3, 128, 135)), 0]) + rng.randbytes(6) + payload


FILTERS = (
    *("", "icmp", "arp", "ip", "ip6", "tcp", "udp", "icmp6", "sctp", "mpls", "pppoes", "stp"),
    *("vlan", "vlan 5", "vlan 5 and ip", "vlan and vlan", "vlan and vlan and tcp", "not vlan"),
    *("vlan and tcp port 443", "vlan and (port 53 or port 80)", "not (vlan and tcp)", "ip or (vlan and ip)"),
    *(
        "tcp port 80",
        "udp port 53",
        "port 443",
        "portrange 100-200",
        "src port 53",
        "dst port 9999",
        "not port 80",
    ),
    *("host 10.0.0.1", "src host 10.0.0.2", "net 10.0.0.0/30", "not net 10.0.0.0/25", "host fd99::1"),
    *(
        "dst host fd99::2",
        "net fd99::/64",
        "ether host 02:00:00:00:77:01",
        "ether broadcast",
        "ether multicast",
    ),
    *(
        "ip multicast",
        "ip6 multicast",
        "ip proto 17",
        "ip6 proto 6",
        "proto 132",
        "ip6[6] = 44",
        "ip6[6]=0 or ip6[6]=60",
    ),
    *("ip6[40] = 6", "ip6[40:2] > 1000", "ip6[42:2] & 0xfff8 != 0", "ip6[4:2] > 40"),
    *(
        "ip[6:2] & 0x1fff != 0",
        "ip[6:2] & 0x3fff != 0 and udp",
        "ip[0] & 15 > 5",
        "ip[ip[0]&15] = 10",
        "ip[8] < 65",
    ),
    *(
        "tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn",
        "tcp[13] = 18",
        "tcp[(tcp[12]>>2):4] = 0x47455420",
        "udp[8:4] = 0",
    ),
    *("len > 100", "greater 80", "less 70", "len = 64", "len - 14 > 60", "len * 3 / 2 > 130", "len % 7 = 3"),
    *("ether[12:2] = 0x8100", "ether[13:4] != 7", "ether[14:2] & 0xfff = 5", "ether[10:4] = 0x77010800"),
    *(
        "ether proto 0x88cc",
        "ip[2:2] - 20 > 40",
        "udp[4:2] << 1 > 40",
        "ip[1] ^ 16 = 0",
        "icmp[icmptype] = icmp-echo",
    ),
    *(
        "udp and ip[4:2] % 3 = 1",
        "ip[4:2] & 255 > ip[8]",
        "tcp[4:4] > 0x80000000",
        "ether[20:4] >= 0xc0000000",
    ),
)
"""Texts that libpcap takes for Ethernet."""


def combined(rng: random.Random) -> str:
    """Two of the filters, or three."""
    parts = rng.sample([text for text in FILTERS if text], rng.choice((2, 2, 3)))
    text = f"({parts[0]})"
    for part in parts[1:]:
        text += f" {rng.choice(('and', 'or', 'and not', 'or not'))} ({part})"
    return text
