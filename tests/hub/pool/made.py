"""Observed batches for the pool's tests: sealed, opened and decoded as in the hub."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hub.pool.observed import AgentNames, ClockOffset, ObservedBatch, Pooling
from wire.batch import (
    NO_HASH,
    Body,
    Books,
    Clock,
    Columns,
    Kind,
    Lane,
    encode_body,
    open_batch,
    seal_batch,
    sums_of,
)
from wire.keys import SigningKey

START_NS = 1_790_000_000_000_000_000
KEY = SigningKey.from_seed(bytes(range(32)))


@dataclass
class Made:
    """One lane of one session: batches in order."""

    agent: str = "web1"
    session: str = "s" * 26
    boot: bytes = bytes(15) + b"\1"
    lane: Lane = Lane.BULK
    interface: str = "eth0"
    sequence: int = 0
    level: Pooling = Pooling.HEADERS
    names: AgentNames = field(default_factory=lambda: AgentNames("web1.test", "192.0.2.1"))
    clock: ClockOffset | None = None

    def columns(
        self, columns: Columns, *, link_type: int = 1, sequence: int | None = None, **options: Any
    ) -> ObservedBatch:
        """Columns as the next batch (or the one of this number)."""
        number = self.sequence if sequence is None else sequence
        self.sequence = max(self.sequence, number + 1)
        sums = sums_of(columns)
        header = {
            "kind": Kind.PACKETS,
            "agent": self.agent,
            "session": self.session,
            "lane": self.lane,
            "boot": self.boot,
            "sequence": number,
            "previous": NO_HASH,
            "first_timestamp_ns": sums.first_timestamp_ns,
            "last_timestamp_ns": sums.last_timestamp_ns,
            "packets": sums.packets,
            "captured_bytes": sums.captured_bytes,
            "original_bytes": sums.original_bytes,
            "link_type": link_type,
            "interface": self.interface,
            "filter_revision": 1,
            "snaplen": 262144,
            "clock": Clock("chrony", "synchronized", 0, 1000, None),
            "books": Books(),
        }
        message, _ = seal_batch(header, Body.of(encode_body(columns)), KEY)
        opened = open_batch(message, public=KEY.public)
        options = (
            dict[str, Any](
                {
                    "stored_ns": START_NS,
                    "level": self.level,
                    "names": self.names,
                    "clock": self.clock,
                }
            )
            | options
        )
        return ObservedBatch.of(opened, **options)

    def frames(
        self,
        frames: Sequence[bytes],
        *,
        first_ns: int = START_NS,
        step_ns: int = 1_000,
        flags: int = 0,
        **more: Any,
    ) -> ObservedBatch:
        """Frames, `step_ns` apart."""
        count = len(frames)
        sizes = struct.pack(f"<{count}I", *map(len, frames))
        times = struct.pack(f"<{count}Q", *(first_ns + i * step_ns for i in range(count)))
        columns = Columns(times, sizes, sizes, struct.pack("<H", flags) * count, b"".join(frames))
        return self.columns(columns, **more)
