"""A result as a table to download: CSV (RFC 4180) or JSON, page after page out of the store, bounded.

A spreadsheet takes a cell that begins with = + - @ for a formula, and what hosts say must not compute in it: such text
gets a ' before it. Numbers stay numbers.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from hub.explore.question import Question
from hub.pool.fields import CONVERSATION_FIELDS, PACKET_FIELDS, Type
from hub.pool.query.vocabulary import What
from hub.pool.store import ConversationRow, PacketRow, Store

MAX_ROWS = 1_000_000
PAGE_ROWS = 5_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that Excel and its kin take for a formula (OWASP, CSV Injection)."""
_PACKET_COLUMNS = tuple(field.name for field in PACKET_FIELDS if field.type is not Type.BYTES)
_HEAD = ("observation", "time_utc")
_TEXT = "; "
"""Between several values in one cell."""


def cell(text: str) -> str:
    """The text, as text also for a spreadsheet."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def time_text(time_ns: int) -> str:
    """ISO 8601 in UTC with nanoseconds."""
    seconds, ns = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a result."""

    rows: Sequence[PacketRow] | Sequence[ConversationRow]
    last: bool
    """No more follow in the store."""


async def pages(store: Store, question: Question, most: int = MAX_ROWS) -> AsyncGenerator[Page, None]:
    """The result in the order asked for, at most `most` rows. Errors as of Store.packets."""
    after, left = None, most
    while left > 0:
        rows, after = await _page(store, question, min(PAGE_ROWS, left), after)
        left -= len(rows)
        yield Page(rows, after is None)
        if after is None:
            return


async def _page(
    store: Store, question: Question, limit: int, after: str | None
) -> tuple[Sequence[PacketRow] | Sequence[ConversationRow], str | None]:
    since_ns, until_ns = question.since_ns, question.until_ns
    if question.what is What.CONVERSATIONS:
        some = await store.conversations(
            question.usable, since_ns=since_ns, until_ns=until_ns, limit=limit, after=after
        )
        return some.rows, some.after
    page = await store.packets(
        question.usable,
        since_ns=since_ns,
        until_ns=until_ns,
        limit=limit,
        after=after,
        newest_first=question.newest_first,
    )
    return page.rows, page.after


async def as_csv(store: Store, question: Question, most: int = MAX_ROWS) -> AsyncGenerator[bytes, None]:
    """A line per row. Where rows had to be left out, the last line says so."""
    columns = _columns(question.what)
    yield _lines([columns])
    complete = True
    async for page in pages(store, question, most):
        complete = page.last
        yield await asyncio.to_thread(_csv_of, page.rows)
    if not complete:
        yield _lines([[f"CUT: only the first {most} rows are here; ask for a shorter time"]])


def _columns(what: What) -> Sequence[str]:
    if what is What.PACKETS:
        return (*_HEAD, *_PACKET_COLUMNS)
    return ("id", "first_utc", "last_utc", *(field.name for field in CONVERSATION_FIELDS))


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def _csv_of(rows: Sequence[PacketRow] | Sequence[ConversationRow]) -> bytes:
    return _lines(
        _packet_cells(row) if isinstance(row, PacketRow) else _conversation_cells(row) for row in rows
    )


def _packet_cells(row: PacketRow) -> list[object]:
    values = (row.values.get(name) for name in _PACKET_COLUMNS)
    return [str(row.observation), time_text(row.time_ns), *map(_cell, values)]


def _conversation_cells(row: ConversationRow) -> list[object]:
    values = (getattr(row, field.attribute) for field in CONVERSATION_FIELDS)
    return [cell(row.id), time_text(row.first_ns), time_text(row.last_ns), *map(_cell, values)]


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return cell(value)
    return cell(_TEXT.join(map(str, value)))  # type: ignore[call-overload]  # a field with several values


async def as_json(store: Store, question: Question, most: int = MAX_ROWS) -> AsyncGenerator[bytes, None]:
    """One object: what was asked, `rows`, and last `complete`: false where rows had to be left out."""
    asked = orjson.dumps(question.parameters(absolute=True))
    yield b'{"asked":' + asked + b',"rows":['
    between, complete = b"", True
    async for page in pages(store, question, most):
        complete = page.last
        if page.rows:
            yield between + await asyncio.to_thread(_json_of, page.rows)
            between = b","
    yield b'],"complete":' + (b"true" if complete else b"false") + b"}\n"


def _json_of(rows: Sequence[PacketRow] | Sequence[ConversationRow]) -> bytes:
    return b",\n".join(orjson.dumps(row_map(row)) for row in rows)


def row_map(row: PacketRow | ConversationRow) -> dict[str, object]:
    """A row as in JSON: fields by their names; times are ns as strings, since JavaScript's numbers can't hold them."""
    if isinstance(row, PacketRow):
        values = {
            name: _json_value(name, value)
            for name, value in row.values.items()
            if not isinstance(value, bytes)
        }
        return {"observation": str(row.observation), "time_ns": str(row.time_ns), **values}
    found: dict[str, object] = {
        "id": row.id,
        "first_ns": str(row.first_ns),
        "last_ns": str(row.last_ns),
        "observations": row.observations,
    }
    for field in CONVERSATION_FIELDS:
        value = getattr(row, field.attribute)
        if value is not None:
            found[field.name] = _json_value(field.name, value)
    return found


_TIMES = frozenset(field.name for field in (*PACKET_FIELDS, *CONVERSATION_FIELDS) if field.type is Type.TIME)


def _json_value(name: str, value: object) -> object:
    if name in _TIMES:
        return str(value)
    return list(value) if isinstance(value, list | tuple) else value
