"""What the filter turns away is an exact number with eBPF, whatever happens to the ring meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import _tpacket
from agent.bpf_filter import MAX_INSTRUCTIONS, FilterError, compile_filter
from agent.ebpf.contract import SLOT_FILTER
from agent.ebpf.kernel import read
from agent.ebpf.programs import Filter, InnerFilter, ProgramSet, Settings
from agent.ebpf.translate import NotAsEbpf, translate
from agent.sources.ring import RingSource
from agent.sources.source import BatchBuffer, FlowRules
from agent.tag_filter import for_socket
from tests.agent.sources.live import Sender, data_of, drain, packets_of, udp_frame
from tests.support import netns
from tests.support.ebpf import programs, verdict
from tests.support.netns import Namespace, wait_for

pytestmark = pytest.mark.root
Pair = tuple[Namespace, Namespace]
KEPT = Settings(kept_bytes=128)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with netns.pair() as both:
        yield both


@contextlib.contextmanager
def ring_on(
    host: Namespace, filter_text: str, *, interface: str = "veth0", loaded: ProgramSet | None = None
) -> Iterator[RingSource]:
    loaded = loaded or programs("object")
    with host.inside():
        ring = RingSource(interface, filter_text, 200, True, ring_bytes=1 << 22, programs=loaded)
    with contextlib.closing(ring):
        yield ring


def test_seen_is_received_and_filtered_through_every_change(pair: Pair) -> None:
    left, right = pair
    with ring_on(left, "udp port 1") as ring, Sender(right) as sender:
        frames = [udp_frame(b"x" * 40, port=1 + number % 4) for number in range(400)]
        sender.send(*frames)
        drain(ring)
        assert (ring.statistics().received, ring.statistics().filtered) == (100, 300)
        ring.apply("udp port 2 or udp port 3", 100)
        sender.send(*frames)
        drain(ring)
        assert (ring.statistics().received, ring.statistics().filtered) == (300, 500)
        ring.pause()
        sender.send(*frames)  # nobody looks at them: neither taken nor turned away
        drain(ring)
        ring.resume()
        sender.send(*frames)
        drain(ring)
        assert (ring.statistics().received, ring.statistics().filtered) == (500, 700)
        ring.close()
        assert (ring.statistics().received, ring.statistics().filtered) == (500, 700)


def test_under_load_the_number_never_goes_back_and_ends_exact(pair: Pair) -> None:
    left, right = pair
    numbers: list[int] = []
    with ring_on(left, "udp port 1") as ring:
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                numbers.append(ring.statistics().filtered or 0)

        def take() -> None:
            buffer = BatchBuffer()
            while not stop.is_set():
                ring.read_batch(buffer, linger_ns=0, wait_ms=20)

        threads = [threading.Thread(target=watch), threading.Thread(target=take)]
        for thread in threads:
            thread.start()
        with Sender(right) as sender:
            for number in range(30_000):
                sender.send(udp_frame(b"y" * 20, port=1 + number % 3))
        drain_s = threading.Event()
        while ring.statistics().received + (ring.statistics().filtered or 0) < 30_000:
            assert not drain_s.wait(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        ring.close()
        assert (ring.statistics().received, ring.statistics().filtered) == (10_000, 20_000)
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 10


def test_between_both_forms_under_load_each_packet_is_judged_and_counted_once(pair: Pair) -> None:
    """While flows are counted packets go by way of `entry`, otherwise sockets run the filter itself."""
    left, right = pair
    loaded = programs("object")
    assert loaded is not None
    taken: list[bytes] = []
    with ring_on(left, "udp port 1 or udp port 2", loaded=loaded) as ring, Sender(right) as sender:
        stop, all_sent, sent = threading.Event(), threading.Event(), 0

        def take() -> None:
            buffer = BatchBuffer()
            while not all_sent.is_set() or ring.statistics().in_ring:
                if ring.read_batch(buffer, linger_ns=0, wait_ms=20):
                    taken.extend(data_of(packets_of(buffer)))

        def send() -> None:
            nonlocal sent
            while not stop.is_set():
                sender.send(udp_frame(struct.pack("=I", sent), port=1 + sent % 3))
                sent += 1

        sending, taking = threading.Thread(target=send), threading.Thread(target=take)
        sending.start()
        taking.start()
        forms = []
        for change in range(12):
            wait_for(lambda wanted=100 * (change + 1): sent > wanted, "packets between the changes")  # type: ignore[misc]
            ring.apply("udp port 1 or udp port 2", 100 + change, FlowRules(counted=change % 2 == 0))
            forms.append(loaded.attached == loaded.entry)
        stop.set()
        sending.join()
        all_sent.set()
        taking.join()
    statistics = ring.statistics()
    assert forms == [True, False] * 6
    assert sent > 1000
    assert (statistics.received, statistics.filtered) == (len(taken), sent // 3)
    assert len(taken) == sent - sent // 3
    assert [struct.unpack("=I", frame[42:46])[0] for frame in taken] == [n for n in range(sent) if n % 3 < 2]


def test_a_socket_that_refuses_leaves_the_others_as_they_were(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the second one has no memory left for a program."""

    def refuse(program: int) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    left, right = pair
    with left.inside():
        ring = RingSource("veth0", "udp portrange 1-20", 200, True, programs=programs("object"), rings=2)
    with contextlib.closing(ring), Sender(right) as sender:
        monkeypatch.setattr(ring._sockets[1], "attach_ebpf", refuse)
        with pytest.raises(FilterError, match="no room"):
            ring.apply("udp port 99", 200)
        sender.send(*(udp_frame(b"", port=1 + number % 21) for number in range(210)))  # in both rings
        wait_for(lambda: ring.statistics().received == 200, "all but one flow pass, as before")
        assert ring.statistics().filtered == 10


def test_loopback_counts_each_packet_once() -> None:
    with netns.namespace() as host, ring_on(host, "icmp", interface="lo") as ring:
        host.run("ping", "-c", "4", "-i", "0.01", "127.0.0.1")
        host.run("python3", "-c", "import socket; s=socket.socket(2,2); s.sendto(b'x',('127.0.0.1',9))")
        # Four echoes, four answers, and the "port unreachable" that answers the datagram; the datagram is turned away.
        assert len(drain(ring)) == 9
        assert (ring.statistics().received, ring.statistics().filtered) == (9, 1)


def comparisons() -> bytes:
    body = struct.pack("=HBBI", 0x28, 0, 0, 36)
    body += b"".join(
        struct.pack("=HBBI", 0x15, 0, 0, 2000 + number) for number in range(MAX_INSTRUCTIONS - 5)
    )
    body += struct.pack("=HBBI", 0x15, 1, 0, 7) + struct.pack("=HBBI", 0x15, 0, 1, 9)
    return body + struct.pack("=HBBI", 6, 0, 0, 96) + struct.pack("=HBBI", 6, 0, 0, 0)


def test_a_filter_of_the_greatest_length() -> None:
    """As many instructions as the kernel takes of a classic program."""
    body = comparisons()
    assert len(body) // 8 == MAX_INSTRUCTIONS
    loaded = programs("object")
    assert loaded is not None
    with loaded:
        chosen = loaded.filter_of(body, KEPT)
        loaded.use(chosen)
        assert loaded.attached == loaded.entry, "too long for a socket's memory: it has its slot only"
        for port in (0, 7, 8, 9, 256, 2000, 5000):
            frame = udp_frame(b"", port=port)
            wanted = _tpacket.run_filter(body, frame, len(frame), 0, -1)
            assert bool(verdict(loaded.entry, frame)) == bool(wanted)
        chosen.close()
        # Each becomes eight instructions, and the kernel makes even more of them: farther than a jump reaches.
        indirect = struct.pack("=HBBI", 0x50, 0, 0, 37) * (MAX_INSTRUCTIONS - 1)
        with pytest.raises(NotAsEbpf, match="refused"):
            loaded.filter_of(indirect + struct.pack("=HBBI", 0x16, 0, 0, 0), KEPT)


def test_a_filter_that_only_classic_bpf_can_hold(pair: Pair) -> None:
    """What an old kernel's verifier finds too long, or we can't translate: the capture goes on, uncounted."""
    processor = struct.pack("=HBBI", 0x20, 0, 0, 0xFFFFF000 + 36) + struct.pack("=HBBI", 6, 0, 0, 9)
    with pytest.raises(NotAsEbpf, match="SKF_AD_ 36"):
        translate(processor, 3)
    left, right = pair
    before = len(os.listdir("/proc/self/fd"))
    with ring_on(left, "udp port 1", loaded=_old_kernel()) as ring, Sender(right) as sender:
        sender.send(udp_frame(b"1", port=1), udp_frame(b"2", port=2))
        assert len(drain(ring)) == 1
        assert ring.statistics().filtered == 1
        assert ring.notice is None
        ring.apply("udp port 2 or udp port 3", 100)
        sender.send(udp_frame(b"1", port=1), udp_frame(b"2", port=2))
        assert len(drain(ring)) == 1
        assert ring.statistics().filtered is None
        assert "classic BPF" in str(ring.notice)
        assert "too long" in str(ring.notice)
        ring.apply("udp port 1", 100)
        sender.send(udp_frame(b"1", port=1))
        assert len(drain(ring)) == 1
        assert ring.statistics().filtered is None
    assert len(os.listdir("/proc/self/fd")) == before


class _OldKernel(ProgramSet):
    """A kernel whose verifier takes short programs only: before Linux 5.2 it took 4096 instructions."""

    def filter_of(self, classic: bytes, settings: Settings, inner: InnerFilter | None = None) -> Filter:
        short = compile_filter("udp port 1", 1, 100)
        if len(classic) > len(for_socket(short, loopback=False)):
            raise NotAsEbpf("the kernel refused the filter as an eBPF program: Argument list too long")
        return super().filter_of(classic, settings, inner)


def _old_kernel() -> ProgramSet:
    loaded = programs("object")
    assert loaded is not None
    descriptors = {name: os.dup(number) for name, number in loaded._descriptors.items()}
    old = _OldKernel(descriptors, loaded.loaded_by)
    loaded.close()
    return old


def number_of(loaded: ProgramSet) -> int:
    """The kernel's number of the program that sockets run."""
    told = Path(f"/proc/self/fdinfo/{loaded.attached}").read_text()
    return int(told.split("prog_id:")[1].split()[0])


def test_where_only_numbers_change_no_filter_is_loaded(pair: Pair) -> None:
    left, right = pair
    loaded = programs("object")
    assert loaded is not None

    def in_force() -> tuple[int, int]:
        """The kernel's numbers of the program in the filter's slot, and of the one that the socket runs."""
        return int.from_bytes(read(loaded._map("jumps"), SLOT_FILTER, 4), sys.byteorder), number_of(loaded)

    with ring_on(left, "udp port 1", loaded=loaded) as ring, Sender(right) as sender:
        first = in_force()
        ring.apply("udp port 1", 60)
        ring.apply("udp port 1", 60, FlowRules(cutoff_bytes=100))
        assert in_force() == first
        sender.send(*(udp_frame(bytes(200), port=1) for _ in range(3)))
        assert [len(each.packet.data) for each in drain(ring)] == [60]
        with pytest.raises(FilterError, match="snaplen"):
            ring.apply("udp port 1", 0)
        ring.apply("udp port 2", 60)
        assert all(now != before for now, before in zip(in_force(), first, strict=True))
        sender.send(*(udp_frame(bytes(200), port=port) for port in (1, 2, 2)))
        assert len(drain(ring)) == 2


def test_changes_leave_no_descriptor(pair: Pair) -> None:
    left, right = pair
    rng = random.Random(3)
    with ring_on(left, "udp") as ring, Sender(right) as sender:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            ring.apply(f"udp port {rng.randrange(1, 1000)}", 100)
            sender.send(udp_frame(b"", port=1000))
        assert len(os.listdir("/proc/self/fd")) == before
        drain(ring)
        assert ring.statistics().filtered == 20
