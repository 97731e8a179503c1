"""Flow cut-off and sampling: the kernel's verdicts against a model, on frames of every kind and on an open ring."""

from __future__ import annotations

import contextlib
import random
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bpf_filter import FilterError
from agent.ebpf.contract import FLOWS
from agent.ebpf.programs import ProgramSet, Settings
from agent.sources.ring import RingSource
from agent.sources.source import FlowRules
from tests.agent.sources.live import (
    FOREIGN_MAC,
    SENDER_MAC,
    Sender,
    data_of,
    drain,
    mac,
    recorded,
    tcpdump,
    udp_frame,
)
from tests.agent.sources.test_ring_under_way import Reader, number_of, numbered_load
from tests.support import frames, netns
from tests.support.ebpf import programs, verdict
from tests.support.flow_model import FlowModel, key_of, place_in_sample
from tests.support.netns import Namespace, wait_for
from wire.batch import SWAP_INTERVAL

pytestmark = pytest.mark.root
Pair = tuple[Namespace, Namespace]
ACCEPT_ALL = struct.pack("=HBBI", 6, 0, 0, 96)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with netns.pair() as both:
        yield both


@contextlib.contextmanager
def ring_on(host: Namespace, filter_text: str, flows: FlowRules) -> Iterator[RingSource]:
    loaded = programs("object")
    with host.inside():
        ring = RingSource(
            "veth0", filter_text, 262144, True, ring_bytes=1 << 24, programs=loaded, flows=flows
        )
    with contextlib.closing(ring):
        yield ring


@pytest.mark.parametrize(
    ("cutoff_bytes", "one_in"), [(0, 1), (1, 1), (150, 1), (300, 1), (0, 2), (0, 7), (100, 3)]
)
def test_the_kernel_keeps_what_the_model_keeps(loaded: ProgramSet, cutoff_bytes: int, one_in: int) -> None:
    """Tags, options, extension headers, fragments, runts, both directions, packets of no flow."""
    rng = random.Random(cutoff_bytes + one_in)
    for network_at in (14, 0):
        settings = Settings(cutoff_bytes, 128, 0, network_at, one_in)
        loaded.use(loaded.filter_of(ACCEPT_ALL, settings))
        model, kept, flows = FlowModel(cutoff_bytes, one_in, network_at), 0, set()
        before = loaded.counters()
        for _ in range(1500):
            frame = frames.frame(rng, destination=mac(FOREIGN_MAC), source=mac(SENDER_MAC))
            # Without a link header; a flow that the other round has seen would go on there.
            frame = frame if network_at else _of_another_network(frame[14:])
            wanted = model.keeps(frame)
            assert bool(verdict(loaded.entry, frame)) == wanted, frame.hex()
            kept += wanted
            flows.add(key_of(frame, network_at=network_at))
        after = loaded.counters()
        assert after.passed - before.passed == after.seen - before.seen == 1500
        assert after.sampled_out - before.sampled_out == model.sampled_out
        assert after.cut_off - before.cut_off == model.cut_off
        assert kept + model.sampled_out + model.cut_off == 1500
        assert len(flows) > 100
        assert (model.cut_off > 0) == (cutoff_bytes > 0)
        assert (model.sampled_out > 0) == (one_in > 1)


def _of_another_network(packet: bytes) -> bytes:
    """A packet of addresses that no Ethernet frame here has, and at least a byte long."""
    if packet[:1] and packet[0] >> 4 == 4 and len(packet) >= 13:
        return packet[:12] + b"\xac" + packet[13:]
    if packet[:1] and packet[0] >> 4 == 6 and len(packet) >= 9:
        return packet[:8] + b"\xfc" + packet[9:]
    return packet or b"\0"


def test_a_sample_is_of_flows_fair_and_the_same_everywhere() -> None:
    rng = random.Random(6)
    kept = 0
    for _ in range(20_000):
        ends = rng.sample(range(1 << 32), 2)
        ports = rng.choices(range(1024, 65536), k=2)
        there, back = (_udp(ends[a], ends[b], ports[a], ports[b]) for a, b in ((0, 1), (1, 0)))
        key = key_of(there)
        assert key is not None
        assert key == key_of(back)
        kept += place_in_sample(key) % 10 == 0
    assert 1800 < kept < 2200


def _udp(source: int, target: int, source_port: int, target_port: int) -> bytes:
    body = struct.pack(">HHHH", source_port, target_port, 12, 0) + bytes(4)
    head = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(body), 0, 0, 64, 17, 0, source, target)
    return bytes(12) + b"\x08\0" + head + body


def test_a_full_table_forgets_flows_and_so_keeps_more_than_asked(loaded: ProgramSet) -> None:
    loaded.use(loaded.filter_of(ACCEPT_ALL, Settings(cutoff_bytes=1, kept_bytes=128)))
    flows = [_udp(10 + number, 2, 3, 4) for number in range(2 * FLOWS)]
    assert all(verdict(loaded.entry, frame) for frame in flows), "a new flow finds room"
    assert loaded.counters().cut_off == 0
    assert not any(verdict(loaded.entry, frame) for frame in flows[-100:]), "the newest are remembered"
    assert sum(bool(verdict(loaded.entry, frame)) for frame in flows[:1000]) > 900, "the oldest are not"


def test_more_flows_than_the_table_holds_on_a_ring(pair: Pair) -> None:
    """Each new flow is kept although the table is full; those forgotten begin anew, and the books say what was cut."""
    left, right = pair
    flows = FLOWS + 8000
    with (
        ring_on(left, "udp", FlowRules(cutoff_bytes=1)) as ring,
        Sender(right) as sender,
        Reader(ring) as reader,
    ):
        addresses = [
            struct.pack(">BBH", 172, 16 + number // 65536, number % 65536) for number in range(flows)
        ]
        template = udp_frame(b"one of many")
        sent = [template[:26] + address + template[30:] for address in addresses]
        newest, oldest = sent[-500:], sent[:500]
        for part in (sent, newest, oldest):
            sender.send(*part)

        def all_read() -> bool:
            now = ring.statistics()
            return now.received + (now.cut_off or 0) == flows + 1000 and now.in_ring == 0

        wait_for(all_read, "every packet is counted and read")
        statistics = ring.statistics()
    taken = [each.packet.data for each in reader.taken]
    assert taken[:flows] == sent, "the first packet of a flow was turned away"
    again = taken[flows:]
    assert not set(again) & set(newest), "the newest are remembered"
    assert len(set(again) & set(oldest)) > 400, "the oldest are forgotten, and begin anew"
    assert statistics.cut_off == 1000 - len(again)
    assert statistics.dropped_ring == 0


def test_cut_off_on_a_ring_counts_the_rest(pair: Pair) -> None:
    left, right = pair
    sizes = [60, 300, 700, 1000, 100]
    with ring_on(left, "udp", FlowRules(cutoff_bytes=1000)) as ring, Sender(right) as sender:
        sent = [udp_frame(bytes(size), port=port) for size in sizes for port in range(1, 9)]
        sender.send(*sent)
        kept = data_of(drain(ring))
        had: dict[int, int] = defaultdict(int)
        wanted = []
        for frame in sent:
            port = int.from_bytes(frame[36:38], "big")
            if had[port] < 1000:
                wanted.append(frame)
                had[port] += len(frame)
        assert kept == wanted
        statistics = ring.statistics()
        assert (statistics.cut_off, statistics.sampled_out, statistics.filtered) == (
            len(sent) - len(kept),
            0,
            0,
        )
        ring.apply("udp", 262144, FlowRules(cutoff_bytes=2500))  # the flows go on where they were
        sender.send(*sent[:8], *sent[:8])
        assert len(drain(ring)) == 16
        ring.apply("udp", 262144)
        sender.send(*sent)
        assert len(drain(ring)) == len(sent)
        ring.close()
        statistics = ring.statistics()
        assert statistics.received + (statistics.cut_off or 0) == 2 * len(sent) + 16


def test_a_cut_connection_keeps_both_directions_of_its_beginning(pair: Pair, tmp_path: Path) -> None:
    left, right = pair
    server = """
import socket
s = socket.create_server(("0.0.0.0", 5201)); print("ready", flush=True)
c, _ = s.accept()
while c.recv(1 << 20): c.send(b"ok")
"""
    client = f"""
import socket
c = socket.create_connection(("{left.address}", 5201))
for _ in range(200): c.sendall(bytes(1000)); c.recv(2)
"""
    with (
        ring_on(left, "tcp", FlowRules(cutoff_bytes=20_000)) as ring,
        tcpdump(left, tmp_path / "reference.pcap", "tcp"),
        left.start("python3", "-c", server) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        right.run("python3", "-c", client)
        taken = data_of(drain(ring))
        statistics = ring.statistics()
    reference = [packet.data for packet in recorded(tmp_path / "reference.pcap")]
    assert taken == reference[: len(taken)]
    assert sum(map(len, taken[:-1])) < 20_000 <= sum(map(len, taken))
    assert statistics.cut_off == len(reference) - len(taken)
    assert {data[26:30] for data in taken} == {b"\x0a\x63\0\1", b"\x0a\x63\0\2"}


def test_changes_under_load_lose_and_double_nothing_outside_their_interval(
    pair: Pair, tmp_path: Path
) -> None:
    """Sampling and snaplen go to and fro while packets come; tcpdump knows what passed by when."""
    left, right = pair
    everything, none = FlowRules(), FlowRules(one_in=65536)
    swaps: list[tuple[int, int]] = []
    with (
        tcpdump(left, tmp_path / "reference.pcap", "-s", "96", "udp"),
        ring_on(left, "udp", everything) as ring,
        Reader(ring) as reader,
    ):
        with numbered_load(right, 60_000):
            for change in range(1, 12):
                time.sleep(0.01)
                swaps.append(ring.apply("udp", 200, none if change % 2 else everything))
        wait_for(lambda: ring.statistics().in_ring == 0, "all packets are read")
        wait_for(
            lambda: sum(getattr(ring.statistics(), n) or 0 for n in ("received", "sampled_out")) == 60_000,
            "every packet is counted",
        )
    reference = {number_of(packet.data): packet for packet in recorded(tmp_path / "reference.pcap")}
    taken = {number_of(each.packet.data): each for each in reader.taken}
    assert len(taken) == len(reader.taken), "a packet was delivered twice"
    assert len(reference) == 60_000
    outside = 0
    for number, packet in reference.items():
        if any(start <= packet.timestamp_ns <= end for start, end in swaps):
            assert number not in taken or taken[number].flags & SWAP_INTERVAL
            continue
        outside += 1
        epoch = sum(packet.timestamp_ns > end for _, end in swaps)
        assert (number in taken) == (epoch % 2 == 0), (number, epoch)
        if number in taken:
            assert taken[number].epoch == epoch
    assert outside > 5_000, "the test judged too few packets"


def test_classic_bpf_says_that_it_cannot(pair: Pair) -> None:
    left, _ = pair
    with left.inside():
        with pytest.raises(FilterError, match=r"need eBPF.*python3-bpfcc"):
            RingSource("veth0", "udp", 100, False, flows=FlowRules(one_in=2))
        with contextlib.closing(RingSource("veth0", "udp", 100, False)) as ring:
            with pytest.raises(FilterError, match="need eBPF"):
                ring.apply("udp", 100, FlowRules(cutoff_bytes=5))
            assert ring.epoch == 0
            assert ring.statistics().cut_off is None
