"""Ring and libpcap on real veth pairs: the same packets, byte for byte and stamp for stamp, as tcpdump beside them."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bpf_filter import FilterError
from agent.sources.source import BatchBuffer, SourceError
from tests.agent.sources.live import (
    FOREIGN_MAC,
    Opener,
    Sender,
    data_of,
    drain,
    ethernet,
    icmp_frame,
    recorded,
    tcpdump,
    udp_frame,
)
from tests.support import netns
from tests.support.captures import difference
from tests.support.netns import Namespace
from tests.support.wire_like_veth import forget_departure_time
from wire.batch import (
    CHECKSUM_NOT_READY,
    DIRECTION_IN,
    DIRECTION_MASK,
    DIRECTION_OUT,
    RECEPTION_MASK,
    RECEPTION_SHIFT,
    TRUNCATED,
    VLAN_REINSERTED,
)

pytestmark = pytest.mark.root
Pair = tuple[Namespace, Namespace]
C_TAG, S_TAG = 0x8100, 0x88A8


@pytest.fixture
def pair() -> Iterator[Pair]:
    with netns.pair() as both:
        yield both


def test_the_same_as_tcpdump(open_source: Opener, pair: Pair, tmp_path: Path) -> None:
    left, right = pair
    kept = []
    for host in pair:
        with host.inside():
            kept.append(forget_departure_time("veth0"))
    ring = open_source(left)
    sizes = [14, 15, 42, 59, 60, 61, 128, 1514]
    with tcpdump(left, tmp_path / "reference.pcap"), Sender(right) as sender:
        for size in sizes:
            sender.send(ethernet(b"\x88\xb5" + bytes(size - 14)))
        sender.send(udp_frame(b"plain"), udp_frame(b"one tag", tags=((C_TAG, 0x6005),)))
        sender.send(udp_frame(b"two tags", tags=((S_TAG, 7), (C_TAG, 0xFFFF))))
        sender.send(udp_frame(b"three", tags=((S_TAG, 7), (C_TAG, 8), (C_TAG, 9))))
        sender.send(udp_frame(b"untagged type", tags=((0x9100, 3),)))
        right.run("ping", "-c", "20", "-i", "0.005", left.address)
    taken = drain(ring)
    assert len(taken) >= len(sizes) + 5 + 40
    assert difference(recorded(tmp_path / "reference.pcap"), [each.packet for each in taken]) == ""
    statistics = ring.statistics()
    assert (statistics.received, statistics.captured, statistics.dropped_ring) == (len(taken), len(taken), 0)
    ring.close()
    for descriptor in kept:
        os.close(descriptor)


@pytest.mark.parametrize("snaplen", [262144, 128])
def test_offloaded_segments_and_jumbo_frames(open_source: Opener, tmp_path: Path, snaplen: int) -> None:
    """GSO hands 64 KB "packets" through a veth, their checksums unfinished; nothing of them may be lost or renamed, and
    one that is cut short still says how long it was."""
    with netns.pair(mtu=9000) as (left, right):
        kept = []
        for host in (left, right):
            with host.inside():
                kept.append(forget_departure_time("veth0"))
        ring = open_source(left, snaplen=snaplen)
        source = tmp_path / "bytes"
        source.write_bytes(os.urandom(2_000_000))
        with (
            tcpdump(left, tmp_path / "reference.pcap", "-s", str(snaplen)),
            left.start("python3", "-c", _SERVER) as server,
        ):
            assert server.stdout is not None
            server.stdout.readline()
            right.run("python3", "-c", _CLIENT, left.address, str(source))
        taken = drain(ring)
        reference = recorded(tmp_path / "reference.pcap")
        assert difference(reference, [each.packet for each in taken]) == ""
        assert max(each.packet.original_bytes for each in taken) > 30_000
        large = [each for each in taken if each.packet.original_bytes > 9100]
        assert all(len(each.packet.data) == min(snaplen, each.packet.original_bytes) for each in large)
        assert all(bool(each.flags & TRUNCATED) == (snaplen == 128) for each in large)
        if open_source.kind == "ring":  # libpcap doesn't say
            assert all(each.flags & CHECKSUM_NOT_READY for each in large)
        ring.close()
        for descriptor in kept:
            os.close(descriptor)


_SERVER = """
import socket
s = socket.create_server(("0.0.0.0", 5201)); print("ready", flush=True)
c, _ = s.accept()
while c.recv(1 << 20): pass
"""
_CLIENT = """
import socket, sys
c = socket.create_connection((sys.argv[1], 5201)); c.sendall(open(sys.argv[2], "rb").read()); c.close()
"""


def test_flags_tell_direction_and_reception(open_source: Opener, pair: Pair) -> None:
    left, right = pair
    ring = open_source(left, "ether proto 0x88b5")
    with Sender(right) as theirs, Sender(left) as ours:
        for to in (left.mac, "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:05", FOREIGN_MAC):
            theirs.send(ethernet(b"\x88\xb5to", to=to))
        ours.send(ethernet(b"\x88\xb5from us", to=right.mac))
    taken = drain(ring)
    found = [(t.flags & DIRECTION_MASK, (t.flags & RECEPTION_MASK) >> RECEPTION_SHIFT) for t in taken]
    # epb_flags: 1 unicast, 2 multicast, 3 broadcast, 4 promiscuous
    told = [
        (DIRECTION_IN, 1),
        (DIRECTION_IN, 3),
        (DIRECTION_IN, 2),
        (DIRECTION_IN, 4),
        (DIRECTION_OUT, 0),
    ]
    assert found == (told if open_source.kind == "ring" else [(0, 0)] * 5), "libpcap tells nothing of it"
    ring.close()


def test_without_promiscuous_mode_others_frames_stay_out(open_source: Opener, pair: Pair) -> None:
    left, _ = pair

    def promiscuous() -> bool:
        return "promiscuity 1" in left.run("ip", "-d", "link", "show", "veth0").stdout

    ring = open_source(left, promiscuous=False)
    assert not promiscuous()
    ring.close()
    ring = open_source(left, promiscuous=True)
    assert promiscuous()
    ring.close()
    assert not promiscuous()


@pytest.mark.parametrize("snaplen", [1, 11, 12, 13, 14, 15, 16, 17, 60, 96, 262144])
def test_snaplen_means_the_frame_with_its_tag(open_source: Opener, pair: Pair, snaplen: int) -> None:
    left, right = pair
    ring = open_source(left, "ether src 02:00:00:00:77:01", snaplen)
    frames = [
        udp_frame(b"x" * 100),
        udp_frame(b"y" * 100, tags=((C_TAG, 5),)),
        udp_frame(b"z" * 100, tags=((S_TAG, 5), (C_TAG, 6))),
    ]
    with Sender(right) as sender:
        sender.send(*frames)
    taken = drain(ring)
    assert data_of(taken) == [frame[:snaplen] for frame in frames]
    assert [each.packet.original_bytes for each in taken] == [len(frame) for frame in frames]
    assert [bool(each.flags & TRUNCATED) for each in taken] == [snaplen < len(frame) for frame in frames]
    reinserted = [False, open_source.kind == "ring", open_source.kind == "ring"]  # libpcap does it unsaid
    assert [bool(each.flags & VLAN_REINSERTED) for each in taken] == reinserted
    ring.close()


FRAMES = {
    "icmp": icmp_frame(b"1"),
    "icmp in 5": icmp_frame(b"1", tags=((C_TAG, 5),)),
    "icmp in 6": icmp_frame(b"1", tags=((C_TAG, 6),)),
    "icmp in 5 in 9": icmp_frame(b"1", tags=((S_TAG, 9), (C_TAG, 5))),
    "udp in 5": udp_frame(b"1", tags=((C_TAG, 0xE005),)),
    "udp": udp_frame(b"1"),
}


@pytest.mark.parametrize(
    ("filter_text", "passes"),
    [
        ("icmp", {"icmp"}),
        ("vlan", {"icmp in 5", "icmp in 6", "icmp in 5 in 9", "udp in 5"}),
        ("vlan 5", {"icmp in 5", "udp in 5"}),
        ("vlan and icmp", {"icmp in 5", "icmp in 6"}),
        ("vlan 5 and udp port 7", {"udp in 5"}),
        ("vlan and vlan 5 and icmp", {"icmp in 5 in 9"}),
        ("not vlan", {"icmp", "udp"}),
        ("icmp or (vlan and icmp)", {"icmp", "icmp in 5", "icmp in 6"}),
        ("host 10.9.0.1", {"icmp", "udp"}),
        ("ether proto 0x88a8", {"icmp in 5 in 9"}),
        ("len = 43", {"icmp in 5", "icmp in 6", "udp"}),
    ],
)
def test_a_filter_judges_the_frame_with_its_tag(
    open_source: Opener, pair: Pair, filter_text: str, passes: set[str]
) -> None:
    left, right = pair
    ring = open_source(left, f"({filter_text}) and ether src 02:00:00:00:77:01")
    with Sender(right) as sender:
        sender.send(*FRAMES.values())
    assert data_of(drain(ring)) == [frame for name, frame in FRAMES.items() if name in passes]
    ring.close()


@pytest.mark.slow
def test_nothing_precedes_the_filter(open_source: Opener, pair: Pair) -> None:
    """Opened again and again under load: not one packet that the filter turns away."""
    left, right = pair
    with right.start("ping", "-f", "-q", left.address):
        for _ in range(40):
            ring = open_source(left, "udp port 9", ring_bytes=1 << 20)
            assert drain(ring, quiet_ms=3) == []
            assert ring.statistics().received == 0
            ring.close()


def test_own_traffic_is_counted_and_left_out(open_source: Opener, tmp_path: Path) -> None:
    with netns.pair(ipv6=True) as (left, right):
        own = [(left.address, 4222), ("fd99::1", 4222), ("10.9.0.2", 53)]
        ring = open_source(left, "not arp and not ip6 multicast and not icmp6", own_traffic=own)
        with Sender(right) as sender:
            sender.send(udp_frame(b"dns", port=53), udp_frame(b"dns", port=53, tags=((C_TAG, 5),)))
            sender.send(udp_frame(b"dns", port=53, tags=((S_TAG, 5), (C_TAG, 6))))
            sender.send(udp_frame(b"other", port=54))
        with tcpdump(left, tmp_path / "reference.pcap", "port 4222"):
            for address in (left.address, "fd99::1"):
                # refused at once: a SYN and a RST, which are own traffic too
                right.run("python3", "-c", _CLIENT.replace("5201", "4222"), address, "/dev/null", check=False)
            right.run(
                "python3", "-c", _CLIENT.replace("5201", "4223"), left.address, "/dev/null", check=False
            )
        taken = drain(ring)
        reference = recorded(tmp_path / "reference.pcap")
        assert len(reference) == 4
        assert ring.statistics().own_traffic == 3 + len(reference)
        assert [each.packet.data[-5:] for each in taken][:1] == [b"other"]
        assert len(taken) == 3  # the other datagram, SYN and RST of the other port
        ring.leave_out([])
        with Sender(right) as sender:
            sender.send(udp_frame(b"dns", port=53))
        assert len(drain(ring)) == 1
        ring.close()


def test_loopback_shows_each_packet_once(open_source: Opener, tmp_path: Path) -> None:
    with netns.namespace() as host:
        ring = open_source(host, "icmp", interface="lo")
        with tcpdump(host, tmp_path / "reference.pcap", "icmp", interface="lo"):
            host.run("ping", "-c", "3", "-i", "0.01", "127.0.0.1")
        taken = drain(ring)
        assert len(taken) == 6
        assert sorted(data_of(taken)) == sorted(
            packet.data for packet in recorded(tmp_path / "reference.pcap")
        )
        ring.close()


def test_tun_gives_bare_packets(open_source: Opener) -> None:
    with netns.namespace() as host, host.inside():
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        try:
            # linux/if_tun.h: TUNSETIFF with IFF_TUN | IFF_NO_PI
            fcntl.ioctl(descriptor, 0x400454CA, struct.pack("=16sH22x", b"tun0", 0x1001))
            host.run("ip", "address", "add", "10.8.0.1/24", "dev", "tun0")
            host.run("ip", "link", "set", "tun0", "up")
            source = open_source(host, "icmp", interface="tun0")
            assert source.link_type == 101
            assert source.notice is None
            host.run("ping", "-c", "1", "-W", "0.1", "10.8.0.2", check=False)
            (taken,) = data_of(drain(source))
            assert (taken[0], taken[9], taken[16:20]) == (0x45, 1, bytes((10, 8, 0, 2)))
            source.close()
        finally:
            os.close(descriptor)


@pytest.mark.parametrize(
    ("interface", "said"),
    [
        ("nowhere0", "no interface nowhere0"),
        ("any", "no interface any"),
        ("", "no interface"),
        ("x" * 40, "no interface"),
    ],
)
def test_an_unknown_interface_names_those_there_are(
    open_source: Opener, pair: Pair, interface: str, said: str
) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        open_source(pair[0], interface=interface)
    assert "lo" in caught.value.remedy


def test_a_wrong_filter_says_what_libpcap_says(open_source: Opener, pair: Pair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FilterError, match="syntax error"):
        open_source(pair[0], "udp port (")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
def test_opening_and_closing_leaks_nothing(open_source: Opener, pair: Pair) -> None:
    def held() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().count("socket:[")
        return len(os.listdir("/proc/self/fd")), maps

    buffer = BatchBuffer()
    before = held()
    for round_number in range(100):
        ring = open_source(pair[0], ring_bytes=1 << 19)
        ring.read_batch(buffer, linger_ns=0, wait_ms=0)
        if round_number % 2:
            ring.close()
        ring.close()
    assert held() == before


def test_packets_the_buffer_cannot_take_wait(open_source: Opener, pair: Pair) -> None:
    left, right = pair
    ring = open_source(left, "udp", 200)
    frames = [udp_frame(struct.pack(">I", number) + bytes(80)) for number in range(50)]
    with Sender(right) as sender:
        sender.send(*frames)
    by_packets = BatchBuffer(packet_capacity=7, data_capacity_bytes=4096)
    assert ring.read_batch(by_packets, linger_ns=10**9, wait_ms=1000) == 7
    by_bytes = BatchBuffer(packet_capacity=100, data_capacity_bytes=len(frames[0]) * 3 + 1)
    assert ring.read_batch(by_bytes, linger_ns=10**9, wait_ms=1000) == 3
    assert ring.statistics().in_ring == 40
    assert data_of(drain(ring)) == frames[10:]
    with pytest.raises(ValueError, match="can't hold a packet"):
        ring.read_batch(BatchBuffer(10, 100), linger_ns=0, wait_ms=0)
    ring.close()
