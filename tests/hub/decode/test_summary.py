"""The decoder over every capture at hand and mutations of them, and its protocol column against tshark's."""

import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.decode.packet_line import MAX_INFO
from hub.decode.summary import flag_words, summarize
from tests.support.captures import Packet, read_capture
from tests.support.need import need

RULES = {
    "bad", "icmp-error", "arp", "icmp", "rst", "routing", "http", "handshake", "tls", "dns", "tcp", "udp",
    "broadcast", "wlan", "other",
}  # fmt: skip

STATEFUL = {
    ("HTTP", "TCP"), ("TCP", "HTTP"), ("HTTP/XML", "TCP"), ("FTP-DATA", "TCP"), ("SMTP/IMF", "SMTP"),
    ("ICMP", "IPv4"), ("IPv4", "ICMP"), ("ICMPv6", "IPv6"), ("IPv6", "ICMPv6"), ("DNS", "TCP"),
    ("TLSv1", "TLSv1.2"), ("SSL", "TCP"), ("TCP", "SMTP"),
}  # fmt: skip
"""(tshark's, ours) where Wireshark knows the packets before or behind: reassembly of segments and fragments, the
FTP data port, the version a server chose, the dialogue that a continuation belongs to, a connection that is in two
of the merged files and looks retransmitted the second time."""


def files_of(captures: Path, kind: str) -> list[Path]:
    return sorted(path for path in (captures / kind).iterdir() if path.is_file())


def packets_of(captures: Path, kind: str) -> list[Packet]:
    return [packet for path in files_of(captures, kind) for packet in read_capture(path).packets]


def check(row: tuple[str, str, str, str, str]) -> None:
    source, destination, protocol, info, rule = row
    assert len(info) <= MAX_INFO
    assert max(len(source), len(destination), len(protocol)) <= 64
    assert all(text.isprintable() for text in row), row
    assert protocol
    assert rule in RULES, rule
    assert "not decoded" not in info, row


@pytest.mark.parametrize("kind", ["real", "odd"])
def test_every_packet_of_every_capture(captures: Path, kind: str) -> None:
    packets = packets_of(captures, kind)
    assert len(packets) > 4000
    for packet in packets:
        check(summarize(packet.data, packet.link_type, packet.original_bytes))


def test_mutations(captures: Path) -> None:
    seed = random.Random(20260101)
    packets = packets_of(captures, "odd") + packets_of(captures, "real")
    for packet in seed.sample(packets, 6000):
        data = bytearray(packet.data[:600])
        for _ in range(seed.randint(1, 4)):
            if data:
                data[seed.randrange(len(data))] = seed.choice(
                    (0, 1, 0x7F, 0x80, 0xC0, 0xFF, seed.randrange(256))
                )
        del data[seed.randint(0, len(data)) if seed.random() < 0.3 else len(data) :]
        link_type = (
            packet.link_type if seed.random() < 0.9 else seed.choice((0, 1, 101, 105, 113, 127, 276, 9))
        )
        check(summarize(bytes(data), link_type, packet.original_bytes))


@given(
    st.binary(max_size=300),
    st.sampled_from([0, 1, 9, 12, 101, 105, 113, 119, 127, 228, 229, 276, 147, 65535]),
)
@settings(max_examples=500)
def test_anything(data: bytes, link_type: int) -> None:
    check(summarize(data, link_type, len(data)))


def test_the_protocol_column_is_wiresharks(captures: Path, tmp_path: Path) -> None:
    need("tshark", "mergecap")
    merged = tmp_path / "all.pcapng"  # one start of tshark instead of sixty
    files = [str(path) for path in files_of(captures, "real")]
    subprocess.run(["mergecap", "-a", "-F", "pcapng", "-w", str(merged), *files], check=True)
    argv = ("tshark", "-n", "-r", str(merged), "-T", "fields", "-e", "_ws.col.Protocol")
    theirs = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    ours = [summarize(p.data, p.link_type, p.original_bytes)[2] for p in read_capture(merged).packets]
    assert len(theirs) == len(ours)
    packets = len(ours)
    differences = Counter(pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1])
    print(f"{packets} packets, {differences.total()} differ: {differences.most_common()}")
    unexplained = {pair: count for pair, count in differences.items() if pair not in STATEFUL}
    assert sum(unexplained.values()) <= packets // 1000, unexplained
    assert differences.total() < packets * 0.06


def test_words() -> None:
    assert flag_words(0) == ()
    assert flag_words(2 | 1 << 5 | 1 << 6) == ("out", "truncated", "vlan")


def test_hostile_text_is_made_visible() -> None:
    name = b"\x1b[31m\xe2\x80\xae<b>"
    question = bytes([len(name)]) + name + b"\0\0\1\0\1"
    dns = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + question
    udp = b"\x10\0\0\x35" + (8 + len(dns)).to_bytes(2, "big") + b"\0\0" + dns
    ip = b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0\x0a\0\0\1\x0a\0\0\2" + udp
    _, _, protocol, info, rule = summarize(ip, 101, len(ip))
    assert (protocol, rule) == ("DNS", "dns")
    assert info.startswith("Standard query 0x1234 A \\x1b[31m")
    assert "<b>" in info, "escaping for HTML is the page's"
