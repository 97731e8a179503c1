"""Recorded files as a source: what the file holds comes out, at the pace asked for, and the books say the rest."""

from __future__ import annotations

import contextlib
import random
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from agent import _tpacket
from agent.bpf_filter import FilterError, compile_filter
from agent.sources.replay import ReplaySource
from agent.sources.source import BatchBuffer, SourceError
from tests.agent.sources.live import Taken, data_of, packets_of, udp_frame
from tests.support.captures import Packet, difference, read_capture
from tests.support.mutations import bend_file, write_pcap
from tests.support.netns import wait_for

LINKTYPE_ETHERNET = 1


@contextlib.contextmanager
def replay(
    path: Path, filter_text: str = "", snaplen: int = 262144, rate_pps: float | Literal["pace"] | None = None
) -> Iterator[ReplaySource]:
    with contextlib.closing(ReplaySource(path, filter_text, snaplen, rate_pps)) as source:
        yield source


def read_all(source: ReplaySource, buffer: BatchBuffer | None = None) -> list[Taken]:
    buffer, taken = buffer or BatchBuffer(), []
    while not source.finished:
        if source.read_batch(buffer, linger_ns=0, wait_ms=50):
            taken += packets_of(buffer)
    statistics = source.statistics()
    assert statistics.in_ring == 0
    assert statistics.captured == len(taken)
    return taken


def numbered(count: int, *, apart_ns: int = 1000) -> list[Packet]:
    return [
        Packet(
            10**18 + number * apart_ns,
            46,
            LINKTYPE_ETHERNET,
            udp_frame(struct.pack(">I", number), port=1 + number % 2),
        )
        for number in range(count)
    ]


def written(path: Path, packets: list[Packet]) -> Path:
    path.write_bytes(write_pcap(packets, link_type=LINKTYPE_ETHERNET))
    return path


def interface_block(link_type: int, name: bytes) -> bytes:
    body = (
        struct.pack("<HHI", link_type, 0, 0)
        + struct.pack("<HH", 2, len(name))
        + name.ljust((len(name) + 3) & ~3, b"\0")
    )
    body += struct.pack("<HHB3xHH", 9, 1, 9, 0, 0)  # if_tsresol: nanoseconds; end of options
    return struct.pack("<II", 1, len(body) + 12) + body + struct.pack("<I", len(body) + 12)


def packet_block(interface: int, packet: Packet) -> bytes:
    padded = packet.data.ljust((len(packet.data) + 3) & ~3, b"\0")
    stamp = packet.timestamp_ns
    head = struct.pack(
        "<IIIII", interface, stamp >> 32, stamp & 0xFFFFFFFF, len(packet.data), packet.original_bytes
    )
    return struct.pack("<II", 6, len(padded) + 32) + head + padded + struct.pack("<I", len(padded) + 32)


SECTION = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)


def test_every_recorded_capture_comes_out_as_it_is(captures: Path) -> None:
    seen = 0
    for path in sorted(captures.rglob("*.pcap*")):
        reference = read_capture(path)
        with replay(path) as source:
            assert source.clock_source == "file"
            taken = read_all(source)
            assert difference(reference.packets, [each.packet for each in taken]) == "", path
            assert (source.notice is None) == (reference.complaint is None), path
        seen += 1
    assert seen > 100


def test_bent_captures_end_with_a_reason_and_keep_what_came_before(captures: Path, tmp_path: Path) -> None:
    rng = random.Random(20)
    paths = sorted(path for path in captures.rglob("*.pcap*") if path.stat().st_size < 20_000)
    bent = tmp_path / "bent.pcapng"
    refused = damaged = 0
    for number in range(1500):
        bent.write_bytes(bend_file(paths[number % len(paths)].read_bytes(), rng))
        try:
            source = ReplaySource(bent, "", 262144, None)
        except SourceError as error:
            refused += bool(error.remedy)
            continue
        with contextlib.closing(source):
            taken = read_all(source)
            statistics = source.statistics()
            assert statistics.received == len(taken) + statistics.dropped_invalid
            assert statistics.dropped_invalid == (source.notice is not None)
            if source.notice is not None:
                assert "byte" in source.notice
                assert "editcap" in source.notice
                damaged += 1
    assert refused > 20
    assert damaged > 100


def test_a_filter_turns_away_and_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "numbered.pcap", numbered(10_000))
    with replay(path, "udp port 2", 44) as source:
        taken = read_all(source)
        statistics = source.statistics()
    assert [each.packet.data[42:] for each in taken] == [
        struct.pack(">I", n)[:2] for n in range(1, 10_000, 2)
    ]
    assert all(each.packet.original_bytes == 46 for each in taken)
    assert (statistics.received, statistics.filtered, statistics.captured) == (5000, 5000, 5000)


def test_tagged_frames_are_judged_as_on_a_ring(tmp_path: Path) -> None:
    frames = [
        udp_frame(b"1"),
        udp_frame(b"2", tags=((0x8100, 5),)),
        udp_frame(b"3", tags=((0x88A8, 9), (0x8100, 5))),
    ]
    packets = [Packet(10**18 + n, len(frame), LINKTYPE_ETHERNET, frame) for n, frame in enumerate(frames)]
    path = written(tmp_path / "tagged.pcap", packets)
    for text, passes in (
        ("udp", "1"),
        ("vlan", "23"),
        ("vlan 5", "2"),
        ("vlan and udp", "2"),
        ("vlan and vlan", "3"),
    ):
        with replay(path, text) as source:
            assert b"".join(data[-1:] for data in data_of(read_all(source))).decode() == passes, text


def test_small_buffers_lose_nothing(tmp_path: Path) -> None:
    packets = numbered(5000)
    path = written(tmp_path / "numbered.pcap", packets)
    with replay(path, "", 100) as source:
        taken = read_all(source, BatchBuffer(7, 300))
    assert difference(packets, [each.packet for each in taken]) == ""


def test_each_interface_of_a_file_has_its_own_batches(tmp_path: Path) -> None:
    """Packets alternate between two link types: grouped, so that there are few batches, and none is lost."""
    ethernet = numbered(3000)
    raw = [Packet(p.timestamp_ns + 1, 32, 101, p.data[14:]) for p in ethernet]
    path = tmp_path / "two.pcapng"
    blocks = [SECTION, interface_block(1, b"eth7"), interface_block(101, b"tun7")]
    for both in zip(ethernet, raw, strict=True):
        blocks += [packet_block(number, packet) for number, packet in enumerate(both)]
    path.write_bytes(b"".join(blocks))
    buffer, batches, taken = BatchBuffer(), [], []
    with replay(path, "udp port 2") as source:
        assert (source.interface, source.link_type) == ("eth7", 1)
        while not source.finished:
            if source.read_batch(buffer, linger_ns=0, wait_ms=50):
                batches.append((buffer.interface, buffer.link_type))
                taken += packets_of(buffer)
        assert source.statistics().filtered == 3000
    wanted = [packet for packets in (ethernet, raw) for packet in packets[1::2]]
    assert difference(wanted, [each.packet for each in taken]) == ""
    assert set(batches) == {("eth7", 1), ("tun7", 101)}
    assert len(batches) < 20


def test_a_link_type_that_the_filter_cannot_judge_is_said(tmp_path: Path) -> None:
    path = tmp_path / "two.pcapng"
    packet = numbered(1)[0]
    path.write_bytes(
        SECTION
        + interface_block(1, b"eth0")
        + interface_block(9, b"ppp0")
        + packet_block(0, packet)
        + packet_block(1, packet)
    )
    with replay(path, "not vlan") as source:
        assert len(read_all(source)) == 1
        assert "link type 9" in str(source.notice)
        assert source.statistics().filtered == 1


def test_a_rate_spreads_packets_over_time(tmp_path: Path) -> None:
    path = written(tmp_path / "numbered.pcap", numbered(300, apart_ns=1))
    start = time.monotonic()
    buffer, batches = BatchBuffer(), 0
    with replay(path, rate_pps=1000.0) as source:
        while not source.finished:
            batches += source.read_batch(buffer, linger_ns=20_000_000, wait_ms=1000) > 0
        assert source.statistics().captured == 300
    assert time.monotonic() - start >= 0.299
    assert 1 < batches <= 16


def test_the_recorded_pace_and_a_pause(tmp_path: Path) -> None:
    path = written(tmp_path / "numbered.pcap", numbered(5, apart_ns=50_000_000))
    buffer, start = BatchBuffer(), time.monotonic()
    with replay(path, rate_pps="pace") as source:
        assert source.read_batch(buffer, linger_ns=0, wait_ms=1000) == 1  # the first is due at once
        source.pause()
        assert source.read_batch(buffer, linger_ns=0, wait_ms=200) == 0
        source.resume()
        assert source.read_batch(buffer, linger_ns=0, wait_ms=0) == 0  # the pause doesn't count
        rest = read_all_rest(source, buffer)
        assert [each.packet.timestamp_ns for each in rest] == [10**18 + n * 50_000_000 for n in range(1, 5)]
        assert source.statistics().captured == 5
    assert time.monotonic() - start >= 0.4


def test_a_filter_change_is_exact(tmp_path: Path) -> None:
    path = written(tmp_path / "numbered.pcap", numbered(1000))
    buffer, taken = BatchBuffer(packet_capacity=100), []
    with replay(path, "udp port 1") as source:
        source.read_batch(buffer, linger_ns=0, wait_ms=0)
        taken += packets_of(buffer)
        with pytest.raises(FilterError):
            source.apply("udp port (", 100)
        start_ns, end_ns = source.apply("udp port 2", 50)
        assert start_ns <= end_ns
        taken += read_all_rest(source, buffer)
        assert source.statistics().received + (source.statistics().filtered or 0) == 1000
    numbers = [struct.unpack_from(">I", each.packet.data, 42)[0] for each in taken]
    assert [number % 2 for number in numbers] == [each.epoch for each in taken]
    assert numbers == sorted(numbers)


def read_all_rest(source: ReplaySource, buffer: BatchBuffer) -> list[Taken]:
    taken = []
    while not source.finished:
        if source.read_batch(buffer, linger_ns=0, wait_ms=50):
            taken += packets_of(buffer)
    return taken


def test_closing_and_waking_a_waiting_read(tmp_path: Path) -> None:
    path = written(tmp_path / "numbered.pcap", numbered(2, apart_ns=10**15))
    with replay(path, rate_pps="pace") as source:
        buffer = BatchBuffer()
        ends: list[int | str] = []

        def wait() -> None:
            try:
                while True:
                    ends.append(source.read_batch(buffer, linger_ns=0, wait_ms=100_000))
            except SourceError as error:
                ends.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        wait_for(lambda: ends == [1], "the first packet comes")
        source.wake()
        wait_for(lambda: ends == [1, 0], "the read is woken")
        source.close()
        thread.join(timeout=20)
        assert "closed" in str(ends[2])
        assert source.statistics().captured == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.pcap", b"", "not a capture"),
        ("text.pcap", b"hello world, this is not a capture", "not a capture"),
        ("short.pcap", b"\xd4\xc3\xb2\xa1\2\0\4\0", "ends within"),
        ("new.pcap", b"\xd4\xc3\xb2\xa1\x09\0\4\0" + bytes(16), "version 9"),
        ("packed.pcap.gz", b"\x1f\x8b" + bytes(40), "gunzip"),
    ],
)
def test_what_is_no_capture_is_refused_with_a_remedy(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=said):
        ReplaySource(path, "", 100, None)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pcap", tmp_path, Path("/dev/null")):
        with pytest.raises(SourceError) as caught:
            ReplaySource(path, "", 100, None)
        assert caught.value.remedy


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    path = written(tmp_path / "numbered.pcap", numbered(50_000))
    with replay(path) as source:
        first = source.progress
        read_all(source)
        assert first < source.progress == 1.0


def test_columns_that_contradict_themselves_are_refused() -> None:
    program, out = (
        compile_filter("", 1, 100).code,
        (bytearray(80), bytearray(40), bytearray(40), bytearray(20), bytearray(100)),
    )
    good = (bytes(8), struct.pack("<I", 4), struct.pack("<I", 4), bytes(2), b"abcd")
    assert _tpacket.copy_packets(program, 100, good, 0, 0, 2**64 - 1, 10, out)[2:4] == (1, 4)
    for wrong in (
        (bytes(8), struct.pack("<I", 5), bytes(4), bytes(2), b"abcd"),
        (bytes(8), bytes(8), bytes(4), bytes(2), b""),
        (bytes(7), bytes(4), bytes(4), bytes(2), b""),
    ):
        with pytest.raises(ValueError, match=r"columns|lengths"):
            _tpacket.copy_packets(program, 100, wrong, 0, 0, 2**64 - 1, 10, out)
    for index, offset in ((-1, 0), (2, 0), (0, -1), (0, 5)):
        with pytest.raises(ValueError, match="position"):
            _tpacket.copy_packets(program, 100, good, index, offset, 2**64 - 1, 10, out)
    for code in (
        b"",
        b"1234567",
        bytes(8),
        struct.pack("=HBBI", 5, 0, 0, 0),
        struct.pack("=HBBI", 0x60, 0, 0, 16),
    ):
        with pytest.raises(ValueError, match="BPF"):
            _tpacket.copy_packets(code, 100, good, 0, 0, 2**64 - 1, 10, out)


def test_random_programs_are_refused_or_run() -> None:
    """No program, however made, reads outside the packet or hangs (run under the sanitizers too)."""
    rng = random.Random(86)
    codes = [
        0,
        0x20,
        0x28,
        0x30,
        0x40,
        0x48,
        0x50,
        0x60,
        0x61,
        0x80,
        0x81,
        0xB1,
        2,
        3,
        4,
        0x34,
        0x3C,
        0x94,
        0x9C,
        0x64,
        0x6C,
    ]
    codes += [0x05, 0x15, 0x1D, 0x25, 0x35, 0x45, 7, 0x87, 0x84, 0x54, 0xA4]
    constants = (0, 1, 14, 31, 60, 0xFFFFF034, 0xFFFFFFFF)
    ran = 0
    for _ in range(20_000):
        program = b"".join(
            struct.pack(
                "=HBBI",
                rng.choice(codes),
                rng.randrange(4),
                rng.randrange(4),
                rng.choice(constants),
            )
            for _ in range(rng.randrange(12))
        ) + struct.pack("=HBBI", rng.choice((6, 0x16)), 0, 0, 9)
        with contextlib.suppress(ValueError):
            _tpacket.run_filter(
                program, rng.randbytes(rng.randrange(64)), 64, 0, rng.choice((-1, 0x81000005))
            )
            ran += 1
    assert ran > 5000
