"""The page Sessions: the list, one session with its books, and the orders that change it."""

import asyncio
import secrets
import time
from typing import Any

from litestar import Request, Response, get, post
from litestar.params import FromPath

from hub.agents.sessions import FlowOptions
from hub.archive.freed import freed_of
from hub.ledger.flow_totals import FlowTable, flow_table
from hub.ledger.session_books import session_books
from hub.registry import ConflictError
from hub.web.books_table import groups, verdict_of
from hub.web.flow_picture import picture
from hub.web.guard import web_session
from hub.web.payload_form import PAYLOAD_FIELDS, payload_texts, read_payload
from hub.web.routes.live import judge_filter
from hub.web.routes.pool import delete_packets_everywhere, pool_context
from hub.web.routes.start_form import cannot, whole_number
from hub.web.running import Hub, hub_of
from hub.web.session_list import SessionQuery
from hub.web.session_list import session_page as session_page_of
from hub.web.session_view import STATES, SessionView, view
from hub.web.time_line import time_line
from wire.errors import WireError
from wire.names import check_session_id
from wire.priority import parse
from wire.report import CAN_COUNT_FLOWS, CAN_LOOK_INSIDE
from wire.session import MAX_FLOW_CUTOFF_BYTES, MAX_FLOW_SAMPLING, MAX_SNAPLEN

AnyRequest = Request[Any, Any, Any]

MAX_SHOWN_FLOWS = 100
"""The rest is one sum; the CSV file has as many as are kept."""
SETTLING_NS = 10 * 10**9
"""How long after its end a session's page waits for the closing batch and the last books."""
ORDERS = ("pause", "resume", "stop")


def _context(hub: Hub, one: SessionView) -> dict[str, Any]:
    account = session_books(hub.registry, one.record.id)
    ended_ns = one.record.ended_ns
    complete = account.balanced and all(boot.closed for boot in account.boots)
    return {
        "settled": ended_ns is not None and (complete or time.time_ns() - ended_ns > SETTLING_NS),
        "view": one,
        "books": account,
        "groups": groups(account),
        "steps": picture([account], ended=ended_ns is not None),
        "line": time_line(hub.registry, one.record, account),
        "freed": freed_of(hub.registry, one.record.agent, one.record.id),
        "verdict": verdict_of(account, ended=one.ended),
        "quarantine": hub.registry.quarantine.all(session=one.record.id, limit=5)
        if account.quarantined
        else [],
    }


def _with_flows(hub: Hub, one: SessionView) -> dict[str, Any]:
    flows = flow_table(hub.registry, one.record.id, MAX_SHOWN_FLOWS)
    return {**_context(hub, one), "flows": flows, "flows_state": _flows_state(hub, one, flows)}


def _flows_state(hub: Hub, one: SessionView, flows: FlowTable) -> str:
    """A sentence on the counting of flows; "" where nobody asked for it."""
    spec = one.record.spec
    if spec is None or not spec.flow_records:
        return "Not counted now; what was counted before:" if flows.rows else ""
    if one.ended or one.applied_flow_records:
        return "Every packet that the capture's socket saw, whatever of it was kept."
    if one.applied_flow_records is None:
        return "Asked for; the agent hasn't answered yet."
    why = (
        cannot(hub, [one.record.agent], CAN_COUNT_FLOWS) or one.reason or "the agent begins within a second."
    )
    return f"Asked for, but not counted: {why}"


def _require(hub: Hub, session_id: str) -> SessionView:
    return view(hub.registry.sessions.require(check_session_id(session_id)))


@get("/sessions")
async def sessions_page(request: AnyRequest) -> Response[str]:
    """The list; everything that narrows it is in the address."""
    hub = hub_of(request)
    page = await asyncio.to_thread(session_page_of, hub.registry, SessionQuery.of(request))
    agents = [status.id for status in hub.presence.all()]
    return hub.pages.page(
        request,
        "pages/sessions.html",
        page=page,
        query=page.query,
        states=STATES,
        agents=agents,
        moving=any(not row.view.ended for row in page.rows),
    )


@get("/sessions/{session_id:str}")
async def session_page(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """One session."""
    hub = hub_of(request)
    one = _require(hub, session_id)
    return hub.pages.page(
        request,
        "pages/session.html",
        estimate=hub.export.estimate([session_id]),
        watch=secrets.token_hex(8),
        **pool_context(hub, session_id),
        **_with_flows(hub, one),
    )


@get("/sessions/{session_id:str}/flows")
async def flows_fragment(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """The largest flows, as they are now."""
    hub = hub_of(request)
    return hub.pages.fragment("fragments/flow_totals.html", **_with_flows(hub, _require(hub, session_id)))


@get("/sessions/{session_id:str}/state")
async def session_state_fragment(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """The part of the page that changes.

    When nothing will change any more the page is loaded once more: what can be done with an ended session is above.
    """
    hub = hub_of(request)
    context = _context(hub, _require(hub, session_id))
    headers = {"HX-Refresh": "true"} if context["settled"] else None
    return hub.pages.fragment("fragments/session_live.html", headers=headers, **context)


@get("/sessions/{session_id:str}/happened")
async def happened_panel(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """The time line in words."""
    hub = hub_of(request)
    one = _require(hub, session_id)
    line = time_line(hub.registry, one.record, session_books(hub.registry, one.record.id))
    return hub.pages.fragment("fragments/happened.html", line=line)


@post("/sessions/{session_id:str}/name", status_code=200)
async def name_session(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """Call it something else; the answer is the form again, with what is kept."""
    hub = hub_of(request)
    one = _require(hub, session_id)
    hub.registry.sessions.rename(one.record.id, str((await request.form()).get("name", "")))
    return hub.pages.fragment("fragments/session_name.html", view=_require(hub, session_id), saved=True)


def give_order(hub: Hub, session_id: str, order: str) -> SessionView:
    """Pause, resume or stop; ConflictError when the state doesn't allow it."""
    if order == "pause":
        hub.sessions.pause(session_id)
    elif order == "resume":
        hub.sessions.resume(session_id)
    else:
        hub.sessions.stop(session_id)
    hub.declarer.wake()
    return _require(hub, session_id)


def _order(name: str) -> Any:
    @post(f"/sessions/{{session_id:str}}/{name}", status_code=200, name=f"session-{name}")
    async def order_session(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
        hub = hub_of(request)
        one = give_order(hub, check_session_id(session_id), name)
        return hub.pages.fragment("fragments/session_controls.html", view=one)

    return order_session


@get("/sessions/{session_id:str}/filter")
async def filter_form(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """The panel that changes the filter."""
    hub = hub_of(request)
    one = _require(hub, session_id)
    if not one.can_stop or one.record.spec is None:
        raise ConflictError("the session has ended: its filter can't change any more")
    return hub.pages.fragment(
        "fragments/filter_form.html",
        view=one,
        filter=one.filter,
        snaplen=str(one.record.spec.snaplen),
        inside_tunnels=one.record.spec.filter_inside_tunnels,
        flow_cutoff_bytes=str(one.record.spec.flow_cutoff_bytes or ""),
        flow_sampling=str(one.record.spec.flow_sampling or ""),
        flow_records=one.record.spec.flow_records,
        payload=payload_texts(one.record.spec.payload),
        priority=one.record.spec.priority.text,
        priority_error="",
        error="",
        payload_error="",
    )


@post("/sessions/{session_id:str}/filter", status_code=200)
async def change_filter(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """Swap filter, snaplen, flow rules, payload, priority: an empty answer closes the panel; what is refused comes
    back so."""
    hub = hub_of(request)
    one = _require(hub, session_id)
    form = await request.form()
    text, snaplen_text = str(form.get("filter", "")).strip(), str(form.get("snaplen", "")).strip()
    snaplen = whole_number(snaplen_text, 1, MAX_SNAPLEN)
    cutoff_text, sampling_text = (
        str(form.get(name, "")).strip()[:32] for name in ("flow_cutoff_bytes", "flow_sampling")
    )
    cutoff_bytes = whole_number(cutoff_text, 1, MAX_FLOW_CUTOFF_BYTES)
    one_in = whole_number(sampling_text, 1, MAX_FLOW_SAMPLING)
    inside = "filter_inside_tunnels" in form
    payload = {name: str(form.get(name, "")).strip()[:512] for name in PAYLOAD_FIELDS}
    payload_error, policy = "", None
    try:
        policy = read_payload(*payload.values()) if payload["payload_policy"] else None  # absent: as it is
    except WireError as refused:
        payload_error = str(refused)
    priority_text, priority_error, rules = form.get("priority"), "", None
    try:
        rules = parse(str(priority_text)) if priority_text is not None else None  # absent: as it is
    except WireError as refused:
        priority_error = f"{refused}."
    error = "" if snaplen else f"Bytes of each packet: a whole number from 1 to {MAX_SNAPLEN}."
    if cutoff_text and not cutoff_bytes:
        error = f"Bytes of each flow: a whole number from 1 to {MAX_FLOW_CUTOFF_BYTES}, or nothing."
    elif sampling_text and not one_in:
        error = f"One flow in: a whole number from 1 to {MAX_FLOW_SAMPLING}, or nothing."
    if not error and inside:
        error = cannot(hub, [one.record.agent], CAN_LOOK_INSIDE)
    if not error and text and one.record.spec is not None:
        verdict = await judge_filter(
            hub, [(one.record.agent, one.record.spec.interface)], text, snaplen or MAX_SNAPLEN
        )
        error = verdict.text if verdict.kind == "error" else ""
    if (
        not error
        and "flow_records" in form
        and one.record.spec is not None
        and not one.record.spec.flow_records
    ):
        why = cannot(hub, [one.record.agent], CAN_COUNT_FLOWS)
        error = f"Count flows: {why}" if why else ""
    if not error and not payload_error and not priority_error:
        try:
            if rules is not None:
                hub.sessions.change_priority(one.record.id, rules)
            flows = FlowOptions(cutoff_bytes, one_in, "flow_records" in form)
            hub.sessions.change_filter(one.record.id, text, snaplen, flows, policy, inside)
        except WireError as refused:
            error = f"{refused}"
    if error or payload_error or priority_error:
        return hub.pages.fragment(
            "fragments/filter_form.html",
            status=422,
            view=one,
            filter=text,
            snaplen=snaplen_text,
            inside_tunnels=inside,
            flow_cutoff_bytes=cutoff_text,
            flow_sampling=sampling_text,
            flow_records="flow_records" in form,
            payload=payload,
            priority=str(priority_text or ""),
            priority_error=priority_error,
            error=error,
            payload_error=payload_error,
        )
    hub.declarer.wake()
    return Response("", media_type="text/html; charset=utf-8")


@post("/sessions/{session_id:str}/delete", status_code=204)
async def delete_packets(request: AnyRequest, session_id: FromPath[str]) -> Response[None]:
    """Remove an ended session's packets from archive and pool; its record and books stay. Leads back to its page."""
    hub = hub_of(request)
    one = _require(hub, session_id)
    if not one.ended:
        raise ConflictError("the session is still active: stop it first")
    await delete_packets_everywhere(hub, one.record, web_session(request).user)
    return Response(None, status_code=204, headers={"hx-redirect": f"/sessions/{one.record.id}"})


handlers = [
    delete_packets,
    sessions_page,
    session_page,
    flows_fragment,
    session_state_fragment,
    happened_panel,
    name_session,
    filter_form,
    change_filter,
    *(_order(name) for name in ORDERS),
]
