"""What happens to an open source, ring or libpcap: filter changes, pauses, stalls, interfaces that come and go."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.bpf_filter import FilterError
from agent.sources.live import SWAP_DELAY_S, LiveSource
from agent.sources.source import BatchBuffer, SourceError
from tests.agent.sources.conftest import opener_of
from tests.agent.sources.live import Opener, Sender, Taken, drain, packets_of, recorded, tcpdump, udp_frame
from tests.support import netns
from tests.support.netns import Namespace, wait_for
from wire.batch import SWAP_INTERVAL

pytestmark = pytest.mark.root
Pair = tuple[Namespace, Namespace]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with netns.pair() as both:
        yield both


@pytest.fixture(params=["classic", pytest.param("bcc", marks=pytest.mark.slow), "pcap"])
def open_source(request: pytest.FixtureRequest) -> Opener:
    """Here eBPF comes from BCC."""
    return opener_of(request.param)


Opened = Callable[..., contextlib.AbstractContextManager[LiveSource]]


@pytest.fixture
def ring_on(open_source: Opener) -> Opened:
    """Opens the ring, or libpcap, on a host's veth for the length of a block."""

    @contextlib.contextmanager
    def opened(
        host: Namespace,
        filter_text: str,
        snaplen: int = 262144,
        ring_bytes: int = 1 << 24,
        block_bytes: int = 1 << 18,
    ) -> Iterator[LiveSource]:
        source = open_source(host, filter_text, snaplen, ring_bytes=ring_bytes, block_bytes=block_bytes)
        with contextlib.closing(source):
            yield source

    return opened


class Reader:
    """A thread that reads a source the whole time, as the agent's does."""

    def __init__(self, source: LiveSource) -> None:
        self.source = source
        self.taken: list[Taken] = []
        self.error: Exception | None = None
        self._buffer = BatchBuffer()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self.source.read_batch(self._buffer, linger_ns=5_000_000, wait_ms=100):
                    self.taken += packets_of(self._buffer)
        except (SourceError, ValueError) as error:
            self.error = error

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def numbered_load(host: Namespace, count: int, *, pause_s: float = 0.0) -> Iterator[None]:
    """UDP packets to ports 1000 and 1001 in turn, whose payload begins with their number; complete when it ends."""
    template = bytearray(udp_frame(bytes(60), port=1000))
    port_at, number_at = 36, 42

    def send() -> None:
        with Sender(host) as sender:
            for number in range(count):
                struct.pack_into(">H", template, port_at, 1000 + number % 2)
                struct.pack_into(">I", template, number_at, number)
                sender.send(bytes(template))
                if pause_s:
                    time.sleep(pause_s)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def number_of(data: bytes) -> int:
    return int.from_bytes(data[42:46], "big")


def test_a_filter_change_loses_nothing_outside_its_interval(
    ring_on: Opened, pair: Pair, tmp_path: Path
) -> None:
    """Under load the filter goes to and fro between two that share no packet; tcpdump knows what passed by when."""
    left, right = pair
    filters = ("udp port 1000", "udp port 1001")
    swaps: list[tuple[int, int]] = []
    with (
        tcpdump(left, tmp_path / "reference.pcap", "-s", "96", "udp"),
        ring_on(left, filters[0]) as ring,
        Reader(ring) as reader,
    ):
        with numbered_load(right, 60_000):
            for change in range(1, 12):
                time.sleep(0.01)
                swaps.append(ring.apply(filters[change % 2], 200 if change % 2 else 262144))
        wait_for(lambda: ring.statistics().in_ring == 0, "all packets are read")
        time.sleep(0.05)
    reference = {number_of(packet.data): packet for packet in recorded(tmp_path / "reference.pcap")}
    taken = {number_of(each.packet.data): each for each in reader.taken}
    assert len(taken) == len(reader.taken), "a packet was delivered twice"
    assert len(reference) == 60_000
    assert all(end - start >= SWAP_DELAY_S * 1e9 for start, end in swaps)
    outside = 0
    for number, packet in reference.items():
        epoch = sum(packet.timestamp_ns > end for _, end in swaps)
        ambiguous = any(start <= packet.timestamp_ns <= end for start, end in swaps)
        if number in taken and ambiguous:
            assert taken[number].flags & SWAP_INTERVAL
        if ambiguous:
            continue
        outside += 1
        assert (number in taken) == (number % 2 == epoch % 2), (number, epoch)
        if number in taken:
            assert taken[number].epoch == epoch
            assert not taken[number].flags & SWAP_INTERVAL
            assert taken[number].packet.timestamp_ns == packet.timestamp_ns
    assert outside > 5_000, "the test judged too few packets"


def test_each_packet_keeps_the_snaplen_of_its_filter(ring_on: Opened, pair: Pair) -> None:
    """Packets that wait in the ring while the snaplen shrinks are not cut after the fact."""
    left, right = pair
    with ring_on(left, "udp") as ring, Sender(right) as sender:
        sender.send(udp_frame(bytes(500), port=1))
        ring.apply("udp", 100)
        sender.send(udp_frame(bytes(500), port=2))
        ring.apply("udp", 50)
        sender.send(udp_frame(bytes(500), port=3))
        taken = drain(ring)
    lengths = [(len(each.packet.data), each.epoch, bool(each.flags & SWAP_INTERVAL)) for each in taken]
    assert lengths == [(542, 0, False), (100, 1, False), (50, 2, False)]


def test_many_changes_that_nobody_has_read_through(ring_on: Opened, pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "udp") as ring, Sender(right) as sender:
        for change in range(40):
            ring.apply("udp", 100 + change)
            sender.send(udp_frame(bytes(500), port=change + 1))
        taken = drain(ring)
        assert len(taken) == 40
        assert (taken[-1].epoch, len(taken[-1].packet.data)) == (40, 139)
        assert all(len(each.packet.data) >= 100 for each in taken)


def test_a_refused_filter_leaves_the_old_one(ring_on: Opened, pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "udp port 1000") as ring, Sender(right) as sender:
        for wrong in ("udp port", "ip6 protochain 6", "udp\0", "x" * 20_000):
            with pytest.raises(FilterError):
                ring.apply(wrong, 1000)
        with pytest.raises(FilterError):
            ring.apply("udp", 0)
        sender.send(udp_frame(b"1", port=1000), udp_frame(b"2", port=1001))
        taken = drain(ring)
        assert [each.epoch for each in taken] == [0]
        assert ring.snaplen == 262144


def test_a_pause_keeps_what_came_before_and_takes_nothing_during_it(ring_on: Opened, pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "udp") as ring, Sender(right) as sender:
        sender.send(udp_frame(b"before"))
        ring.pause()
        sender.send(udp_frame(b"during"))
        assert [each.packet.data[-6:] for each in drain(ring)] == [b"before"]
        ring.apply("udp port 9", 1000)  # waits for the resume
        sender.send(udp_frame(b"during", port=9))
        ring.resume()
        sender.send(udp_frame(b"no match", port=8), udp_frame(b"after", port=9))
        assert [each.packet.data[-5:] for each in drain(ring)] == [b"after"]
        assert ring.statistics().received == 2


def test_a_stalled_reader_loses_what_the_ring_cannot_hold_and_counts_it(ring_on: Opened, pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "udp", ring_bytes=1 << 20, block_bytes=1 << 17) as ring:
        with numbered_load(right, 30_000):
            pass  # nobody reads meanwhile
        taken = drain(ring)
        statistics = ring.statistics()
        assert statistics.received == 30_000
        assert statistics.dropped_ring > 10_000
        assert statistics.received == statistics.dropped_ring + len(taken)
        assert statistics.captured == len(taken)
        with numbered_load(right, 100):
            pass
        assert len(drain(ring)) == 100  # it goes on afterwards
        assert ring.statistics().received == 30_100


def test_what_is_unread_at_the_close_is_accounted_for(ring_on: Opened, pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "udp") as ring:
        with numbered_load(right, 50):
            pass
        ring.close()
        statistics = ring.statistics()
        assert (statistics.received, statistics.dropped_ring, statistics.in_ring) == (50, 50, 0)
        for after in (
            lambda: ring.read_batch(BatchBuffer(), linger_ns=0, wait_ms=0),
            lambda: ring.apply("udp", 100),
            ring.pause,
            ring.resume,
        ):
            with pytest.raises(SourceError, match="closed"):
                after()
        ring.wake()
        ring.close()


def test_an_interface_that_goes_down_comes_back(ring_on: Opened, pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "udp") as ring, Reader(ring) as reader:
        left.run("ip", "link", "set", "veth0", "down")
        wait_for(lambda: ring.notice is not None, "the reader says that the interface is down")
        assert "is down" in str(ring.notice)
        left.run("ip", "link", "set", "veth0", "up")
        with Sender(right) as sender:
            wait_for(lambda: sender.send(udp_frame(b"again")) or reader.taken, "packets come again")  # type: ignore[func-returns-value]
        wait_for(lambda: ring.notice is None, "the notice is gone")


def test_opening_on_an_interface_that_is_down(open_source: Opener, ring_on: Opened, pair: Pair) -> None:
    left, right = pair
    left.run("ip", "link", "set", "veth0", "down")
    if open_source.kind == "pcap":
        with pytest.raises(SourceError, match="is down, and libpcap opens none"):
            open_source(left, "udp")
        return
    with ring_on(left, "udp") as ring:
        assert "is down" in str(ring.notice)
        left.run("ip", "link", "set", "veth0", "up")
        with Sender(right) as sender:
            sender.send(udp_frame(b"1"))
        assert len(drain(ring)) == 1
        assert ring.notice is None


def test_an_interface_that_vanishes_is_taken_up_again(open_source: Opener, pair: Pair) -> None:
    """Its reader stays in the namespace: a socket is opened anew where the reader is."""
    left, right = pair
    with left.inside(), contextlib.closing(open_source(left, "udp", 1000, promiscuous=False)) as ring:
        with Sender(right) as sender:
            sender.send(udp_frame(b"first", to=left.mac))
        assert len(drain(ring)) == 1
        netns._ip("-n", left.name, "link", "delete", "veth0")
        ring.read_batch(BatchBuffer(), linger_ns=0, wait_ms=100)
        assert "was removed" in str(ring.notice)
        netns._ip(
            *(
                "-n",
                left.name,
                "link",
                "add",
                "veth0",
                "type",
                "veth",
                "peer",
                "name",
                "veth0",
                "netns",
                right.name,
            )
        )
        for host in pair:
            netns._ip("-n", host.name, "link", "set", "veth0", "up")
        wait_for(
            lambda: drain(ring, quiet_ms=20) == [] and ring.notice is None, "the new interface is taken up"
        )
        with Sender(right) as sender:
            sender.send(udp_frame(b"second", to="ff:ff:ff:ff:ff:ff"))
        assert [each.packet.data[-6:] for each in drain(ring)] == [b"second"]
        assert ring.statistics().received == ring.statistics().captured == 2


@pytest.mark.slow
def test_closing_while_others_read_and_change(ring_on: Opened, pair: Pair) -> None:
    """No thread may touch the ring once it is unmapped; a mistake here ends the process."""
    left, right = pair
    with right.start("ping", "-f", "-q", left.address):
        for _ in range(30):
            with ring_on(left, "", ring_bytes=1 << 20) as ring, Reader(ring) as reader:
                stop = threading.Event()

                def disturb(ring: LiveSource = ring, stop: threading.Event = stop) -> None:
                    with contextlib.suppress(SourceError):
                        while not stop.is_set():
                            ring.apply("icmp", 100)
                            ring.statistics()
                            ring.wake()
                            ring.pause()
                            ring.resume()

                thread = threading.Thread(target=disturb)
                thread.start()
                time.sleep(0.01)
                ring.close()
                stop.set()
                thread.join()
                wait_for(lambda reader=reader: isinstance(reader.error, SourceError), "the reader is told")  # type: ignore[misc]


def test_waiting_ends_when_it_should(ring_on: Opened, pair: Pair) -> None:
    left, right = pair
    buffer = BatchBuffer()
    with ring_on(left, "udp") as ring:
        ring.wake()  # before anybody reads: the next read returns at once
        assert _seconds(lambda: ring.read_batch(buffer, linger_ns=10**10, wait_ms=20_000)) < 10
        timer = threading.Timer(0.05, ring.wake)
        timer.start()
        assert _seconds(lambda: ring.read_batch(buffer, linger_ns=10**10, wait_ms=20_000)) < 10
        timer.join()
        with Sender(right) as sender:
            sender.send(udp_frame(b"1"))
        assert 0.05 <= _seconds(lambda: ring.read_batch(buffer, linger_ns=60_000_000, wait_ms=20_000)) < 10
        assert buffer.packets == 1
        assert 0.05 <= _seconds(lambda: ring.read_batch(buffer, linger_ns=0, wait_ms=60)) < 10
        with numbered_load(
            right, 2000, pause_s=0.0002
        ):  # a stream that never pauses: the linger ends the batch
            assert _seconds(lambda: ring.read_batch(buffer, linger_ns=50_000_000, wait_ms=20_000)) < 10
            assert 0 < buffer.packets < 2000


def test_own_traffic_alone_does_not_hold_a_read(ring_on: Opened, pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "udp") as ring, numbered_load(right, 20_000):
        ring.leave_out([("10.9.0.1", 5000)])
        assert ring.read_batch(BatchBuffer(), linger_ns=0, wait_ms=50) == 0
    assert ring.statistics().own_traffic == ring.statistics().received - ring.statistics().dropped_ring


def _seconds(call: object) -> float:
    start = time.monotonic()
    call()  # type: ignore[operator]
    return time.monotonic() - start
