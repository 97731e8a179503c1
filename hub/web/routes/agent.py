"""The page of one agent: what it is and does, where its packets are, and whether it may capture."""

from dataclasses import dataclass
from typing import Any

from litestar import Request, Response, get, post
from litestar.params import FromPath
from litestar.types import ASGIApp

from hub.agents import switch
from hub.agents.connectivity import Check, check_connection
from hub.agents.control import ControlError
from hub.agents.interface_rates import InterfaceRate
from hub.agents.presence import AgentStatus
from hub.http.streaming import event, event_stream
from hub.ledger.session_books import session_books
from hub.registry import SessionRecord
from hub.registry.agents import MAX_REASON_CHARACTERS
from hub.web.flow_picture import Step, picture
from hub.web.guard import web_session
from hub.web.routes.agents import MAX_WATCHED
from hub.web.running import Hub, hub_of
from hub.web.session_view import SessionView, view
from wire.names import check_agent_id, check_session_id
from wire.report import InterfaceReport

AnyRequest = Request[Any, Any, Any]

SHOWN_SESSIONS = 10
ANSWER_WITHIN_S = 1.0
"""How long the page waits for what the interfaces carry before it shows them without."""


@dataclass(frozen=True, slots=True)
class FlowOf:
    """The picture and what it is of."""

    steps: tuple[Step, ...]
    title: str


def _flow(hub: Hub, agent: str, records: list[SessionRecord], chosen: str) -> FlowOf:
    """Of the chosen session, else of those that run together, else of the last one."""
    active = [one for one in records if one.ended_ns is None and one.spec is not None]
    if chosen:
        record = hub.registry.sessions.require(check_session_id(chosen))
        picked, title = [record], f"session {record.name or record.id[:8] + '…'}"
    elif active:
        picked = active
        title = "the running session" if len(active) == 1 else f"{len(active)} running sessions together"
    else:
        picked, title = records[:1], "the last session"
    accounts = [session_books(hub.registry, one.id) for one in picked if one.agent == agent]
    ended = all(one.ended_ns is not None for one in picked)
    return FlowOf(picture(accounts, ended=ended) if accounts else (), title)


async def _interfaces(
    hub: Hub, status: AgentStatus, *, ask: bool
) -> tuple[tuple[InterfaceReport, ...], dict[str, InterfaceRate]]:
    if ask and status.online and not status.imported:
        try:
            now = await hub.control.interfaces(status.id, timeout_s=ANSWER_WITHIN_S)
        except ControlError:
            pass  # what it reported last is shown, and its state says the rest
        else:
            return now.interfaces, hub.rates.look(status.id, now.counters)
    return (status.report.interfaces if status.report and not status.imported else ()), {}


async def _context(hub: Hub, agent: str, chosen: str, *, ask: bool) -> dict[str, Any]:
    status = hub.presence.status(check_agent_id(agent))
    record = hub.registry.agents.require(status.id)
    records = hub.registry.sessions.all(agent=status.id, limit=200)
    sessions: list[SessionView] = [view(one) for one in records[:SHOWN_SESSIONS]]
    watchable = [one.id for one in records if one.ended_ns is None and one.spec is not None][:MAX_WATCHED]
    interfaces, rates = await _interfaces(hub, status, ask=ask)
    return {
        "agent": status,
        "record": record,
        "sessions": sessions,
        "more_sessions": len(records) > SHOWN_SESSIONS,
        "watchable": watchable,
        "interfaces": interfaces,
        "rates": rates,
        "captured_on": _captured_on(records, interfaces),
        "flow": _flow(hub, status.id, records, chosen),
        "chosen": chosen,
    }


def _captured_on(
    records: list[SessionRecord], interfaces: tuple[InterfaceReport, ...]
) -> dict[str, list[str]]:
    """Interface → ids of the running sessions that capture on it."""
    found: dict[str, list[str]] = {}
    for record in records:
        spec = record.spec
        if spec is None or record.ended_ns is not None or spec.replay is not None:
            continue
        up = [one.name for one in interfaces if one.state == "up"]
        names = up if spec.interface == "any" else spec.interface.split(",")
        for name in names:
            found.setdefault(name, []).append(record.id)
    return found


@get("/agents/{agent:str}")
async def agent_page(request: AnyRequest, agent: FromPath[str]) -> Response[str]:
    """One agent; ?session= chooses whose books are drawn."""
    hub = hub_of(request)
    chosen = request.query_params.get("session", "")
    return hub.pages.page(request, "pages/agent.html", **await _context(hub, agent, chosen, ask=False))


@get("/agents/{agent:str}/state")
async def agent_state(request: AnyRequest, agent: FromPath[str]) -> Response[str]:
    """The part of the page that changes."""
    hub = hub_of(request)
    chosen = request.query_params.get("session", "")
    return hub.pages.fragment("fragments/agent_live.html", **await _context(hub, agent, chosen, ask=True))


@get("/agents/{agent:str}/disable")
async def disable_form(request: AnyRequest, agent: FromPath[str]) -> Response[str]:
    """The panel that asks why, and says what will happen."""
    hub = hub_of(request)
    status = hub.presence.status(check_agent_id(agent))
    running = [
        one for one in hub.registry.sessions.all(agent=status.id, active_only=True) if one.spec is not None
    ]
    return hub.pages.fragment(
        "fragments/disable_form.html", agent=status, running=len(running), longest=MAX_REASON_CHARACTERS
    )


@post("/agents/{agent:str}/disable", status_code=204)
async def disable_agent(request: AnyRequest, agent: FromPath[str]) -> Response[None]:
    """No sessions for it from now on; those that run are stopped. Leads back to its page."""
    hub = hub_of(request)
    form = await request.form()
    reason = str(form.get("reason", ""))[:MAX_REASON_CHARACTERS]
    agent = check_agent_id(agent)
    switch.disable(hub.registry, hub.sessions, agent, web_session(request).user, reason)
    hub.declarer.wake()
    return Response(None, status_code=204, headers={"hx-redirect": f"/agents/{agent}"})


@post("/agents/{agent:str}/enable", status_code=204)
async def enable_agent(request: AnyRequest, agent: FromPath[str]) -> Response[None]:
    """Sessions again. Leads back to its page."""
    hub = hub_of(request)
    agent = check_agent_id(agent)
    switch.enable(hub.registry, agent)
    return Response(None, status_code=204, headers={"hx-redirect": f"/agents/{agent}"})


@get("/agents/{agent:str}/test")
async def connection_test(request: AnyRequest, agent: FromPath[str]) -> Response[str]:
    """The panel in which the steps of the connectivity test arrive."""
    hub = hub_of(request)
    return hub.pages.fragment(
        "fragments/connection_test.html", agent=hub.presence.status(check_agent_id(agent))
    )


@get("/events/agents/{agent:str}/test")
async def connection_test_events(request: AnyRequest, agent: FromPath[str]) -> ASGIApp:
    """Server-sent events: `step` for each check that has ended, then `done` with the verdict."""
    hub = hub_of(request)
    status = hub.presence.status(check_agent_id(agent))

    async def steps() -> Any:
        done: list[Check] = []
        async for check in check_connection(hub.bus, hub.control, hub.presence, hub.registry, status.id):
            done.append(check)
            yield event("step", hub.pages.text("fragments/connection_step.html", check=check))
        yield event("verdict", hub.pages.text("fragments/connection_verdict.html", checks=done))
        yield event("done", "")

    return event_stream(steps(), hub.stopping)


handlers = [
    agent_page,
    agent_state,
    disable_form,
    disable_agent,
    enable_agent,
    connection_test,
    connection_test_events,
]
