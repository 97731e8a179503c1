"""The C kernels: every function against plain Python, each with a truncated twin. Runs under the sanitizers too."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from tests.support.captures import Capture, Packet, read_capture
from tests.wire import make
from wire import _columns, pcapng
from wire.batch import Columns, sums_of
from wire.errors import WireError

untyped: Any = _columns  # for arguments that no type checker would let through
COLUMNS = ("timestamp_ns", "captured_bytes", "original_bytes", "flags", "data")


def parts(columns: Columns) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The five buffers."""
    one, two, three, four, five = (bytes(getattr(columns, name)) for name in COLUMNS)
    return one, two, three, four, five


Room = tuple[bytearray, bytearray, bytearray, bytearray, bytearray]


def room(packets: int = 100, data: int = 262144) -> Room:
    """Empty columns for the readers, 0xEE behind what may be written."""
    times, lengths, flags = (bytearray(b"\xee" * width * packets) for width in (8, 4, 2))
    return times, lengths, lengths[:], flags, bytearray(b"\xee" * data)


def test_sums_agree_with_plain_addition() -> None:
    packets = make.packets(1000)
    random.Random(3).shuffle(packets)
    assert _columns.sums(*parts(make.columns_of(packets)), 262144) == (
        1000,
        sum(len(packet[3]) for packet in packets),
        sum(packet[1] for packet in packets),
        min(packet[0] for packet in packets),
        max(packet[0] for packet in packets),
    )
    assert _columns.sums(b"", b"", b"", b"", b"", 0) == (0, 0, 0, 0, 0)


def test_sums_take_the_largest_numbers() -> None:
    extreme = make.columns_of([(2**64 - 1, 2**32 - 1, 0xFFFF, b""), (0, 2**32 - 1, 0, b"")])
    assert _columns.sums(*parts(extreme), 0) == (2, 0, 2**33 - 2, 0, 2**64 - 1)


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("change", [-1, -2, -4, -8, 1, 8])
def test_columns_that_do_not_fit_are_refused_everywhere(which: int, change: int) -> None:
    columns: Any = list(parts(make.columns_of(make.packets(7))))
    column = columns[which]
    columns[which] = column[:change] if change < 0 else column + bytes(change)
    with pytest.raises(ValueError, match="lengths"):
        untyped.sums(*columns, 262144)
    with pytest.raises(ValueError, match="lengths"):
        untyped.epb_blocks(0, *columns)
    if which != 3:
        with pytest.raises(ValueError, match="lengths"):
            untyped.pcap_records(*columns[:3], columns[4])
    with pytest.raises(ValueError, match="lengths"):
        untyped.select(0, bytes(28), *columns, *room())


def test_a_captured_length_over_its_bound() -> None:
    columns = make.columns_of([(0, 11, 0, bytes(11))])
    with pytest.raises(ValueError, match="bound"):
        _columns.sums(*parts(columns), 10)
    huge = make.columns_of([(0, 262145, 0, bytes(262145))])
    with pytest.raises(ValueError, match="bound"):
        _columns.epb_blocks(0, *parts(huge))
    with pytest.raises(WireError):
        sums_of(huge)


def written_pcapng(packets: list[tuple[int, int, int, bytes]]) -> bytes:
    """A whole file of one interface."""
    columns = make.columns_of(packets)
    return (
        pcapng.section_header()
        + pcapng.interface_block(name="eth0", link_type=1, snaplen=262144)
        + pcapng.packet_blocks(0, columns)
    )


def odd_packets() -> list[tuple[int, int, int, bytes]]:
    """Every padding, the extremes of length and time, each flag."""
    packets = [(make.START_NS + size, size, 0, bytes(range(size))) for size in range(9)]
    packets += [
        (2**63, 262144, 0x40, random.Random(1).randbytes(262144)),
        (0, 0, 0, b""),
        (2**62, 2**32 - 1, 0x40, b"x"),
    ]
    return packets + [(5, 1, 1 << bit, b"y") for bit in range(11)]


def test_pcapng_blocks_hold_what_the_columns_held() -> None:
    packets = odd_packets()
    capture = read_capture(written_pcapng(packets))
    assert capture.complaint is None
    assert [(one.timestamp_ns, one.original_bytes, 0, one.data) for one in capture.packets] == [
        (time, original, 0, data) for time, original, _, data in packets
    ]
    written = [one.flags for one in capture.packets[-11:]]
    assert written == [1, 2, 4, 8, 16, 0, 0, 1 << 9, 0, 0, 1 << 10]


def test_pcap_records_hold_what_the_columns_held() -> None:
    packets = [packet for packet in odd_packets() if packet[0] < 2**62]
    file = pcapng.pcap_header(link_type=1, snaplen=262144) + pcapng.pcap_records(make.columns_of(packets))
    capture = read_capture(file)
    assert capture.complaint is None
    assert [(one.timestamp_ns, one.original_bytes, one.data) for one in capture.packets] == [
        (time, original, data) for time, original, _, data in packets
    ]
    with pytest.raises(ValueError, match="2106"):
        pcapng.pcap_records(make.columns_of([(2**32 * 10**9, 1, 0, b"x")]))


def pcap_file(count: int = 20) -> bytes:
    """Records of a little-endian microsecond pcap file, without its header."""
    return b"".join(
        struct.pack("<IIII", time // 10**9, time % 10**9 // 1000, len(data), original) + data
        for time, original, _, data in make.packets(count)
    )


def taken(result: tuple[int, int, int, str], columns: Room) -> list[Packet]:
    """What a reader put into the columns."""
    count = result[0]
    times = struct.unpack_from(f"<{count}Q", columns[0])
    lengths = struct.unpack_from(f"<{count}I", columns[1])
    originals = struct.unpack_from(f"<{count}I", columns[2])
    packets, at = [], 0
    for time, length, original in zip(times, lengths, originals, strict=True):
        packets.append(Packet(time, original, 1, bytes(columns[4][at : at + length])))
        at += length
    assert at == result[1]
    return packets


def test_every_truncation_of_pcap_records_gives_the_packets_before_it() -> None:
    records = pcap_file()
    columns = room()
    whole = taken(_columns.read_pcap_records(records, 0, False, False, 16, 0, 262144, 100, *columns), columns)
    assert len(whole) == 20
    ends = [0]
    for packet in whole:
        ends.append(ends[-1] + 16 + len(packet.data))
    for length in range(len(records) + 1):
        columns = room()
        exact = bytes(records[:length])  # its own allocation: a read past its end is one the sanitizer sees
        result = _columns.read_pcap_records(exact, 0, False, False, 16, 0, 262144, 100, *columns)
        complete = sum(end <= length for end in ends) - 1
        assert result[0] == complete
        assert result[2:] == (ends[complete], "more")
        assert taken(result, columns) == whole[:complete]


def test_every_truncation_of_pcapng_blocks_gives_the_packets_before_it() -> None:
    blocks = pcapng.packet_blocks(0, make.columns_of(make.packets(20)))
    table = struct.pack("<IIqQ", 9, 0, 0, 0)
    count = 0
    for length in range(len(blocks) + 1):
        columns, ids = room(), bytearray(400)
        exact = bytes(blocks[:length])
        result = _columns.read_pcapng_packets(exact, 0, False, table, 262144, 100, *columns, ids)
        assert result[3] == "more"
        assert result[0] in (count, count + 1)
        assert result[2] <= length
        count = result[0]
    assert count == 20


@pytest.mark.parametrize("capacity", [0, 1, 7, 19, 20])
def test_readers_stop_when_the_columns_are_full_and_go_on_where_they_stopped(capacity: int) -> None:
    records = pcap_file()
    offset, found = 0, []
    for _ in range(25):
        columns = room(capacity, 4000)
        result = _columns.read_pcap_records(records, offset, False, False, 16, 0, 262144, capacity, *columns)
        found += taken(result, columns)
        offset = result[2]
        if result[3] == "more" or capacity == 0:
            break
        assert result[3] == "full"
    assert len(found) == (20 if capacity else 0)


def test_data_room_of_every_size_is_never_overrun() -> None:
    records = pcap_file(3)
    for size in range(600):
        columns = room(100, size)
        result = _columns.read_pcap_records(records, 0, False, False, 16, 0, 262144, 100, *columns)
        assert result[1] <= size
        assert result[3] in ("full", "more")
        assert not any(columns[4][result[1] :].replace(b"\xee", b""))


def test_snaplen_cuts_and_flags() -> None:
    columns = room()
    result = _columns.read_pcap_records(pcap_file(5), 0, False, False, 16, 0, 14, 100, *columns)
    assert [len(packet.data) for packet in taken(result, columns)] == [14] * 5
    assert struct.unpack_from("<5H", columns[3]) == (0x40,) * 5


def test_the_order_of_lengths_in_old_versions() -> None:
    for lengths, first, second in ((0, 3, 9), (1, 9, 3), (2, 3, 9), (2, 9, 3)):
        columns = room()
        record = struct.pack("<IIII", 1, 2, first, second) + b"abc"
        result = _columns.read_pcap_records(record, 0, False, False, 16, lengths, 262144, 100, *columns)
        assert taken(result, columns) == [Packet(1_000_002_000, 9, 1, b"abc")]


def test_impossible_records_and_blocks_stop_where_they_stand() -> None:
    columns = room()
    record = struct.pack("<IIII", 1, 2, 262145, 262145) + bytes(262145)
    assert _columns.read_pcap_records(record, 0, False, False, 16, 0, 262144, 100, *columns)[2:] == (
        0,
        "invalid",
    )
    sound = pcapng.packet_blocks(0, make.columns_of(make.packets(1)))
    table = struct.pack("<IIqQ", 9, 0, 0, 0)
    for at, value in (
        (4, 8),  # total length below a block's least
        (4, 13),  # not a multiple of four
        (4, 0x7FFFFFFC),
        (8, 1),  # an interface there isn't
        (20, 262145),
        (20, 0xFFFFFFFF),
        (len(sound) - 4, 0),
    ):
        broken = bytearray(sound)
        struct.pack_into("<I", broken, at, value)
        result = _columns.read_pcapng_packets(broken, 0, False, table, 262144, 100, *columns, bytearray(400))
        assert result[0] == 0
        assert result[2:] == (0, "invalid"), (at, value)
    other = _columns.read_pcapng_packets(
        struct.pack("<III", 5, 12, 12), 0, False, table, 262144, 100, *columns, bytearray(400)
    )
    assert other == (0, 0, 0, "block")


@pytest.mark.parametrize(
    ("resolution", "ticks", "offset_s", "expected"),
    [
        (6, 1_500_000, 0, 1_500_000_000),
        (9, 123, 0, 123),
        (9, 2**64 - 1, 0, 2**64 - 1),
        (0, 7, 0, 7 * 10**9),
        (3, 7, 0, 7_000_000),
        (12, 123_456_789_012_345, 0, 123_456_789_012),
        (19, 2**64 - 1, 0, 1_844_674_407),
        (20, 2**64 - 1, 0, 0),
        (127, 2**64 - 1, 0, 0),
        (0x80, 3, 0, 3 * 10**9),
        (0x80 | 10, 1536, 0, 1_500_000_000),
        (0x80 | 32, 3 << 31, 0, 1_500_000_000),
        (0x80 | 34, 2**34 - 1, 0, 999_999_999),
        (0x80 | 60, 1 << 59, 0, 500_000_000),
        (0x80 | 63, 1 << 63, 0, 10**9),
        (0x80 | 64, 1 << 63, 0, 500_000_000),
        (0x80 | 98, 2**64 - 1, 0, 0),
        (0x80 | 127, 2**64 - 1, 0, 0),
        (6, 500_000, 100, 100_500_000_000),
        (6, 100_500_000, -100, 500_000_000),
        (6, 5, -(2**63), 0),
        (6, 5, 2**63 - 1, 2**64 - 1),
        (0, 2**64 - 1, 0, 2**64 - 1),
        (0, 2**64 - 1, 2**63 - 1, 2**64 - 1),
    ],
)
@pytest.mark.parametrize("big_endian", [False, True])
def test_resolutions_and_offsets(
    resolution: int, ticks: int, offset_s: int, expected: int, big_endian: bool
) -> None:
    order = ">" if big_endian else "<"
    block = struct.pack(order + "IIIIIII", 6, 36, 0, ticks >> 32, ticks & 0xFFFFFFFF, 2, 2) + b"hi\0\0"
    block += struct.pack(order + "I", 36)
    columns = room()
    table = struct.pack("<IIqQ", resolution, 0, offset_s, 0)
    result = _columns.read_pcapng_packets(block, 0, big_endian, table, 262144, 100, *columns, bytearray(400))
    assert result == (1, 2, 36, "more")
    assert struct.unpack_from("<Q", columns[0]) == (expected,)


def test_arguments_out_of_range_are_errors_not_accesses() -> None:
    columns, table = room(), struct.pack("<IIqQ", 9, 0, 0, 0)
    bad: list[tuple[Any, ...]] = [
        (b"", 1, False, False, 16, 0, 1, 1),
        (b"", -1, False, False, 16, 0, 1, 1),
        (b"", 0, False, False, 0, 0, 1, 1),
        (b"", 0, False, False, 15, 0, 1, 1),
        (b"", 0, False, False, 2**32 - 1, 0, 1, 1),
        (b"", 0, False, False, 16, 0, 1, 101),
        (b"", 0, False, False, 16, 0, 1, -1),
        (b"", 0, False, False, 16, 0, 1, 2**62),
    ]
    for arguments in bad:
        with pytest.raises(ValueError, match=r"range|outside|small"):
            untyped.read_pcap_records(*arguments, *columns)
    with pytest.raises(ValueError, match="24 bytes"):
        _columns.read_pcapng_packets(b"", 0, False, table[:-1], 1, 1, *columns, bytearray(4))
    with pytest.raises(ValueError, match="small"):
        _columns.read_pcapng_packets(b"", 0, False, table, 1, 1, *columns, bytearray(3))
    with pytest.raises(TypeError):
        untyped.sums("", b"", b"", b"", b"", 0)
    with pytest.raises((BufferError, TypeError)):
        untyped.read_pcap_records(b"", 0, False, False, 16, 0, 1, 1, b"12345678", *columns[1:])


def test_select_takes_one_interface_in_order() -> None:
    packets = make.packets(50)
    ids = [index % 3 for index in range(50)]
    source = parts(make.columns_of(packets))
    for wanted in range(4):
        columns = room()
        count, size = _columns.select(wanted, struct.pack("<50I", *ids), *source, *columns)
        expected = [packet for packet, one in zip(packets, ids, strict=True) if one == wanted]
        got = taken((count, size, 0, ""), columns)
        assert [(one.timestamp_ns, one.data) for one in got] == [(one[0], one[3]) for one in expected]
    with pytest.raises(ValueError, match="small"):
        _columns.select(0, struct.pack("<50I", *ids), *source, *room(10))
    with pytest.raises(ValueError, match="small"):
        _columns.select(0, struct.pack("<50I", *ids), *source, *room(50, 10))


def test_random_bytes_never_reach_beyond_the_buffers() -> None:
    dice = random.Random(11)
    sound = pcapng.packet_blocks(0, make.columns_of(make.packets(6)))
    table = struct.pack("<IIqQ", 6, 60, 0, 0) * 2
    for _ in range(3000):
        blocks = bytearray(sound)
        for _ in range(dice.randrange(1, 6)):
            blocks[dice.randrange(len(blocks))] = dice.choice((0, 1, 2, 3, 6, 0x7F, 0x80, 0xFF))
        columns, ids = room(8, 500), bytearray(32)
        result = _columns.read_pcapng_packets(
            bytes(blocks), 0, bool(dice.randrange(2)), table, 262144, 8, *columns, ids
        )
        assert result[0] <= 8
        assert result[1] <= 500
        assert result[2] <= len(blocks)
        result = _columns.read_pcap_records(bytes(blocks), 0, False, True, 16, 0, 262144, 8, *columns)
        assert result[1] <= 500


def test_a_whole_capture_through_the_writer_and_the_independent_reader(tmp_path: Any) -> None:
    capture: Capture = read_capture(written_pcapng(make.packets(500)))
    assert [one.data for one in capture.packets] == [packet[3] for packet in make.packets(500)]
