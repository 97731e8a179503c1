"""Capture sessions by the API: find, start, steer, read their books, delete their packets."""

import asyncio
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from hub.agents.sessions import FlowOptions
from hub.ledger.flow_totals import flow_table
from hub.ledger.session_books import session_books
from hub.registry import ConflictError
from hub.web.books_table import verdict_of
from hub.web.guard import web_session
from hub.web.routes.api import answers
from hub.web.routes.api.described import UNSAFE, SessionId, problems
from hub.web.routes.api.orders import (
    FilterOrder,
    NameOrder,
    StartOrder,
    payload_of,
    priority_of,
    refused,
    start_options,
)
from hub.web.routes.live import judge_filter
from hub.web.routes.pool import delete_packets_everywhere
from hub.web.routes.sessions import MAX_SHOWN_FLOWS, ORDERS, give_order
from hub.web.routes.start_form import cannot
from hub.web.running import Hub, hub_of
from hub.web.session_list import MAX_PAGE, MAX_QUERY_CHARACTERS, SessionQuery, session_page
from hub.web.session_view import STATES, view
from wire.names import AGENT_ID, check_agent_id, check_session_id
from wire.report import CAN_COUNT_FLOWS, CAN_FLOW_RULES, CAN_LOOK_INSIDE

AnyRequest = Request[Any, Any, Any]

WITH_404: dict[str, Any] = UNSAFE | {"responses": problems(404, 409)}


def _answer(hub: Hub, session_id: str) -> answers.SessionAnswer:
    one = view(hub.registry.sessions.require(session_id))
    account = session_books(hub.registry, session_id)
    verdict = verdict_of(account, ended=one.ended)
    return answers.SessionAnswer(
        answers.SessionWithBooks(
            **answers.session_fields(one.to_json()),
            books=account.books.to_map(),
            differences=account.differences,
            balanced=account.balanced,
            archived_packets=account.archived_packets,
            archived_bytes=account.archived_bytes,
            message_bytes=account.message_bytes,
            batches=account.batches,
            lost_at_end=account.lost_at_end,
            missing_batches=account.missing_batches,
            broken_links=account.broken_links,
            quarantined=account.quarantined,
            verdict=verdict.word,
            verdict_text=verdict.text,
        )
    )


@get("/api/sessions", tags=["Sessions"], responses=problems())
async def all_sessions(
    request: AnyRequest,
    q: Annotated[
        str, QueryParameter(description="Words that must all occur.", max_length=MAX_QUERY_CHARACTERS)
    ] = "",
    session_state: Annotated[
        str, QueryParameter(name="state", description="Empty: all.", pattern=f"^({'|'.join(STATES)})$")
    ] = "",
    agent: Annotated[str, QueryParameter(description="On this agent only.", pattern=f"^({AGENT_ID})?$")] = "",
    by: Annotated[
        str, QueryParameter(description="Asked for by this user.", max_length=MAX_QUERY_CHARACTERS)
    ] = "",
    page: Annotated[int, QueryParameter(description="50 on each, from 1.", ge=1, le=MAX_PAGE)] = 1,
) -> answers.Sessions:
    """Sessions that fit, the newest first."""
    query = SessionQuery(q.strip(), session_state, agent, by, page)
    found = await asyncio.to_thread(session_page, hub_of(request).registry, query)
    rows = [answers.Session(**answers.session_fields(row.view.to_json())) for row in found.rows]
    return answers.Sessions(rows, found.more)


@get("/api/sessions/{session_id:str}", tags=["Sessions"], responses=problems(404))
async def one_session(request: AnyRequest, session_id: SessionId) -> answers.SessionAnswer:
    """One session with its books and the differences that must be 0 at rest."""
    return _answer(hub_of(request), check_session_id(session_id))


async def _judge(hub: Hub, agent: str, interface: str, text: str) -> None:
    verdict = await judge_filter(hub, [(agent, interface)], text)
    if verdict.kind == "error":
        raise refused(f"filter: {verdict.text}")


@post("/api/sessions", status_code=201, tags=["Sessions"], **WITH_404)
async def start_session(request: AnyRequest, data: JSONBody[StartOrder]) -> answers.SessionAnswer:
    """Start a capture on one agent."""
    hub = hub_of(request)
    agent = check_agent_id(data.agent)
    hub.registry.agents.require(agent)
    if data.filter.strip():
        await _judge(hub, agent, data.interface, data.filter.strip())
    flow_rules = data.flow_cutoff_bytes is not None or data.flow_sampling not in (None, 1)
    for name, asked, capability in (
        ("flow_cutoff_bytes, flow_sampling", flow_rules, CAN_FLOW_RULES),
        ("filter_inside_tunnels", data.filter_inside_tunnels, CAN_LOOK_INSIDE),
        ("flow_records", data.flow_records, CAN_COUNT_FLOWS),
    ):
        if asked and (why := cannot(hub, [agent], capability)):
            raise refused(f"{name}: {why}")
    options: dict[str, Any] = start_options(data)
    options["retention_s"] = options["retention_s"] or hub.settings.retention_s
    session_id = hub.sessions.start(agent, data.interface, user=web_session(request).user, **options)
    hub.declarer.wake()
    return _answer(hub, session_id)


def _order(name: str) -> Any:
    async def order_session(request: AnyRequest, session_id: SessionId) -> answers.SessionAnswer:
        hub = hub_of(request)
        give_order(hub, check_session_id(session_id), name)
        return _answer(hub, session_id)

    order_session.__doc__ = f"{name.capitalize()} the capture."
    path = f"/api/sessions/{{session_id:str}}/{name}"
    return post(
        path,
        status_code=200,
        name=f"api-session-{name}",
        operation_id=f"{name.capitalize()}Session",
        tags=["Sessions"],
        **WITH_404,
    )(order_session)


@post("/api/sessions/{session_id:str}/filter", status_code=200, tags=["Sessions"], **WITH_404)
async def change_filter(
    request: AnyRequest, session_id: SessionId, data: JSONBody[FilterOrder]
) -> answers.SessionAnswer:
    """Change the filter, and what else is given, on the running session. No packet is lost by it."""
    hub = hub_of(request)
    record = hub.registry.sessions.require(check_session_id(session_id))
    spec = record.spec
    if spec is None:
        raise ConflictError("this session was not started by this hub: it can only be read")
    payload, rules = payload_of(data.payload), priority_of(data.priority)
    text = data.filter.strip()
    if text:
        await _judge(hub, record.agent, spec.interface, text)
    counted = spec.flow_records if data.flow_records is None else data.flow_records
    if counted and not spec.flow_records and (why := cannot(hub, [record.agent], CAN_COUNT_FLOWS)):
        raise refused(f"flow_records: {why}")
    inside = spec.filter_inside_tunnels if data.filter_inside_tunnels is None else data.filter_inside_tunnels
    if inside and (why := cannot(hub, [record.agent], CAN_LOOK_INSIDE)):
        raise refused(f"filter_inside_tunnels: {why}")
    cutoff = spec.flow_cutoff_bytes if data.flow_cutoff_bytes is None else data.flow_cutoff_bytes
    one_in = spec.flow_sampling if data.flow_sampling is None else data.flow_sampling
    if rules is not None:
        hub.sessions.change_priority(record.id, rules)
    flows = FlowOptions(cutoff or None, one_in, counted)
    hub.sessions.change_filter(record.id, text, data.snaplen, flows, payload, inside)
    hub.declarer.wake()
    return _answer(hub, record.id)


@post("/api/sessions/{session_id:str}/name", status_code=200, tags=["Sessions"], **WITH_404)
async def name_session(
    request: AnyRequest, session_id: SessionId, data: JSONBody[NameOrder]
) -> answers.SessionAnswer:
    """Call the session something; an empty name takes it away."""
    hub = hub_of(request)
    hub.registry.sessions.rename(check_session_id(session_id), data.name)
    return _answer(hub, session_id)


@get("/api/sessions/{session_id:str}/filters", tags=["Sessions"], responses=problems(404))
async def session_filters(request: AnyRequest, session_id: SessionId) -> answers.Revisions:
    """Every filter the session has had, the first one first."""
    sessions = hub_of(request).registry.sessions
    record = sessions.require(check_session_id(session_id))
    return answers.Revisions([answers.Revision.of(one) for one in sessions.revisions(record.id)])


@get("/api/sessions/{session_id:str}/flows", tags=["Sessions"], responses=problems(404))
async def session_flows(request: AnyRequest, session_id: SessionId) -> answers.Flows:
    """The session's 100 largest flows, if they are counted; the others as one sum."""
    hub = hub_of(request)
    record = hub.registry.sessions.require(check_session_id(session_id))
    table = flow_table(hub.registry, record.id, MAX_SHOWN_FLOWS)
    rest = table.rest
    return answers.Flows([answers.Flow.of(row) for row in table.rows], rest.flows, rest.packets, rest.bytes)


@get("/api/sessions/{session_id:str}/estimate", tags=["Sessions"], responses=problems(404))
async def export_estimate(request: AnyRequest, session_id: SessionId) -> answers.EstimateAnswer:
    """What an export would hold, before it is made."""
    hub = hub_of(request)
    record = hub.registry.sessions.require(check_session_id(session_id))
    estimate = hub.export.estimate([record.id])
    return answers.EstimateAnswer(
        estimate.packets,
        estimate.pcapng_bytes,
        estimate.wpz_bytes,
        estimate.purged_packets,
        estimate.quarantined,
    )


@post("/api/sessions/{session_id:str}/delete", status_code=200, tags=["Sessions"], **WITH_404)
async def delete_packets(request: AnyRequest, session_id: SessionId) -> answers.SessionAnswer:
    """Remove an ended session's packets from archive and pool; its record and books stay."""
    hub = hub_of(request)
    record = hub.registry.sessions.require(check_session_id(session_id))
    if record.ended_ns is None:
        raise ConflictError("the session is still active: stop it first")
    await delete_packets_everywhere(hub, record, web_session(request).user)
    return _answer(hub, record.id)


handlers = [
    all_sessions,
    one_session,
    start_session,
    change_filter,
    name_session,
    session_filters,
    session_flows,
    export_estimate,
    delete_packets,
    *(_order(name) for name in ORDERS),
]
