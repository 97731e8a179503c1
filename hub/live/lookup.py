"""One packet by its name: out of what was just watched, else out of the archive."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import nats.errors
import numpy as np

from hub.archive.finding import MAX_READ, find_batch, find_by_marks, opened
from hub.archive.reading import ArchiveError
from hub.bus import Bus
from hub.live.recent import RecentBatches
from hub.observation import BatchName, Observation
from hub.registry import Registry, UnknownError
from wire.batch import Header, Kind, OpenBatch, decode_columns

BEFORE_NS = 250_000_000
"""The archive is read from this long before the hub heard of the batch; then where the ledger's marks say."""
NEAR = 128
"""Batches that are looked at from there on."""
READ_TIMEOUT_S = 5.0
MAX_READERS = 4
"""Requests that read the archive at once; the others wait within their READ_TIMEOUT_S."""


class PacketGone(Exception):
    """Neither recent nor found in the archive; the text says so to a person."""


@dataclass(frozen=True, slots=True)
class FoundPacket:
    """A packet with all that was captured of it."""

    header: Header
    """Of its batch, verified."""
    index: int
    time_ns: int
    original_bytes: int
    flags: int
    data: bytes


class PacketLookup:
    """Finds packets; a request costs at most one batch in memory, or MAX_READ_BYTES of reading the archive."""

    def __init__(self, registry: Registry, bus: Bus, recent: RecentBatches) -> None:
        self._registry = registry
        self._bus = bus
        self._recent = recent
        self._readers = asyncio.Semaphore(MAX_READERS)

    async def find(self, observation: Observation, heard_ns: int) -> FoundPacket:
        """heard_ns: when the hub heard of the batch (0: unknown), as the row says.

        UnknownError: no such session, or another agent's. PacketGone. ArchiveError: the server doesn't answer.
        """
        name = observation.batch
        record = self._registry.sessions.require(name.session)
        if record.agent != name.agent:
            raise UnknownError(f"session {name.session} isn't one of {name.agent}")
        keys = [key.signing_public for key in self._registry.agents.keys(name.agent)]
        message = self._recent.get(name)
        batch = opened(message, keys) if message is not None else await self._archived(name, heard_ns, keys)
        if batch is None:
            raise PacketGone(
                "The hub no longer holds this packet in memory, and it isn't where the archive should have it: "
                "it was removed to make room, or it has not been stored yet."
            )
        return await asyncio.to_thread(_packet, batch, observation.index)

    async def _archived(self, name: BatchName, heard_ns: int, keys: list[bytes]) -> OpenBatch | None:
        """Read the archive where the batch may be; None: it isn't there."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S), self._readers:
                most = NEAR if heard_ns else MAX_READ
                batch = await find_batch(self._bus, name, heard_ns - BEFORE_NS, keys, most=most)
                return batch or await find_by_marks(self._registry, self._bus, name, keys)
        except (TimeoutError, nats.errors.Error) as error:
            raise ArchiveError("the archive doesn't answer in time") from error
        return None


def _packet(batch: OpenBatch, index: int) -> FoundPacket:
    """The packet at `index`; PacketGone when the batch has none there."""
    if batch.header.kind is not Kind.PACKETS or index >= batch.header.packets:
        raise PacketGone(f"The batch holds {batch.header.packets} packets; there is none of that number.")
    columns = decode_columns(batch)
    captured = np.frombuffer(columns.captured_bytes, "<u4")
    start = int(captured[:index].sum(dtype=np.int64))
    size = int(captured[index])
    return FoundPacket(
        batch.header,
        index,
        int(np.frombuffer(columns.timestamp_ns, "<u8")[index]),
        int(np.frombuffer(columns.original_bytes, "<u4")[index]),
        int(np.frombuffer(columns.flags, "<u2")[index]),
        bytes(memoryview(columns.data)[start : start + size]),
    )
