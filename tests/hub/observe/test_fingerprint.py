"""What makes two captured packets the same one: fingerprints through routers, translators and nothing else."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from hub.observe import _observe
from tests.hub.observe.made import (
    DATA,
    MAC_A,
    MAC_B,
    arp,
    echo,
    ether,
    ip4,
    ip6,
    tcp,
    udp,
)
from tests.hub.observe.reading import one

KEY = bytes(range(16))
DIRECTED = {
    "tcp": ip4(6, tcp()),
    "syn with options": ip4(6, tcp(b"", flags=2, options=b"\2\4\5\xb4")),
    "udp": ip4(17, udp()),
    "echo": ip4(1, echo()),
    "esp": ip4(50, DATA),
}
OTHERS = ("198.51.100.7", "203.0.113.9")


def as_ipv6(packet: bytes) -> bytes:
    protocol = 58 if packet[9] == 1 else packet[9]
    payload = packet[20:]
    return ip6(protocol, b"\x80" + payload[1:] if protocol == 58 else payload)


PACKETS = {"4 " + name: packet for name, packet in DIRECTED.items()} | {
    "6 " + name: as_ipv6(packet) for name, packet in DIRECTED.items()
}


def frame(packet: bytes) -> bytes:
    return ether(packet, 0x0800 if packet[0] >> 4 == 4 else 0x86DD)


def changed(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


def routed(packet: bytes) -> bytes:
    """One hop on: other hardware addresses, a tag, TTL, DSCP and checksums changed, padded or with a trailer."""
    if packet[0] >> 4 == 4:
        packet = changed(changed(packet, 1, b"\x28"), 8, b"\x3f" + packet[9:10] + b"\x12\x34")
        checksum = {6: 36, 17: 26, 1: 22}.get(packet[9])
    else:
        packet = changed(changed(packet, 0, b"\x62\x80\x54\x32"), 7, b"\x3c")
        checksum = {6: 56, 17: 46, 58: 42}.get(packet[6])
    if checksum is not None:
        packet = changed(packet, checksum, b"\x43\x21")
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return MAC_A + MAC_B + struct.pack(">HHH", 0x8100, 99, kind) + packet + bytes(9)


def translated(packet: bytes) -> bytes:
    """Source address, source port or echo id, and with them checksums."""
    moved = (
        changed(packet, 12, bytes([198, 51, 100, 7]))
        if packet[0] >> 4 == 4
        else changed(packet, 8, b"\x20\2")
    )
    begin, protocol = (20, moved[9]) if moved[0] >> 4 == 4 else (40, moved[6])
    if protocol in (6, 17):
        moved = changed(moved, begin, b"\x12\x34")
    elif protocol in (1, 58):
        moved = changed(moved, begin + 4, b"\x77\x77")
    return moved


@pytest.mark.parametrize("name", PACKETS)
def test_a_router_changes_neither(name: str) -> None:
    here, there = one(frame(PACKETS[name])), one(routed(PACKETS[name]))
    assert here["ttl"] != there["ttl"]
    assert here["vlan_tags"] != there["vlan_tags"]
    assert here["hop_hash"] == there["hop_hash"] != 0
    assert here["nat_hash"] == there["nat_hash"] != 0


@pytest.mark.parametrize("name", PACKETS)
def test_translation_changes_the_one_and_not_the_other(name: str) -> None:
    here, there = one(frame(PACKETS[name])), one(routed(translated(PACKETS[name])))
    assert here["community_id"] != there["community_id"]
    assert here["hop_hash"] != there["hop_hash"]
    assert here["nat_hash"] == there["nat_hash"] != 0


def _bit(packet: bytes) -> bytes:
    return packet[:-1] + bytes([packet[-1] ^ 1])


DIFFERENT: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "payload": ("4 tcp", _bit),
    "payload of udp": ("6 udp", _bit),
    "sequence number": ("4 tcp", lambda packet: changed(packet, 24, b"\1")),
    "acknowledgement": ("4 tcp", lambda packet: changed(packet, 28, b"\1")),
    "flags": ("4 tcp", lambda packet: changed(packet, 33, b"\x19")),
    "window": ("4 tcp", lambda packet: changed(packet, 34, b"\7")),
    "echo sequence": ("4 echo", lambda packet: changed(packet, 26, b"\7")),
    "echo type": ("4 echo", lambda packet: changed(packet, 20, b"\0")),
    "length": ("4 udp", lambda packet: ip4(17, udp(DATA[:-1]))),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_packet_has_others(what: str) -> None:
    name, change = DIFFERENT[what]
    here, there = one(frame(PACKETS[name])), one(frame(change(PACKETS[name])))
    assert here["hop_hash"] != there["hop_hash"]
    assert here["nat_hash"] != there["nat_hash"]


def test_a_retransmission_is_not_the_same_packet_while_its_id_tells() -> None:
    first, again = one(frame(ip4(6, tcp()))), one(frame(ip4(6, tcp(), number=0x1235)))
    assert first["hop_hash"] != again["hop_hash"]
    assert first["nat_hash"] == again["nat_hash"], "a translator may change the id: it can't be in it"


def test_none_where_nothing_would_tell_one_from_the_next() -> None:
    assert one(frame(ip4(17, udp(b""))))["nat_hash"] == 0
    assert one(frame(ip4(17, udp())[:28]), 1, 100)["nat_hash"] == 0, "headers only"
    assert one(frame(ip4(17, udp(), fragment=0x2000)))["nat_hash"] == 0
    assert one(frame(ip4(1, bytes([3, 1]) + bytes(6) + ip4(6, tcp()))))["nat_hash"] == 0, (
        "what it quotes is translated"
    )
    assert one(frame(ip4(6, tcp())[:30]), 1, 100)["hop_hash"] == 0, "half a header"
    assert one(DATA, 147)["hop_hash"] == 0
    assert one(ether(arp(), 0x0806))["nat_hash"] == 0


def test_cut_payload_is_never_taken_for_whole() -> None:
    packet = frame(ip4(17, udp()))
    assert one(packet)["hop_hash"] != one(packet[:-1], 1, len(packet))["hop_hash"] != 0


def test_arp_is_the_same_padded_and_not() -> None:
    assert one(ether(arp(), 0x0806))["hop_hash"] == one(ether(arp(), 0x0806) + bytes(18))["hop_hash"] != 0
    assert one(ether(arp(), 0x0806))["hop_hash"] != one(ether(arp(2), 0x0806))["hop_hash"]


def test_another_key_makes_others() -> None:
    packet = frame(ip4(6, tcp()))
    assert one(packet)["hop_hash"] != one(packet, key=KEY)["hop_hash"]
    assert one(packet)["nat_hash"] != one(packet, key=KEY)["nat_hash"]
    assert one(packet)["flow_hash"] == one(packet, key=KEY)["flow_hash"], (
        "of the Community ID, which has none"
    )


def test_siphash_is_the_interpreters_own() -> None:
    """CPython hashes bytes with SipHash-1-3 too, and with the seed 0 its key is all zeros."""
    if sys.hash_info.algorithm != "siphash13":
        pytest.skip(f"this Python hashes with {sys.hash_info.algorithm}")
    program = (
        "import random; dice = random.Random(1)\nfor size in range(1, 300): print(hash(dice.randbytes(size)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    dice = random.Random(1)
    ours = [_observe.siphash13(dice.randbytes(size), bytes(16)) for size in range(1, 300)]
    assert [int(line) % 2**64 for line in told.stdout.split()] == ours
