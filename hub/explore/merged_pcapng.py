"""The packets of a result, of all agents, as one pcapng: in the order of the pool's clock, out of the archive.

The store says which packets; their bytes come from the signed batches, one request to the archive per batch, and the
batches of the last moments stay in memory, since agents' batches overlap in time. One interface per agent, interface
and link type. Times are by the pool's clock (corrected) or as the agents stamped them (raw); the file's comment says
which, and what could not be found.
"""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import nats.errors
import numpy as np
from numpy.typing import NDArray

from hub.archive.finding import find_batch, find_by_marks
from hub.archive.reading import ArchiveError
from hub.bus import Bus
from hub.explore.question import Question
from hub.explore.tables import pages
from hub.observation import BatchName
from hub.pool.query.operands import time_text
from hub.pool.query.text import to_text
from hub.pool.query.vocabulary import What
from hub.pool.store import PacketRow, Store
from hub.registry import Registry
from wire import pcapng
from wire.batch import Header, Kind, decode_columns
from wire.body import Columns
from wire.errors import WireError

MAX_PACKETS = 1_000_000
CHUNK_BYTES = 1 << 20
MAX_HELD_BYTES = 64 << 20
"""Of batches in memory."""
MAX_INTERFACES = 10_000
BEFORE_NS = 1_000_000
"""The time a batch was stored is known to less than this."""
NEAR = 16
"""Batches that are looked at from there on; then the ledger's marks are asked."""
READ_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Merged:
    """Filled while the file is made."""

    packets: int = 0
    gone: int = 0
    """In the pool, and no longer in the archive."""
    complete: bool = True
    """False: there were more than MAX_PACKETS."""


@dataclass(frozen=True, slots=True)
class _Batch:
    header: Header
    columns: Columns
    begins: NDArray[np.int64]
    """Of each packet in `data`, and behind the last."""
    captured: NDArray[np.uint32]
    original: NDArray[np.uint32]
    flags: NDArray[np.uint16]


@dataclass(slots=True)
class _Interfaces:
    numbers: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def number(self, header: Header, hostname: str) -> tuple[int, bytes]:
        """(its number, its block when it is new)."""
        key = (header.agent, header.interface, header.link_type)
        known = self.numbers.get(key)
        if known is not None:
            return known, b""
        if len(self.numbers) >= MAX_INTERFACES:
            raise WireError(f"more than {MAX_INTERFACES} interfaces in one file")
        number = self.numbers[key] = len(self.numbers)
        where = f" ({hostname})" if hostname and hostname != header.agent else ""
        return number, pcapng.interface_block(
            name=f"{header.agent}/{header.interface}",
            description=f"agent {header.agent}{where}, interface {header.interface}",
            link_type=header.link_type,
            snaplen=0,
        )


class MergedPcapng:
    """One file."""

    def __init__(self, store: Store, registry: Registry, bus: Bus, question: Question, *, raw: bool) -> None:
        """raw: times as the agents stamped them."""
        self._store = store
        self._registry = registry
        self._bus = bus
        self._question = question
        self._raw = raw
        self._held: OrderedDict[BatchName, _Batch | None] = OrderedDict()
        self._held_bytes = 0
        self._keys: dict[str, list[bytes]] = {}
        self._interfaces = _Interfaces()
        self.merged = Merged()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The file. ArchiveError when the archive doesn't answer; errors as of hub.pool.store.Store.packets."""
        buffer = bytearray(pcapng.section_header(comment=self._comment()))
        async for page in pages(self._store, self._question, MAX_PACKETS):
            packets = [row for row in page.rows if isinstance(row, PacketRow)]
            for name, group in groupby(packets, key=lambda row: row.observation.batch):
                together = list(group)
                batch = await self._batch(name, together[0])
                if batch is None:
                    self.merged.gone += len(together)
                    continue
                buffer += self._blocks(batch, together)
                if len(buffer) >= CHUNK_BYTES:
                    yield bytes(buffer)
                    buffer.clear()
            self.merged.complete = page.last
        yield bytes(buffer) + self._end()

    def _comment(self) -> str:
        asked = self._question
        times = (
            "times as each agent's clock gave them; packets stand in the order of the pool's clock"
            if self._raw
            else "times by the pool's clock, as far as it was known when the packets were pooled"
        )
        span = f"{time_text(asked.since_ns)} to {time_text(asked.until_ns)}"
        return f"wirepool: {to_text(asked.usable)}\n{span}\n{times}"

    def _end(self) -> bytes:
        """A statistics block with what is to be known of the whole, since it is known only now."""
        words = []
        if self.merged.gone:
            words.append(
                f"{self.merged.gone} packets of the result are no longer in the archive and not here"
            )
        if not self.merged.complete:
            words.append(f"only the first {MAX_PACKETS} packets of the result are here")
        if not words:
            return b""
        block = (
            b"" if self._interfaces.numbers else pcapng.interface_block(name="none", link_type=1, snaplen=0)
        )
        return block + pcapng.statistics_block(0, self._question.until_ns, comment="\n".join(words))

    async def _batch(self, name: BatchName, row: PacketRow) -> _Batch | None:
        if name in self._held:
            self._held.move_to_end(name)
            return self._held[name]
        batch = await self._read(name, row)
        self._held[name] = batch
        self._held_bytes += _size(batch)
        while self._held_bytes > MAX_HELD_BYTES and len(self._held) > 1:
            _, old = self._held.popitem(last=False)
            self._held_bytes -= _size(old)
        return batch

    async def _read(self, name: BatchName, row: PacketRow) -> _Batch | None:
        keys = self._keys.get(name.agent)
        if keys is None:
            keys = [key.signing_public for key in self._registry.agents.keys(name.agent)]
            self._keys[name.agent] = keys
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                stored = row.values.get("event.ingested")
                since_ns = (stored if isinstance(stored, int) else row.time_ns) - BEFORE_NS
                batch = await find_batch(self._bus, name, since_ns, keys, most=NEAR)
                batch = batch or await find_by_marks(self._registry, self._bus, name, keys)
                if batch is not None and batch.header.kind is Kind.PACKETS:
                    return await asyncio.to_thread(_decoded, batch.header, decode_columns(batch))
        except (TimeoutError, nats.errors.Error) as error:
            raise ArchiveError("the archive doesn't answer; the file is incomplete") from error
        except WireError:
            return None
        return None

    def _blocks(self, batch: _Batch, rows: Sequence[PacketRow]) -> bytes:
        hostname = rows[0].values.get("agent_hostname", "")
        number, block = self._interfaces.number(batch.header, str(hostname))
        there = [row for row in rows if row.observation.index < len(batch.captured)]
        self.merged.gone += len(rows) - len(there)
        self.merged.packets += len(there)
        index = np.array([row.observation.index for row in there], np.int64)
        raw = np.frombuffer(batch.columns.timestamp_ns, "<u8")
        times = raw[index] if self._raw else np.array([max(0, row.time_ns) for row in there], "<u8")
        data = memoryview(batch.columns.data)
        begins = batch.begins
        columns = Columns(
            times.tobytes(),
            batch.captured[index].tobytes(),
            batch.original[index].tobytes(),
            batch.flags[index].tobytes(),
            b"".join(data[begins[at] : begins[at + 1]] for at in index.tolist()),
        )
        return block + pcapng.packet_blocks(number, columns)


def _size(batch: _Batch | None) -> int:
    return struct.calcsize("Q") if batch is None else len(batch.columns.data) + 18 * len(batch.captured)


def _decoded(header: Header, columns: Columns) -> _Batch:
    captured = np.frombuffer(columns.captured_bytes, "<u4")
    begins = np.concatenate((np.zeros(1, np.int64), np.cumsum(captured, dtype=np.int64)))
    return _Batch(
        header,
        columns,
        begins,
        captured,
        np.frombuffer(columns.original_bytes, "<u4"),
        np.frombuffer(columns.flags, "<u2"),
    )


def packets_of(question: Question) -> Question:
    """The file holds packets; WireError for a question of conversations."""
    if question.what is not What.PACKETS:
        raise WireError("a capture file holds packets: look for packets, not for conversations")
    return question
