"""Flow records on the wire: what goes in comes out, and everything that can't be is refused."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from tests.wire import make
from tests.wire.test_cli import cli
from wire.batch import (
    Body,
    Kind,
    WireError,
    decode_columns,
    decode_flows,
    decode_tombstone,
    open_batch,
    seal_batch,
)
from wire.body import encode_map
from wire.chain import ChainVerifier, Verdict
from wire.evidence import WpzWriter, verify_wpz
from wire.flows import (
    FLOW_COLUMNS,
    MAX_FLOW_COUNT,
    MAX_FLOWS,
    WIDTHS,
    FlowColumns,
    decode_flow_columns,
    encode_flows,
    records_of,
)


def test_records_come_back_as_they_were_sealed() -> None:
    for count in (1, 7, MAX_FLOWS):
        columns = make.flow_columns(count)
        message, header_hash = seal_batch(
            make.fields(kind=Kind.FLOWS), Body.of(encode_flows(columns)), make.AGENT_KEY
        )
        opened = open_batch(message, public=make.AGENT_KEY.public)
        assert opened.header_hash == header_hash
        found = decode_flows(opened)
        for name in FLOW_COLUMNS:
            assert bytes(getattr(found, name)) == getattr(columns, name)
        records = list(records_of(found))
        assert len(records) == count
        numbers = struct.unpack(f"<{count}Q", columns.bytes_b)
        assert [one.bytes_b for one in records] == list(numbers)
        with pytest.raises(WireError, match="has no packets"):
            decode_columns(opened)
        with pytest.raises(WireError, match="replaces nothing"):
            decode_tombstone(opened)
    with pytest.raises(WireError, match="has no flow records"):
        decode_flows(open_batch(make.packets_batch(1)[0], public=None))


def test_bounds_of_a_body() -> None:
    for count in (0, MAX_FLOWS + 1):
        columns = FlowColumns(*(bytes(width * count) for width in WIDTHS.values()))
        with pytest.raises(ValueError, match="a batch holds 1 to 8192"):
            encode_flows(columns)
        plain = encode_map(FLOW_COLUMNS, [getattr(columns, name) for name in FLOW_COLUMNS])
        with pytest.raises(WireError, match="a batch holds 1 to 8192"):
            decode_flow_columns(plain)
    sound = make.flow_columns(3)
    for name, width in WIDTHS.items():
        if name == "version":
            continue
        for size in (2 * width, 4 * width):
            wrong = replace(sound, **{name: bytes(size)})
            with pytest.raises(WireError, match=f"{name}: {size} bytes for 3 flow records"):
                decode_flow_columns(encode_flows(wrong))
        left_out = {key: value for key, value in FLOW_COLUMNS.items() if key != name}
        with pytest.raises(WireError, match=f"{name}: missing"):
            decode_flow_columns(encode_map(left_out, [getattr(sound, key) for key in left_out]))
    more = FLOW_COLUMNS | {"later": (None, "")}
    body = encode_map(more, [*(getattr(sound, name) for name in FLOW_COLUMNS), b"unknown"])
    assert list(records_of(decode_flow_columns(body))) == list(records_of(sound)), "later columns are skipped"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("version", b"\5", "neither 4 nor 6"),
        ("address_a", bytes(4) + b"\1" + bytes(11), "more than four bytes"),
        ("address_b", bytes(15) + b"\1", "more than four bytes"),
        ("packets_a", struct.pack("<Q", MAX_FLOW_COUNT + 1), "count above"),
        ("bytes_b", b"\xff" * 8, "count above"),
        ("first_timestamp_ns", struct.pack("<Q", 11), "before first"),
        ("last_timestamp_ns", struct.pack("<Q", 2**63), "beyond"),
    ],
)
def test_a_record_that_cannot_be_is_refused(name: str, value: bytes, said: str) -> None:
    columns = FlowColumns(b"\4", b"\6", bytes(16), bytes(16), b"\1\0", b"\2\0", *[struct.pack("<Q", 10)] * 6)
    assert len(list(records_of(columns))) == 1
    with pytest.raises(WireError, match=said):
        list(records_of(replace(columns, **{name: value})))


def test_rules_of_the_header() -> None:
    good = make.fields(kind=Kind.FLOWS)
    body = Body.of(encode_flows(make.flow_columns(2)))
    for wrong in ({"packets": 1}, {"captured_bytes": 1}, {"original_bytes": 1}):
        with pytest.raises(WireError, match="flow records and no packets"):
            seal_batch(good | wrong, body, make.AGENT_KEY)
    with pytest.raises(WireError, match="flow records and no packets"):
        seal_batch(good, Body.empty(), make.AGENT_KEY)
    with pytest.raises(WireError, match="reason"):
        seal_batch(good | {"reason": "x"}, body, make.AGENT_KEY)
    with pytest.raises(WireError, match="last_sequence"):
        seal_batch(good | {"last_sequence": 3}, body, make.AGENT_KEY)


def chain() -> list[bytes]:
    """Packets, flow records, packets, flow records, the end."""
    messages: list[bytes] = []
    previous = bytes(32)
    for sequence in range(4):
        build = make.flows_batch if sequence % 2 else make.packets_batch
        message, previous = build(5, seed=sequence, sequence=sequence, previous=previous)
        messages.append(message)
    return [*messages, make.closing(4, previous)[0]]


def test_they_are_links_of_the_chain_and_can_give_way_to_a_tombstone() -> None:
    messages = chain()
    verifier = ChainVerifier()
    for message in messages:
        assert verifier.add(open_batch(message, public=None))
    result = verifier.result()
    assert (result.verdict, result.batches, result.packets) == (Verdict.INTACT, 5, 10)
    verifier = ChainVerifier()
    replaced = make.replaced_of(messages[1:3])
    tombstone, _ = make.tombstone(replaced, make.replaced_of(messages[:1])[0].header_hash)
    for message in (messages[0], tombstone, *messages[3:]):
        opened = open_batch(message, public=None)
        verifier.add(opened, decode_tombstone(opened) if opened.header.kind is Kind.TOMBSTONE else None)
    assert verifier.result().verdict is Verdict.DECLARED_DROP


def evidence(path: Path, messages: list[bytes]) -> Path:
    from tests.wire.make_vectors import certificate

    with path.open("wb") as file:
        writer = WpzWriter(
            file, hub_public=make.HUB_KEY.public, created_ns=make.START_NS, sessions=[make.SESSION]
        )
        for message in messages:
            writer.add_message(message)
        writer.finish([("web1", certificate())])
    return path


def test_evidence_holds_and_checks_them(tmp_path: Path) -> None:
    report = verify_wpz(evidence(tmp_path / "good.wpz", chain()), make.HUB_KEY.public)
    assert (report.complaints, report.refused, report.messages) == ([], 0, 5)
    wrong = FlowColumns(*(bytes(width) for width in WIDTHS.values()))  # of IP version 0
    lying, _ = seal_batch(make.fields(kind=Kind.FLOWS), Body.of(encode_flows(wrong)), make.AGENT_KEY)
    report = verify_wpz(evidence(tmp_path / "bad.wpz", [lying]), make.HUB_KEY.public)
    assert report.refused == 1
    assert "neither 4 nor 6" in report.complaints[0]


def test_decode_prints_a_line_or_an_object_each_and_files_leave_them_out() -> None:
    messages = chain()
    stream = b"".join(messages)
    lines = cli("decode", data=stream).stdout.decode().splitlines()
    flows = [line for line in lines if " flow " in line]
    assert (len(lines), len(flows)) == (20, 10)
    records = list(records_of(make.flow_columns(5, 1)))
    assert flows[0].endswith(
        f"web1 eth0 flow {records[0].ends} {records[0].packets_a} packets {records[0].bytes_a} bytes > "
        f"< {records[0].packets_b} packets {records[0].bytes_b} bytes"
    )
    objects = [json.loads(line) for line in cli("decode", "--json", data=stream).stdout.splitlines()]
    told = [one for one in objects if one.get("flow")]
    assert (len(objects), len(told)) == (20, 10)
    assert told[0]["bytes_a"] == records[0].bytes_a
    assert (told[0]["address_a"], told[0]["address_b"]) == records[0].addresses
    assert told[0]["sequence"] == 1
    packets_only = messages[0] + messages[2]
    for form in ("--pcapng", "--pcap"):
        packets = cli("decode", form, "-", data=stream).stdout
        assert packets == cli("decode", form, "-", data=packets_only).stdout
        assert b"packet 4 of 5" in packets
