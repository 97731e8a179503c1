"""One meaning of a filter: libpcap's verdict on the whole frame is ours on the whole frame and on the stripped one."""

from __future__ import annotations

import ctypes
import random
import struct
from pathlib import Path

import pytest

from agent import _tpacket, libpcap
from agent.bpf_filter import FilterError, Program, compile_filter
from agent.tag_filter import for_socket
from tests.support.captures import read_capture

LINKTYPE_ETHERNET = 1
FILTERS = [
    *(
        "icmp",
        "vlan",
        "vlan 5",
        "vlan 5 and icmp",
        "vlan and vlan and tcp",
        "tcp port 80",
        "udp",
        "arp",
        "ip6",
        "mpls",
    ),
    *(
        "host 10.0.0.1",
        "not host 10.0.0.1",
        "net 10.0.0.0/30",
        "len > 100",
        "greater 80",
        "less 70",
        "len = 64",
    ),
    *(
        "ether[12:2]=0x8100",
        "ether[11:2]=1",
        "ether[13]=0",
        "ether[10:4]=0x0a0b8100",
        "ether[15:4]=5",
        "ether[13:4] != 7",
    ),
    *(
        "ether[14:2] & 0xfff = 5",
        "ip[ip[0]&15]=4",
        "ip[2:2] > 60",
        "ip[ether[3]&7]=0",
        "tcp[tcpflags] & tcp-syn != 0",
    ),
    *(
        "ether[ether[0]]=7",
        "ether[ether[1]:2] > 300",
        "ether[ether[2]:4] > 300000",
        "ether[ether[3]&15:4]=0x8100",
    ),
    *("ether[ether[3]&15:2]=0x8100", "ether[(ether[3]&15)+1:2]=5", "ether broadcast", "ether multicast"),
    *(
        "vlan and tcp[tcpflags] & tcp-syn != 0",
        "vlan and ip6 and tcp port 443",
        "vlan and udp[8:4] = 0",
        "not vlan",
    ),
    *(
        "vlan and (port 53 or port 80 or portrange 100-200)",
        "not (vlan and tcp)",
        "ether proto 0x88cc",
        "pppoes",
    ),
    *(
        "tcp src port 80 and ip[8] < 65",
        "ip proto 17",
        "ip6 proto 6",
        "stp",
        "udp[0:2] + udp[2:2] = 133",
    ),
]


def verdict_of_libpcap(program: Program, frame: bytes, original: int) -> int:
    library = libpcap.load()
    library.bpf_filter.restype = ctypes.c_uint
    library.bpf_filter.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
    verdict: int = library.bpf_filter(program.code, frame, original, len(frame))
    return verdict


def random_frame(rng: random.Random) -> tuple[bytes, bytes, bytes]:
    """(addresses, tag, rest): a tagged frame in three parts, rich in the values that filters ask for."""
    addresses = bytes(
        rng.choice((0, 1, 5, 12, 13, 14, 15, 16, 17, 255, rng.randrange(256))) for _ in range(12)
    )
    ip4 = (
        bytes([0x45 + rng.randrange(2), 0])
        + struct.pack(
            ">HHHBBH",
            rng.choice((40, 60, 80)),
            1,
            rng.choice((0, 0, 0x2000, 5)),
            64,
            rng.choice((1, 6, 17)),
            0,
        )
        + rng.choice((b"\x0a\0\0\1", b"\x0a\0\0\2"))
        + b"\x0a\0\0\3"
    )
    ports = (80, 53, 443, 150, 9999)
    layer4 = struct.pack(">HH", rng.choice(ports), rng.choice(ports))
    layer4 += bytes(rng.choice((0, 2, 5, 18)) for _ in range(20))
    ip6 = b"\x60\0\0\0\0\x10" + bytes([rng.choice((6, 17, 58)), 64]) + bytes(32)
    other = rng.choice((b"\x08\6", b"\x88\xcc", b"\x88\x47", b"\0\x20")) + bytes(30)
    rest = rng.choice((b"\x08\0" + ip4 + layer4, b"\x08\0" + ip4 + layer4, b"\x86\xdd" + ip6 + layer4, other))
    if rng.random() < 0.3:
        inner = rng.choice((b"\x81\0", b"\x88\xa8", b"\x91\0"))
        rest = inner + struct.pack(">H", rng.choice((5, 6, 0xA005))) + rest
    tag = rng.choice((b"\x81\0", b"\x88\xa8")) + struct.pack(">H", rng.choice((5, 6, 0, 0xFFFF, 0xE005)))
    rest += bytes(rng.randrange(60))
    return addresses, tag, rest if rng.random() < 0.6 else rest[: rng.randrange(2, len(rest) + 1)]


def programs(rng: random.Random, count: int) -> list[tuple[str, Program]]:
    """Every filter above and `count` combinations of two; libpcap refuses some ("rejects all packets")."""
    texts = FILTERS + [
        f"({a}) {rng.choice(('and', 'or', 'and not'))} ({b})"
        for a, b in (rng.sample(FILTERS, 2) for _ in range(count))
    ]
    found = []
    for text in texts:
        try:
            found.append((text, compile_filter(text, LINKTYPE_ETHERNET, 96)))
        except FilterError as refusal:
            if text in FILTERS:
                raise AssertionError(text) from refusal
    return found


def test_stripped_and_whole_frames_get_libpcaps_verdict() -> None:
    rng = random.Random(802)
    judged = 0
    for text, program in programs(rng, 400):
        socket_code = for_socket(program, loopback=False)
        for _ in range(60):
            addresses, tag, rest = random_frame(rng)
            whole, stripped = addresses + tag + rest, addresses + rest
            wanted = verdict_of_libpcap(program, whole, len(whole))
            beside = struct.unpack(">I", tag)[0]
            got = _tpacket.run_filter(socket_code, stripped, len(stripped), 0, beside)
            inside = _tpacket.run_filter(socket_code, whole, len(whole), 0, -1)
            assert bool(got) == bool(inside) == bool(wanted), (text, whole.hex())
            assert _tpacket.run_filter(program.code, whole, len(whole), 0, -1) == wanted, (text, whole.hex())
            judged += 1
    assert judged > 20_000


@pytest.mark.slow
def test_recorded_packets_get_libpcaps_verdict(captures: Path) -> None:
    """Every filter over every recorded packet, of any link type that the filter can judge."""
    judged = passed = 0
    for path in sorted(captures.rglob("*.pcap*")):
        packets = read_capture(path).packets[:60]
        for link_type in {packet.link_type for packet in packets}:
            for text in FILTERS:
                try:
                    program = compile_filter(text, link_type, 65535)
                except FilterError:
                    continue
                for packet in packets:
                    if packet.link_type == link_type:
                        wanted = verdict_of_libpcap(program, packet.data, packet.original_bytes)
                        got = _tpacket.run_filter(program.code, packet.data, packet.original_bytes, 0, -1)
                        assert got == wanted, (path, text)
                        judged += 1
                        passed += got > 0
    assert judged > 100_000
    assert passed > 10_000


def test_direction_is_read_from_beside_the_frame() -> None:
    frame = bytes(60)
    for text, kinds in (("inbound", {0, 1, 2, 3}), ("outbound", {4})):
        code = for_socket(compile_filter(text, LINKTYPE_ETHERNET, 96), loopback=False)
        assert {kind for kind in range(5) if _tpacket.run_filter(code, frame, 60, kind, -1)} == kinds
    loopback = for_socket(compile_filter("", LINKTYPE_ETHERNET, 96), loopback=True)
    assert {kind for kind in range(5) if _tpacket.run_filter(loopback, frame, 60, kind, -1)} == {0, 1, 2, 3}


def test_a_small_snaplen_still_lets_the_walk_see_ports_and_tag() -> None:
    code = for_socket(compile_filter("", LINKTYPE_ETHERNET, 1), loopback=False)
    assert _tpacket.run_filter(code, bytes(60), 60, 0, -1) == 128


def test_a_filter_too_long_for_the_kernel_is_refused() -> None:
    ports = " or ".join(f"port {number}" for number in range(1, 200))
    program = compile_filter(ports, LINKTYPE_ETHERNET, 96)
    # A tagged frame can't match it: that half of the program is short.
    assert len(for_socket(program, loopback=False)) // 8 < program.instructions + 20
    loads = " or ".join(f"ether[ether[{number % 12}] + {number // 12}:4] = 9" for number in range(144))
    with pytest.raises(FilterError, match="the kernel takes 4096"):
        for_socket(compile_filter(loads, LINKTYPE_ETHERNET, 96), loopback=False)


def test_jumps_beyond_255_instructions_arrive() -> None:
    """A translated program grows: conditional jumps over more than 255 instructions go in two steps."""
    rng = random.Random(5)
    text = " or ".join(f"ether[ether[{n % 12}]:2] = {n + 300}" for n in range(40))
    program = compile_filter(text, LINKTYPE_ETHERNET, 96)
    code = for_socket(program, loopback=False)
    assert len(code) // 8 > 600
    matched = 0
    for _ in range(3000):
        addresses, tag, rest = random_frame(rng)
        whole = bytearray(addresses + tag + rest)
        at = whole[rng.randrange(12)]
        if at + 2 <= len(whole):
            whole[at : at + 2] = struct.pack(">H", rng.randrange(295, 345))
        whole[12:14] = tag[:2]
        wanted = verdict_of_libpcap(program, bytes(whole), len(whole))
        stripped = bytes(whole[:12] + whole[16:])
        beside = struct.unpack_from(">I", whole, 12)[0]
        assert bool(_tpacket.run_filter(code, stripped, len(stripped), 0, beside)) == bool(wanted), (
            whole.hex()
        )
        matched += wanted > 0
    assert matched > 100
