"""The protocol tree: its fields and their bytes against tshark's, and its bounds against damaged captures."""

import random
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.dissect.packet import MAX_BYTES, dissect
from hub.dissect.tree import Field
from tests.hub.dissect import packet_targets
from tests.hub.dissect.packet_targets import judge, walk
from tests.support import fuzzing
from tests.support.captures import Packet, read_capture
from tests.support.mutations import bend_packets
from tests.support.need import need

THEIRS = {
    ("Ethernet II", "Destination"): "eth.dst",
    ("Ethernet II", "Source"): "eth.src",
    ("Ethernet II", "Type"): "eth.type",
    ("VLAN tag (802.1Q)", "VLAN id"): "vlan.id",
    ("ARP", "Operation"): "arp.opcode",
    ("ARP", "Sender protocol address"): "arp.src.proto_ipv4",
    ("ARP", "Target hardware address"): "arp.dst.hw_mac",
    ("Internet Protocol version 4", "Version"): "ip.version",
    ("Internet Protocol version 4", "Total length"): "ip.len",
    ("Internet Protocol version 4", "Identification"): "ip.id",
    ("Internet Protocol version 4", "Time to live"): "ip.ttl",
    ("Internet Protocol version 4", "Protocol"): "ip.proto",
    ("Internet Protocol version 4", "Header checksum"): "ip.checksum",
    ("Internet Protocol version 4", "Source"): "ip.src",
    ("Internet Protocol version 4", "Destination"): "ip.dst",
    ("Internet Protocol version 6", "Payload length"): "ipv6.plen",
    ("Internet Protocol version 6", "Hop limit"): "ipv6.hlim",
    ("Internet Protocol version 6", "Source"): "ipv6.src",
    ("Internet Protocol version 6", "Destination"): "ipv6.dst",
    ("Transmission Control Protocol", "Source port"): "tcp.srcport",
    ("Transmission Control Protocol", "Destination port"): "tcp.dstport",
    ("Transmission Control Protocol", "Window"): "tcp.window_size_value",
    ("Transmission Control Protocol", "Checksum"): "tcp.checksum",
    ("Transmission Control Protocol", "Options"): "tcp.options",
    ("User Datagram Protocol", "Source port"): "udp.srcport",
    ("User Datagram Protocol", "Length"): "udp.length",
    ("Internet Control Message Protocol", "Type"): "icmp.type",
    ("Internet Control Message Protocol", "Identifier"): "icmp.ident",
    ("Internet Control Message Protocol v6", "Type"): "icmpv6.type",
    ("Internet Control Message Protocol v6", "Checksum"): "icmpv6.checksum",
    ("Domain Name System", "Transaction id"): "dns.id",
    ("Domain Name System", "Questions, number"): "dns.count.queries",
    ("Dynamic Host Configuration Protocol", "Transaction id"): "dhcp.id",
    ("Dynamic Host Configuration Protocol", "Your address"): "dhcp.ip.your",
    ("Network Time Protocol", "Stratum"): "ntp.stratum",
    ("Network Time Protocol", "Transmit time"): "ntp.xmt",
    ("Hypertext Transfer Protocol", "Host"): "http.host",
    ("Hypertext Transfer Protocol", "User-Agent"): "http.user_agent",
    ("Transport Layer Security", "Handshake"): "tls.handshake",
    ("Transport Layer Security", "Random"): "tls.handshake.random",
}
"""(layer, field) → tshark's name of the field that stands in the same bytes."""


def packets_of(captures: Path, kind: str) -> list[Packet]:
    return [
        packet
        for path in sorted((captures / kind).iterdir())
        if path.is_file()
        for packet in read_capture(path).packets
    ]


@pytest.mark.parametrize("kind", ["real", "odd"])
def test_every_packet_of_every_capture(captures: Path, kind: str) -> None:
    packets = packets_of(captures, kind)
    assert len(packets) > 4000
    for packet in packets:
        judge(dissect(packet.data, packet.link_type, packet.original_bytes), packet.data)


def test_damaged_packets(captures: Path) -> None:
    dice = random.Random(20260726)
    packets = [packet for packet in packets_of(captures, "real") if len(packet.data) < 2000]
    for packet in bend_packets(dice.sample(packets, 4000), dice):
        judge(dissect(packet.data, packet.link_type, packet.original_bytes), packet.data)


def test_the_mutations_begin_at_every_protocol() -> None:
    layers = {
        layer.name
        for seed in packet_targets.corpus()
        for layer in dissect(seed[1:], packet_targets.LINK_TYPES[seed[0]], len(seed)).layers
    }
    assert layers >= {
        "Domain Name System",
        "Dynamic Host Configuration Protocol",
        "Hypertext Transfer Protocol",
        "Internet Protocol version 6",
        "Network Time Protocol",
        "Transmission Control Protocol",
        "Transport Layer Security",
        "VLAN tag (802.1Q)",
    }


def test_mutations_of_ordinary_messages() -> None:
    fuzzing.plain("tests.hub.dissect.packet_targets", runs=4000, seed=3)


@given(st.binary(max_size=300), st.sampled_from([0, 1, 12, 101, 108, 113, 228, 229, 276, 147, 65535]))
@settings(max_examples=300, deadline=None)
def test_anything(data: bytes, link_type: int) -> None:
    judge(dissect(data, link_type, len(data)), data)


@pytest.mark.slow
def test_fields_stand_where_tshark_finds_them(captures: Path) -> None:
    need("tshark")
    compared: Counter[str] = Counter()
    wrong: list[tuple[str, int, Field, object]] = []
    for path in sorted((captures / "real").iterdir()):
        packets = read_capture(path).packets[:60] if path.is_file() else []
        if not packets or packets[0].link_type != 1:
            continue
        for number, (packet, theirs) in enumerate(zip(packets, ranges(path, len(packets)), strict=True)):
            for layer in dissect(packet.data, packet.link_type, packet.original_bytes).layers:
                for _, one in walk(layer.parts):
                    name = THEIRS.get((layer.name, one.name))
                    if name is None or name not in theirs or one.offset + one.length >= len(packet.data):
                        continue  # where the capture is cut, tshark names no field
                    compared[name] += 1
                    if (one.offset, one.length) not in theirs[name]:
                        wrong.append((path.name, number, one, theirs[name]))
    assert wrong == []
    assert compared.total() > 5000
    assert {name for name in THEIRS.values() if not compared[name]} <= {"vlan.id", "ntp.stratum", "ntp.xmt"}


def ranges(path: Path, count: int) -> Iterator[dict[str, set[tuple[int, int]]]]:
    """Of each of the first packets: tshark's field name → where it stands. Without what needs other packets."""
    argv = [
        *("tshark", "-n", "-r", str(path), "-c", str(count), "-T", "pdml"),
        *(
            "-o",
            "tcp.desegment_tcp_streams:false",
            "-o",
            "ip.defragment:false",
            "-o",
            "ipv6.defragment:false",
        ),
    ]
    text = subprocess.run(argv, check=True, capture_output=True).stdout
    for packet in ElementTree.fromstring(text).iter("packet"):
        found: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for one in packet.iter("field"):
            if one.get("pos") and one.get("size"):
                found[one.get("name", "")].add((int(one.get("pos", "")), int(one.get("size", ""))))
        yield found


def udp(payload: bytes, port: int) -> bytes:
    head = port.to_bytes(2, "big") * 2 + (8 + len(payload)).to_bytes(2, "big") + b"\0\0"
    ip = b"\x45\0" + (28 + len(payload)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0\x0a\0\0\1\x0a\0\0\2"
    return ip + head + payload


def test_what_is_missing_is_said_and_what_is_unknown_is_bytes() -> None:
    whole = udp(b"unknown", 9) + b"trailer"
    dissection = dissect(whole, 101, 60)
    assert [(layer.name, layer.offset, layer.length) for layer in dissection.layers] == [
        ("Internet Protocol version 4", 0, 20),
        ("User Datagram Protocol", 20, 8),
        ("Data", 28, 7),
        ("Padding or trailer", 35, 7),
    ]
    assert dissection.layers[2].value == "7 bytes"
    assert dissection.not_captured_bytes == 60 - len(whole)
    cut = dissect(whole[:24], 101, 60).layers
    assert cut[-1].parts[-1].name == "[the capture was cut here]"
    assert cut[-1].parts[-1].wrong
    assert dissect(b"anything", 147, 8).layers == [Field("Data", "8 bytes", 0, 8)]
    assert dissect(b"", 1, 0).layers[0].parts[0].wrong


def test_a_flood_of_fields_is_bounded() -> None:
    names = b"\x01a\0\0\1\0\1" * 9000
    message = b"\0\1\1\0" + (9000).to_bytes(2, "big") + bytes(6) + names
    big = udp(message[:65000], 53)
    judge(dissect(big, 101, len(big)), big)
    hello = (
        b"\x16\x03\x01\x40\0\x01\0\x3f\xfc\x03\x03" + bytes(32) + b"\0\0\2\x13\1\1\0\x3f\xd3" + bytes(0x3FD3)
    )
    tcp = b"\1\xbb\x12\x34" + bytes(8) + b"\x50\x10\1\0\0\0\0\0"
    size = (20 + len(tcp) + len(hello)).to_bytes(2, "big")
    packet = b"\x45\0" + size + b"\0\0\0\0\x40\x06\0\0\x0a\0\0\1\x0a\0\0\2" + tcp + hello
    dissection = dissect(packet, 101, len(packet))
    judge(dissection, packet)
    assert any(one.name == "[more fields than are shown]" for _, one in walk(dissection.layers))
    judge(dissect(bytes(MAX_BYTES + 100), 1, MAX_BYTES + 100), bytes(MAX_BYTES + 100))


def test_hostile_text_is_made_visible() -> None:
    name = b"\x1b[31m\xe2\x80\xae<b>"
    message = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name + b"\0\0\1\0\1"
    layer = dissect(udp(message, 53), 101, 60).layers[-1]
    questions = next(one for one in layer.parts if one.name == "Questions")
    assert questions.parts[0].name.startswith("\\x1b[31m")
    assert questions.parts[0].name.endswith("<b>"), "escaping for HTML is the page's"
