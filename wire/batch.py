"""Wire version 1: one batch of packets as one message.

    message = [COSE_Sign1(header), body]        CBOR array of two
    header  = map of the members of `Header`    signed as the exact bytes it is, never re-encoded
    body    = byte string: columns, compressed as the header says, named by their sha256 in the header

Sequence and chain run per (agent, boot, session, lane): `previous` is the sha256 of the header bytes of the batch
before. A **packets** batch holds packets. A **tombstone** stands where the spool's overflow removed batches: it lists
their sequences, header hashes and sums, so the chain goes on through it; or, with an empty list, it is itself a link
that says how many packets were turned away before they got a sequence. A **closing** batch ends the lane
of a session in this boot; with the reason `GOES_ON` the session itself continues in the agent's next boot. A **flows**
batch holds flow records (wire/flows.py) and no packets; only sessions that ask for them have any.

This module is the only definition; docs/wire-format.md is generated from it. Readers ignore keys they don't know
and refuse versions they don't know. Every bound is a constant here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from enum import StrEnum
from typing import Any

from wire import cose, fields
from wire.body import (
    CHECKSUM_NOT_READY,
    CHECKSUM_VALID,
    DIRECTION_IN,
    DIRECTION_MASK,
    DIRECTION_OUT,
    HARDWARE_STAMP,
    MAX_BODY_BYTES,
    MAX_CAPTURED_BYTES,
    MAX_ORIGINAL_BYTES,
    MAX_PACKETS,
    MAX_REPLACED,
    MAX_TURNED_AWAY,
    PRIORITY,
    RECEPTION_MASK,
    RECEPTION_SHIFT,
    SWAP_INTERVAL,
    TRUNCATED,
    VLAN_REINSERTED,
    Columns,
    Replaced,
    Sums,
    check_sums,
    decode_body,
    decode_replaced,
    encode_body,
    encode_replaced,
    sums_of,
)
from wire.books import Books
from wire.clock import Clock
from wire.compression import COMPRESSIONS, compress_body, decompress_body
from wire.errors import WireError
from wire.flows import MAX_FLOWS, FlowColumns, decode_flow_columns
from wire.framing import MAX_HEADER_BYTES, MAX_MESSAGE_BYTES, split_messages
from wire.keys import SIGNATURE_BYTES, SigningKey
from wire.names import Lane, check_agent_id, check_lane, check_session_id
from wire.payload import MAX_MERGED_RANGES, PayloadPolicy
from wire.strict_cbor import MAJOR_BYTES, dumps_map, encode_head, loads_map, read_head

__all__ = [
    "CHECKSUM_NOT_READY",
    "CHECKSUM_VALID",
    "DIRECTION_IN",
    "DIRECTION_MASK",
    "DIRECTION_OUT",
    "DOMAIN",
    "HARDWARE_STAMP",
    "MAX_BODY_BYTES",
    "MAX_CAPTURED_BYTES",
    "MAX_FLOWS",
    "MAX_HEADER_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_ORIGINAL_BYTES",
    "MAX_PACKETS",
    "MAX_REPLACED",
    "MAX_TURNED_AWAY",
    "NO_HASH",
    "PRIORITY",
    "RECEPTION_MASK",
    "RECEPTION_SHIFT",
    "SWAP_INTERVAL",
    "TARGET_BODY_BYTES",
    "TRUNCATED",
    "VLAN_REINSERTED",
    "WIRE_VERSION",
    "Body",
    "Books",
    "Clock",
    "Columns",
    "FlowColumns",
    "Header",
    "Kind",
    "Lane",
    "OpenBatch",
    "Replaced",
    "Sums",
    "WireError",
    "compress_body",
    "decode_columns",
    "decode_flows",
    "decode_tombstone",
    "encode_body",
    "encode_replaced",
    "open_batch",
    "seal_batch",
    "split_messages",
    "sums_of",
]

WIRE_VERSION = 1
DOMAIN = "wirepool/1/batch"
TARGET_BODY_BYTES = 512 * 1024
"""Where a batch is closed: larger ones gain little, and one more packet of any length still fits."""
MAX_REASON_BYTES = 256
MAX_INTERFACE_BYTES = 128
NO_HASH = bytes(32)
"""`previous` where there is nothing before."""
_HEADER_DEPTH = 4
_HEADER_ITEMS = 512
_MESSAGE_HEAD = b"\x82"


GOES_ON = "agent stopped; the session goes on in its next boot"
"""The reason of a closing batch that ends the boot's chain, not the session: readers expect a chain that names it."""


class Kind(StrEnum):
    """What a batch is."""

    PACKETS = "packets"
    FLOWS = "flows"
    TOMBSTONE = "tombstone"
    CLOSING = "closing"


def _doc(type_: str, text: str) -> dict[str, str]:
    return {"type": type_, "doc": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The signed header. On the wire each member is a key of that name, with `version` in front."""

    kind: Kind = field(metadata=_doc("text", "packets, flows, tombstone or closing."))
    agent: str = field(metadata=_doc("text", "Agent id, `[a-z0-9-]{1,48}`; must be the subject's."))
    session: str = field(metadata=_doc("text", "Session id, `[a-z2-7]{26}`; must be the subject's."))
    lane: Lane = field(metadata=_doc("text", "bulk or prio; must be the subject's."))
    boot: bytes = field(metadata=_doc("bytes, 16", "Random, new at each start of the agent."))
    sequence: int = field(
        metadata=_doc(
            "integer", "0, 1, 2 … per (agent, boot, session, lane); a tombstone's is the first replaced."
        )
    )
    previous: bytes = field(
        metadata=_doc(
            "bytes, 32",
            "sha256 of the header of the batch before. At sequence 0: the last known one of `previous_boot`, or zeros.",
        )
    )
    previous_boot: bytes | None = field(
        default=None,
        metadata=_doc("bytes, 16, optional", "Only at sequence 0: the boot that `previous` is of."),
    )
    body_sha256: bytes = field(metadata=_doc("bytes, 32", "sha256 of the body as it is in the message."))
    body_bytes: int = field(metadata=_doc("integer", "Length of the body uncompressed: at most 1 MiB."))
    compression: str = field(metadata=_doc("text", "none, zstd or gzip."))
    first_timestamp_ns: int = field(
        metadata=_doc(
            "integer",
            "Earliest packet's time, ns since 1970, UTC, raw; 0 without packets. "
            "Of flow records: when they began to be counted.",
        )
    )
    last_timestamp_ns: int = field(
        metadata=_doc("integer", "Latest packet's time; when the flow counters were read.")
    )
    packets: int = field(
        metadata=_doc("integer", "Packets in the body; of a tombstone, packets lost in what it replaces.")
    )
    captured_bytes: int = field(metadata=_doc("integer", "Sum of their captured lengths."))
    original_bytes: int = field(metadata=_doc("integer", "Sum of their lengths on the wire."))
    link_type: int = field(metadata=_doc("integer", "LINKTYPE_ value of every packet; 1 is Ethernet."))
    interface: str = field(metadata=_doc("text", "Interface name on the agent's host: 1 to 128 bytes."))
    filter_revision: int = field(
        metadata=_doc("integer", "Revision of filter, snaplen and payload policy that was in force.")
    )
    snaplen: int = field(metadata=_doc("integer", "Bytes kept of each packet: 1 to 262,144."))
    payload: PayloadPolicy | None = field(
        default=None,
        metadata=_doc(
            "map, optional",
            "What was cut out of these packets before they were sealed; see its table. Absent: nothing.",
        ),
    )
    clock: Clock = field(metadata=_doc("map", "The agent's clock when the batch was sealed; see its table."))
    books: Books = field(metadata=_doc("map", "Running totals of the session when sealed; see their table."))
    last_sequence: int | None = field(
        default=None, metadata=_doc("integer, tombstone", "Last sequence the tombstone stands for.")
    )
    reason: str | None = field(
        default=None, metadata=_doc("text, tombstone and closing", "Why: up to 256 bytes.")
    )

    def to_map(self) -> dict[str, Any]:
        """As the map that is signed, in this order."""
        map_: dict[str, Any] = {"version": WIRE_VERSION}
        for name in _NAMES:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, Clock | Books | PayloadPolicy):
                value = value.to_map()
            elif isinstance(value, StrEnum):
                value = value.value
            map_[name] = value
        return map_

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "Header":
        """Every bound and every rule between members checked. WireError otherwise."""
        version = fields.integer(map_, "version")
        if version != WIRE_VERSION:
            raise WireError(f"wire version {version}; this program knows version {WIRE_VERSION}")
        header = cls(
            kind=Kind(fields.choice(map_, "kind", tuple(kind.value for kind in Kind))),
            agent=check_agent_id(map_.get("agent")),
            session=check_session_id(map_.get("session")),
            lane=check_lane(map_.get("lane")),
            boot=fields.octets(map_, "boot", length=16),
            sequence=fields.integer(map_, "sequence"),
            previous=fields.octets(map_, "previous", length=32),
            previous_boot=fields.optional(map_, "previous_boot", fields.octets, length=16),
            body_sha256=fields.octets(map_, "body_sha256", length=32),
            body_bytes=fields.integer(map_, "body_bytes", 0, MAX_BODY_BYTES),
            compression=fields.choice(map_, "compression", COMPRESSIONS),
            first_timestamp_ns=fields.integer(map_, "first_timestamp_ns", 0, 2**64 - 1),
            last_timestamp_ns=fields.integer(map_, "last_timestamp_ns", 0, 2**64 - 1),
            packets=fields.integer(map_, "packets"),
            captured_bytes=fields.integer(map_, "captured_bytes"),
            original_bytes=fields.integer(map_, "original_bytes"),
            link_type=fields.integer(map_, "link_type", 0, 65535),
            interface=fields.text(map_, "interface", min_bytes=1, max_bytes=MAX_INTERFACE_BYTES),
            filter_revision=fields.integer(map_, "filter_revision", 1, 2**32 - 1),
            snaplen=fields.integer(map_, "snaplen", 1, MAX_CAPTURED_BYTES),
            payload=_payload(map_),
            clock=Clock.from_map(fields.submap(map_, "clock", max_entries=64)),
            books=Books.from_map(fields.submap(map_, "books", max_entries=64)),
            last_sequence=fields.optional(map_, "last_sequence", fields.integer),
            reason=fields.optional(map_, "reason", fields.text, max_bytes=MAX_REASON_BYTES),
        )
        header.check()
        return header

    def check(self) -> None:
        """The rules between members. WireError when one is broken."""
        if self.previous_boot is not None and self.sequence != 0:
            raise WireError("previous_boot: only a boot's first batch has one")
        if self.sequence == 0 and (self.previous == NO_HASH) != (self.previous_boot is None):
            raise WireError("previous: at sequence 0 it and previous_boot go together")
        if self.last_timestamp_ns < self.first_timestamp_ns:
            raise WireError("last_timestamp_ns: before first_timestamp_ns")
        if (self.last_sequence is not None) != (self.kind is Kind.TOMBSTONE):
            raise WireError("last_sequence: of a tombstone, and only of one")
        if (self.reason is not None) != (self.kind in (Kind.TOMBSTONE, Kind.CLOSING)):
            raise WireError("reason: of a tombstone or closing batch, and only of one")
        if self.kind is Kind.PACKETS:
            if not 1 <= self.packets <= MAX_PACKETS:
                raise WireError(f"packets: {self.packets} in a batch of 1 to {MAX_PACKETS}")
            if self.captured_bytes > self.body_bytes:
                raise WireError("captured_bytes: more than the body holds")
            check_sums(self.packets, self.captured_bytes, self.original_bytes, batches=1)
        elif self.kind is Kind.FLOWS:
            if self.packets or self.captured_bytes or self.original_bytes or not self.body_bytes:
                raise WireError("a flows batch has flow records and no packets")
        elif self.kind is Kind.CLOSING:
            if self.packets or self.captured_bytes or self.original_bytes or self.body_bytes:
                raise WireError("a closing batch that isn't empty")
        elif self.last_sequence is not None:
            if self.last_sequence < self.sequence:
                raise WireError("last_sequence: before sequence")
            if self.body_bytes == 0 and self.last_sequence != self.sequence:
                raise WireError("a tombstone without a list stands for itself only")
            if self.last_sequence - self.sequence >= MAX_REPLACED:
                raise WireError(f"a tombstone for more than {MAX_REPLACED} batches")
            self._check_lost(self.last_sequence - self.sequence + 1)

    def _check_lost(self, batches: int) -> None:
        if self.body_bytes:
            check_sums(self.packets, self.captured_bytes, self.original_bytes, batches=batches)
            return
        # Of packets that never got into a batch: any number of batches' worth may have been turned away.
        if self.packets > MAX_TURNED_AWAY:
            raise WireError(f"packets: {self.packets} turned away; at most {MAX_TURNED_AWAY} are allowed")
        for name, most in (("captured_bytes", MAX_CAPTURED_BYTES), ("original_bytes", MAX_ORIGINAL_BYTES)):
            if getattr(self, name) > self.packets * most:
                raise WireError(f"{name}: more than {most} for each of {self.packets} packets")


def _payload(map_: dict[str, Any]) -> PayloadPolicy | None:
    policy = fields.optional(map_, "payload", fields.submap)
    return None if policy is None else PayloadPolicy.from_map(policy, max_ranges=MAX_MERGED_RANGES)


_NAMES = tuple(member.name for member in dataclass_fields(Header))


@dataclass(frozen=True, slots=True)
class Body:
    """A body ready to be sealed, with what the header must say of it."""

    packed: bytes
    """As it goes into the message."""
    compression: str
    plain_bytes: int

    @classmethod
    def of(cls, plain: bytes, compressor: str = "zstd") -> "Body":
        """Compress `plain` if it pays."""
        compression, packed = compress_body(plain, compressor)
        return cls(packed, compression, len(plain))

    @classmethod
    def empty(cls) -> "Body":
        """The body of a closing batch, or of a tombstone without a list."""
        return cls(b"", "none", 0)


def seal_batch(header_fields: dict[str, Any], body: Body, key: SigningKey) -> tuple[bytes, bytes]:
    """Make the message: (message, header hash). The next batch's `previous` is that hash.

    header_fields: the members of `Header` without body_sha256, body_bytes and compression, which follow from `body`.
    A tombstone's successor names the hash of the last batch in its list, not the tombstone's own.
    ValueError (WireError among them) when a rule is broken or the message would be over its bound.
    """
    header = Header(
        **header_fields,
        body_sha256=hashlib.sha256(body.packed).digest(),
        body_bytes=body.plain_bytes,
        compression=body.compression,
    )
    header.check()
    payload = dumps_map(header.to_map())
    if len(payload) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(payload)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    signed = cose.sign1(payload, domain=DOMAIN, key=key)
    message = b"".join((_MESSAGE_HEAD, signed, encode_head(MAJOR_BYTES, len(body.packed)), body.packed))
    if len(message) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(message)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    return message, hashlib.sha256(payload).digest()


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch whose structure, bounds and body hash hold (and its signature, if a key was given)."""

    header: Header
    header_hash: bytes
    """sha256 of `header_bytes`: what the next batch's `previous` is."""
    header_bytes: bytes
    """The exact bytes that were signed."""
    body_compressed: memoryview
    """A view of the message it came from."""
    signature: bytes


def open_batch(message: bytes, *, public: bytes | None) -> OpenBatch:
    """Take a message apart and check it; the body stays compressed. WireError when anything is wrong.

    public: the agent's 32-byte signing key. None leaves the signature unchecked: only for tools that show what
    they can't judge.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(message)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    end = len(message)
    if message[:1] != _MESSAGE_HEAD:
        raise WireError("not a batch: no CBOR array of two")
    begin, signature_head, behind = cose.span1(message, 1, end)
    if signature_head - begin > MAX_HEADER_BYTES:
        raise WireError(f"a header of {signature_head - begin} bytes; at most {MAX_HEADER_BYTES} are allowed")
    major, length, body_begin = read_head(message, behind, end)
    if major != MAJOR_BYTES or length != end - body_begin:
        raise WireError("a body that isn't one byte string to the message's end")
    payload = bytes(message[begin:signature_head])
    signature = bytes(message[behind - SIGNATURE_BYTES : behind])
    if public is not None:
        cose.check_signature(payload, signature, domain=DOMAIN, public=public)
    map_ = loads_map(payload, max_bytes=MAX_HEADER_BYTES, max_depth=_HEADER_DEPTH, max_items=_HEADER_ITEMS)
    header = Header.from_map(map_)
    body = memoryview(message)[body_begin:]
    if hashlib.sha256(body).digest() != header.body_sha256:
        raise WireError("the body isn't the one whose sha256 the header signs")
    if header.compression == "none" and len(body) != header.body_bytes:
        raise WireError(f"a body of {len(body)} bytes where the header says {header.body_bytes}")
    return OpenBatch(header, hashlib.sha256(payload).digest(), payload, body, signature)


def decode_columns(batch: OpenBatch) -> Columns:
    """The packets of a packets batch; the columns are views of the decompressed body. WireError otherwise.

    Decompresses at most `header.body_bytes` + 1 bytes (1 MiB + 1). The header's sums are checked against the columns.
    """
    header = batch.header
    if header.kind is not Kind.PACKETS:
        raise WireError(f"a {header.kind} batch has no packets")
    columns = decode_body(decompress_body(batch.body_compressed, header.compression, header.body_bytes))
    sums = sums_of(columns)
    for name in ("packets", "captured_bytes", "original_bytes", "first_timestamp_ns", "last_timestamp_ns"):
        if getattr(sums, name) != getattr(header, name):
            raise WireError(
                f"{name}: the header says {getattr(header, name)}, the body {getattr(sums, name)}"
            )
    return columns


def decode_flows(batch: OpenBatch) -> FlowColumns:
    """The flow records of a flows batch; the columns are views of the decompressed body. WireError otherwise."""
    header = batch.header
    if header.kind is not Kind.FLOWS:
        raise WireError(f"a {header.kind} batch has no flow records")
    return decode_flow_columns(decompress_body(batch.body_compressed, header.compression, header.body_bytes))


def decode_tombstone(batch: OpenBatch) -> list[Replaced]:
    """The batches a tombstone replaces, in order; empty when it stands for itself. WireError otherwise."""
    header = batch.header
    if header.kind is not Kind.TOMBSTONE or header.last_sequence is None:
        raise WireError(f"a {header.kind} batch replaces nothing")
    plain = decompress_body(batch.body_compressed, header.compression, header.body_bytes)
    if not plain:
        return []
    replaced = decode_replaced(plain, header.sequence, header.last_sequence - header.sequence + 1)
    for name in ("packets", "captured_bytes", "original_bytes"):
        listed = sum(getattr(one, name) for one in replaced)
        if listed != getattr(header, name):
            raise WireError(f"{name}: the header says {getattr(header, name)}, the list {listed}")
    return replaced


def seal_tombstone_fields(replaced: Sequence[Replaced]) -> dict[str, int]:
    """The header fields that follow from a tombstone's list."""
    return {
        "sequence": replaced[0].sequence,
        "last_sequence": replaced[-1].sequence,
        "packets": sum(one.packets for one in replaced),
        "captured_bytes": sum(one.captured_bytes for one in replaced),
        "original_bytes": sum(one.original_bytes for one in replaced),
    }
