"""Several rings on one interface: each packet in exactly one, a flow always in the same, changes in all at once."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

import pytest

from agent.sources.ring import RingSource
from agent.sources.source import BatchBuffer
from tests.agent.sources.live import FOREIGN_MAC, Sender, data_of, mac, packets_of
from tests.support.ebpf import ALL_WAYS, programs
from tests.support.netns import Namespace, pair, wait_for
from wire.priority import NO_PRIORITY, PriorityRules, parse

Pair = tuple[Namespace, Namespace]
RINGS = 3
TAGS = ((), ((0x8100, 5),), ((0x88A8, 7), (0x8100, 5)))


@pytest.fixture(scope="module")
def hosts() -> Iterator[Pair]:
    with pair() as joined:
        yield joined


def udp(
    number: int, flow: int, *, back: bool = False, tags: tuple[tuple[int, int], ...] = (), port: int = 7
) -> bytes:
    """Packet `number` of a flow, there or back."""
    ends = [(bytes([10, 9, 0, 1]), 5000 + flow), (bytes([10, 9, 1, flow % 250]), port)]
    if back:
        ends.reverse()
    payload = struct.pack(">II", flow, number)
    body = struct.pack(">HHHH", ends[0][1], ends[1][1], 8 + len(payload), 0) + payload
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), number & 0xFFFF, 0, 64, 17, 0, ends[0][0], ends[1][0]
    )
    stack = b"".join(struct.pack(">HH", *tag) for tag in tags)
    return mac(FOREIGN_MAC) + mac("02:00:00:00:77:01") + stack + b"\x08\0" + ip + body


def flow_of(frame: bytes) -> int:
    return int(struct.unpack(">I", frame[-8:-4])[0])


def opened(host: Namespace, way: str, rings: int = RINGS, filter_text: str = "") -> RingSource:
    loaded = programs(way)
    with host.inside():
        return RingSource("veth0", filter_text, 262144, True, programs=loaded, rings=rings)


def prioritise(host: Namespace, source: RingSource, rules: PriorityRules) -> None:
    with host.inside():  # the first rules open a socket
        source.prioritise(rules)


def rings_of(source: RingSource) -> list[list[bytes]]:
    """What stands in each ring, all of it."""
    found: list[list[bytes]] = [[] for _ in range(source.rings)]
    buffer = BatchBuffer()

    def empty() -> bool:
        for ring in range(source.rings):
            if source.read_batch(buffer, linger_ns=0, wait_ms=20, ring=ring):
                found[ring] += data_of(packets_of(buffer))
        return source.statistics().in_ring == 0

    wait_for(empty, "the rings are empty")
    return found


@pytest.mark.parametrize("way", ALL_WAYS)
def test_each_packet_is_in_one_ring_and_a_flow_stays_in_its_own(hosts: Pair, way: str) -> None:
    left, right = hosts
    source = opened(left, way)
    frames = [udp(number, flow) for flow in range(60) for number in range(20)]
    with Sender(right) as sender:
        sender.send(*frames)
    wait_for(lambda: source.statistics().received >= len(frames), "all have come")
    found = rings_of(source)
    assert Counter(frame for ring in found for frame in ring) == Counter(frames)
    flows = [{flow_of(frame) for frame in ring} for ring in found]
    assert sum(map(len, flows)) == 60  # none in two
    assert all(len(ring) >= 5 for ring in flows)
    statistics = source.statistics()
    assert (statistics.received, statistics.captured, statistics.in_ring) == (len(frames), len(frames), 0)
    assert statistics.filtered == (None if way == "classic" else 0)
    source.close()
    assert source.statistics() == statistics


def test_both_directions_of_a_flow_are_in_one_ring_whatever_its_tags(hosts: Pair) -> None:
    left, right = hosts
    for tags in TAGS:
        source = opened(left, "object")
        with Sender(right) as there, Sender(left) as back:
            for flow in range(40):
                there.send(udp(0, flow, tags=tags))
                back.send(udp(1, flow, tags=tags, back=True))
        wait_for(lambda source=source: source.statistics().received >= 80, "all have come")  # type: ignore[misc]
        flows = [Counter(flow_of(frame) for frame in ring) for ring in rings_of(source)]
        assert sum(map(len, flows)) == 40, tags
        assert {count for ring in flows for count in ring.values()} == {2}, tags
        source.close()


@pytest.mark.parametrize("way", ["classic", "object"])
def test_a_filter_change_loses_and_doubles_nothing_in_any_ring(hosts: Pair, way: str) -> None:
    left, right = hosts
    source = opened(left, way, filter_text="udp")
    sent: list[bytes] = []
    with Sender(right) as sender:
        for change in range(6):
            more = [
                udp(number, flow) for flow in range(50) for number in range(change * 40, change * 40 + 40)
            ]
            sender.send(*more[:1000])
            start_ns, end_ns = source.apply("udp and ip" if change % 2 else "udp or icmp", 262144)
            assert 0 < end_ns - start_ns < 500_000_000
            sender.send(*more[1000:])
            sent += more
    wait_for(lambda: source.statistics().received >= len(sent), "all have come")
    assert Counter(frame for ring in rings_of(source) for frame in ring) == Counter(sent)
    source.apply("icmp", 262144)
    with Sender(right) as sender:
        sender.send(*(udp(0, flow) for flow in range(50)))
    if way == "object":
        wait_for(lambda: source.statistics().filtered == 50, "all are turned away, in every ring")
    assert not any(rings_of(source))
    source.close()


RULES = "10.9.1.0/28, 2001:db8::/32, port 53"


def is_prior(frame: bytes) -> bool:
    return flow_of(frame) % 250 < 16 or 53 in struct.unpack(">HH", frame[34:38])


@pytest.mark.parametrize("way", ["bcc", "object"])
@pytest.mark.parametrize("rings", [1, RINGS])
def test_what_a_rule_names_is_in_the_ring_of_its_own_only(hosts: Pair, way: str, rings: int) -> None:
    left, right = hosts
    source = opened(left, way, rings)
    assert source.priority_ring is None
    prioritise(left, source, NO_PRIORITY)
    assert source.rings == rings
    prioritise(left, source, parse(RULES))
    assert source.priority_ring == rings
    frames = [udp(number, flow) for flow in range(60) for number in range(5)]
    frames += [udp(number, flow, port=53) for flow in range(30, 60) for number in range(5, 10)]
    replies = [udp(99, flow, port=53, back=True) for flow in range(40, 50)]
    with Sender(right) as sender, Sender(left) as own:
        sender.send(*frames)
        own.send(*replies)
    wait_for(lambda: source.statistics().received >= len(frames) + len(replies), "all have come")
    *bulk, prior = rings_of(source)
    assert Counter(prior) == Counter(frame for frame in [*frames, *replies] if is_prior(frame))
    assert Counter(frame for ring in bulk for frame in ring) == Counter(
        frame for frame in frames if not is_prior(frame)
    )
    prioritise(left, source, NO_PRIORITY)
    with Sender(right) as sender:
        sender.send(*frames)
    wait_for(lambda: source.statistics().received >= 2 * len(frames) + len(replies), "all have come")
    *bulk, prior = rings_of(source)
    assert prior == []
    assert sum(map(len, bulk)) == len(frames)
    source.close()


def test_rules_hold_after_the_interface_was_down(hosts: Pair) -> None:
    left, right = hosts
    source = opened(left, "object", 2)
    prioritise(left, source, parse("port 53"))
    for _ in range(2):
        left.run("ip", "link", "set", "veth0", "down")
        left.run("ip", "link", "set", "veth0", "up")
        wait_for(lambda: "LOWER_UP" in left.run("ip", "link", "show", "veth0").stdout, "it is up")
        frames = [udp(number, number, port=53 if number % 2 else 7) for number in range(40)]
        before = source.statistics().received
        with Sender(right) as sender:
            sender.send(*frames)
        wait_for(lambda before=before: source.statistics().received >= before + 40, "all have come")  # type: ignore[misc]
        *bulk, prior = rings_of(source)
        assert Counter(prior) == Counter(frames[1::2])
        assert Counter(frame for ring in bulk for frame in ring) == Counter(frames[::2])
    source.close()


@pytest.mark.slow
def test_ten_thousand_networks_fit_and_change_while_packets_flow(hosts: Pair) -> None:
    left, right = hosts
    source = opened(left, "object", 1)
    many = ", ".join(f"198.{number >> 8}.{number & 255}.0/24" for number in range(9999))
    prioritise(left, source, parse(f"{many}, 10.9.1.3"))
    prioritise(
        left, source, parse(", ".join(f"2001:db8:{number:x}::/48" for number in range(9999)) + ", 10.9.1.4")
    )
    with Sender(right) as sender:
        sender.send(udp(1, 3), udp(1, 4))
    wait_for(lambda: source.statistics().received >= 2, "both have come")
    bulk, prior = rings_of(source)
    assert (bulk, prior) == ([udp(1, 3)], [udp(1, 4)])
    source.close()
