"""Flow counters: what the kernel counts against a model, on frames of every kind and on an open ring under way."""

from __future__ import annotations

import contextlib
import random
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from agent import _flows
from agent.ebpf.contract import FLOW_COUNTER, FLOW_COUNTERS, FLOW_KEY, HASH
from agent.ebpf.flow_counters import FlowCounters, FlowReading
from agent.ebpf.kernel import shape_of
from agent.ebpf.loading import load
from agent.ebpf.programs import Filter, InnerFilter, ProgramSet, Settings
from agent.ebpf.translate import NotAsEbpf
from agent.sources.pcap import PcapSource
from agent.sources.ring import RingSource
from agent.sources.socket_filter import EbpfSocketFilter
from agent.sources.source import FlowRules
from tests.agent.ebpf.test_flows import ACCEPT_ALL
from tests.agent.sources.live import FOREIGN_MAC, SENDER_MAC, Sender, drain, icmp_frame, mac, udp_frame
from tests.support import frames, netns
from tests.support.ebpf import programs, verdict
from tests.support.flow_model import CountsModel, FlowModel, Key
from tests.support.netns import Namespace

pytestmark = pytest.mark.root
Pair = tuple[Namespace, Namespace]
REJECT_ALL = struct.pack("=HBBI", 6, 0, 0, 0)
COUNTING = FlowRules(counted=True)
MEETING_NS = 1_000_000
"""Two processors that meet at a new flow: the one that looked at its clock first may write last."""


@pytest.fixture
def pair() -> Iterator[Pair]:
    with netns.pair() as both:
        yield both


def counts_of(reading: FlowReading) -> dict[Key, list[int]]:
    """Key → packets and bytes from the lower end, then from the upper one."""
    found: dict[Key, list[int]] = {}
    for number in range(reading.flows):
        lower, upper, lower_port, upper_port, protocol, version, unused = FLOW_KEY.unpack_from(
            reading.keys, number * FLOW_KEY.size
        )
        *counts, first_ns, last_ns = struct.unpack_from("=6Q", reading.values, number * FLOW_COUNTER.size)
        assert 0 < first_ns <= last_ns + MEETING_NS
        assert last_ns <= time.monotonic_ns()
        assert unused == 0
        key = (lower, upper, lower_port, upper_port, protocol, version)
        assert key not in found
        found[key] = list(counts)
    return found


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("rules", [(0, 1, 0), (300, 3, 0), (300, 3, 1)])
def test_the_kernel_counts_what_the_model_counts(
    loaded: ProgramSet, batches: bool, rules: tuple[int, int, int]
) -> None:
    """Everything that is seen: also what the filter turns away, and what cut-off and sampling leave out."""
    rng = random.Random(7)
    cutoff_bytes, one_in, look_inside = rules
    model, kept = CountsModel(), FlowModel(cutoff_bytes, one_in)
    for classic in (ACCEPT_ALL, REJECT_ALL, ACCEPT_ALL):
        settings = Settings(cutoff_bytes, 128, 0, 14, one_in, look_inside, count_flows=1)
        inner = InnerFilter(classic, classic) if look_inside else None
        loaded.use(loaded.filter_of(classic, settings, inner))
        for _ in range(1000):
            frame = frames.frame(rng, destination=mac(FOREIGN_MAC), source=mac(SENDER_MAC))
            frame = frame if rng.random() < 0.7 else _turned_round(frame)
            model.see(frame)
            wanted = classic == ACCEPT_ALL and kept.keeps(frame)
            assert bool(verdict(loaded.entry, frame)) == wanted, "a flow looked up once is the same flow"
    reading = FlowCounters(loaded, batches=batches).read()
    assert counts_of(reading) == model.flows
    counters = loaded.counters()
    assert (counters.counted, counters.unattributed) == (model.packets, model.unattributed)
    assert counters.counted + counters.unattributed == counters.seen == 3000
    assert len(model.flows) > 100
    assert model.unattributed > 50
    assert sum(1 for counts in model.flows.values() if counts[0] and counts[2]) > 10, "both directions"
    assert {key[5] for key in model.flows} == {4, 6}


def _turned_round(frame: bytes) -> bytes:
    """An IPv4 packet without options or a tag, as its receiver would answer it."""
    if frame[12:15] != b"\x08\0\x45" or len(frame) < 38:
        return frame
    return frame[:26] + frame[30:34] + frame[26:30] + frame[36:38] + frame[34:36] + frame[38:]


def test_counting_is_switched_on_and_off_and_goes_on(loaded: ProgramSet) -> None:
    counters = FlowCounters(loaded)
    frame, model = udp_frame(b"x" * 30), CountsModel()
    for on in (0, 1, 0, 1):
        loaded.use(loaded.filter_of(ACCEPT_ALL, Settings(kept_bytes=128, count_flows=on)))
        for _ in range(5):
            verdict(loaded.entry, frame)
            if on:
                model.see(frame)
        assert counts_of(counters.read()) == model.flows
    assert loaded.counters().seen == 20
    assert loaded.counters().counted == 10


def many_flows(number: int) -> list[bytes]:
    return [udp_frame(struct.pack(">I", each), port=1 + each % 65000)[:26] + struct.pack(">I", each)
            + udp_frame(b"", port=1 + each % 65000)[30:] for each in range(number)]  # fmt: skip


def test_a_full_table_forgets_flows_and_the_total_says_how_much(loaded: ProgramSet) -> None:
    loaded.use(loaded.filter_of(REJECT_ALL, Settings(count_flows=1)))
    sent = many_flows(2 * FLOW_COUNTERS)
    for frame in sent:
        verdict(loaded.entry, frame)
    counters = loaded.counters()
    assert (counters.counted, counters.unattributed) == (len(sent), 0), "a new flow always finds room"
    remembered = counts_of(FlowCounters(loaded).read())
    assert FLOW_COUNTERS // 2 < len(remembered) <= FLOW_COUNTERS
    assert all(counts[0] + counts[2] == 1 for counts in remembered.values())
    model = CountsModel()
    model.see(*sent[-1000:])
    assert model.flows.keys() <= remembered.keys(), "the newest are remembered"


@pytest.mark.parametrize("way", [pytest.param("bcc", marks=pytest.mark.slow), "object"])
def test_without_forgetting_maps_a_full_table_takes_nothing_new_and_counts_that(way: str) -> None:
    """As on a kernel before 4.10."""
    programs(way).close()  # type: ignore[union-attr]
    with load(way, plain=True) as loaded:
        assert shape_of(loaded.flow_counters).kind == HASH
        loaded.use(loaded.filter_of(REJECT_ALL, Settings(count_flows=1)))
        sent = many_flows(FLOW_COUNTERS + 3000)
        for frame in sent:
            verdict(loaded.entry, frame)
        counters = loaded.counters()
        assert counters.counted + counters.unattributed == len(sent)
        assert 2000 < counters.unattributed <= 3000
        for batches in (True, False):
            remembered = counts_of(FlowCounters(loaded, batches=batches).read())
            assert len(remembered) == counters.counted
        for frame in sent[:100]:  # those that are in go on
            verdict(loaded.entry, frame)
        assert loaded.counters().unattributed == counters.unattributed
        assert sum(counts[0] + counts[2] for counts in counts_of(FlowCounters(loaded).read()).values()) == (
            counters.counted + 100
        )


def test_processors_that_meet_the_same_new_flows_lose_none(loaded: ProgramSet) -> None:
    """Two threads send the same thousand flows in the same order; a third reads all the while."""
    loaded.use(loaded.filter_of(REJECT_ALL, Settings(count_flows=1)))
    sent, counters = many_flows(1000), FlowCounters(loaded)
    barrier, done = threading.Barrier(2), threading.Event()

    def send() -> None:
        for frame in sent:
            barrier.wait()
            verdict(loaded.entry, frame)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    last = 0
    while any(thread.is_alive() for thread in threads):
        now = sum(counts[0] + counts[2] for counts in counts_of(counters.read()).values())
        assert now >= last, "counters only grow"
        last = now
    done.set()
    counts = counts_of(counters.read())
    assert len(counts) == 1000
    assert all(one[0] + one[2] == 2 for one in counts.values())
    assert loaded.counters().counted == 2000


@contextlib.contextmanager
def ring_on(host: Namespace, filter_text: str, flows: FlowRules) -> Iterator[RingSource]:
    loaded = programs("object")
    with host.inside():
        ring = RingSource(
            "veth0", filter_text, 262144, True, ring_bytes=1 << 24, programs=loaded, flows=flows
        )
    with contextlib.closing(ring):
        yield ring


def last_counts(source: RingSource) -> dict[Key, list[int]]:
    (reading,) = source.read_flows()
    return counts_of(reading)


def test_on_a_ring_all_that_came_is_counted_whatever_was_kept(pair: Pair) -> None:
    left, right = pair
    rng, model = random.Random(3), CountsModel(tag_beside=True)
    with (
        ring_on(left, "udp port 7", FlowRules(cutoff_bytes=200, one_in=2, counted=True)) as ring,
        Sender(right) as sender,
    ):
        for size in (20, 400):
            sent = [udp_frame(bytes(size), port=7 + port, tags=tags) for port in range(6) for tags in TAGS]
            sent += [icmp_frame(bytes(size)), mac(FOREIGN_MAC) + mac(SENDER_MAC) + b"\x88\xcc" + bytes(50)]
            sent += [
                frames.frame(rng, destination=mac(FOREIGN_MAC), source=mac(SENDER_MAC)) for _ in range(200)
            ]
            sender.send(*sent)
            model.see(*sent)
        drain(ring)
        ring.close()
        statistics = ring.statistics()
        counts = last_counts(ring)
        assert not ring.read_flows(), "the last reading is given once"
    assert counts == model.flows
    assert statistics.filtered
    assert statistics.sampled_out or statistics.cut_off
    assert (statistics.flows_counted, statistics.flows_unattributed) == (model.packets, model.unattributed)
    assert len(model.flows) > 100
    assert {key[5] for key in model.flows} == {4, 6}


TAGS: tuple[tuple[tuple[int, int], ...], ...] = ((), ((0x8100, 5),))


def test_switched_on_the_open_ring_it_counts_between_the_switches(pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "", FlowRules()) as ring, Sender(right) as sender:
        sender.send(*[udp_frame(b"before")] * 3)
        drain(ring)
        assert ring.read_flows() == []
        assert ring.statistics().flows_counted is None
        ring.apply("", 262144, COUNTING)
        sender.send(*[udp_frame(b"between")] * 5)
        drain(ring)
        ring.apply("", 262144)
        sender.send(*[udp_frame(b"behind")] * 7)
        drain(ring)
        model = CountsModel()
        model.see(*[udp_frame(b"between")] * 5)
        counts = last_counts(ring)
        assert {key: value for key, value in counts.items() if key[5] == 4} == model.flows


def test_a_filter_that_must_be_classic_ends_the_counting_and_loses_nothing(pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "", COUNTING) as ring, Sender(right) as sender:
        sender.send(*[udp_frame(b"counted")] * 4)
        drain(ring)
        judge = ring._filter
        assert isinstance(judge, EbpfSocketFilter)
        judge._programs.filter_of = refused  # type: ignore[method-assign]
        ring.apply("udp", 262144, COUNTING)
        assert ring.notice is not None
        assert "flows are not counted" in ring.notice
        sender.send(*[udp_frame(b"counted no more")] * 4)
        assert len(drain(ring)) == 4
        model = CountsModel()
        model.see(*[udp_frame(b"counted")] * 4)
        assert last_counts(ring) == model.flows
        assert ring.read_flows() == []


def refused(classic: bytes, settings: Settings, inner: InnerFilter | None = None) -> Filter:
    """As a verifier answers that takes fewer instructions (before Linux 5.2)."""
    raise NotAsEbpf("the kernel refused the filter as an eBPF program")


@pytest.mark.parametrize("way", ["classic", "pcap"])
def test_without_ebpf_the_capture_goes_on_and_says_what_is_missing(pair: Pair, way: str) -> None:
    left, right = pair
    with left.inside():
        source: RingSource | PcapSource = (
            RingSource("veth0", "", 200, True, flows=COUNTING)
            if way == "classic"
            else PcapSource("veth0", "", 200, True, flows=COUNTING)
        )
    with contextlib.closing(source), Sender(right) as sender:
        assert source.notice is not None
        assert "flows are not counted: that needs eBPF" in source.notice
        sender.send(*[udp_frame(b"taken")] * 4)
        assert sum(b"taken" in each.packet.data for each in drain(source)) == 4
        assert source.read_flows() == []
        assert source.statistics().flows_counted is None
        source.apply("", 200)
        assert source.notice is None


def test_readings_that_contradict_themselves_are_refused() -> None:
    columns = tuple(bytearray(width * 4) for width in (1, 1, 16, 16, 2, 2, 8, 8, 8, 8, 8, 8))
    keys, values, index = bytearray(80), bytearray(96), bytearray(16)
    assert _flows.index(keys, values, 2, index) == 1, "the same flow twice"
    good = (keys, values, 1, index)
    assert _flows.changes((keys, values, 1), good, b"", 0, columns, 0) == (1, 0, 0, 0)
    for flows, slots in ((3, 16), (-1, 16), (2, 12), (2, 0), (2, 8)):
        with pytest.raises(ValueError, match="more flows"):
            _flows.index(keys, values, flows, bytearray(slots))
        with pytest.raises(ValueError, match="more flows"):
            _flows.changes((keys, values, 1), (keys, values, flows, bytearray(slots)), b"", 0, columns, 0)
    with pytest.raises(ValueError, match="isn't of the reading"):
        _flows.changes((keys, values, 1), (keys, values, 1, bytearray(b"\xff" * 16)), b"", 0, columns, 0)
    for wrong in (columns[:11], (*columns, bytearray(8))):
        with pytest.raises(ValueError, match="twelve"):
            _flows.changes((keys, values, 1), good, b"", 0, wrong, 0)
    with pytest.raises(ValueError, match="more flows"):
        _flows.changes((keys, values, 1), good, b"", 0, columns, -1)


def test_a_closed_map_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file"):
        _flows.read_map(-1, bytearray(40), bytearray(48), True)
