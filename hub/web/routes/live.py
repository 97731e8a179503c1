"""The page Live: start a capture, watch it, steer it."""

import asyncio
import dataclasses
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from litestar import Request, Response, get, post
from litestar.response import Redirect
from litestar.types import ASGIApp

from hub.agents.control import ControlError
from hub.agents.filter_check import advice
from hub.http.streaming import event, event_stream
from hub.live.feed import BACKLOG_ROWS, SessionTotals, Update
from hub.registry import RegistryError, UnknownError, WebSession
from hub.web.guard import web_session
from hub.web.live_rows import older_json, rows_json
from hub.web.routes import start_form
from hub.web.running import Hub, hub_of
from hub.web.session_view import SessionView, view
from wire.errors import WireError
from wire.names import check_agent_id, check_session_id
from wire.session import MAX_FILTER_BYTES, MAX_SNAPLEN

AnyRequest = Request[Any, Any, Any]

MAX_SESSIONS = start_form.MAX_AGENTS
MAX_KEPT_ROWS = 100_000
"""Rows that a page holds; it counts what it had to forget."""
COUNTERS_INTERVAL_S = 0.25
STATE_INTERVAL_S = 0.5
MAX_CHECKED = 4
"""Agents asked about a filter while it is typed; the others judge it when they take it."""


@dataclass(frozen=True, slots=True)
class LiveCounters:
    """The sums over the watched sessions that are always in sight."""

    packets: int = 0
    packets_per_second: float = 0.0
    bits_per_second: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_total: int = 0
    own_traffic: int = 0
    lag_s: float | None = None
    spool_bytes: int = 0
    unverified: int = 0
    not_shown: int = 0


def counters(totals: list[SessionTotals], not_shown: int) -> LiveCounters:
    """Add up sessions. A spool belongs to an agent: it counts once, however many sessions the agent has."""
    dropped: dict[str, int] = defaultdict(int)
    for total in totals:
        for place, number in total.dropped.items():
            dropped[place] += number
    lags = [total.lag_s for total in totals if total.lag_s is not None]
    return LiveCounters(
        packets=sum(total.packets for total in totals),
        packets_per_second=sum(total.packets_per_second for total in totals),
        bits_per_second=sum(total.bits_per_second for total in totals),
        dropped=dict(dropped),
        dropped_total=sum(dropped.values()),
        own_traffic=sum(total.own_traffic for total in totals),
        lag_s=min(lags) if lags else None,
        spool_bytes=sum({total.agent: total.spool_bytes for total in totals}.values()),
        unverified=sum(total.unverified for total in totals),
        not_shown=not_shown,
    )


def session_ids(request: AnyRequest) -> list[str]:
    """The ids of ?session=a,b (also repeated), in order, each once. WireError for a wrong one."""
    ids = [part for text in request.query_params.getall("session", []) for part in text.split(",") if part]
    unique = list(dict.fromkeys(check_session_id(one) for one in ids))
    if len(unique) > MAX_SESSIONS:
        raise WireError(f"one page shows at most {MAX_SESSIONS} sessions")
    return unique


@get("/live")
async def live_page(request: AnyRequest) -> Response[str]:
    """With ?session=: the running sessions; else the form, with ?agent= chosen."""
    hub = hub_of(request)
    ids = session_ids(request)
    if not ids:
        agent = request.query_params.get("agent")
        interface = request.query_params.get("interface", "")
        form = start_form.blank(hub, check_agent_id(agent) if agent else None, interface)
        return _start_page(request, form, defaultdict(str))
    views = [view(hub.registry.sessions.require(one)) for one in ids]
    return hub.pages.page(
        request,
        "pages/live.html",
        views=views,
        ids=ids,
        c=counters([], 0),
        max_rows=MAX_KEPT_ROWS,
        all_ended=all(one.ended for one in views),
    )


def _start_page(
    request: AnyRequest, form: start_form.StartForm, errors: dict[str, str], error: str = ""
) -> Response[str]:
    hub = hub_of(request)
    active = [view(record) for record in hub.registry.sessions.all(active_only=True, limit=50)]
    context: dict[str, Any] = {
        "agents": start_form.choices(hub, form),
        "form": form,
        "errors": errors,
        "error": error,
    }
    status = 422 if errors or error else 200
    if "hx-request" in request.headers:
        return hub.pages.fragment(
            "fragments/start_form.html", status=status, session=web_session(request), **context
        )
    active_ids = [one.record.id for one in active[:MAX_SESSIONS]]
    return hub.pages.page(
        request, "pages/start.html", status=status, active=active, active_ids=active_ids, **context
    )


@post("/live", status_code=200)
async def start_capture(request: AnyRequest) -> Response[Any]:
    """Start a session on each chosen agent and show them; or the form again with what is wrong."""
    hub = hub_of(request)
    form = start_form.read(await request.form())
    order, errors = start_form.check(form)
    if order is not None:
        for name, capability in order.needs.items():
            errors[name] = start_form.cannot(hub, order.interfaces, capability)
        if any(errors.values()):
            return _start_page(request, form, errors)
    if order is not None and form.filter:
        verdict = await judge_filter(hub, list(order.interfaces.items()), form.filter)
        if verdict.kind == "error":
            order, errors["filter"] = None, verdict.text
    if order is None:
        return _start_page(request, form, errors)
    user = web_session(request).user
    ids: list[str] = []
    try:
        if order.options["retention_s"] is None:
            order.options["retention_s"] = hub.settings.retention_s
        for agent, interface in order.interfaces.items():
            ids.append(hub.sessions.start(agent, interface, user=user, **order.options))
    except (RegistryError, WireError) as refused:
        # What was begun goes on: it is in the list "Running now" and can be stopped there.
        started = f" {len(ids)} of {len(order.interfaces)} sessions were started." if ids else ""
        return _start_page(request, form, defaultdict(str), error=f"{refused}.{started}")
    finally:
        hub.declarer.wake()
    address = f"/live?session={','.join(ids)}"
    if "hx-request" in request.headers:
        return Response(None, status_code=204, headers={"hx-redirect": address})
    return Redirect(address, status_code=303)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What agents say of a filter: kind "ok", "error" or "" (nobody could say)."""

    kind: str
    text: str


async def judge_filter(
    hub: Hub, targets: list[tuple[str, str]], text: str, snaplen: int = MAX_SNAPLEN
) -> Verdict:
    """Ask the agents' own libpcap; targets are (agent, interface), "" for an unknown interface.

    An agent that doesn't answer isn't an error: it judges the filter when it takes the session.
    """
    if len(text.encode()) > MAX_FILTER_BYTES:
        return Verdict("error", f"A filter may have at most {MAX_FILTER_BYTES} bytes.")
    silent: list[str] = []
    programs: list[int] = []

    async def ask(agent: str, interface: str) -> str | None:
        try:
            verdict = await hub.control.check_filter(
                agent, text, interface=interface or None, snaplen=snaplen
            )
        except (ControlError, UnknownError):
            silent.append(agent)
            return None
        if verdict.accepted:
            programs.append(verdict.instructions or 0)
            return None
        return f"{agent}: {verdict.error}"

    async with asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(ask(*target)) for target in targets[:MAX_CHECKED]]
    refused = [answer for task in answers if (answer := task.result())]
    if refused:
        sentences = dict.fromkeys(sentence for answer in refused if (sentence := advice(answer)))
        return Verdict("error", "\n".join([*refused, *sentences]))
    if programs:
        return Verdict("ok", f"Valid: {max(programs)} instructions." if max(programs) else "Valid.")
    if silent:
        names = ", ".join(sorted(silent))
        return Verdict("", f"Not checked: {names} can't be asked now; it is judged when the capture starts.")
    return Verdict("", "Choose an agent to have the filter checked.")


@post("/live/check-filter", status_code=200)
async def check_filter(request: AnyRequest) -> Response[str]:
    """The message next to a filter field: the words of the agent's libpcap, and what to write instead."""
    hub = hub_of(request)
    form = await request.form()
    text = str(form.get("filter", "")).strip()
    message_id = str(form.get("message_id", "filter-message"))
    if message_id not in ("filter-message", "change-filter-message"):
        message_id = "filter-message"
    targets = [
        (check_agent_id(agent), interface) for agent, interface in start_form.read(form).interfaces.items()
    ]
    verdict = await judge_filter(hub, targets, text) if text else Verdict("", "")
    return hub.pages.fragment(
        "fragments/filter_message.html", id=message_id, kind=verdict.kind, text=verdict.text
    )


@get("/events/live")
async def live_events(request: AnyRequest) -> ASGIApp:
    """Server-sent events of ?session=: `older` and `rows` (JSON), `counters` (HTML), `session` (its state), `ended`."""
    hub = hub_of(request)
    ids = session_ids(request)
    if not ids:
        raise UnknownError("name the sessions to watch: ?session=ID")
    for one in ids:
        hub.registry.sessions.require(one)
    return event_stream(_live_events(hub, ids, web_session(request)), hub.stopping)


async def _live_events(hub: Hub, ids: list[str], login: WebSession) -> AsyncGenerator[bytes, None]:
    shown: dict[str, str] = {}
    not_shown = rows = 0
    next_counters = next_state = 0.0
    async with hub.live.watch(ids, backlog=BACKLOG_ROWS) as viewer:
        yield b"retry: 2000\n\n"
        async for update in viewer:
            now_s = time.monotonic()
            parts: list[bytes] = []
            if update.rows:
                parts.append(event("rows", rows_json(update.rows)))
            not_shown += update.not_shown
            rows += len(update.rows)
            if update.older is not None:
                rows += len(update.older)
                parts.append(await _older(hub, ids, update, rows + not_shown))
            if now_s >= next_counters:
                next_counters = now_s + COUNTERS_INTERVAL_S
                c = counters(list(update.totals.values()), not_shown)
                parts.append(event("counters", hub.pages.text("fragments/live_counters.html", c=c)))
            if now_s >= next_state:
                next_state = now_s + STATE_INTERVAL_S
                views = [view(hub.registry.sessions.require(one)) for one in ids]
                parts.extend(_changed_states(hub, views, shown))
                if not hub.authentication.is_open(login):
                    return
                if all(one.ended for one in views) and not update.rows and not viewer.awaits_older:
                    # The sums stay on the page; the rates of the last seconds would claim that packets still come.
                    last = counters(list(update.totals.values()), not_shown)
                    c = dataclasses.replace(last, packets_per_second=0.0, bits_per_second=0.0, lag_s=None)
                    parts.append(event("counters", hub.pages.text("fragments/live_counters.html", c=c)))
                    parts.append(event("ended", ""))
                    yield b"".join(parts)
                    return
            if parts:
                yield b"".join(parts)


async def _older(hub: Hub, ids: list[str], update: Update, told: int) -> bytes:
    """The event `older`. told: packets that the page knows of, with these; the archive has the others."""
    older = update.older or []
    archived = None if update.archive_away else max(0, hub.export.estimate(ids).packets - told)
    return event("older", await asyncio.to_thread(older_json, older, archived))


def _changed_states(hub: Hub, views: list[SessionView], shown: dict[str, str]) -> list[bytes]:
    changed = []
    for one in views:
        html = hub.pages.text("fragments/session_controls.html", view=one)
        if shown.get(one.record.id) != html:
            shown[one.record.id] = html
            changed.append(event("session", html))
    return changed


handlers = [live_page, start_capture, check_filter, live_events]
