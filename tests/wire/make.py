"""Batches, chains and envelopes for the tests: the same for the same arguments, signed with keys known to everybody."""

from __future__ import annotations

import hashlib
import random
import struct
from typing import Any

from wire import cose
from wire.batch import (
    DOMAIN,
    NO_HASH,
    Body,
    Books,
    Clock,
    Columns,
    Kind,
    Lane,
    Replaced,
    encode_body,
    encode_replaced,
    open_batch,
    seal_batch,
    seal_tombstone_fields,
    sums_of,
)
from wire.flows import FlowColumns, encode_flows
from wire.keys import SigningKey
from wire.strict_cbor import MAJOR_BYTES, dumps_map, encode_head

AGENT_KEY = SigningKey.from_seed(bytes(range(32)))
HUB_KEY = SigningKey.from_seed(bytes(range(32, 64)))
OTHER_KEY = SigningKey.from_seed(bytes(range(64, 96)))
BOOT = bytes.fromhex("00112233445566778899aabbccddeeff")
SESSION = "abcdefghijklmnopqrstuvwx23"
START_NS = 1_750_000_000_123_456_789


def columns_of(packets: list[tuple[int, int, int, bytes]]) -> Columns:
    """(time in ns, original bytes, flags, bytes) of each packet as columns."""
    n = len(packets)
    return Columns(
        timestamp_ns=struct.pack(f"<{n}Q", *(packet[0] for packet in packets)),
        captured_bytes=struct.pack(f"<{n}I", *(len(packet[3]) for packet in packets)),
        original_bytes=struct.pack(f"<{n}I", *(packet[1] for packet in packets)),
        flags=struct.pack(f"<{n}H", *(packet[2] for packet in packets)),
        data=b"".join(packet[3] for packet in packets),
    )


def packets(count: int, seed: int = 1) -> list[tuple[int, int, int, bytes]]:
    """`count` packets that shrink well: UDP datagrams between two hosts."""
    dice = random.Random(seed)
    made = []
    for index in range(count):
        payload = f"packet {index} of {count} ".encode() * dice.randint(1, 8)
        udp = struct.pack(">HHHH", 40000 + index % 100, 53, 8 + len(payload), 0) + payload
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), index & 0xFFFF, 0, 64, 17, 0)
        ip = head + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + udp
        frame = bytes.fromhex("02000000000202000000000108 00".replace(" ", "")) + ip
        made.append((START_NS + index * 1_000_003, len(frame), dice.choice((0, 1, 2, 5, 0x40 | 1)), frame))
    return made


def fields(**changes: Any) -> dict[str, Any]:
    """Header fields of a first packets batch, with `changes`; sums are for `seal` to fill in."""
    return {
        "kind": Kind.PACKETS,
        "agent": "web1",
        "session": SESSION,
        "lane": Lane.BULK,
        "boot": BOOT,
        "sequence": 0,
        "previous": NO_HASH,
        "first_timestamp_ns": START_NS,
        "last_timestamp_ns": START_NS,
        "packets": 0,
        "captured_bytes": 0,
        "original_bytes": 0,
        "link_type": 1,
        "interface": "eth0",
        "filter_revision": 1,
        "snaplen": 262144,
        "clock": Clock("chrony", "synchronized", -1234, 56789, None),
        "books": Books(
            received=100, dropped_ring=3, own_traffic=7, captured=90, spooled=80, acknowledged=70, pending=10
        ),
        **changes,
    }


def packets_batch(
    count: int = 20, *, compressor: str = "zstd", seed: int = 1, key: SigningKey = AGENT_KEY, **changes: Any
) -> tuple[bytes, bytes]:
    """A sealed packets batch: (message, header hash)."""
    columns = columns_of(packets(count, seed))
    sums = sums_of(columns)
    body = Body.of(encode_body(columns), compressor)
    filled = fields(
        packets=sums.packets,
        captured_bytes=sums.captured_bytes,
        original_bytes=sums.original_bytes,
        first_timestamp_ns=sums.first_timestamp_ns,
        last_timestamp_ns=sums.last_timestamp_ns,
    )
    return seal_batch(filled | changes, body, key)


def flow_columns(count: int, seed: int = 1) -> FlowColumns:
    """`count` flow records of both IP versions."""
    dice = random.Random(seed)
    rows = []
    for index in range(count):
        version = dice.choice((4, 6))
        ends = [dice.randbytes(4).ljust(16, b"\0") if version == 4 else dice.randbytes(16) for _ in range(2)]
        first_ns = START_NS + index * 1_000_003
        rows.append(
            (
                *(version, dice.choice((1, 6, 17, 58)), *ends, dice.randrange(65536), 443),
                *(dice.randrange(1000), dice.randrange(1000), dice.randrange(10**6), dice.randrange(10**6)),
                *(first_ns, first_ns + dice.randrange(10**9)),
            )
        )
    columns = list(zip(*rows, strict=True))
    return FlowColumns(
        bytes(columns[0]),
        bytes(columns[1]),
        b"".join(columns[2]),
        b"".join(columns[3]),
        *(struct.pack(f"<{count}H", *column) for column in columns[4:6]),
        *(struct.pack(f"<{count}Q", *column) for column in columns[6:]),
    )


def flows_batch(count: int = 5, *, seed: int = 1, **changes: Any) -> tuple[bytes, bytes]:
    """A sealed flows batch: (message, header hash)."""
    filled = fields(kind=Kind.FLOWS, last_timestamp_ns=START_NS + 10**9)
    return seal_batch(filled | changes, Body.of(encode_flows(flow_columns(count, seed))), AGENT_KEY)


def tombstone(
    replaced: list[Replaced], previous: bytes, *, reason: str = "spool full", **changes: Any
) -> tuple[bytes, bytes]:
    """A sealed tombstone."""
    filled = fields(kind=Kind.TOMBSTONE, previous=previous, reason=reason, **seal_tombstone_fields(replaced))
    return seal_batch(filled | changes, Body.of(encode_replaced(replaced)), AGENT_KEY)


def closing(sequence: int, previous: bytes, **changes: Any) -> tuple[bytes, bytes]:
    """A sealed closing batch."""
    filled = fields(kind=Kind.CLOSING, sequence=sequence, previous=previous, reason="stopped")
    return seal_batch(filled | changes, Body.empty(), AGENT_KEY)


def chain(
    count: int,
    *,
    close: bool = True,
    previous: bytes = NO_HASH,
    previous_boot: bytes | None = None,
    **changes: Any,
) -> list[bytes]:
    """`count` packets batches of one chain, and its closing batch."""
    messages = []
    for sequence in range(count):
        links: dict[str, Any] = {"sequence": sequence, "previous": previous}
        links["previous_boot"] = None if sequence else previous_boot
        message, previous = packets_batch(5, seed=sequence, **(links | changes))
        messages.append(message)
    if close:
        messages.append(closing(count, previous, **changes)[0])
    return messages


def replaced_of(messages: list[bytes]) -> list[Replaced]:
    """What a tombstone says of these batches."""
    found = []
    for message in messages:
        batch = open_batch(message, public=None)
        assert hashlib.sha256(batch.header_bytes).digest() == batch.header_hash
        header = batch.header
        found.append(
            Replaced(
                header.sequence,
                batch.header_hash,
                header.packets,
                header.captured_bytes,
                header.original_bytes,
            )
        )
    return found


def forge(body: bytes, *, key: SigningKey = AGENT_KEY, drop: tuple[str, ...] = (), **changes: Any) -> bytes:
    """A batch whose header says anything: a sound one's map with `changes`, whatever rule they break, truly signed."""
    map_ = open_batch(packets_batch(4)[0], public=None).header.to_map()
    map_["body_sha256"] = hashlib.sha256(body).digest()
    map_ |= changes
    return forge_raw(
        dumps_map({name: value for name, value in map_.items() if name not in drop}), body, key=key
    )


def forge_raw(header: bytes, body: bytes = b"", *, key: SigningKey = AGENT_KEY) -> bytes:
    """A message around any header bytes, truly signed."""
    return b"\x82" + cose.sign1(header, domain=DOMAIN, key=key) + encode_head(MAJOR_BYTES, len(body)) + body
