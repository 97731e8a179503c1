"""The hub's web application: its parts, its routes, and what an error looks like.

The order of what a request passes, from outside:
RequestLimits → SafetyHeaders → Litestar (error pages → Guard → route). The safety headers are outside, so that error
pages and static files carry them, too.
"""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from litestar import Litestar, Request, Response, Router
from litestar.config.app import AppConfig
from litestar.enums import MediaType
from litestar.exceptions import HTTPException, NotAuthorizedException, ValidationException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.response import Redirect
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp

from hub.agents.control import AgentAway, AgentSilent, ControlError
from hub.archive.reading import ArchiveError
from hub.http.byte_range import RangeNotSatisfiable
from hub.http.request_limits import RequestLimits
from hub.live.feed import TooManyViewers
from hub.pool.query import QueryError
from hub.pool.store import StoreAway, StoreRefused
from hub.registry import ConflictError, RegistryError, UnknownError
from hub.web.auth import TooManyLogins
from hub.web.guard import Guard, PasswordChangeNeeded, SafetyHeaders
from hub.web.pages import STATIC, theme_of, wants_html
from hub.web.running import Hub, hub_of, program_version
from wire.errors import WireError

log = logging.getLogger("wirepool.hub.app")

MAX_BODY_BYTES = 256 * 1024
MAX_MESSAGE_CHARACTERS = 1000

TITLES = {
    400: "That request makes no sense",
    401: "Log in first",
    403: "Not allowed",
    404: "Nothing here",
    405: "Not that way",
    409: "That doesn't fit the present state",
    413: "Too large",
    422: "Something in it is wrong",
    429: "Too many attempts",
    500: "The hub made a mistake",
    502: "The agent can't be reached",
    503: "Not available now",
    504: "The agent didn't answer",
}
MEANINGS = {
    404: "There is nothing at this address.",
    405: "This address doesn't take such a request.",
    413: f"What was sent is too large: at most {MAX_BODY_BYTES // 1024} KiB are taken.",
}
"""Instead of what the framework says where we have said nothing ourselves."""


def create_litestar(hub: Hub) -> Litestar:
    """The Litestar application with every route."""
    from hub.web.routes import (
        account,
        agent,
        agents,
        api,
        connect,
        download,
        explore,
        explore_files,
        export,
        health,
        live,
        metrics,
        packet,
        pool,
        sessions,
    )
    from hub.web.routes.api.described import description

    def with_hub(config: AppConfig) -> AppConfig:
        config.state["hub"] = hub
        return config

    return Litestar(
        route_handlers=[
            _undescribed(account.handlers),
            _undescribed(agents.handlers),
            _undescribed(agent.handlers),
            _undescribed(connect.handlers),
            _undescribed(download.handlers),
            _undescribed(live.handlers),
            _undescribed(packet.handlers),
            _undescribed(sessions.handlers),
            _undescribed(pool.handlers),
            *export.handlers,
            _undescribed(explore.handlers),
            _undescribed(explore_files.handlers),
            *api.handlers,
            _undescribed(health.handlers),
            _undescribed(metrics.handlers),
            create_static_files_router(path="/static", directories=[STATIC], opt={"public": True}),
        ],
        middleware=[DefineMiddleware(Guard, authentication=hub.authentication)],
        exception_handlers={Exception: answer_error},
        request_max_body_size=MAX_BODY_BYTES,
        multipart_form_part_limit=1,
        openapi_config=description(program_version()),
        on_app_init=[with_hub],
        logging_config=None,
        debug=False,
    )


def _undescribed(handlers: Sequence[BaseRouteHandler]) -> Router:
    """Handlers of pages: no part of the API's description."""
    return Router("/", route_handlers=handlers, include_in_schema=False)


def create_app(hub: Hub) -> ASGIApp:
    """What the server serves."""
    return RequestLimits(SafetyHeaders(create_litestar(hub)))  # type: ignore[arg-type,return-value]


def status_of(error: Exception) -> tuple[int, str]:
    """(HTTP status, what people may read) of an exception. Only our own errors' texts are shown."""
    match error:
        case ValidationException():
            return 422, wrong_values(error)
        case HTTPException():
            plain = error.detail in (HTTPStatus(error.status_code).phrase, "Request Entity Too Large")
            return error.status_code, MEANINGS.get(error.status_code, error.detail) if plain else error.detail
        case UnknownError():
            return 404, str(error)
        case ConflictError():
            return 409, str(error)
        case RegistryError():
            return 503, str(error)
        case WireError() | QueryError() | StoreRefused():
            return 422, str(error)
        case StoreAway():
            return 503, str(error)
        case AgentAway():
            return 502, str(error)
        case AgentSilent():
            return 504, str(error)
        case ControlError():
            return 502, str(error)
        case TooManyViewers():
            return 503, str(error)
        case RangeNotSatisfiable():
            return 416, f"That part lies behind the end: {error}."
        case ArchiveError():
            return 503, f"{error}. Is the NATS server running?"
        case TooManyLogins():
            return 429, str(error)
    return 500, "The hub's log says more."


def wrong_values(error: ValidationException) -> str:
    """Which values of a request are wrong and why, in one line."""
    found = error.extra if isinstance(error.extra, list) else []
    lines = [f"{one['key']}: {one['message']}" if one.get("key") else str(one["message"]) for one in found]
    return "; ".join(lines)[:MAX_MESSAGE_CHARACTERS] or error.detail


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """A page for a browser that navigates; `{"error": {"status": …, "message": …}}` for everyone else."""
    status, message = status_of(error)
    if status == 500:
        log.error("error at %s %s", request.method, request.url.path, exc_info=error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, TooManyLogins):
        headers["retry-after"] = str(int(error.retry_after_s) + 1)
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.length}"
    if wants_html(request):
        if isinstance(error, NotAuthorizedException) and request.method == "GET":
            query = f"?{request.url.query}" if request.url.query else ""
            here = request.url.path + query
            return Redirect(
                "/login" + ("" if here == "/" else f"?next={quote(here, safe='/')}"), status_code=303
            )
        if isinstance(error, PasswordChangeNeeded):
            return Redirect("/password", status_code=303)
        hub = hub_of(request)
        body = hub.pages.text(
            "pages/error.html",
            session=None,
            path=request.url.path,
            theme=theme_of(request),
            title=TITLES.get(status, "That didn't work"),
            detail=message,
            status=status,
        )
        return Response(body, status_code=status, media_type=MediaType.HTML, headers=headers)
    content = orjson.dumps({"error": {"status": status, "message": message}})
    return Response(content, status_code=status, media_type=MediaType.JSON, headers=headers)
