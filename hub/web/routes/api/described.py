"""What the OpenAPI document says of every operation: who may ask, what can go wrong, in which shape."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Router
from litestar.exceptions import ClientException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.params import PathParameter
from litestar.routes import BaseRoute
from litestar.types import ControllerRouterHandler
from msgspec import Meta, Struct

from hub.web.auth import COOKIE
from hub.web.guard import CSRF_HEADER
from wire.names import AGENT_ID, SESSION_ID

AgentId = Annotated[str, PathParameter(description="The agent's id.", pattern=f"^{AGENT_ID}$")]
SessionId = Annotated[str, PathParameter(description="The session's id.", pattern=f"^{SESSION_ID}$")]


class Problem(Struct, frozen=True):
    """What went wrong."""

    status: Annotated[int, Meta(description="The answer's HTTP status.")]
    message: Annotated[str, Meta(description="For people: what is wrong, and what to do about it.")]


class ProblemAnswer(Struct, frozen=True):
    """The one shape of every error."""

    error: Problem


_MEANINGS = {
    400: "The body isn't JSON.",
    401: "No login, or it has ended.",
    403: "No CSRF token, a request from another site, or a password that has to be changed first.",
    404: "There is no such agent, session or packet.",
    409: "The present state doesn't allow it.",
    413: "The body is too large.",
    416: "The file is shorter than the range that is asked for.",
    422: "A value is wrong; the message names it.",
    429: "Too many attempts; `retry-after` says how long to wait.",
    500: "The hub made a mistake; its log says more.",
    502: "The agent isn't connected.",
    503: "A part of the hub is away, or too much is going on.",
    504: "The agent didn't answer in time.",
}


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """These errors and those that any operation may answer with."""
    return {
        status: ResponseSpec(ProblemAnswer, generate_examples=False, description=_MEANINGS[status])
        for status in sorted({400, 401, 403, 413, 422, 429, 500, 503, *statuses})
    }


async def exact_body(request: Request[Any, Any, Any]) -> None:
    """Refuse a body that isn't exactly of its type: Litestar itself would take "96" for 96."""
    field = request.route_handler.parsed_data_field
    if not isinstance(request.route_handler, HTTPRouteHandler) or field is None:
        return
    try:
        msgspec.json.decode(await request.body(), type=field.annotation)
    except msgspec.ValidationError as error:
        raise ClientException(str(error), status_code=422) from None
    except msgspec.DecodeError as error:
        raise ClientException(f"the body isn't JSON: {error}") from None


SAFE: dict[str, Any] = {"responses": problems()}
UNSAFE: dict[str, Any] = {
    "responses": problems(409),
    "security": [{"login": [], "csrf": []}],
    "before_request": exact_body,
}
"""Keyword arguments of the route decorators: an operation that changes something needs the token, too."""


def file_of(media_type: str) -> dict[str, Any]:
    """The same for a download."""
    whole = ResponseSpec(bytes, generate_examples=False, description="The file.", media_type=media_type)
    part = ResponseSpec(
        bytes, generate_examples=False, description="The range asked for.", media_type=media_type
    )
    return {"tags": ["Downloads"], "responses": {200: whole, 206: part} | problems(404, 416)}


class _DocumentRouter(Router):
    """Litestar's own, without its page for unknown paths: below /api an error has one shape."""

    def register(self, value: ControllerRouterHandler) -> list[BaseRoute]:
        """As Router does, but for the handler of all other paths."""
        if isinstance(value, BaseRouteHandler) and "/{path:str}" in value.paths:
            return []
        return super().register(value)


def description(version: str) -> OpenAPIConfig:
    """The document's own part."""
    return OpenAPIConfig(
        title="wirepool",
        version=version,
        summary="Capture packets on many hosts, and account for every one of them.",
        description=(
            "Log in with `POST /api/login`: the answer sets the session cookie and tells the CSRF token, which every "
            f"request but GET carries in the header `{CSRF_HEADER}`. Errors are "
            '`{"error": {"status": 409, "message": "…"}}`. Times are nanoseconds since 1970 in UTC, as strings.'
        ),
        openapi_router=_DocumentRouter("/api", route_handlers=[], include_in_schema=False),
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        use_handler_docstrings=True,
        tags=[
            Tag("Login", "Who asks."),
            Tag("Agents", "The hosts that capture."),
            Tag("Sessions", "Captures: their orders, their books, their packets."),
            Tag("Pool", "Where packets of all agents can be searched, and what became of each."),
            Tag("Downloads", "What was captured, as files."),
        ],
        components=Components(
            security_schemes={
                "login": SecurityScheme(type="apiKey", name=COOKIE, security_scheme_in="cookie"),
                "csrf": SecurityScheme(type="apiKey", name=CSRF_HEADER, security_scheme_in="header"),
            }
        ),
        security=[{"login": []}],
    )
