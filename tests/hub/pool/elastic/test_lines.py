"""Bulk lines: each is JSON, and holds of each packet just what the table of fields says."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import numpy as np
import orjson
import pytest

from hub.pool.elastic import _bulk
from hub.pool.elastic.lines import Kind, document_id, prepare
from hub.pool.fields import PACKET_FIELDS, Type
from hub.pool.observed import AgentNames, ClockOffset, ObservedBatch, Pooling
from hub.pool.query.operands import time_of
from tests.hub.observe.made import CASES
from tests.hub.observe.observe_targets import payloads
from tests.hub.pool.made import START_NS, Made
from tests.support.query_oracle import values

FRAMES = [case.frame for case in CASES.values() if case.link_type == 1 and len(case.frame) < 2000]
FRAMES += [payload[2:] for payload in payloads()]


def documents(batch: ObservedBatch, first: int = 0, last: int | None = None) -> list[tuple[Any, Any]]:
    lines = prepare(batch, "some-index").lines(first, len(batch) if last is None else last)
    assert lines.ends[-1] == len(lines.data)
    found = []
    begin = 0
    for end in lines.ends.tolist():
        action, document, nothing = lines.data[begin:end].split(b"\n")
        assert nothing == b""
        found.append((orjson.loads(action), orjson.loads(document)))
        begin = end
    return found


def written(type_: Type, value: Any) -> Any:
    """A value of the oracle as it must stand in a document."""
    match type_:
        case Type.IP:
            address = ipaddress.IPv6Address(value)
            return str(address.ipv4_mapped or address)
        case Type.MAC:
            return value.to_bytes(6, "big").hex(":")
        case Type.HASH:
            return f"{value:016x}"
    return value


@pytest.mark.parametrize("level", [Pooling.HEADERS, Pooling.PAYLOAD])
def test_a_document_holds_what_the_table_of_fields_says(level: Pooling) -> None:
    made = Made(
        agent="a", names=AgentNames('a "host"\\\n\x1f\u2028é', "2001:db8::1"), clock=ClockOffset(5, -20, 30)
    )
    batch = made.frames(FRAMES, flags=0x11, level=level)
    found = documents(batch)
    for field in PACKET_FIELDS:
        if field.type is Type.BYTES:
            continue
        for place, value in enumerate(values(field.name, batch)):
            shown = found[place][1].get(field.name)
            if field.type is Type.TIME:
                assert time_of(shown) == value, field.name
            else:
                assert shown == (None if value is None else written(field.type, value)), field.name
    for place, (action, document) in enumerate(found):
        assert action == {"create": {"_index": "some-index", "_id": f"{document_id(batch.name)}-{place}"}}
        begin = int(batch.seen.packet_offset[place] + batch.seen.payload_offset[place])
        payload = bytes(batch.columns.data[begin : begin + int(batch.seen.payload_captured_bytes[place])])
        kept = base64.b64decode(document.get("wirepool.payload", ""))
        assert kept == (payload if level is Pooling.PAYLOAD else b"")


def test_a_part_is_that_part_of_the_whole() -> None:
    batch = Made().frames(FRAMES)
    assert documents(batch, 3, 7) == documents(batch)[3:7]


def test_one_packet_alone() -> None:
    ((_, document),) = documents(Made().frames(FRAMES[:1]))
    assert document["source.ip"] == "10.0.0.1"
    assert document["tcp.psh"] is True


@pytest.mark.parametrize(
    "time_ns",
    [0, 1, 951_782_400 * 10**9, 4_107_542_399 * 10**9 + 999_999_999, 2**63 - 1, START_NS, 68_169_600 * 10**9],
)
def test_times_are_those_of_the_calendar(time_ns: int) -> None:
    ((_, document),) = documents(Made().frames(FRAMES[:1], first_ns=time_ns))
    assert time_of(document["@timestamp"]) == time_ns


def test_a_time_before_1970_is_written_as_1970() -> None:
    batch = Made(clock=ClockOffset(10, 0, 20)).frames(FRAMES[:1], first_ns=3)
    ((_, document),) = documents(batch)
    assert document["@timestamp"] == "1970-01-01T00:00:00.000000000Z"


def test_addresses_are_written_as_python_writes_them() -> None:
    dice = np.random.default_rng(7)
    octets = dice.integers(0, 256, (4000, 16), np.uint8)
    octets[dice.random((4000, 8)).repeat(2, axis=1) < 0.6] = 0
    octets[:50] = np.frombuffer(bytes(10) + b"\xff\xff" + bytes(4), np.uint8) | octets[:50] & np.uint8(15)
    octets[:50, :10] = 0
    column: _bulk.Column = (Kind.IP, b',"ip":', octets.tobytes(), 16, None, None, None)
    data = _bulk.lines(4000, 0, 4000, b"{", b'"a":1', (column,), bytearray(8 * 4000))
    shown = [orjson.loads(line)["ip"] for line in data.split(b"\n")[1::2] if line]
    assert shown == [written(Type.IP, int.from_bytes(row.tobytes(), "big")) for row in octets]


GOOD: _bulk.Column = (
    Kind.WORD,
    b',"w":',
    bytes([0, 1]),
    1,
    None,
    b'"a""bc"',
    np.array([3, 7], np.uint32).data,
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({2: bytes([0, 2])}, "beyond its table"),
        ({2: bytes([0])}, "entry per packet"),
        ({6: np.array([3, 8], np.uint32).data}, "out of order"),
        ({6: np.array([4, 3], np.uint32).data}, "out of order"),
        ({4: b"\1"}, "entry per packet"),
        ({3: 3}, "of this width"),
        ({0: 99}, "of this width"),
        ({0: -1}, "of this width"),
        ({5: None}, "out of order"),
        ({6: None}, "beyond its table"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(change: dict[int, Any], told: str) -> None:
    parts = list(GOOD)
    for place, value in change.items():
        parts[place] = value
    with pytest.raises(ValueError, match=told):
        _bulk.lines(2, 0, 2, b"{", b'"a":1', (tuple(parts),), bytearray(16))  # type: ignore[arg-type]
    _bulk.lines(2, 0, 2, b"{", b'"a":1', (GOOD,), bytearray(16))


@pytest.mark.parametrize("span", [(-1, 1), (1, 0), (0, 3)])
def test_packets_that_are_not_there_are_refused(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no such packets"):
        _bulk.lines(2, *span, b"{", b'"a":1', (GOOD,), bytearray(16))
    with pytest.raises(ValueError, match="room for the ends"):
        _bulk.lines(2, 0, 2, b"{", b'"a":1', (GOOD,), bytearray(8))
    with pytest.raises(ValueError, match="no beginning"):
        _bulk.lines(2, 0, 2, b"", b'"a":1', (GOOD,), bytearray(16))


def test_bytes_beyond_the_data_are_refused() -> None:
    for begin, end in ((0, 5), (3, 2), (2**64 - 1, 2), (5, 2**64 - 1)):
        entry = np.array([begin, end], np.uint64).tobytes()
        column: _bulk.Column = (Kind.BYTES, b',"b":', entry, 16, None, b"four", None)
        with pytest.raises(ValueError, match="beyond the data"):
            _bulk.lines(1, 0, 1, b"{", b'"a":1', (column,), bytearray(8))
