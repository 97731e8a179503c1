"""What a host does to a capture: another MTU under way, frames beyond any MTU, packets without content, filters at the
kernel's limit."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from agent.bpf_filter import MAX_INSTRUCTIONS, FilterError, compile_filter
from agent.tag_filter import for_socket
from tests.agent.sources.conftest import opener_of
from tests.agent.sources.live import Opener, Sender, data_of, drain, ethernet, ip_frame, udp_frame
from tests.support import netns
from tests.support.netns import Namespace

pytestmark = pytest.mark.root
Pair = tuple[Namespace, Namespace]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with netns.pair() as both:
        yield both


@pytest.fixture(params=["classic", "pcap"])
def open_source(request: pytest.FixtureRequest) -> Opener:
    """The kernel's limits of a classic filter are the subject here."""
    return opener_of(request.param)


def test_another_mtu_under_way(open_source: Opener, pair: Pair) -> None:
    ring = open_source(pair[0], "udp")
    with Sender(pair[1]) as sender:
        before, after = udp_frame(bytes(1400)), udp_frame(bytes(8900))
        sender.send(before)
        for host in pair:
            host.run("ip", "link", "set", "veth0", "mtu", "9000")
        sender.send(after)
        for host in reversed(pair):
            host.run("ip", "link", "set", "veth0", "mtu", "1500")
        sender.send(before)
    assert data_of(drain(ring)) == [before, after, before]
    assert ring.notice is None
    ring.close()


_UDP_SEGMENT = 103  # linux/udp.h


@pytest.mark.parametrize("open_source", ["classic", "object", "pcap"], indirect=True)
def test_datagrams_that_the_card_would_split(open_source: Opener) -> None:
    """One write of 45 datagrams passes a veth as a whole (UDP GSO): 63 KB with the headers, over an MTU of 1500."""
    with netns.pair() as (left, right):
        ring = open_source(left, "udp")
        payload = bytes(range(250)) * (45 * 1400 // 250)
        with right.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 1400)
            sender.sendto(payload, (left.address, 5000))
        taken = data_of(drain(ring))
        assert max(map(len, taken)) > 60_000
        assert b"".join(data[42:] for data in taken) == payload
        ring.close()


@pytest.mark.parametrize("open_source", ["classic", "object", "pcap"], indirect=True)
def test_the_largest_datagram_over_loopback(open_source: Opener) -> None:
    """65,549 bytes with all headers: a frame that no Ethernet has, and more than 16 bits can count."""
    with netns.namespace() as host:
        ring = open_source(host, "udp", interface="lo")
        payload = bytes(65_507)
        with host.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
            sender.sendto(payload, ("127.0.0.1", 5000))
        frames = drain(ring)
        assert b"".join(data[14 + 20 + 8 :] for data in data_of(frames)) == payload
        assert [each.packet.original_bytes for each in frames] == [65_549]
        ring.close()


def test_packets_without_content(open_source: Opener, pair: Pair) -> None:
    """An empty datagram, a header that announces nothing, a frame of nothing but addresses and a type."""
    ring = open_source(pair[0])
    frames = [
        udp_frame(b""),
        ip_frame(17, b""),
        ip_frame(59, b""),
        ethernet(b"\x08\0"),
        ethernet(b"\x86\xdd"),
    ]
    with Sender(pair[1]) as sender:
        sender.send(*frames)
    assert data_of(drain(ring)) == frames
    ring.close()


def test_a_filter_of_four_thousand_instructions(open_source: Opener, pair: Pair) -> None:
    """Hosts that the last of its terms name pass, others don't; the kernel takes it on the open socket as well."""
    hosts = " or ".join(f"ip6 host fd00::{number:x}" for number in range(1, 224))
    filter_text = f"{hosts} or udp dst port 4242"
    instructions = len(for_socket(compile_filter(filter_text, 1, 262144), loopback=False)) // 8
    assert 3900 < instructions <= MAX_INSTRUCTIONS, instructions
    passes, stays = udp_frame(b"passes", port=4242), udp_frame(b"stays", port=4243)
    with pytest.raises(FilterError, match=r"no room for a filter this long.*optmem_max=1048576"):
        open_source(pair[0], filter_text)
    # The kernel turns a program into its own, larger instructions and charges the socket for them.
    pair[0].run("sysctl", "-qw", "net.core.optmem_max=1048576")
    ring = open_source(pair[0], filter_text)
    with Sender(pair[1]) as sender:
        sender.send(stays, passes)
        assert data_of(drain(ring)) == [passes]
        ring.apply("udp", 262144)
        sender.send(stays)
        assert data_of(drain(ring)) == [stays]
        ring.apply(filter_text, 262144)
        sender.send(stays, passes)
        assert data_of(drain(ring)) == [passes]
    ring.close()
