"""A store of the pool that keeps batches in memory and asks the oracle: slow, plain, and right by reading it.

What it answers, every real store must answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

from hub.observation import Observation
from hub.pool.fields import CONVERSATION_BY_ANY_NAME, PACKET_FIELDS, Type
from hub.pool.observed import ObservedBatch
from hub.pool.query import And, Cidr, Compare, Exists, In, Matches, Not, Or, Query, Range, Text
from hub.pool.store import (
    ConversationPage,
    ConversationRow,
    Histogram,
    OffsetRow,
    PacketPage,
    PacketRow,
    Put,
    Retention,
    SessionSize,
    StoreStats,
    Value,
)
from tests.support import query_oracle


class OracleStore:
    """See the module."""

    def __init__(self) -> None:
        self._batches: dict[object, ObservedBatch] = {}
        self._conversations: dict[str, ConversationRow] = {}
        self._offsets: dict[tuple[str, int], OffsetRow] = {}

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def put(self, batches: Sequence[ObservedBatch]) -> Sequence[Put]:
        puts = []
        for batch in batches:
            known = batch.name in self._batches
            self._batches.setdefault(batch.name, batch)
            puts.append(Put(0 if known else len(batch), len(batch) if known else 0))
        return puts

    def _rows(self, query: Query | None, since_ns: int, until_ns: int) -> list[PacketRow]:
        found = []
        for batch in self._batches.values():
            mask = query_oracle.fits(And(()) if query is None else query, batch)
            times = batch.corrected_ns().tolist()
            columns = {
                f.name: query_oracle.values(f.name, batch) for f in PACKET_FIELDS if f.type is not Type.BYTES
            }
            for index in mask.nonzero()[0].tolist():
                if since_ns <= times[index] < until_ns:
                    values = dict(_told(columns, index))
                    found.append(PacketRow(Observation(batch.name, index), times[index], values))
        return sorted(found, key=lambda row: (row.time_ns, str(row.observation)))

    async def packets(
        self,
        query: Query | None,
        *,
        since_ns: int,
        until_ns: int,
        limit: int = 100,
        after: str | None = None,
        newest_first: bool = False,
    ) -> PacketPage:
        rows = self._rows(query, since_ns, until_ns)
        rows = rows[::-1] if newest_first else rows
        begin = int(after or 0)
        return PacketPage(
            rows[begin : begin + limit], str(begin + limit) if begin + limit < len(rows) else None
        )

    async def count(self, query: Query | None, *, since_ns: int, until_ns: int) -> int:
        return len(self._rows(query, since_ns, until_ns))

    async def histogram(
        self, query: Query | None, *, since_ns: int, until_ns: int, buckets: int = 100
    ) -> Histogram:
        bucket_ns = max(1, -(-(until_ns - since_ns) // buckets))
        packets, sizes = [0] * buckets, [0] * buckets
        for row in self._rows(query, since_ns, until_ns):
            at = (row.time_ns - since_ns) // bucket_ns
            packets[at] += 1
            sizes[at] += int(row.values["network.bytes"])
        return Histogram(since_ns, bucket_ns, packets, sizes)

    async def put_conversations(self, rows: Sequence[ConversationRow]) -> None:
        for row in rows:
            if row.id not in self._conversations or row.revision >= self._conversations[row.id].revision:
                self._conversations[row.id] = row

    async def conversations(
        self,
        query: Query | None,
        *,
        since_ns: int,
        until_ns: int,
        limit: int = 100,
        after: str | None = None,
    ) -> ConversationPage:
        rows = [
            row
            for row in self._conversations.values()
            if row.first_ns < until_ns and row.last_ns >= since_ns and _fits(query or And(()), row)
        ]
        rows.sort(key=lambda row: (-row.first_ns, row.id))
        begin = int(after or 0)
        return ConversationPage(
            rows[begin : begin + limit], str(begin + limit) if begin + limit < len(rows) else None
        )

    async def conversation(self, id: str) -> ConversationRow | None:
        return self._conversations.get(id)

    async def put_offsets(self, rows: Sequence[OffsetRow]) -> None:
        self._offsets |= {(row.agent, row.at_ns): row for row in rows}

    async def offsets(
        self, *, since_ns: int, until_ns: int, agents: Sequence[str] | None = None, limit: int = 100_000
    ) -> Sequence[OffsetRow]:
        rows = [
            r
            for r in self._offsets.values()
            if since_ns <= r.at_ns < until_ns and (agents is None or r.agent in agents)
        ]
        return sorted(rows, key=lambda row: row.at_ns)[:limit]

    async def sessions(self) -> Sequence[SessionSize]:
        raise NotImplementedError

    async def delete_session(self, session: str) -> int:
        raise NotImplementedError

    async def retain(self, retention: Retention) -> int:
        raise NotImplementedError

    async def stats(self) -> StoreStats:
        rows = self._rows(None, 0, 2**63)
        oldest, newest = (rows[0].time_ns, rows[-1].time_ns) if rows else (None, None)
        return StoreStats("oracle", True, "", len(rows), len(self._conversations), 0, oldest, newest)


def _told(columns: dict[str, list[Any]], index: int) -> Iterator[tuple[str, Value]]:
    types = {field.name: field.type for field in PACKET_FIELDS}
    for name, values in columns.items():
        value = values[index]
        if value is None:
            continue
        if types[name] is Type.IP:
            address = ipaddress.IPv6Address(value)
            value = str(address.ipv4_mapped or address)
        elif types[name] is Type.MAC:
            value = value.to_bytes(6, "big").hex(":")
        elif types[name] is Type.HASH:
            value = f"{value:016x}"
        yield name, value


def _fits(query: Query, row: ConversationRow) -> bool:
    match query:
        case And(parts=parts):
            return all(_fits(one, row) for one in parts)
        case Or(parts=parts):
            return any(_fits(one, row) for one in parts)
        case Not(part=part):
            return not _fits(part, row)
        case Text(word=word):
            names = {field.name for field in CONVERSATION_BY_ANY_NAME.values() if field.text}
            return any(word.lower() in str(value).lower() for name in names for value in _values(name, row))
        case Exists(field=field):
            return bool(_values(field, row))
        case Compare() | In() | Range() | Cidr() | Matches():
            return any(map(query_oracle.test_of(query), _values(query.field, row)))


def _values(name: str, row: ConversationRow) -> list[Any]:
    field = CONVERSATION_BY_ANY_NAME[name]
    value = getattr(row, field.attribute)
    values = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if field.type is Type.IP:
        return [query_oracle.comparable(ipaddress.ip_address(one)) for one in values]
    return values
