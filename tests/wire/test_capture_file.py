"""Capture files read as columns: the same packets as an independent reader finds, whole, cut and bent."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pytest

from tests.support.captures import Packet, read_capture
from tests.wire import make
from wire import pcapng
from wire.capture_file import CaptureReader
from wire.errors import WireError


def read_all(
    data: bytes, *, chunk: int | None = None, max_packets: int = 50, snaplen: int = 262144
) -> tuple[list[Packet], CaptureReader]:
    """Every packet; `chunk`: the file comes in pieces of this size."""
    file = io.BytesIO(data)
    reader = CaptureReader(file.read if chunk is None else lambda size: file.read(min(size, chunk)))
    times, captured, original, flags = (bytearray(width * max_packets) for width in (8, 4, 4, 2))
    room = bytearray(262144)
    packets = []
    while filled := reader.read_into(
        times, captured, original, flags, room, max_packets=max_packets, snaplen=snaplen
    ):
        at = 0
        for time, size, length in zip(
            struct.unpack_from(f"<{filled.packets}Q", times),
            struct.unpack_from(f"<{filled.packets}I", captured),
            struct.unpack_from(f"<{filled.packets}I", original),
            strict=True,
        ):
            packets.append(
                Packet(
                    time,
                    length,
                    filled.interface.link_type,
                    bytes(room[at : at + size]),
                    filled.interface.name,
                )
            )
            at += size
        assert at == filled.data_bytes
    return packets, reader


def in_order(packets: list[Packet]) -> list[tuple[int, int, int, bytes]]:
    """Comparable: within a chunk, packets of several interfaces come grouped."""
    return sorted((one.timestamp_ns, one.original_bytes, one.link_type, one.data) for one in packets)


def pcap(
    order: str, magic: int, *, minor: int = 4, extra: int = 0, swap: bool = False, count: int = 5
) -> bytes:
    """A pcap file of any flavour."""
    file = struct.pack(order + "IHHiIII", magic, 2, minor, 0, 0, 65535, 101)
    for index in range(count):
        data = bytes([index]) * (index * 7)
        lengths = (len(data) + 1, len(data)) if swap else (len(data), len(data) + 1)
        file += struct.pack(order + "IIII", 1000 + index, 123456, *lengths) + bytes(extra) + data
    return file


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "unit", "extra"), [(0xA1B2C3D4, 1000, 0), (0xA1B23C4D, 1, 0), (0xA1B2CD34, 1000, 8)]
)
@pytest.mark.parametrize(("minor", "swap"), [(4, False), (3, False), (3, True), (2, True)])
def test_pcap_of_every_flavour(order: str, magic: int, unit: int, extra: int, minor: int, swap: bool) -> None:
    packets, reader = read_all(pcap(order, magic, minor=minor, extra=extra, swap=swap))
    assert reader.complaint is None
    assert [(one.timestamp_ns, one.original_bytes, one.data) for one in packets] == [
        ((1000 + index) * 10**9 + 123456 * unit, index * 7 + 1, bytes([index]) * (index * 7))
        for index in range(5)
    ]
    assert reader.interfaces[0].link_type == 101


def option(order: str, code: int, value: bytes) -> bytes:
    """One pcapng option."""
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(order: str, kind: int, body: bytes) -> bytes:
    """One pcapng block."""
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def section(order: str, dice: random.Random) -> bytes:
    """A section of three interfaces with packets of all three block types mixed, and blocks nobody reads."""
    out = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    out += block(order, 1, struct.pack(order + "HHI", 1, 0, 40) + option(order, 2, b"eth0"))
    out += block(
        order,
        1,
        struct.pack(order + "HHI", 101, 0, 0) + option(order, 9, b"\x09") + option(order, 2, b"tun0"),
    )
    out += block(
        order,
        1,
        struct.pack(order + "HHI", 113, 0, 0)
        + option(order, 9, b"\x8a")
        + option(order, 14, struct.pack(order + "q", 1_000_000))
        + option(order, 0, b""),
    )
    for index in range(60):
        data = dice.randbytes(dice.randrange(40))
        padded = data + bytes(-len(data) % 4)
        ticks = dice.randrange(2**43)
        times = struct.pack(order + "II", ticks >> 32, ticks & 0xFFFFFFFF)
        sizes = struct.pack(order + "II", len(data), len(data) + index)
        flags = (
            option(order, 1, b"comment")
            + option(order, 2, struct.pack(order + "I", 2))
            + option(order, 0, b"")
        )
        choice = dice.randrange(5)
        if choice == 0:
            out += block(order, 3, struct.pack(order + "I", len(data)) + padded)
        elif choice == 1:
            out += block(order, 2, struct.pack(order + "HH", index % 3, 0) + times + sizes + padded)
        elif choice == 2:
            out += block(order, 0xBAD, padded)
        else:
            out += block(order, 6, struct.pack(order + "I", index % 3) + times + sizes + padded + flags)
    return out


@pytest.mark.parametrize("chunk", [None, 1, 37, 1000])
@pytest.mark.parametrize("max_packets", [1, 7, 500])
def test_pcapng_sections_interfaces_and_block_types(chunk: int | None, max_packets: int) -> None:
    dice = random.Random(5)
    data = section("<", dice) + section(">", dice) + section("<", dice)
    expected = read_capture(data)
    assert expected.complaint is None
    packets, reader = read_all(data, chunk=chunk, max_packets=max_packets)
    assert reader.complaint is None
    assert in_order(packets) == in_order(expected.packets)
    assert [(one.section, one.index, one.name, one.link_type) for one in reader.interfaces][:4] == [
        (0, 0, "eth0", 1),
        (0, 1, "tun0", 101),
        (0, 2, "", 113),
        (1, 0, "eth0", 1),
    ]
    assert {(one.interface, one.link_type) for one in packets} == {("eth0", 1), ("tun0", 101), ("", 113)}


def test_every_truncation_gives_the_packets_before_it_and_a_complaint() -> None:
    for data in (pcap("<", 0xA1B2C3D4), section(">", random.Random(3))[:2200]):
        whole = len(read_all(data)[0])
        seen = 0
        for length in range(len(data)):
            try:
                packets, reader = read_all(data[:length])
            except WireError:
                assert length < 24
                continue
            expected = read_capture(data[:length])
            assert in_order(packets) == in_order(expected.packets), length
            assert (reader.complaint is None) == (expected.complaint is None), (length, reader.complaint)
            assert reader.complaint is None or "byte" in reader.complaint
            seen = max(seen, len(packets))
        assert seen in (whole, whole - 1)


def test_what_libpcap_refuses_ends_the_reading_where_it_stands() -> None:
    record = struct.pack("<IIII", 1, 1, 262145, 262145) + bytes(262145)
    packets, reader = read_all(pcap("<", 0xA1B2C3D4) + record)
    assert len(packets) == 5
    assert reader.complaint is not None
    assert "262144" in reader.complaint
    assert "byte 174" in reader.complaint
    largest = struct.pack("<IIII", 1, 1, 262144, 262144) + bytes(262144)
    assert len(read_all(pcap("<", 0xA1B2C3D4) + largest)[0]) == 6


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xa1",
        b"GIF89a" + bytes(100),
        struct.pack("<IHHiIII", 0xA1B2C3D4, 3, 0, 0, 0, 0, 1),
        struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 5, 0, 0, 0, 1),
        pcap("<", 0xA1B2C3D4)[:23],
    ],
)
def test_what_is_no_capture_file_is_said_at_once(data: bytes) -> None:
    with pytest.raises(WireError):
        read_all(data)


@pytest.mark.parametrize(
    "data",
    [
        block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0xDEADBEEF, 1, 0, -1)),
        block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)),
        block("<", 0x0A0D0D0A, struct.pack("<I", 0x1A2B3C4D)),
        struct.pack("<III", 0x0A0D0D0A, 2**32 - 4, 0x1A2B3C4D) + bytes(100),
        struct.pack("<III", 0x0A0D0D0A, 0, 0x1A2B3C4D) + bytes(100),
        pcapng.section_header() + struct.pack("<III", 6, 32, 0) + bytes(20),
        pcapng.section_header() + block("<", 6, bytes(20)),
        pcapng.section_header() + block("<", 3, bytes(4)),
        pcapng.section_header() + block("<", 1, bytes(4)),
        pcapng.section_header() + block("<", 1, bytes(8)) * 5000,
    ],
)
def test_pcapng_that_cannot_be(data: bytes) -> None:
    packets, reader = read_all(data)
    assert packets == []
    assert reader.complaint is not None
    assert "byte" in reader.complaint


def test_a_huge_block_nobody_reads_is_passed_by_with_bounded_memory() -> None:
    import tracemalloc

    huge = struct.pack("<II", 0xBAD, 8 << 20) + bytes((8 << 20) - 12) + struct.pack("<I", 8 << 20)
    columns = make.columns_of(make.packets(3))
    ours = pcapng.interface_block(name="e", link_type=1, snaplen=0) + pcapng.packet_blocks(0, columns)
    data = pcapng.section_header() + huge + ours + huge + ours
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    packets, reader = read_all(data)
    peak = (
        tracemalloc.get_traced_memory()[1] - before - len(data)
    )  # BytesIO shares its bytes, but count it in
    tracemalloc.stop()
    assert len(packets) == 6
    assert reader.complaint is None
    assert peak < 20 << 20


def test_names_are_cleaned_and_cut() -> None:
    for raw, clean in (
        (b"eth0\x1b[2J\n", "eth0[2J"),
        (b"a\0b", "a"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\xc3\xa9" * 100, "é" * 64),
    ):
        data = pcapng.section_header() + block("<", 1, struct.pack("<HHI", 1, 0, 0) + option("<", 2, raw))
        _, reader = read_all(data)
        assert reader.interfaces[0].name == clean


def test_snaplen_cuts_packets() -> None:
    packets, _ = read_all(pcap("<", 0xA1B2C3D4), snaplen=10)
    assert [len(one.data) for one in packets] == [0, 7, 10, 10, 10]


def test_no_room_is_our_mistake_not_an_endless_loop() -> None:
    reader = CaptureReader(io.BytesIO(pcap("<", 0xA1B2C3D4)).read)
    columns = [bytearray(80) for _ in range(4)]
    with pytest.raises(ValueError, match="room"):
        reader.read_into(columns[0], columns[1], columns[2], columns[3], bytearray(10), max_packets=5)


def test_what_tcpdump_writes_is_read(tmp_path: Path) -> None:
    """A round trip through the real libpcap: its reader takes our file, and we take what it writes."""
    import subprocess

    from tests.support.need import need

    need("tcpdump")
    packets = make.packets(100)
    ours, theirs = tmp_path / "ours.pcap", tmp_path / "theirs.pcap"
    columns = make.columns_of(packets)
    ours.write_bytes(pcapng.pcap_header(link_type=1, snaplen=262144) + pcapng.pcap_records(columns))
    command = ["tcpdump", "--nano", "-r", str(ours), "-w", str(theirs)]
    subprocess.run(command, check=True, capture_output=True)
    found, reader = read_all(theirs.read_bytes())
    assert reader.complaint is None
    assert [(one.timestamp_ns, one.data) for one in found] == [(one[0], one[3]) for one in packets]
