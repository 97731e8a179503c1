"""libpcap beside the ring, the way that systems without AF_PACKET go, and what only libpcap can do wrong.

That both sources do the same is what test_ring.py and test_ring_under_way.py show: they run with each.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent._libpcap import Walk
from agent.sources.live import LiveSource
from agent.sources.live_socket import END_EPOCH, END_FULL, END_TIME
from agent.sources.pcap import PcapSource
from agent.sources.pcap_socket import PcapSocket
from agent.sources.ring import RingSource
from agent.sources.socket_filter import ClassicSocketFilter
from agent.sources.source import BatchBuffer, SourceError
from tests.agent.sources.live import (
    SENDER_MAC,
    Sender,
    data_of,
    drain,
    ethernet,
    packets_of,
    udp_frame,
)
from tests.support import netns
from tests.support.netns import Namespace
from wire.batch import SWAP_INTERVAL, TRUNCATED

Pair = tuple[Namespace, Namespace]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with netns.pair() as both:
        yield both


@pytest.mark.root
def test_ring_and_libpcap_take_the_same_from_one_veth(pair: Pair) -> None:
    left, right = pair
    with (
        left.inside(),
        contextlib.closing(RingSource("veth0", f"ether src {SENDER_MAC}", 90, True)) as ring,
        contextlib.closing(PcapSource("veth0", f"ether src {SENDER_MAC}", 90, True)) as pcap,
        Sender(right) as sender,
    ):
        for size in (0, 1, 40, 90, 1400):
            sender.send(udp_frame(bytes(size)), udp_frame(bytes(size), tags=((0x8100, 0x6005),)))
            sender.send(udp_frame(bytes(size), tags=((0x88A8, 7), (0x8100, 8))))
        of_ring, of_pcap = drain(ring), drain(pcap)
        assert len(of_ring) == 15
        # Bytes, lengths on the wire, link type and time stamps to the nanosecond.
        assert [each.packet for each in of_pcap] == [each.packet for each in of_ring]
        both_tell = TRUNCATED | SWAP_INTERVAL
        assert [each.flags for each in of_pcap] == [each.flags & both_tell for each in of_ring]
        assert pcap.statistics() == ring.statistics()


@pytest.mark.root
def test_nothing_precedes_the_filter_on_loopback_either() -> None:
    """Every packet passes it twice, and libpcap leaves one of the two out after it was counted."""
    with netns.namespace() as host, host.start("ping", "-f", "-q", "127.0.0.1"), host.inside():
        for _ in range(10):
            with contextlib.closing(PcapSource("lo", "udp port 9", 1000, False)) as source:
                assert drain(source, quiet_ms=5) == []
                assert source.statistics().received == 0
        with contextlib.closing(PcapSource("lo", "icmp", 1000, False)) as source:
            taken = 0
            buffer = BatchBuffer()
            while taken < 100:
                taken += source.read_batch(buffer, linger_ns=0, wait_ms=1000)
            source.pause()
            drain(source)
            assert source.statistics().in_ring == 0


@contextlib.contextmanager
def as_elsewhere(host: Namespace, filter_text: str, snaplen: int = 262144) -> Iterator[LiveSource]:
    """A source that uses nothing of Linux': pcap_setfilter, no ps_recv."""
    opener = functools.partial(
        PcapSocket, "veth0", buffer_bytes=1 << 24, timeout_ms=4, promiscuous=True, linux=False
    )
    with host.inside():
        source = LiveSource("veth0", filter_text, snaplen, [("10.9.0.2", 53)], opener, ClassicSocketFilter())
        with contextlib.closing(source):
            yield source


@pytest.mark.root
def test_the_way_of_systems_without_af_packet(pair: Pair) -> None:
    left, right = pair
    with as_elsewhere(left, "udp", 60) as source, Sender(right) as sender:
        sender.send(udp_frame(b"dns", port=53), udp_frame(b"one" * 30, port=1), ethernet(b"\x88\xb5no IP"))
        taken = drain(source)
        assert data_of(taken) == [udp_frame(b"one" * 30, port=1)[:60]]
        source.apply("udp port 2", 262144)
        assert drain(source) == []  # the change wakes the reader, and here nothing tells that more waits
        sender.send(udp_frame(b"one", port=1), udp_frame(b"two", port=2))
        taken = drain(source)
        assert [(each.packet.data[-3:], each.epoch) for each in taken] == [(b"two", 1)]
        source.pause()
        sender.send(udp_frame(b"two", port=2))
        assert drain(source) == []
        source.resume()
        sender.send(udp_frame(b"again", port=2))
        assert [each.packet.data[-5:] for each in drain(source)] == [b"again"]
        statistics = source.statistics()
        assert (statistics.received, statistics.own_traffic, statistics.captured) == (4, 1, 3)
        assert (statistics.dropped_ring, statistics.in_ring) == (0, 0)


@pytest.mark.root
def test_a_reader_without_packets_rests(pair: Pair) -> None:
    """An interface that has gone for good is an error that stays: a reader must not spin on it."""
    left, _ = pair
    with left.inside(), contextlib.closing(PcapSource("veth0", "", 1000, True)) as source:
        netns._ip("-n", left.name, "link", "delete", "veth0")
        buffer = BatchBuffer()
        source.read_batch(buffer, linger_ns=0, wait_ms=2000)
        assert "was removed" in str(source.notice)
        before = os.times()
        reads = 0
        while os.times().elapsed - before.elapsed < 0.5:
            source.read_batch(buffer, linger_ns=0, wait_ms=100)
            reads += 1
        assert reads <= 6


@pytest.mark.root
def test_without_the_right_to_capture_it_says_what_is_needed(pair: Pair) -> None:
    program = """
import os
from agent.sources.pcap import PcapSource
from agent.sources.source import SourceError
os.setgid(65534); os.setuid(65534)
try:
    PcapSource("veth0", "", 1000, True)
except SourceError as error:
    print(error.message, "|", error.remedy)
"""
    done = pair[0].run(sys.executable, "-c", program, check=False)
    assert "may not capture on veth0" in done.stdout, done.stderr
    assert "CAP_NET_RAW" in done.stdout


@pytest.mark.root
def test_a_kind_of_interface_without_link_layer_is_refused(pair: Pair) -> None:
    left, _ = pair
    with left.inside(), pytest.raises(SourceError, match="no interface any"):
        PcapSource("any", "", 1000, True)


def test_it_needs_nothing_that_only_linux_has() -> None:
    """Another system has no AF_PACKET kernel to import."""
    program = (
        "import sys; import agent.sources.pcap; "
        "print([name for name in ('agent._tpacket', 'agent.sources.ring_socket') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


# -- the callback, driven by a library that says what it likes


class _Header(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("fraction", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("original", ctypes.c_uint32),
    )


_TAKE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_Header), ctypes.c_char_p)
_DISPATCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_BREAK_LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Library:
    """Gives the packets in `waiting` to the callback, obeys pcap_breakloop unless `deaf`."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.waiting: list[tuple[tuple[int, int, int, int], bytes]] = []
        self._broken = False
        self._deaf = deaf
        self.dispatch, self.break_loop = _DISPATCH(self._dispatch), _BREAK_LOOP(self._break)

    def _break(self, _: int | None) -> None:
        self._broken = not self._deaf

    def _dispatch(self, _: int | None, count: int, take: int | None, user: int | None) -> int:
        given, self._broken = 0, False
        while self.waiting and given < count and not self._broken:
            header, data = self.waiting.pop(0)
            assert take is not None
            _TAKE(take)(user, _Header(*header), data)
            given += 1
        return given

    def walk(self, snaplen: int = 262144, fraction_ns: int = 1) -> Walk:
        addresses = [ctypes.cast(one, ctypes.c_void_p).value or 0 for one in (self.dispatch, self.break_loop)]
        return Walk(addresses[0], addresses[1], fraction_ns, snaplen, True, 0)


def _read(walk: Walk, buffer: BatchBuffer) -> tuple[int, int]:
    """(END_ reason, epoch)."""
    columns = (
        buffer.timestamp_ns,
        buffer.captured_bytes,
        buffer.original_bytes,
        buffer.flags,
        buffer.data,
    )
    buffer.packets, buffer.data_bytes, end, _, epoch, buffer.snaplen = walk.dispatch(1, b"", columns, 0, 0)
    return end, epoch


def test_headers_that_contradict_themselves_are_counted_not_believed() -> None:
    library, buffer = _Library(), BatchBuffer()
    walk = library.walk()
    library.waiting = [
        ((1, 5, 61, 60), bytes(60)),
        ((1, 5, 0xFFFFFFFF, 0xFFFFFFFF), bytes(60)),
        ((-1, 5, 60, 60), bytes(60)),
        ((1, -5, 60, 60), bytes(60)),
        ((1, 5, 60, 70), bytes(60)),
    ]
    assert _read(walk, buffer)[0] == END_TIME
    assert walk.counters() == (1, 0, 4)
    (taken,) = packets_of(buffer)
    assert (taken.packet.timestamp_ns, taken.packet.original_bytes, taken.flags) == (
        1_000_000_005,
        70,
        TRUNCATED,
    )


def test_microseconds_become_nanoseconds() -> None:
    library, buffer = _Library(), BatchBuffer()
    walk = library.walk(fraction_ns=1000)
    library.waiting = [((1_700_000_000, 999_999, 14, 14), bytes(14))]
    _read(walk, buffer)
    assert packets_of(buffer)[0].packet.timestamp_ns == 1_700_000_000_999_999_000


def test_what_does_not_fit_is_held_for_the_next_batch() -> None:
    library, buffer = _Library(), BatchBuffer(packet_capacity=10, data_capacity_bytes=100)
    walk = library.walk()
    library.waiting = [((1, n, 60, 60), bytes([n]) * 60) for n in range(4)]
    found = []
    for _ in range(4):
        assert _read(walk, buffer)[0] in (END_FULL, END_TIME)
        found += [each.packet.data[0] for each in packets_of(buffer)]
    assert found == [0, 1, 2, 3]
    assert walk.counters() == (4, 0, 0)


def test_a_batch_ends_where_the_filter_changed() -> None:
    library, buffer = _Library(), BatchBuffer()
    walk = library.walk(snaplen=20)
    walk.swap(2_000_000_000, 40, 1)
    walk.swapped(3_000_000_000)
    library.waiting = [((second, 0, 60, 60), struct.pack(">I", second) + bytes(56)) for second in (1, 2, 5)]
    assert _read(walk, buffer) == (END_EPOCH, 0)
    assert [len(each.packet.data) for each in packets_of(buffer)] == [20]
    assert _read(walk, buffer) == (END_TIME, 1)
    taken = packets_of(buffer)
    assert [(len(each.packet.data), bool(each.flags & SWAP_INTERVAL)) for each in taken] == [
        (40, True),
        (40, False),
    ]


def test_a_library_that_does_not_stop_loses_packets_and_they_are_counted() -> None:
    library, buffer = _Library(deaf=True), BatchBuffer(packet_capacity=10, data_capacity_bytes=100)
    walk = library.walk()
    library.waiting = [((1, n, 60, 60), bytes([n]) * 60) for n in range(4)]
    assert _read(walk, buffer)[0] == END_FULL
    assert _read(walk, buffer)[0] == END_TIME
    assert walk.counters() == (2, 0, 2)


def test_functions_have_addresses_and_columns_hold_what_they_say() -> None:
    with pytest.raises(ValueError, match="address"):
        Walk(0, 1, 1, 100, True, 0)
    columns = (bytearray(8), bytearray(4), bytearray(4), bytearray(2), bytearray(10))
    for packets, data_bytes in ((2, 0), (-1, 0), (0, 11), (0, -1)):
        with pytest.raises(ValueError, match="more is filled"):
            _Library().walk().dispatch(1, b"", columns, packets, data_bytes)
