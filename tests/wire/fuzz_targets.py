"""What the fuzzer feeds: one target per reader of bytes from elsewhere. The invariant stands in fuzz_batch.py."""

from __future__ import annotations

from pathlib import Path

from tests.wire import make
from wire import (
    batch,
    body,
    capture_file,
    compression,
    control,
    cose,
    enrolment,
    flows,
    framing,
    pcapng,
    report,
    session,
    strict_cbor,
)
from wire.errors import WireError

VECTORS = Path(__file__).parent / "vectors" / "v1"


def check(data: bytes) -> None:
    """The target: the first byte chooses the reader, the rest is its input."""
    if not data:
        return
    reader = READERS[data[0] % len(READERS)]
    try:
        reader(data[1:])
    except WireError:
        return


def read_batch(data: bytes) -> None:
    """A message as the hub reads it, but without the key, so that the fuzzer gets behind the signature."""
    opened = batch.open_batch(data, public=None)
    header = opened.header
    assert header == batch.Header.from_map(strict_cbor.loads_map(opened.header_bytes, max_bytes=16384))
    if header.kind is batch.Kind.PACKETS:
        columns = batch.decode_columns(opened)
        assert 1 <= len(columns) == header.packets <= batch.MAX_PACKETS
        assert memoryview(columns.data).nbytes == header.captured_bytes <= batch.MAX_BODY_BYTES
        assert batch.encode_body(columns) is not None
    elif header.kind is batch.Kind.FLOWS:
        assert header.packets == 0
        check_flows(batch.decode_flows(opened))
    elif header.kind is batch.Kind.TOMBSTONE:
        assert len(batch.decode_tombstone(opened)) <= batch.MAX_REPLACED


def read_header(data: bytes) -> None:
    """A header alone: random bits seldom keep the hashes around it."""
    header = batch.Header.from_map(strict_cbor.loads_map(data, max_bytes=16384))
    assert batch.Header.from_map(header.to_map()) == header


def read_body(data: bytes) -> None:
    """A plain body and a compressed one."""
    if data[:1] == b"\x01":
        plain = compression.decompress_body(data[1:], "zstd", 4096)
        assert len(plain) == 4096
    elif data[:1] == b"\x02":
        plain = compression.decompress_body(data[1:], "gzip", 4096)
        assert len(plain) == 4096
    else:
        columns = body.decode_body(data)
        sums = body.sums_of(columns)
        assert sums.captured_bytes == memoryview(columns.data).nbytes
        assert body.decode_body(body.encode_body(columns)).data == columns.data


def read_flows(data: bytes) -> None:
    """Flow records."""
    check_flows(flows.decode_flow_columns(data))


def check_flows(columns: flows.FlowColumns) -> None:
    """Each record keeps the bounds, and the columns come back as they were."""
    assert 1 <= len(columns) <= flows.MAX_FLOWS
    records = list(flows.records_of(columns))
    assert len(records) == len(columns)
    for one in records:
        assert len(one.address_a) == len(one.address_b) == (4 if one.version == 4 else 16)
        assert max(one[6:10]) <= flows.MAX_FLOW_COUNT
        assert one.first_timestamp_ns <= one.last_timestamp_ns <= flows.MAX_FLOW_TIME_NS
        assert one.ends
    assert list(flows.records_of(flows.decode_flow_columns(flows.encode_flows(columns)))) == records


def read_replaced(data: bytes) -> None:
    """A tombstone's list."""
    if len(data) > 1:
        assert len(body.decode_replaced(data[1:], 5, data[0])) == data[0]


def read_stream(data: bytes) -> None:
    """Until the first damage a stream is the same whole and in pieces; behind it, every byte is accounted for.

    (Behind damage pieces may differ: whoever can see what follows a message can tell that its length is wrong.)
    """
    data = data[:3000]
    whole = _strictly(data, len(data) + 1)
    for size in (1, 7, 64):
        assert _strictly(data, size) == whole
    for size in (1, 7, len(data) + 1):
        messages, skipped = _leniently(data, size)
        left = len(data) - skipped - sum(map(len, messages))
        assert 0 <= left <= data.count(b"\n")
        assert all(message.startswith(framing.MAGIC) for message in messages)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _leniently(data: bytes, size: int) -> tuple[list[bytes], int]:
    skipped = 0

    def skip(offset: int, count: int, reason: str) -> None:
        nonlocal skipped
        assert count > 0
        assert reason
        skipped += count

    return list(framing.split_messages(_pieces(data, size), resynchronise=skip)), skipped


def _strictly(data: bytes, size: int) -> list[bytes]:
    messages = []
    try:
        for message in framing.split_messages(_pieces(data, size)):
            messages.append(message)
    except WireError:
        messages.append(b"damaged")
    return messages


def read_envelope(data: bytes) -> None:
    """An envelope's payload, truly signed by whoever wrote it, and its body as each of the three readers takes it."""
    message = cose.sign1(data, domain="wirepool/1/report", key=make.AGENT_KEY)
    envelope = control.unseal(
        message, control.Domain.REPORT, public=make.AGENT_KEY.public, agent=None, now_ns=make.START_NS
    )
    for reader in (report.Report.from_map, report.Heartbeat.from_map, session.Desired.from_map):
        try:
            value = reader(envelope.body)
        except WireError:
            continue
        assert reader(value.to_map()) == value


def read_cbor(data: bytes) -> None:
    """What the scanner lets through is decoded alike by cbor2, and encodes to the same values."""
    decoded = strict_cbor.loads_map(data, max_bytes=65536)
    assert strict_cbor.loads_map(strict_cbor.dumps_map(decoded), max_bytes=1 << 20) == decoded


def read_json(data: bytes) -> None:
    """An enrolment file."""
    for reader in (enrolment.Enrolment.from_json, enrolment.EnrolmentRequest.from_json):
        try:
            value = reader(data)
        except WireError:
            continue
        assert reader(value.to_json()) == value


def read_capture(data: bytes) -> None:
    """A capture file: packets within the bounds, and an end."""
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        at += size
        return data[at - size : at]

    reader = capture_file.CaptureReader(read)
    times, captured, original, flags = (bytearray(width * 64) for width in (8, 4, 4, 2))
    room = bytearray(262144)
    packets = 0
    while filled := reader.read_into(times, captured, original, flags, room, max_packets=64):
        assert 1 <= filled.packets <= 64
        assert filled.data_bytes <= len(room)
        packets += filled.packets
    assert reader.finished
    assert packets <= len(data) // 16
    assert reader.offset <= len(data)


READERS = (
    *(read_batch, read_header, read_body, read_replaced, read_stream),
    *(read_envelope, read_cbor, read_json, read_capture, read_flows),
)


def corpus() -> list[bytes]:
    """Seeds for every reader, out of the vectors."""
    files = {path.name: path.read_bytes() for path in sorted(VECTORS.iterdir()) if path.suffix == ".bin"}
    seeds: list[tuple[int, bytes]] = []
    for name, data in files.items():
        if name.startswith("envelope-"):
            payload = cose.payload_of(data)
            seeds += [(5, payload), (6, payload)]
        elif name == "stream.bin":
            seeds.append((4, data))
        else:
            opened = batch.open_batch(data, public=None)
            seeds += [(0, data), (1, opened.header_bytes), (6, opened.header_bytes)]
            packed = bytes(opened.body_compressed)
            plain = compression.decompress_body(packed, opened.header.compression, opened.header.body_bytes)
            if opened.header.kind is batch.Kind.PACKETS:
                seeds.append((2, plain))
            if opened.header.kind is batch.Kind.FLOWS:
                seeds.append((9, plain))
            if opened.header.kind is batch.Kind.TOMBSTONE and plain:
                seeds.append((3, b"\x03" + plain))
    packed = compression.compress_body(b"wirepool" * 512, "zstd")[1]
    seeds += [(2, b"\x01" + packed), (2, b"\x02" + compression.compress_body(b"wirepool" * 512, "gzip")[1])]
    asked = enrolment.EnrolmentRequest(
        agent="web1", user_public="U" + "A" * 55, signing_public=bytes(32), hostname="h"
    )
    columns = make.columns_of(make.packets(3))
    blocks = pcapng.interface_block(name="a", link_type=1, snaplen=0) + pcapng.packet_blocks(0, columns)
    pcap = pcapng.pcap_header(link_type=1, snaplen=0) + pcapng.pcap_records(columns)
    seeds += [(7, asked.to_json().encode()), (8, pcap), (8, pcapng.section_header() + blocks + blocks)]
    return [bytes([index]) + data for index, data in seeds]
