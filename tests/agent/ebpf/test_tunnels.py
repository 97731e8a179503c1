"""The filter on the packet inside a tunnel: libpcap's verdict on that packet, cut out, is the oracle."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator

import pytest

from agent.bpf_filter import FilterError, Program, compile_filter
from agent.ebpf.programs import InnerFilter, ProgramSet, Settings
from agent.sources.ring import RingSource
from agent.sources.source import FlowRules
from agent.tag_filter import REJECT_ALL, for_socket
from tests.agent.sources.live import FOREIGN_MAC, SENDER_MAC, Sender, data_of, drain, mac
from tests.agent.test_tag_filter import verdict_of_libpcap
from tests.support import frames, netns
from tests.support.ebpf import verdict

pytestmark = pytest.mark.root
ETHERNET, RAW = 1, 101
INSIDE = Settings(kept_bytes=128, look_inside=1)


def inner_ip(rng: random.Random) -> tuple[int, bytes]:
    """(EtherType, packet)."""
    return (0x0800, frames.ip4(rng)) if rng.random() < 0.5 else (0x86DD, frames.ip6(rng))


def tunnelled(rng: random.Random) -> tuple[bytes, int, int]:
    """A frame, where the packet in its tunnel begins, and that packet's link type; 0, 0: it is judged as it is."""
    kind = rng.choice(("gre", "nvgre", "vxlan", "geneve", "geneve-ip", "none"))
    ethernet = frames.frame(rng, destination=mac(SENDER_MAC), source=mac(FOREIGN_MAC))
    ether_type, packet = inner_ip(rng)
    if kind == "none":
        frame = frames.frame(rng, destination=mac(FOREIGN_MAC), source=mac(SENDER_MAC))
        return frame, 0, 0
    if kind in ("gre", "nvgre"):
        flags = rng.choice((0, 0x8000, 0x2000, 0x1000, 0xB000, 0xA000))
        words = flags.bit_count()
        protocol, inside = 47, (packet if kind == "gre" else ethernet)
        head = struct.pack(">HH", flags, ether_type if kind == "gre" else 0x6558) + rng.randbytes(4 * words)
    else:
        port = {"vxlan": rng.choice((4789, 8472))}.get(kind, 6081)
        inside = packet if kind == "geneve-ip" else ethernet
        if kind == "vxlan":
            tunnel = struct.pack(">II", 0x08000000, rng.getrandbits(24) << 8)
        else:
            options = 4 * rng.choice((0, 0, 1, 5, 63))
            inner_type = ether_type if kind == "geneve-ip" else 0x6558
            tunnel = struct.pack(">BBHI", options // 4, 0, inner_type, 77 << 8) + rng.randbytes(options)
        protocol = 17
        head = (
            struct.pack(">HHHH", rng.randrange(1024, 65536), port, 8 + len(tunnel) + len(inside), 0) + tunnel
        )
    network, outer_type = outer(rng, protocol, len(head) + len(inside))
    tags = b"".join(
        b"\x81\0" + struct.pack(">H", rng.randrange(1, 4000)) for _ in range(rng.choice((0, 0, 1, 2)))
    )
    front = mac(FOREIGN_MAC) + mac(SENDER_MAC) + tags + outer_type + network + head
    return front + inside, len(front), ETHERNET if inside is ethernet else RAW


def outer(rng: random.Random, protocol: int, payload_bytes: int) -> tuple[bytes, bytes]:
    """A network header in front of a tunnel, and its EtherType."""
    if rng.random() < 0.6:
        words = rng.choice((5, 5, 6, 9))
        head = (
            0x40 + words,
            0,
            4 * words + payload_bytes,
            7,
            0x4000,
            64,
            protocol,
            0,
            b"\x0a\1\0\1",
            b"\x0a\1\0\2",
        )
        return struct.pack(">BBHHHBBH4s4s", *head) + b"\1" * (4 * words - 20), b"\x08\0"
    chain = [rng.choice((0, 43, 60)) for _ in range(rng.choice((0, 0, 1, 2)))]
    extensions = b"".join(
        bytes([following, 1]) + bytes(14) for following in [*chain[1:], protocol][: len(chain)]
    )
    head6 = struct.pack(">IHBB", 6 << 28, len(extensions) + payload_bytes, [*chain, protocol][0], 64)
    return head6 + b"\xfd" + bytes(14) + b"\1" + b"\xfd" + bytes(14) + b"\2" + extensions, b"\x86\xdd"


def filters(rng: random.Random, count: int) -> Iterator[tuple[str, Program, Program | None]]:
    """Text, for Ethernet, for IP without a link header (None: it asks for what only Ethernet has)."""
    texts = [*frames.FILTERS, *(frames.combined(rng) for _ in range(count))]
    for text in texts:
        with contextlib.suppress(FilterError):
            ethernet = compile_filter(text, ETHERNET, 96)
            raw = None
            with contextlib.suppress(FilterError):
                raw = compile_filter(text, RAW, 96)
            yield text, ethernet, raw


def wanted(frame: bytes, inner_at: int, link_type: int, ethernet: Program, raw: Program | None) -> bool:
    program = raw if link_type == RAW else ethernet
    inside = frame[inner_at:]
    return program is not None and verdict_of_libpcap(program, inside, len(inside)) > 0


def test_the_inner_packet_is_judged_as_libpcap_judges_it_alone(loaded: ProgramSet) -> None:
    rng = random.Random(5)
    judged = inner_judged = passed = 0
    for text, ethernet, raw in filters(rng, 100):
        for_ip = REJECT_ALL if raw is None else raw.code
        inner = InnerFilter(for_socket(ethernet, loopback=False, tags_beside=False), for_ip)
        chosen = loaded.filter_of(for_socket(ethernet, loopback=False), INSIDE, inner)
        loaded.use(chosen)
        for _ in range(30):
            frame, inner_at, link_type = tunnelled(rng)
            keeps = wanted(frame, inner_at, link_type, ethernet, raw)
            assert verdict(loaded.entry, frame) == (128 if keeps else 0), (text, inner_at, frame.hex())
            judged, inner_judged, passed = judged + 1, inner_judged + bool(inner_at), passed + keeps
        chosen.close()
    assert judged > 3_000
    assert inner_judged > judged // 2
    assert judged // 10 < passed < judged * 9 // 10


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda frame: frame[:20] + b"\x20\0" + frame[22:], id="a fragment"),
        pytest.param(lambda frame: frame[:23] + b"\x04" + frame[24:], id="another protocol"),
        pytest.param(lambda frame: frame[:36] + b"\x12\xb6" + frame[38:], id="another port"),
        pytest.param(lambda frame: frame[:42] + b"\0" + frame[43:], id="no network identifier"),
        pytest.param(lambda frame: frame[:48], id="cut off in the tunnel's header"),
    ],
)
def test_what_is_no_tunnel_is_judged_as_it_is(loaded: ProgramSet, change: object) -> None:
    """Inside is TCP, outside UDP: which of the two was judged shows."""
    network = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 100, 7, 0, 64, 17, 0, b"\x0a\1\0\1", b"\x0a\1\0\2")
    inside = bytes(12) + b"\x08\0" + struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + bytes(28)
    vxlan = struct.pack(">HHHHII", 9, 4789, 16 + len(inside), 0, 0x08000000, 5 << 8)
    frame = mac(FOREIGN_MAC) + mac(SENDER_MAC) + b"\x08\0" + network + vxlan + inside
    text = compile_filter("tcp", ETHERNET, 96)
    inner = InnerFilter(for_socket(text, loopback=False, tags_beside=False), REJECT_ALL)
    loaded.use(loaded.filter_of(for_socket(text, loopback=False), INSIDE, inner))
    assert verdict(loaded.entry, frame) == 128
    assert verdict(loaded.entry, change(frame)) == 0  # type: ignore[operator]


def test_on_a_ring_and_changed_while_it_is_open(loaded: ProgramSet) -> None:
    """Inside, outside, inside: only numbers and slots change, and each packet is judged by what is in force."""
    rng = random.Random(6)
    judged = passed = 0
    with netns.pair() as (left, right), Sender(right) as sender:
        with left.inside():
            ring = RingSource("veth0", "", 96, True, programs=loaded)
        for number, (text, ethernet, raw) in enumerate(filters(rng, 8)):
            inside = number % 3 != 1
            ring.apply(text, 96, FlowRules(look_inside=inside))
            sent = [tunnelled(rng) for _ in range(12)]
            sender.send(*(frame for frame, _, _ in sent))
            keeps = [
                frame[:96]
                for frame, at, kind in sent
                if wanted(frame, at if inside else 0, kind if inside else ETHERNET, ethernet, raw)
            ]
            assert data_of(drain(ring, quiet_ms=20)) == keeps, (text, inside)
            judged, passed = judged + len(sent), passed + len(keeps)
        ring.close()
    assert judged > 500
    assert judged // 10 < passed < judged * 9 // 10


def test_an_ethernet_filter_turns_away_ip_without_ethernet(loaded: ProgramSet) -> None:
    with netns.pair() as (left, right), Sender(right) as sender:
        with left.inside():
            ring = RingSource("veth0", "not ether host 02:00:00:00:00:77", 96, True, programs=loaded)
            ring.apply("not ether host 02:00:00:00:00:77", 96, FlowRules(look_inside=True))
        rng = random.Random(3)
        sent = [one for one in (tunnelled(rng) for _ in range(60)) if one[1]]
        sender.send(*(frame for frame, _, _ in sent))
        assert data_of(drain(ring, quiet_ms=20)) == [f[:96] for f, _, kind in sent if kind == ETHERNET]
        ring.close()


def test_without_ebpf_it_is_refused() -> None:
    with (
        netns.pair() as (left, _),
        left.inside(),
        pytest.raises(FilterError, match=r"inside a tunnel need eBPF"),
    ):
        RingSource("veth0", "tcp", 96, True, flows=FlowRules(look_inside=True))
