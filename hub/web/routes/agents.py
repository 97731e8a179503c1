"""The page Agents: who is there, live; with a search and a state to choose by, both in the address."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from litestar import Request, Response, get
from litestar.types import ASGIApp

from hub.agents.finding import search_text
from hub.agents.presence import AgentStatus
from hub.http.streaming import event, event_stream
from hub.registry import WebSession
from hub.web.guard import web_session
from hub.web.routes.start_form import AgentChoice, StartForm, choices
from hub.web.running import Hub, hub_of

AnyRequest = Request[Any, Any, Any]

COALESCE_S = 0.3
"""Changes within this time make one update of the page."""
LOGIN_CHECK_S = 5.0
"""A login that ended ends its event streams within this time."""
MAX_WATCHED = 16
"""Sessions that one link to the live page joins."""
MAX_QUERY_CHARACTERS = 200
Choice = Literal["", "online", "offline", "never", "disabled", "revoked", "warnings"]
CHOICES: dict[str, str] = {
    "": "All",
    "online": "Online",
    "offline": "Offline",
    "never": "Never seen",
    "disabled": "Disabled",
    "revoked": "Revoked",
    "warnings": "With warnings",
}
"""What the list can be narrowed to, and what the page calls it."""


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What is looked for, as the address says it."""

    words: str = ""
    state: str = ""

    @classmethod
    def of(cls, request: AnyRequest) -> "Narrowing":
        """?q= and ?state=; a state that there is none of counts as none."""
        state = request.query_params.get("state", "")
        return cls(
            request.query_params.get("q", "")[:MAX_QUERY_CHARACTERS].strip(),
            state if state in CHOICES else "",
        )

    @property
    def query(self) -> str:
        """For addresses: "?…", or "" when nothing is narrowed."""
        given = {name: value for name, value in (("q", self.words), ("state", self.state)) if value}
        return f"?{urlencode(given)}" if given else ""

    def fits(self, status: AgentStatus) -> bool:
        """Whether an agent is shown: in that state, and every word somewhere in what is known of it."""
        if self.state and self.state not in states_of(status):
            return False
        if not self.words:
            return True
        text = search_text(status)
        return all(word in text for word in self.words.lower().split())


def states_of(status: AgentStatus) -> set[str]:
    """Every choice that an agent belongs to. Just after the hub's start it isn't known who is there: none then."""
    found = {"": "", "unknown": ""}.get(status.state, status.state)
    return {
        name
        for name, true in (
            (found, bool(found)),
            ("disabled", status.disabled),
            ("warnings", bool(status.warnings)),
        )
        if true
    }


def running_sessions(hub: Hub) -> dict[str, list[str]]:
    """Agent → ids of its sessions that haven't ended, the newest first; every agent has an entry."""
    running: dict[str, list[str]] = {status.id: [] for status in hub.presence.all()}
    for record in hub.registry.sessions.all(active_only=True):
        if record.spec is not None and len(running.setdefault(record.agent, [])) < MAX_WATCHED:
            running[record.agent].append(record.id)
    return running


def _context(hub: Hub, narrowing: Narrowing) -> dict[str, Any]:
    everyone = hub.presence.all()
    nothing_captured = not hub.registry.sessions.all(limit=1)
    counts: Counter[str] = Counter()
    for status in everyone:
        counts.update(states_of(status))
    counts[""] = len(everyone)
    return {
        "agents": [status for status in everyone if narrowing.fits(status)],
        "any_agents": bool(everyone),
        "running": running_sessions(hub),
        "narrowing": narrowing,
        "counts": counts,
        "choices": CHOICES,
        "first": _first_captures(hub, everyone) if nothing_captured else [],
        "nothing_captured": nothing_captured,
    }


MAX_OFFERED = 3


def _first_captures(hub: Hub, everyone: list[AgentStatus]) -> list[AgentChoice]:
    """Where a newcomer can begin with one press."""
    ready = {status.id for status in everyone if status.online and not status.disabled}
    return [one for one in choices(hub, StartForm()) if one.id in ready and one.best][:MAX_OFFERED]


@get("/agents")
async def agents_page(request: AnyRequest) -> Response[str]:
    """Every agent with its state; ?q= and ?state= narrow it."""
    hub = hub_of(request)
    return hub.pages.page(request, "pages/agents.html", **_context(hub, Narrowing.of(request)))


@get("/events/agents")
async def agent_events(request: AnyRequest) -> ASGIApp:
    """Server-sent events: `agents` with the whole table when agents come or go, `agent-<id>` with one row. ?q= and
    ?state= as on the page."""
    hub = hub_of(request)
    return event_stream(_agent_events(hub, web_session(request), Narrowing.of(request)), hub.stopping)


async def _agent_events(hub: Hub, session: WebSession, narrowing: Narrowing) -> AsyncGenerator[bytes, None]:
    with hub.presence.changes() as changes:
        context = _context(hub, narrowing)
        shown = _shown(context)
        yield b"retry: 2000\n\n" + _table(hub, context)
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
            context = _context(hub, narrowing)
            before, shown = shown, _shown(context)
            if before.rows != shown.rows or before.offered != shown.offered:
                yield _table(hub, context)
            else:
                if before.counts != shown.counts:
                    yield event("choices", hub.pages.text("fragments/agent_choices.html", **context))
                for status in context["agents"]:
                    if status.id in changed:
                        row = hub.pages.text(
                            "fragments/agent_row.html", agent=status, running=context["running"]
                        )
                        yield event(f"agent-{status.id}", row)
            await asyncio.sleep(COALESCE_S)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What decides how much of the page is drawn anew."""

    rows: frozenset[str]
    offered: tuple[str, ...]
    counts: dict[str, int]


def _shown(context: dict[str, Any]) -> _Shown:
    return _Shown(
        frozenset(status.id for status in context["agents"]),
        tuple(one.id for one in context["first"]),
        dict(context["counts"]),
    )


def _table(hub: Hub, context: dict[str, Any]) -> bytes:
    return event("agents", hub.pages.text("fragments/agents_table.html", **context))


handlers = [agents_page, agent_events]
