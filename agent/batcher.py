"""Columns → signed batch: one chain of batches per (boot, session, lane).

Nothing here waits or touches a file; it is the only place that hands out sequences, so a batch must go into the spool
once it is sealed.  Packets that a full spool turned away never had a sequence: the next thing the chain gets is a
link that declares them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.clock import StepWatch, card_clock
from agent.overflow import Run
from agent.segment import Record, RecordKind
from wire.batch import (
    MAX_HEADER_BYTES,
    NO_HASH,
    Body,
    Columns,
    Header,
    Kind,
    encode_body,
    encode_replaced,
    open_batch,
    seal_batch,
    seal_tombstone_fields,
    sums_of,
)
from wire.books import Books
from wire.clock import Clock
from wire.keys import SigningKey
from wire.names import Lane
from wire.payload import FULL, PayloadPolicy

HEADER_ROOM_BYTES = 2048
"""More than header, signature and framing take (about 700 bytes with a name of full length, 1200 with the longest
payload policy)."""

assert HEADER_ROOM_BYTES < MAX_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Origin:
    """What the packets of a batch have in common."""

    interface: str
    link_type: int
    snaplen: int
    filter_revision: int
    payload: PayloadPolicy = FULL
    """What was cut out of them before."""
    hardware_stamps: bool = False
    """Their times are the card's, where it stamped them."""


@dataclass(slots=True)
class TurnedAway:
    """Packets that found no room, not yet declared."""

    packets: int = 0
    captured_bytes: int = 0
    original_bytes: int = 0
    first_timestamp_ns: int = 0
    last_timestamp_ns: int = 0


@dataclass(frozen=True, slots=True)
class Packed:
    """A body ready to be sealed, with its sums; `size` is the room its message will need at most."""

    body: Body
    fields: dict[str, Any]
    packets: int
    captured_bytes: int
    original_bytes: int
    hardware_stamps: bool = False
    kind: Kind = Kind.PACKETS
    flow_packets: int = 0
    """Counted in its flow records."""

    @classmethod
    def of_flows(cls, body: Body, origin: Origin, packets: int, first_ns: int, last_ns: int) -> Packed:
        """Flow records of so many packets, counted in that time; it holds no packets."""
        return cls(body, _fields(origin, first_ns, last_ns), 0, 0, 0, kind=Kind.FLOWS, flow_packets=packets)

    @property
    def size(self) -> int:
        return len(self.body.packed) + HEADER_ROOM_BYTES


def pack(columns: Columns, origin: Origin, compressor: str | None) -> Packed:
    """Encode and compress a batch's columns. They may be overwritten afterwards.

    compressor None: only their sums, for a batch that will be turned away.
    """
    sums = sums_of(columns)
    return Packed(
        Body.empty() if compressor is None else Body.of(encode_body(columns), compressor),
        {
            "first_timestamp_ns": sums.first_timestamp_ns,
            "last_timestamp_ns": sums.last_timestamp_ns,
            "packets": sums.packets,
            "captured_bytes": sums.captured_bytes,
            "original_bytes": sums.original_bytes,
            "interface": origin.interface,
            "link_type": origin.link_type,
            "snaplen": origin.snaplen,
            "filter_revision": origin.filter_revision,
            "payload": None if origin.payload.full else origin.payload,
        },
        sums.packets,
        sums.captured_bytes,
        sums.original_bytes,
        origin.hardware_stamps,
    )


class Chain:
    """Sequence and hash of one (boot, session, lane), and the sealing of what is added to it. One thread."""

    def __init__(
        self,
        *,
        agent: str,
        boot: bytes,
        session: str,
        lane: Lane,
        key: SigningKey,
        previous: bytes = NO_HASH,
        previous_boot: bytes | None = None,
        clock: Callable[[], Clock] = Clock,
        from_file: bool = False,
    ) -> None:
        """previous, previous_boot: the last known hash of the boot before, if there was one.

        clock: what the host says of its clock now. from_file: the times are a capture file's, not this clock's.
        """
        self.next_sequence = 0
        self.header_hash = previous
        self.turned_away = TurnedAway()
        self._previous_boot = previous_boot
        self._key = key
        self._fixed: dict[str, Any] = {"agent": agent, "boot": boot, "session": session, "lane": lane}
        self._clock = clock
        self._steps = None if from_file else StepWatch()

    def seal_packets(self, packed: Packed, books: Books) -> tuple[Record, bytes]:
        """The next batch, of packets or flow records: (record for the spool, message)."""
        return self._seal(packed.kind, packed.fields, packed.body, books, card=packed.hardware_stamps)

    def seal_closing(self, origin: Origin, reason: str, books: Books) -> tuple[Record, bytes]:
        """The batch that ends the lane. Nothing may follow it."""
        now_ns = time.time_ns()
        fields = _empty_fields(origin, reason, now_ns, now_ns)
        return self._seal(Kind.CLOSING, fields, Body.empty(), books)

    def note_turned_away(self, packed: Packed) -> None:
        """The spool had no room for this batch: remember to declare it."""
        away = self.turned_away
        if not away.packets:
            away.first_timestamp_ns = packed.fields["first_timestamp_ns"]
        away.packets += packed.packets
        away.captured_bytes += packed.captured_bytes
        away.original_bytes += packed.original_bytes
        away.last_timestamp_ns = max(packed.fields["last_timestamp_ns"], away.first_timestamp_ns)

    def seal_turned_away(self, origin: Origin, reason: str, books: Books) -> tuple[Record, bytes]:
        """A link of the chain that says how many packets were turned away before it."""
        away = self.turned_away
        fields = _empty_fields(origin, reason, away.first_timestamp_ns, away.last_timestamp_ns)
        fields |= {
            "packets": away.packets,
            "captured_bytes": away.captured_bytes,
            "original_bytes": away.original_bytes,
            "last_sequence": self.next_sequence,
        }
        sealed = self._seal(Kind.TOMBSTONE, fields, Body.empty(), books)
        self.turned_away = TurnedAway()
        return sealed

    def _seal(
        self, kind: Kind, fields: dict[str, Any], body: Body, books: Books, *, card: bool = False
    ) -> tuple[Record, bytes]:
        sequence = self.next_sequence
        message, header_hash = seal_batch(
            {
                **self._fixed,
                **fields,
                "kind": kind,
                "sequence": sequence,
                "previous": self.header_hash,
                "previous_boot": self._previous_boot if sequence == 0 else None,
                "clock": card_clock(self._clock_now()) if card else self._clock_now(),
                "books": books,
            },
            body,
            self._key,
        )
        self.next_sequence = sequence + 1
        self.header_hash = header_hash
        record = Record(
            _RECORD_KINDS[kind],
            sequence,
            sequence,
            time.time_ns(),
            fields["packets"],
            fields["captured_bytes"],
            fields["original_bytes"],
            header_hash,
        )
        return record, message

    def _clock_now(self) -> Clock:
        clock = self._clock()
        if self._steps is None:
            return Clock("file", "unknown", None, None, None)
        step_ns = self._steps.look()
        if step_ns is None:
            return clock
        return Clock(clock.source, clock.state, clock.offset_ns, clock.error_ns, step_ns)


_RECORD_KINDS = {
    Kind.PACKETS: RecordKind.PACKETS,
    Kind.FLOWS: RecordKind.PACKETS,  # to the spool a batch like others, of no packets
    Kind.TOMBSTONE: RecordKind.TOMBSTONE,
    Kind.CLOSING: RecordKind.CLOSING,
}


def _empty_fields(origin: Origin, reason: str, first_ns: int, last_ns: int) -> dict[str, Any]:
    return _fields(origin, first_ns, last_ns) | {"reason": reason.encode()[:256].decode(errors="ignore")}


def _fields(origin: Origin, first_ns: int, last_ns: int) -> dict[str, Any]:
    """Of a batch without packets."""
    return {
        "first_timestamp_ns": first_ns,
        "last_timestamp_ns": last_ns,
        "packets": 0,
        "captured_bytes": 0,
        "original_bytes": 0,
        "interface": origin.interface or "none",
        "link_type": origin.link_type,
        "snaplen": origin.snaplen,
        "filter_revision": origin.filter_revision,
    }


def seal_tombstone(run: Run, key: SigningKey, reason: str) -> tuple[bytes, bytes]:
    """The tombstone of batches that gave way in the spool, of this boot or an earlier one: (message, header hash)."""
    first: Header = open_batch(run.first_message, public=None).header
    last: Header = open_batch(run.last_message, public=None).header
    fields = {
        "kind": Kind.TOMBSTONE,
        "agent": first.agent,
        "boot": first.boot,
        "session": first.session,
        "lane": first.lane,
        "previous": first.previous if run.previous is None else run.previous,
        "previous_boot": first.previous_boot if run.replaced[0].sequence == 0 else None,
        "first_timestamp_ns": first.first_timestamp_ns,
        "last_timestamp_ns": max(first.first_timestamp_ns, last.last_timestamp_ns),
        "link_type": first.link_type,
        "interface": first.interface,
        "filter_revision": first.filter_revision,
        "snaplen": first.snaplen,
        "clock": last.clock,
        "books": last.books,
        "reason": reason,
    }
    return seal_batch(
        fields | seal_tombstone_fields(run.replaced), Body.of(encode_replaced(run.replaced)), key
    )


def behind(columns: Columns, packets: int) -> Columns:
    """The columns without their first `packets` packets."""
    skipped_bytes = sum(memoryview(columns.captured_bytes)[: 4 * packets].cast("I"))
    return Columns(
        timestamp_ns=memoryview(columns.timestamp_ns)[8 * packets :],
        captured_bytes=memoryview(columns.captured_bytes)[4 * packets :],
        original_bytes=memoryview(columns.original_bytes)[4 * packets :],
        flags=memoryview(columns.flags)[2 * packets :],
        data=memoryview(columns.data)[skipped_bytes:],
    )
