"""Packets as they come, for programs: server-sent events of JSON."""

import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import orjson
from litestar import Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter
from litestar.types import ASGIApp

from hub.decode.summary import Row
from hub.http.streaming import event, event_stream
from hub.registry import UnknownError, WebSession
from hub.web.guard import web_session
from hub.web.routes.api.described import problems
from hub.web.routes.live import MAX_SESSIONS, counters, session_ids
from hub.web.running import Hub, hub_of

AnyRequest = Request[Any, Any, Any]

COUNTERS_INTERVAL_S = 1.0
STREAM = ResponseSpec(
    str,
    generate_examples=False,
    media_type="text/event-stream",
    description="Events `packets`: {packets, not_shown}; `counters`: sums over the sessions; `ended`.",
)


def packet_json(row: Row) -> dict[str, object]:
    """A row's members; `observation` and `heard_ns` are what /api/packet takes."""
    return {
        "time_ns": str(row.time_ns),
        "agent": row.agent,
        "session": row.session,
        "interface": row.interface,
        "source": row.source,
        "destination": row.destination,
        "protocol": row.protocol,
        "length": row.length,
        "info": row.info,
        "flags": row.flags,
        "observation": row.observation,
        "heard_ns": str(row.heard_ns),
    }


@get("/api/live", tags=["Sessions"], responses={200: STREAM} | problems(404))
async def watch(
    request: AnyRequest,
    session: Annotated[
        list[str], QueryParameter(description="Ids of the sessions to watch.", max_items=MAX_SESSIONS)
    ],
) -> ASGIApp:
    """The packets of running sessions as they come, as server-sent events, until all have ended.

    At most 25 events a second. When more comes than a person could read, the stream samples: `not_shown` counts the
    packets that were left out. The export has them all.
    """
    hub = hub_of(request)
    ids = session_ids(request)
    if not ids:
        raise UnknownError("name the sessions to watch: ?session=ID")
    for one in ids:
        hub.registry.sessions.require(one)
    return event_stream(_events(hub, ids, web_session(request)), hub.stopping)


async def _events(hub: Hub, ids: list[str], login: WebSession) -> AsyncGenerator[bytes, None]:
    not_shown, next_counters_s = 0, 0.0
    async with hub.live.watch(ids) as viewer:
        yield b"retry: 2000\n\n"
        async for update in viewer:
            if update.rows or update.not_shown:
                packets = [packet_json(row) for row in update.rows]
                yield event("packets", _json({"packets": packets, "not_shown": update.not_shown}))
            not_shown += update.not_shown
            if time.monotonic() < next_counters_s:
                continue
            next_counters_s = time.monotonic() + COUNTERS_INTERVAL_S
            yield event("counters", _json(counters(list(update.totals.values()), not_shown)))
            if not hub.authentication.is_open(login):
                return
            ended = all(hub.registry.sessions.require(one).ended_ns is not None for one in ids)
            if ended and not update.rows:
                yield event("ended", "{}")
                return


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


handlers = [watch]
