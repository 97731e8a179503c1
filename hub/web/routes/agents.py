"""The page Agents: who is there, live."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from litestar import Request, Response, get, post
from litestar.params import FromPath
from litestar.types import ASGIApp

from hub.agents.control import ControlError
from hub.http.streaming import event, event_stream
from hub.registry import WebSession
from hub.web.guard import web_session
from hub.web.running import Hub, hub_of

AnyRequest = Request[Any, Any, Any]

COALESCE_S = 0.3
"""Changes within this time make one update of the page."""
LOGIN_CHECK_S = 5.0
"""A login that ended ends its event streams within this time."""
MAX_WATCHED = 16
"""Sessions that one link to the live page joins."""


def running_sessions(hub: Hub) -> dict[str, list[str]]:
    """Agent → ids of its sessions that haven't ended, the newest first; every agent has an entry."""
    running: dict[str, list[str]] = {status.id: [] for status in hub.presence.all()}
    for record in hub.registry.sessions.all(active_only=True):
        if record.spec is not None and len(running.setdefault(record.agent, [])) < MAX_WATCHED:
            running[record.agent].append(record.id)
    return running


@get("/agents")
async def agents_page(request: AnyRequest) -> Response[str]:
    """Every agent with its state."""
    hub = hub_of(request)
    return hub.pages.page(
        request, "pages/agents.html", agents=hub.presence.all(), running=running_sessions(hub)
    )


@post("/agents/{agent:str}/ping", status_code=200)
async def ping_agent(request: AnyRequest, agent: FromPath[str]) -> Response[str]:
    """Ask one agent for a sign of life; the answer is a panel, also when there is none."""
    hub = hub_of(request)
    try:
        ping, error = await hub.control.ping(agent), ""
    except ControlError as refused:
        ping, error = None, str(refused)
    return hub.pages.fragment("fragments/ping.html", agent=agent, ping=ping, error=error)


@get("/events/agents")
async def agent_events(request: AnyRequest) -> ASGIApp:
    """Server-sent events: `agents` with the whole table when agents come or go, `agent-<id>` with one row."""
    hub = hub_of(request)
    return event_stream(_agent_events(hub, web_session(request)), hub.stopping)


async def _agent_events(hub: Hub, session: WebSession) -> AsyncGenerator[bytes, None]:
    with hub.presence.changes() as changes:
        shown = {status.id for status in hub.presence.all()}
        yield b"retry: 2000\n\n" + _table(hub)
        iterator = aiter(changes)
        check_s = time.monotonic() + LOGIN_CHECK_S
        while True:
            changed: set[str] = set()
            try:
                async with asyncio.timeout(LOGIN_CHECK_S):
                    changed = set(await anext(iterator))
            except TimeoutError:
                # A comment also finds out about a browser that is gone without a word.
                iterator = aiter(changes)
                yield b": still here\n\n"
            except StopAsyncIteration:
                return
            if time.monotonic() >= check_s:
                check_s = time.monotonic() + LOGIN_CHECK_S
                if not hub.authentication.is_open(session):
                    return
            statuses = {status.id: status for status in hub.presence.all()}
            if set(statuses) != shown:
                shown = set(statuses)
                yield _table(hub)
            else:
                running = running_sessions(hub)
                for agent in sorted(changed & shown):
                    row = hub.pages.text("fragments/agent_row.html", agent=statuses[agent], running=running)
                    yield event(f"agent-{agent}", row)
            await asyncio.sleep(COALESCE_S)


def _table(hub: Hub) -> bytes:
    table = hub.pages.text(
        "fragments/agents_table.html", agents=hub.presence.all(), running=running_sessions(hub)
    )
    return event("agents", table)


handlers = [agents_page, ping_agent, agent_events]
