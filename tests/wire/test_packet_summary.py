"""One line per packet: what it says of ordinary packets, and that nothing makes it raise."""

from __future__ import annotations

import random
import struct

import pytest

from tests.wire import make
from wire.packet_summary import summarise

ETHERNET = bytes.fromhex("020000000002020000000001")


def ipv4(protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    """An IPv4 packet 10.0.0.1 > 10.0.0.2."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0)
    return head + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    """An IPv6 packet ::1 > ::2."""
    return (
        struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
        + bytes(15)
        + b"\1"
        + bytes(15)
        + b"\2"
        + payload
    )


TCP = struct.pack(">HHIIBBHHH", 1234, 443, 7, 9, 0x50, 0x12, 500, 0, 0)


@pytest.mark.parametrize(
    ("link_type", "data", "said"),
    [
        (1, make.packets(1)[0][3], "10.0.0.1:40000 > 10.0.0.2:53 UDP len 42"),
        (
            1,
            ETHERNET + b"\x08\x00" + ipv4(6, TCP + b"xyz"),
            "10.0.0.1:1234 > 10.0.0.2:443 TCP [SA] seq 7 ack 9 win 500 len 3",
        ),
        (101, ipv4(6, TCP), "10.0.0.1:1234 > 10.0.0.2:443 TCP [SA] seq 7 ack 9 win 500 len 0"),
        (101, ipv6(6, TCP), "[::1]:1234 > [::2]:443 TCP [SA] seq 7 ack 9 win 500 len 0"),
        (
            229,
            ipv6(0, b"\x06\0" + bytes(6) + TCP),
            "[::1]:1234 > [::2]:443 TCP [SA] seq 7 ack 9 win 500 len 0",
        ),
        (101, ipv4(1, b"\x08\0\0\0\0\1\0\2"), "10.0.0.1 > 10.0.0.2 ICMP echo request id 1 seq 2"),
        (101, ipv6(58, b"\x87\0\0\0"), "::1 > ::2 ICMPv6 neighbor solicitation"),
        (101, ipv4(17, b"abc", fragment=100), "10.0.0.1 > 10.0.0.2 IPv4 fragment at 800"),
        (101, ipv4(89, b"abc"), "10.0.0.1 > 10.0.0.2 OSPF len 3"),
        (101, ipv4(200, b""), "10.0.0.1 > 10.0.0.2 IP protocol 200 len 0"),
        (101, ipv4(6, b"abc"), "10.0.0.1 > 10.0.0.2 TCP cut off"),
        (
            1,
            ETHERNET
            + b"\x81\x00\x00\x07\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"
            + bytes(6)
            + b"\1\2\3\4"
            + bytes(6)
            + b"\5\6\7\x08",
            "02:00:00:00:00:01 > 02:00:00:00:00:02 ARP vlan 7 who has 5.6.7.8? tell 1.2.3.4",
        ),
        (1, ETHERNET + b"\x88\xcc", "02:00:00:00:00:01 > 02:00:00:00:00:02 LLDP"),
        (1, ETHERNET + b"\x12\x34", "02:00:00:00:00:01 > 02:00:00:00:00:02 ethertype 0x1234"),
        (1, ETHERNET + b"\x00\x03\x42\x42\x03", "02:00:00:00:00:01 > 02:00:00:00:00:02 802.3 LLC 424203"),
        (1, b"", "EN10MB cut off or malformed"),
        (9999, b"abc", "link type 9999"),
        (
            113,
            b"\0\0\0\1\0\6" + ETHERNET[:6] + b"\0\0\x08\x00" + ipv4(17, b"\0\1\0\2\0\x08\0\0"),
            "10.0.0.1:1 > 10.0.0.2:2 UDP len 0",
        ),
    ],
)
def test_what_is_said(link_type: int, data: bytes, said: str) -> None:
    assert str(summarise(link_type, data)) == said


def test_nothing_makes_it_raise() -> None:
    dice = random.Random(9)
    seeds = [
        make.packets(1)[0][3],
        ETHERNET + b"\x86\xdd" + ipv6(0, b"\x2c\xff" * 40),
        ETHERNET + b"\x81\x00" * 40,
    ]
    for _ in range(20_000):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randrange(6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        text = str(
            summarise(
                dice.choice((0, 1, 12, 101, 113, 228, 276, 105)), bytes(data[: dice.randrange(len(data) + 1)])
            )
        )
        assert text.isprintable()
