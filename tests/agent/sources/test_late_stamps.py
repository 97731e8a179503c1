"""Stamps of the moment when a packet is kept, not when it enters the host (`capture.timestamps: late`)."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from agent.ebpf.loading import CapturePath
from agent.intake import Order
from agent.settings import Config
from agent.sources.opening import open_source
from agent.sources.source import PacketSource
from tests.agent.batches import SESSION
from tests.agent.sources.live import Sender, drain, udp_frame
from tests.support import netns
from tests.support.netns import Namespace
from wire.batch import HARDWARE_STAMP, SWAP_INTERVAL
from wire.session import SessionSpec

pytestmark = pytest.mark.root
SO_TIMESTAMPING = 37  # asm-generic/socket.h
WAYS = ("object", "classic", "pcap")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    with netns.pair() as both:
        yield both


@contextlib.contextmanager
def opened(host: Namespace, way: str, timestamps: str) -> Iterator[PacketSource]:
    spec, config = SessionSpec(id=SESSION, interface="veth0"), Config(capture_timestamps=timestamps)
    with host.inside():
        source = open_source(spec, "veth0", Order.declared(spec), [], config, CapturePath(way))
    with contextlib.closing(source):
        yield source


def asked_for(source: PacketSource) -> int:
    """What the source's socket has the kernel stamp."""
    raw = socket.socket(fileno=source._socket.fileno())  # type: ignore[attr-defined]
    try:
        return int(struct.unpack_from("=i", raw.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, 8))[0])
    finally:
        raw.detach()


@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_is_asked_to_stamp_early_unless_late_is_wanted(
    pair: tuple[Namespace, Namespace], way: str
) -> None:
    with opened(pair[0], way, "software") as source:
        assert asked_for(source)
    with opened(pair[0], way, "late") as source, Sender(pair[1]) as sender:
        assert asked_for(source) == 0
        assert source.notice is None
        start_ns = time.time_ns()
        sender.send(*(udp_frame(bytes([number])) for number in range(20)))
        taken = drain(source)
        stamps = [each.packet.timestamp_ns for each in taken if len(each.packet.data) == 43]
        assert len(stamps) == 20
        assert start_ns <= stamps[0]
        assert stamps == sorted(stamps)
        assert stamps[-1] <= time.time_ns()
        assert not any(each.flags & HARDWARE_STAMP for each in taken)


@pytest.mark.parametrize("way", WAYS)
def test_a_filter_change_allows_for_stamps_behind_the_verdict(
    pair: tuple[Namespace, Namespace], way: str
) -> None:
    """What the filter before let through may be stamped when the next one is in force: it is marked as either's."""
    with opened(pair[0], way, "late") as source, Sender(pair[1]) as sender:
        called_ns = time.time_ns()
        start_ns, end_ns = source.apply("udp", 1000)
        returned_ns = time.time_ns()
        assert called_ns <= start_ns < returned_ns
        assert end_ns - called_ns > 20_000_000
        sender.send(udp_frame(b"x"))
        (taken,) = drain(source)
        assert bool(taken.flags & SWAP_INTERVAL) == (taken.packet.timestamp_ns <= end_ns)
