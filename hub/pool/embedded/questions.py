"""Questions to the observations: SQL of conditions that are compiled already, rows back as plain values.

Each asks on a cursor of its own, beside the writer (DuckDB shows it the state of its last commit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from hub.observation import BatchName, Observation
from hub.pool.embedded.asked import ASKED, Asked
from hub.pool.embedded.compile import Condition
from hub.pool.embedded.packets import address_text, errors
from hub.pool.fields import Type
from hub.pool.store import Histogram, PacketPage, PacketRow, SessionSize, StoreRefused, Value
from wire.names import Lane

Cursor = duckdb.DuckDBPyConnection

_JOINS = {
    "s.": "JOIN sources s ON s.id = p.source",
    "b.": "JOIN batches b ON b.id = p.batch",
    "t.": "LEFT JOIN (SELECT * FROM spoken WHERE time_ns >= {since} AND time_ns < {until}) t "
    "ON t.batch = p.batch AND t.idx = p.idx",
}
_ORDER = "time_ns {way}, batch {way}, idx {way}"
_SHOWN = tuple(ASKED)


def packets(
    cursor: Cursor,
    condition: Condition,
    *,
    since_ns: int,
    until_ns: int,
    limit: int,
    after: str | None,
    newest_first: bool,
) -> PacketPage:
    """A page of what fits."""
    way, sign = ("DESC", "<") if newest_first else ("ASC", ">")
    beyond, place = "", []
    if after is not None:
        place = _place(after)
        beyond = f"AND (p.time_ns, p.batch, p.idx) {sign} (?, ?, ?)"
    order = _ORDER.format(way=way)
    found = _from(condition, since_ns, until_ns)
    sql = f"""
        WITH page AS (
            SELECT p.* {found.sql} {beyond}
            ORDER BY {", ".join(f"p.{part}" for part in order.split(", "))} LIMIT {limit + 1})
        SELECT p.time_ns, p.batch, p.idx, {", ".join(_shown(name) for name in _SHOWN)}
        FROM page p {_JOINS["s."]} {_JOINS["b."]}
        LEFT JOIN spoken t ON t.batch = p.batch AND t.idx = p.idx
        LEFT JOIN payloads y ON y.batch = p.batch AND y.idx = p.idx
        ORDER BY {", ".join(f"p.{part}" for part in order.split(", "))}"""
    with errors():
        rows = cursor.execute(sql, [*found.values, *place]).fetchall()
        ids = _community_ids(cursor, {row[3 + _FLOW] for row in rows})
    shown = [_row(row, ids) for row in rows[:limit]]
    more = len(rows) > limit
    return PacketPage(shown, "-".join(map(str, rows[limit - 1][:3])) if more else None)


def count(cursor: Cursor, condition: Condition, *, since_ns: int, until_ns: int) -> int:
    """How many fit."""
    found = _from(condition, since_ns, until_ns)
    with errors():
        return int(cursor.execute(f"SELECT count(*) {found.sql}", found.values).fetchall()[0][0])


def histogram(
    cursor: Cursor, condition: Condition, *, since_ns: int, until_ns: int, buckets: int
) -> Histogram:
    """Counts over time, by agent."""
    bucket_ns = max(1, -(-(until_ns - since_ns) // buckets))
    buckets = -(-(until_ns - since_ns) // bucket_ns)
    found = _from(condition, since_ns, until_ns)
    sql = f"""
        SELECT s.agent, bucket, sum(packets), sum(bytes) FROM (
            SELECT p.source, (p.time_ns - {since_ns}) // {bucket_ns} AS bucket, count(*) AS packets,
                   sum(p.original_bytes) AS bytes {found.sql} GROUP BY ALL) p
        {_JOINS["s."]} GROUP BY ALL"""
    packets_, bytes_ = [0] * buckets, [0] * buckets
    agents: dict[str, list[int]] = {}
    with errors():
        rows = cursor.execute(sql, found.values).fetchall()
    for agent, bucket, some, size in rows:
        packets_[bucket] += int(some)
        bytes_[bucket] += int(size)
        agents.setdefault(agent, [0] * buckets)[bucket] += int(some)
    return Histogram(since_ns, bucket_ns, packets_, bytes_, dict(sorted(agents.items())))


def sessions(cursor: Cursor, store_bytes: int) -> list[SessionSize]:
    """What is held of each; bytes are its share of the store's."""
    with errors():
        rows = cursor.execute(
            """SELECT s.session, sum(p.packets), min(p.first_ns), max(p.last_ns) FROM (
                   SELECT source, count(*) AS packets, min(time_ns) AS first_ns, max(time_ns) AS last_ns
                   FROM packets GROUP BY source) p
               JOIN sources s ON s.id = p.source GROUP BY ALL ORDER BY ALL"""
        ).fetchall()
    total = sum(int(row[1]) for row in rows)
    return [
        SessionSize(session, int(some), store_bytes * int(some) // total, first_ns, last_ns)
        for session, some, first_ns, last_ns in rows
    ]


def totals(cursor: Cursor) -> tuple[int, int | None, int | None]:
    """(packets, oldest, newest)."""
    with errors():
        return cursor.execute("SELECT count(*), min(time_ns), max(time_ns) FROM packets").fetchall()[0]


def _from(condition: Condition, since_ns: int, until_ns: int) -> Condition:
    joins = " ".join(
        join.format(since=since_ns, until=until_ns)
        for table, join in _JOINS.items()
        if table in condition.sql
    )
    return Condition(
        f"FROM packets p {joins} WHERE p.time_ns >= {since_ns} AND p.time_ns < {until_ns} AND {condition.sql}",
        condition.values,
    )


def _place(after: str) -> list[int]:
    parts = after.split("-")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 19 for part in parts):
        raise StoreRefused("not a place to go on from")
    return [int(part) for part in parts]


def _shown(name: str) -> str:
    asked = ASKED[name]
    value = f"({asked.value}::UHUGEINT << 64 | {asked.low})" if asked.low else asked.value
    return f"CASE WHEN {asked.present} THEN {value} END" if asked.present else value


_FLOW = _SHOWN.index("network.community_id")


def _community_ids(cursor: Cursor, flows: set[int | None]) -> dict[int, str]:
    some = ", ".join(str(flow) for flow in flows if flow is not None)
    if not some:
        return {}
    rows = cursor.execute(f"SELECT DISTINCT flow_hash, community_id FROM flows WHERE flow_hash IN ({some})")
    return dict(rows.fetchall())


def _row(row: Sequence[Any], community_ids: Mapping[int, str]) -> PacketRow:
    found: dict[str, Value] = {}
    for name, value in zip(_SHOWN, row[3:], strict=True):
        if value is not None:
            found[name] = _value(ASKED[name], value)
    flow = row[3 + _FLOW]
    if flow is not None:
        found["network.community_id"] = community_ids.get(flow, "")
    batch = BatchName(
        str(found["agent_id"]),
        bytes.fromhex(str(found["wirepool.boot"])),
        str(found["wirepool.session"]),
        Lane(str(found["wirepool.lane"])),
        int(found["event.sequence"]),
    )
    return PacketRow(Observation(batch, row[2]), row[0], found)


def _value(asked: Asked, value: Any) -> Value:
    match asked.type:
        case Type.IP:
            return address_text(value >> 64, value & (2**64 - 1)) or "::"
        case Type.MAC:
            return ":".join(f"{octet:02x}" for octet in int(value).to_bytes(6, "big"))
        case Type.HASH:
            return f"{value:016x}"
    if asked.words is not None:
        return _WORDS[id(asked)].get(value, str(value))
    return value  # type: ignore[no-any-return]


_WORDS = {
    id(asked): {number: word for word, number in asked.words.items()}
    for asked in ASKED.values()
    if asked.words is not None
}
