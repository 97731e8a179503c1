"""The JSON form of the pages' actions, for scripts and tests. The same session cookie and CSRF token as the pages.

Every error is `{"error": {"status": …, "message": …}}`. Times are ns since 1970 as strings.
"""

from typing import Any

from litestar import Request, Response, get, post
from litestar.exceptions import ClientException
from litestar.params import FromPath

from hub.agents.presence import AgentStatus
from hub.agents.sessions import FlowOptions
from hub.ledger.session_books import session_books
from hub.registry import ConflictError
from hub.web.books_table import verdict_of
from hub.web.guard import web_session
from hub.web.routes.live import judge_filter
from hub.web.routes.sessions import ORDERS, give_order
from hub.web.routes.start_form import NUMBERS, cannot
from hub.web.running import Hub, hub_of
from hub.web.session_view import matches, view
from wire.errors import WireError
from wire.names import check_agent_id, check_session_id
from wire.payload import FULL, PayloadPolicy
from wire.priority import NO_PRIORITY, PriorityRules, parse
from wire.report import CAN_COUNT_FLOWS, CAN_FLOW_RULES, CAN_LOOK_INSIDE
from wire.session import MAX_FLOW_CUTOFF_BYTES, MAX_FLOW_SAMPLING, MAX_SNAPLEN

AnyRequest = Request[Any, Any, Any]
Json = Response[Any]


async def _body(request: AnyRequest) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise ClientException(f"the body isn't JSON: {error}") from None
    if not isinstance(body, dict):
        raise ClientException("the body must be a JSON object")
    return body


def _text(body: dict[str, Any], name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise ClientException(f"{name}: want a text", status_code=422)
    return value


def _number(body: dict[str, Any], name: str, low: int, high: int, default: int | None = None) -> int | None:
    value = body.get(name, default)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise ClientException(f"{name}: want a whole number from {low} to {high}", status_code=422)
    return value


def _flag(body: dict[str, Any], name: str, default: bool) -> bool:
    value = body.get(name, default)
    if type(value) is not bool:
        raise ClientException(f"{name}: want true or false", status_code=422)
    return value


def _payload(body: dict[str, Any]) -> PayloadPolicy | None:
    value = body.get("payload")
    if value is None:
        return None
    try:
        if not isinstance(value, dict):
            raise WireError("want an object")
        return PayloadPolicy.from_map(value)
    except WireError as refused:
        raise ClientException(f"payload: {refused}", status_code=422) from None


def _priority(body: dict[str, Any]) -> PriorityRules | None:
    if body.get("priority") is None:
        return None
    try:
        return parse(_text(body, "priority"))
    except WireError as refused:
        raise ClientException(str(refused), status_code=422) from None


@get("/api/session")
async def web_session_json(request: AnyRequest) -> dict[str, Any]:
    """Who is logged in, and the CSRF token for unsafe requests (header x-csrf-token)."""
    session = web_session(request)
    return {"user": session.user, "csrf": session.csrf, "expires_ns": str(session.expires_ns)}


def agent_json(status: AgentStatus) -> dict[str, Any]:
    """An agent's status for the API."""
    report, beat = status.report, status.heartbeat
    clock = beat.clock if beat else report.clock if report else None
    return {
        "id": status.id,
        "label": status.label,
        "state": status.state,
        "online": status.online,
        "reason": status.reason,
        "since_ns": None if status.since_ns is None else str(status.since_ns),
        "warnings": list(status.warnings),
        "packets_per_second": status.packets_per_second,
        "bits_per_second": status.bits_per_second,
        "spool_bytes": status.spool_bytes,
        "hostname": report.hostname if report else None,
        "os": report.os if report else None,
        "version": report.version if report else None,
        "capture_path": report.capture_path if report else None,
        "capabilities": list(report.capabilities) if report else [],
        "interfaces": [interface.to_map() for interface in report.interfaces] if report else [],
        "clock": clock.to_map() if clock else None,
    }


@get("/api/agents")
async def agents_json(request: AnyRequest) -> dict[str, Any]:
    """Every enrolled agent."""
    return {"agents": [agent_json(status) for status in hub_of(request).presence.all()]}


@get("/api/sessions")
async def sessions_json(request: AnyRequest) -> dict[str, Any]:
    """The newest 200 sessions that fit ?q= and ?state=active|ended|refused."""
    hub = hub_of(request)
    query, state = request.query_params.get("q", "")[:200], request.query_params.get("state", "")
    views = (view(record) for record in hub.registry.sessions.all(active_only=state == "active", limit=5000))
    found = [one for one in views if matches(one, query, state)]
    return {"sessions": [one.to_json() for one in found[:200]]}


@get("/api/sessions/{session_id:str}")
async def session_json(request: AnyRequest, session_id: FromPath[str]) -> dict[str, Any]:
    """One session with its books and the differences that must be 0 at rest."""
    hub = hub_of(request)
    return {"session": _session_json(hub, check_session_id(session_id))}


def _session_json(hub: Hub, session_id: str) -> dict[str, Any]:
    one = view(hub.registry.sessions.require(session_id))
    account = session_books(hub.registry, session_id)
    verdict = verdict_of(account, ended=one.ended)
    return {
        **one.to_json(),
        "books": account.books.to_map(),
        "differences": account.differences,
        "balanced": account.balanced,
        "archived_packets": account.archived_packets,
        "archived_bytes": account.archived_bytes,
        "message_bytes": account.message_bytes,
        "batches": account.batches,
        "lost_at_end": account.lost_at_end,
        "missing_batches": account.missing_batches,
        "broken_links": account.broken_links,
        "quarantined": account.quarantined,
        "verdict": verdict.word,
        "verdict_text": verdict.text,
    }


@post("/api/sessions", status_code=201)
async def start_session_json(request: AnyRequest) -> dict[str, Any]:
    """Start one session: agent, interface; optional filter, snaplen, payload, priority (as text), flow cut-off,
    sampling and records, promiscuous, overflow, limits, retention."""
    hub = hub_of(request)
    body = await _body(request)
    known = {
        "agent",
        "interface",
        "filter",
        "snaplen",
        "filter_inside_tunnels",
        "payload",
        "priority",
        "promiscuous",
        "overflow",
        "exclude_own_traffic",
        "flow_records",
        *NUMBERS,
    }
    unknown = sorted(set(body) - known)
    if unknown:
        text = f"unknown: {', '.join(unknown)[:200]}; known: {', '.join(sorted(known))}"
        raise ClientException(text, status_code=422)
    agent = check_agent_id(_text(body, "agent"))
    interface, text = _text(body, "interface"), _text(body, "filter", "").strip()
    hub.registry.agents.require(agent)
    if text:
        verdict = await judge_filter(hub, [(agent, interface)], text)
        if verdict.kind == "error":
            raise ClientException(f"filter: {verdict.text}", status_code=422)
    inside = _flag(body, "filter_inside_tunnels", False)
    flows = (body.get("flow_cutoff_bytes") is not None, body.get("flow_sampling") not in (None, 1))
    counted = _flag(body, "flow_records", False)
    needed = ((any(flows), CAN_FLOW_RULES), (inside, CAN_LOOK_INSIDE), (counted, CAN_COUNT_FLOWS))
    for asked, capability in needed:
        if asked and (why := cannot(hub, [agent], capability)):
            raise ClientException(why, status_code=422)
    limits = {name: _number(body, name, low, high) for name, (low, high) in NUMBERS.items()}
    limits["retention_s"] = limits["retention_s"] or hub.settings.retention_s
    session_id = hub.sessions.start(
        agent,
        interface,
        filter=text,
        filter_inside_tunnels=inside,
        snaplen=_number(body, "snaplen", 1, MAX_SNAPLEN, MAX_SNAPLEN) or MAX_SNAPLEN,
        promiscuous=_flag(body, "promiscuous", False),
        overflow=_text(body, "overflow", "drop_oldest"),  # type: ignore[arg-type]
        exclude_own_traffic=_flag(body, "exclude_own_traffic", True),
        flow_records=counted,
        payload=_payload(body) or FULL,
        priority=_priority(body) or NO_PRIORITY,
        user=web_session(request).user,
        **limits,  # type: ignore[arg-type]
    )
    hub.declarer.wake()
    return {"session": _session_json(hub, session_id)}


def _order(name: str) -> Any:
    @post(f"/api/sessions/{{session_id:str}}/{name}", status_code=200, name=f"api-session-{name}")
    async def order_session(request: AnyRequest, session_id: FromPath[str]) -> dict[str, Any]:
        hub = hub_of(request)
        give_order(hub, check_session_id(session_id), name)
        return {"session": _session_json(hub, session_id)}

    return order_session


@post("/api/sessions/{session_id:str}/filter", status_code=200)
async def change_filter_json(request: AnyRequest, session_id: FromPath[str]) -> dict[str, Any]:
    """Change `filter` and, if given, `filter_inside_tunnels`, `snaplen`, `flow_cutoff_bytes` (0: none),
    `flow_sampling`, `flow_records`, `payload` and `priority`."""
    hub = hub_of(request)
    body = await _body(request)
    record = hub.registry.sessions.require(check_session_id(session_id))
    if record.spec is None:
        raise ConflictError("this session was not started by this hub: it can only be read")
    text = _text(body, "filter").strip()
    snaplen = _number(body, "snaplen", 1, MAX_SNAPLEN)
    cutoff_bytes = _number(body, "flow_cutoff_bytes", 0, MAX_FLOW_CUTOFF_BYTES, record.spec.flow_cutoff_bytes)
    one_in = _number(body, "flow_sampling", 1, MAX_FLOW_SAMPLING, record.spec.flow_sampling)
    if text:
        verdict = await judge_filter(hub, [(record.agent, record.spec.interface)], text)
        if verdict.kind == "error":
            raise ClientException(f"filter: {verdict.text}", status_code=422)
    counted = _flag(body, "flow_records", record.spec.flow_records)
    if counted and not record.spec.flow_records and (why := cannot(hub, [record.agent], CAN_COUNT_FLOWS)):
        raise ClientException(f"flow_records: {why}", status_code=422)
    flows = FlowOptions(cutoff_bytes or None, one_in, counted)
    inside = _flag(body, "filter_inside_tunnels", record.spec.filter_inside_tunnels)
    if inside and (why := cannot(hub, [record.agent], CAN_LOOK_INSIDE)):
        raise ClientException(why, status_code=422)
    rules = _priority(body)
    if rules is not None:
        hub.sessions.change_priority(record.id, rules)
    hub.sessions.change_filter(record.id, text, snaplen, flows, _payload(body), inside)
    hub.declarer.wake()
    return {"session": _session_json(hub, record.id)}


@post("/api/check-filter", status_code=200)
async def check_filter_json(request: AnyRequest) -> dict[str, Any]:
    """{agent, interface?, filter} → {verdict: "ok" | "error" | "unchecked", message}."""
    body = await _body(request)
    targets = [(check_agent_id(_text(body, "agent")), _text(body, "interface", ""))]
    verdict = await judge_filter(hub_of(request), targets, _text(body, "filter"))
    return {"verdict": verdict.kind or "unchecked", "message": verdict.text}


handlers = [
    web_session_json,
    agents_json,
    sessions_json,
    session_json,
    start_session_json,
    change_filter_json,
    check_filter_json,
    *(_order(name) for name in ORDERS),
]
