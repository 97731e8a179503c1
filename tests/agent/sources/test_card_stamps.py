"""The card's time stamps, on interfaces that have none: refused or done without, in words; and the clock that is asked.

No card with a clock is here. What stands in for one are the host's own clocks: CLOCK_REALTIME agrees with the host,
CLOCK_MONOTONIC is decades behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import CARD_CLOCK_BOUND_NS
from agent.ebpf.loading import CLASSIC, CapturePath
from agent.intake import Order
from agent.session import CaptureSession
from agent.session_memory import SessionMemory
from agent.settings import Config
from agent.sources import card_stamps
from agent.sources.card_stamps import AUTO, HARDWARE, CardClock, NoCardStamps
from agent.sources.opening import open_source
from agent.sources.ring import RingSource
from agent.sources.ring_socket import RingSocket
from agent.sources.source import PacketSource, SourceError
from tests.agent.batches import KEY, SESSION, new_spool
from tests.agent.batches import drain as spooled
from tests.agent.sources.live import Sender, drain, udp_frame
from tests.agent.test_session import around
from tests.support import netns
from tests.support.need import need
from tests.support.netns import Namespace, wait_for
from wire.batch import HARDWARE_STAMP, open_batch
from wire.session import SessionSpec

SOL_PACKET = 263


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    with netns.pair() as both:
        yield both


@contextlib.contextmanager
def ring_on(host: Namespace, timestamps: str, interface: str = "veth0") -> Iterator[RingSource]:
    with host.inside():
        ring = RingSource(interface, "udp", 2000, True, ring_bytes=1 << 20, timestamps=timestamps)
    with contextlib.closing(ring):
        yield ring


def believing(ring: RingSource, clock_id: int) -> RingSocket:
    """The ring's socket as if the card had been asked: the kernel finds no stamp of a card and gives its own."""
    sock = ring._socket
    assert isinstance(sock, RingSocket)
    sock._socket.setsockopt(SOL_PACKET, card_stamps.PACKET_TIMESTAMP, card_stamps.RAW_HARDWARE)
    sock._card, sock.hardware_stamps = CardClock(clock_id), True
    sock.stamp_error_ns = CARD_CLOCK_BOUND_NS
    return sock


def test_layouts_are_the_kernels(tmp_path: Path) -> None:
    need("gcc")
    sizes = {
        "struct ifreq": card_stamps.IFREQ.size,
        "struct ethtool_ts_info": card_stamps.TS_INFO.size,
        "struct hwtstamp_config": card_stamps.HWTSTAMP_CONFIG.size,
    }
    offsets = {
        ("struct ifreq", "ifr_data"): 16,
        ("struct ethtool_ts_info", "so_timestamping"): 4,
        ("struct ethtool_ts_info", "phc_index"): 8,
        ("struct ethtool_ts_info", "tx_types"): 12,
        ("struct ethtool_ts_info", "rx_filters"): 28,
        ("struct hwtstamp_config", "tx_type"): 4,
        ("struct hwtstamp_config", "rx_filter"): 8,
    }
    numbers = {
        "ETHTOOL_GET_TS_INFO": card_stamps.ETHTOOL_GET_TS_INFO,
        "SIOCETHTOOL": card_stamps.SIOCETHTOOL,
        "SIOCSHWTSTAMP": card_stamps.SIOCSHWTSTAMP,
        "SIOCGHWTSTAMP": card_stamps.SIOCGHWTSTAMP,
        "SOF_TIMESTAMPING_RX_HARDWARE": card_stamps.RX_HARDWARE,
        "SOF_TIMESTAMPING_RAW_HARDWARE": card_stamps.RAW_HARDWARE,
        "HWTSTAMP_FILTER_ALL": card_stamps.FILTER_ALL,
        "PACKET_TIMESTAMP": card_stamps.PACKET_TIMESTAMP,
    }
    lines = [f"(long)sizeof({name}) == {size}" for name, size in sizes.items()]
    lines += [f"(long)offsetof({name}, {member}) == {at}" for (name, member), at in offsets.items()]
    lines += [f"(long){name} == {number}" for name, number in numbers.items()]
    headers = (
        "stddef.h",
        "net/if.h",
        "linux/ethtool.h",
        "linux/net_tstamp.h",
        "linux/sockios.h",
        "linux/if_packet.h",
    )
    text = "".join(f"#include <{name}>\n" for name in headers)
    text += "".join(f'_Static_assert({line}, "{line}");\n' for line in lines)
    probe = tmp_path / "probe.c"
    probe.write_text(text)
    subprocess.run(["gcc", "-Wall", "-Werror", "-c", str(probe), "-o", str(tmp_path / "probe.o")], check=True)


@pytest.mark.root
@pytest.mark.parametrize("interface", ["veth0", "lo"])
def test_asked_for_where_there_are_none(pair: tuple[Namespace, Namespace], interface: str) -> None:
    with (
        pair[0].inside(),
        pytest.raises(
            SourceError, match=rf"{interface} has no clock of its own.*capture\.timestamps to auto"
        ),
    ):
        RingSource(interface, "", 2000, True, ring_bytes=1 << 20, timestamps=HARDWARE)
    before = len(os.listdir("/proc/self/fd"))
    with ring_on(pair[0], AUTO, interface) as ring:
        assert ring.notice == f"packets carry the kernel's time stamps: {interface} has no clock of its own"
        start_ns = time.time_ns()
        with Sender(pair[1] if interface == "veth0" else pair[0], interface) as sender:
            sender.send(udp_frame(b"x"))
        taken = drain(ring)
        assert taken
        assert all(start_ns <= each.packet.timestamp_ns <= time.time_ns() for each in taken)
        assert not any(each.flags & HARDWARE_STAMP for each in taken)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.root
def test_the_configuration_reaches_the_ring_and_libpcap_refuses(pair: tuple[Namespace, Namespace]) -> None:
    spec = SessionSpec(id=SESSION, interface="veth0")

    def opened(config: Config, way: str) -> PacketSource:
        return open_source(spec, "veth0", Order.declared(spec), [], config, CapturePath(way))

    config = Config(capture_timestamps=HARDWARE)
    with pair[0].inside():
        with pytest.raises(SourceError, match="veth0 has no clock of its own"):
            opened(config, CLASSIC)
        with pytest.raises(SourceError, match=r"through libpcap.*capture\.timestamps to auto"):
            opened(config, "pcap")
        with contextlib.closing(opened(Config(), CLASSIC)) as source:
            assert source.notice is None


@pytest.mark.root
def test_a_clock_that_goes_astray_is_given_up_and_capturing_goes_on(
    pair: tuple[Namespace, Namespace],
) -> None:
    left, right = pair
    with ring_on(left, AUTO) as ring, Sender(right) as sender:
        ring._socket.remark = None
        sock = believing(ring, time.CLOCK_REALTIME)
        sender.send(udp_frame(b"the card made no stamp of this one"))
        (taken,) = drain(ring)
        assert abs(time.time_ns() - taken.packet.timestamp_ns) < 60_000_000_000
        assert not taken.flags & HARDWARE_STAMP
        assert (sock.hardware_stamps, ring.notice) == (True, None)
        sock._card = CardClock(time.CLOCK_MONOTONIC)
        ring.statistics()
        assert not sock.hardware_stamps
        assert ring.notice is not None
        assert ring.notice.startswith(
            "packets carry the kernel's time stamps from now on: veth0 has a clock that is"
        )
        assert "phc2sys" in ring.notice
        asked = sock._socket.getsockopt(SOL_PACKET, card_stamps.PACKET_TIMESTAMP, 4)
        assert struct.unpack("=i", asked) == (0,)
        sender.send(udp_frame(b"after"))
        assert len(drain(ring)) == 1


@pytest.mark.root
def test_a_filter_change_allows_for_the_cards_clock(pair: tuple[Namespace, Namespace]) -> None:
    with ring_on(pair[0], AUTO) as ring, Sender(pair[1]) as sender:
        ring._socket.stamp_error_ns = 10**12
        _, end_ns = ring.apply("udp", 1000)
        assert end_ns - time.time_ns() > 9 * 10**11
        sender.send(udp_frame(b"stamped well before the interval's end"))
        (taken,) = drain(ring)
        assert taken.flags & 1 << 9, "either filter may have judged it"


@pytest.mark.root
def test_batches_name_the_cards_clock(pair: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool")
    with ring_on(pair[0], AUTO) as ring, Sender(pair[1]) as sender:
        believing(ring, time.CLOCK_REALTIME)
        surroundings = around(spool)
        surroundings.open_source = lambda spec, interface, order, own, sharers: ring
        session = CaptureSession(
            SessionSpec(id=SESSION, interface="veth0"),
            SessionMemory.open(tmp_path / "s", SESSION),
            surroundings,
        )
        with pair[0].inside():  # threads begin where the one that starts them is
            session.start()
        wait_for(lambda: session.state == "running", "the session runs")
        sender.send(udp_frame(b"x"))
        wait_for(lambda: session.read_books().spooled, "it is spooled")
        session.leave()
        assert session.join(10)
    headers = [open_batch(message, public=KEY.public).header for _, message in spooled(spool)]
    assert [header.clock.source for header in headers] == ["phc-none", "none"], (
        "the closing batch has no packets"
    )


def test_a_clock_is_believed_within_the_bound() -> None:
    assert CardClock(time.CLOCK_REALTIME).trouble() is None
    astray = CardClock(time.CLOCK_MONOTONIC).trouble()
    assert astray is not None
    assert "behind this host's" in astray
    assert abs(CardClock(time.CLOCK_REALTIME).ahead_ns()) < CARD_CLOCK_BOUND_NS


def test_a_clock_that_can_not_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoCardStamps, match=r"can't be read: .*ptp9: No such file"):
        CardClock.of_device(str(tmp_path / "ptp9"))
    nothing = CardClock.of_device("/dev/null")  # a device that is no clock, as one that was taken away
    assert "doesn't answer" in str(nothing.trouble())
    nothing.close()
    nothing.close()
    with socket.socket() as stream, pytest.raises(NoCardStamps, match="no clock of its own"):
        card_stamps.switch_on(stream, "nowhere0")
