"""The JSON form of the page Explore: check and complete a query, rows, the timeline, conversations, clocks.

Addresses take the page's parameters. Times are ns since 1970 as strings; every error is `{"error": …}` as everywhere.
"""

from __future__ import annotations

import time
from typing import Any

from litestar import Request, get
from litestar.params import FromPath

from hub.explore.clocks import offset_map
from hub.explore.conversation import conversation_view, view_map
from hub.explore.question import Question
from hub.explore.tables import row_map
from hub.pool.query import QueryError
from hub.pool.query.complete import complete
from hub.pool.query.parse import parse
from hub.pool.query.text import to_text
from hub.pool.query.tokens import MAX_LENGTH
from hub.pool.query.vocabulary import What
from hub.registry import UnknownError
from hub.web.routes.explore import MAX_CURSOR, asked, pool_of, timeline_of
from hub.web.running import Hub, hub_of
from wire.errors import WireError

AnyRequest = Request[Any, Any, Any]

DEFAULT_ROWS = 100
MAX_ROWS = 1_000
MAX_VALUES = 200
"""Of one field, offered while a query is written."""


def known_values(hub: Hub) -> dict[str, list[str]]:
    """Values of fields that the registry knows, by the fields' names."""
    agents: list[str] = []
    hosts: list[str] = []
    interfaces: set[str] = set()
    for status in hub.presence.all()[:MAX_VALUES]:
        agents.append(status.id)
        if status.report is not None:
            hosts.append(status.report.hostname)
            interfaces.update(interface.name for interface in status.report.interfaces)
    sessions = [record.id for record in hub.registry.sessions.all(active_only=False, limit=MAX_VALUES)]
    return {
        "agent_id": agents,
        "agent_hostname": sorted(filter(None, hosts)),
        "observer.ingress.interface.name": sorted(interfaces)[:MAX_VALUES],
        "wirepool.session": sessions,
    }


@get("/api/explore/query")
async def query_json(request: AnyRequest) -> dict[str, Any]:
    """?q=&at=&what= → {query, error: {message, start, end} | null, suggestions}: always an answer, also for a wrong
    query. Places count characters (code points)."""
    text = request.query_params.get("q", "")[: MAX_LENGTH + 1]
    at_text = request.query_params.get("at", "")
    at = int(at_text) if at_text.isascii() and at_text.isdigit() and len(at_text) < 7 else len(text)
    what = What.CONVERSATIONS if request.query_params.get("what") == What.CONVERSATIONS else What.PACKETS
    found = complete(text, min(at, len(text)), what, known_values(hub_of(request)))
    suggestions = [
        {"text": one.text, "start": one.start, "end": one.end, "kind": one.kind, "meaning": one.meaning}
        for one in found
    ]
    try:
        query = parse(text, what)
    except QueryError as error:
        wrong = {"message": str(error), "start": error.position, "end": error.end}
        return {"query": None, "error": wrong, "suggestions": suggestions}
    return {"query": to_text(query, what), "error": None, "suggestions": suggestions}


def _question(request: AnyRequest) -> Question:
    """As the page's, but what is wrong is an error."""
    question = asked(request)
    if question.error is not None:
        raise question.error
    if question.time_error:
        raise WireError(question.time_error)
    return question


def _limit(request: AnyRequest) -> int:
    text = request.query_params.get("limit", str(DEFAULT_ROWS))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_ROWS):
        raise WireError(f"limit: a whole number from 1 to {MAX_ROWS}")
    return int(text)


def _after(request: AnyRequest) -> str | None:
    return request.query_params.get("after", "")[:MAX_CURSOR] or None


@get("/api/explore/packets")
async def packets_json(request: AnyRequest) -> dict[str, Any]:
    """{asked, packets, after}: packets in order of time; `after` goes into the next request, null: that was all."""
    question = _question(request)
    page = await pool_of(hub_of(request)).packets(
        question.usable,
        since_ns=question.since_ns,
        until_ns=question.until_ns,
        limit=_limit(request),
        after=_after(request),
        newest_first=question.newest_first,
    )
    rows = [row_map(row) for row in page.rows]
    return {"asked": question.parameters(absolute=True), "packets": rows, "after": page.after}


@get("/api/explore/conversations")
async def conversations_json(request: AnyRequest) -> dict[str, Any]:
    """{asked, conversations, after}, the newest first."""
    values = {**request.query_params, "what": str(What.CONVERSATIONS)}
    question = Question.read(values, time.time_ns())
    if question.error is not None:
        raise question.error
    page = await pool_of(hub_of(request)).conversations(
        question.usable,
        since_ns=question.since_ns,
        until_ns=question.until_ns,
        limit=_limit(request),
        after=_after(request),
    )
    rows = [row_map(row) for row in page.rows]
    return {"asked": question.parameters(absolute=True), "conversations": rows, "after": page.after}


@get("/api/explore/conversations/{id:str}")
async def conversation_json(request: AnyRequest, id: FromPath[str]) -> dict[str, Any]:
    """{conversation, lanes, segments}."""
    store = pool_of(hub_of(request))
    row = await store.conversation(id[:64])
    if row is None:
        raise UnknownError("no such conversation")
    return {"conversation": row_map(row), **view_map(await conversation_view(store, row))}


@get("/api/explore/timeline")
async def timeline_json(request: AnyRequest) -> dict[str, Any]:
    """{asked, bars, losses}."""
    question = _question(request)
    drawn, _ = await timeline_of(hub_of(request), question)
    bars = [
        {
            "since_ns": str(bar.since_ns),
            "until_ns": str(bar.until_ns),
            "packets": bar.packets,
            "bytes": bar.bytes,
        }
        for bar in drawn.bars
    ]
    losses = [
        {
            "since_ns": str(mark.since_ns),
            "until_ns": str(mark.until_ns),
            "kind": mark.kind,
            "text": mark.text,
        }
        for mark in drawn.marks
    ]
    return {"asked": question.parameters(absolute=True), "bars": bars, "losses": losses}


@get("/api/clocks")
async def clocks_json(request: AnyRequest) -> dict[str, Any]:
    """{asked, offsets}: what was known of the agents' clocks, in order of time."""
    question = _question(request)
    rows = await pool_of(hub_of(request)).offsets(since_ns=question.since_ns, until_ns=question.until_ns)
    return {"asked": question.parameters(absolute=True), "offsets": [offset_map(row) for row in rows]}


handlers = [
    query_json,
    packets_json,
    conversations_json,
    conversation_json,
    timeline_json,
    clocks_json,
]
