"""Whatever happens to a segment's bytes, only records that were written come back, and whole ones do come back."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.segment import HEAD, Placed, Record, RecordKind, Segment, encode_head, scan_records, write_whole

SEED = 0x1234


def a_record(sequence: int, packets: int = 5) -> Record:
    return Record(
        RecordKind.PACKETS, sequence, sequence, 10**18, packets, 100, 200, bytes([sequence % 256]) * 32
    )


def written(messages: list[bytes], seed: int = SEED) -> bytes:
    return b"".join(encode_head(a_record(n), m, seed) + m for n, m in enumerate(messages))


def found(data: bytes, seed: int = SEED) -> list[tuple[Record, bytes]]:
    return [(p.record, data[p.offset : p.end]) for p in scan_records(data, seed).records]


MESSAGES = [b"first message", b"", b"the third, " * 5, b"last"]
ORIGINAL = [(a_record(n), m) for n, m in enumerate(MESSAGES)]


def test_records_come_back_as_they_were() -> None:
    scan = scan_records(written(MESSAGES), SEED)
    assert found(written(MESSAGES)) == ORIGINAL
    assert (scan.corrupt_bytes, scan.torn_bytes) == (0, 0)


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_costs_one_record_and_makes_no_wrong_one(change: int) -> None:
    good = written(MESSAGES)
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= change
        survivors = found(bytes(bad))
        assert len(survivors) == len(MESSAGES) - 1, position
        assert all(survivor in ORIGINAL for survivor in survivors), position


def test_every_truncation_keeps_the_whole_records_before_it() -> None:
    good = written(MESSAGES)
    ends = [p.end for p in scan_records(good, SEED).records]
    for length in range(len(good)):
        scan = scan_records(good[:length], SEED)
        whole = sum(end <= length for end in ends)
        assert [p.record for p in scan.records] == [r for r, _ in ORIGINAL[:whole]], length
        assert scan.torn_bytes == length - ([0, *ends][whole]), length


def test_more_packets_than_a_record_counts_are_kept_all_the_same() -> None:
    away = replace(
        a_record(0, 2**32 + 5), kind=RecordKind.TOMBSTONE
    )  # 72 minutes of a million a second turned away
    assert found(encode_head(away, b"m", SEED) + b"m") == [(replace(away, packets=2**32 - 1), b"m")]


def test_another_lanes_records_are_none() -> None:
    assert found(written(MESSAGES, seed=SEED + 1)) == []


def test_a_record_inside_a_message_is_not_taken_for_one() -> None:
    # Someone captured a spool being copied: the damaged outer record must not reveal the inner one of another lane.
    inner = written([b"inner"], seed=SEED + 1)
    data = bytearray(written([inner, b"after"]))
    data[0] ^= 0xFF
    assert [message for _, message in found(bytes(data))] == [b"after"]


def test_sequences_that_do_not_rise_are_damage() -> None:
    one = encode_head(a_record(5), b"a", SEED) + b"a"
    data = one + one + encode_head(a_record(6), b"b", SEED) + b"b"
    scan = scan_records(data, SEED)
    assert [p.record.first_sequence for p in scan.records] == [5, 6]
    assert scan.corrupt_bytes == len(one)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    scan = scan_records(data, SEED)
    assert scan.records == []
    assert scan.torn_bytes == len(data)


def test_a_full_write_or_none(tmp_path: Path) -> None:
    segment = Segment(0, SEED, tmp_path / "0.seg")
    segment.append(a_record(0), b"kept", 0.0)
    size = segment.size
    os.close(segment.open_fd())
    segment._fd = os.open(tmp_path / "0.seg", os.O_RDONLY)  # every write fails from here on
    with pytest.raises(OSError, match=r"."):
        segment.append(a_record(1), b"refused", 0.0)
    assert segment.size == size
    segment.close_fd()
    again = Segment(0, SEED, tmp_path / "0.seg")
    assert [p.record for p in again.load().records] == [a_record(0)]


def test_a_torn_tail_is_cut_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "0.seg"
    path.write_bytes(written(MESSAGES) + b"WPS1 half a record")
    segment = Segment(0, SEED, path)
    assert segment.load().torn_bytes == 18
    assert path.stat().st_size == len(written(MESSAGES)) == segment.size


def test_reading_on_behind_damage(tmp_path: Path) -> None:
    data = bytearray(written(MESSAGES))
    data[HEAD.size + 2] ^= 1  # in the first message
    path = tmp_path / "0.seg"
    path.write_bytes(data)
    segment = Segment(0, SEED, path)
    segment.load()
    assert segment.read_record(0) is None
    at = segment.whole_after(0)
    read = segment.read_record(at)
    assert read is not None
    assert isinstance(read[0], Placed)
    assert read[0].record == a_record(1)
    segment.close_fd()


def test_write_whole_replaces_or_leaves_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(OSError, match=r"."):
        write_whole(tmp_path / "no" / "such" / "folder", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
