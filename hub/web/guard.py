"""What happens to every request before a route sees it: headers of safety, login, CSRF.

Closed by default: a route is open to strangers only if it says `public=True` in its options; a test walks all routes.
An unsafe request (anything but GET, HEAD, OPTIONS) needs the session's CSRF token, in the header `x-csrf-token` (htmx,
API clients) or in the form field `csrf` (forms without JavaScript), and must not come from another site.
"""

import hmac
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

from litestar import Request
from litestar.datastructures import Headers, MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from hub.web.auth import COOKIE, Authentication

if TYPE_CHECKING:
    from hub.registry import WebSession

PASSWORD_PATHS = frozenset({"/password", "/logout", "/api/session", "/api/password", "/api/logout"})
"""Open to a user who still has the generated password."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "strict-transport-security": "max-age=31536000",
}


class PasswordChangeNeeded(PermissionDeniedException):
    """The generated password is good for one thing: choosing another one."""


class SafetyHeaders:
    """Adds HEADERS to every answer, errors and static files included, and `no-store` to what isn't a static file."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        static = scope["path"].startswith("/static/")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableScopeHeaders.from_message(message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "public, max-age=3600" if static else "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Guard:
    """Authenticates each request. Sets `scope["user"]` to the WebSession (None on public routes without a login)."""

    def __init__(self, app: ASGIApp, authentication: Authentication) -> None:
        self.app = app
        self._authentication = authentication

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry. Raises NotAuthorizedException or PermissionDeniedException; the error pages answer."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        request: Request[Any, Any, Any] = Request(scope, receive, send)
        unsafe = request.method not in SAFE_METHODS
        if unsafe and _is_foreign(request.headers):
            raise PermissionDeniedException("this request came from another site")
        token = request.cookies.get(COOKIE)
        session = self._authentication.session_of(token) if token else None
        scope["user"] = session
        scope["auth"] = session
        public = bool(scope.get("route_handler") and scope["route_handler"].opt.get("public"))
        if session is None and not public:
            raise NotAuthorizedException("log in first")
        if unsafe and session is not None and not public:
            await _check_csrf(request, session)
        confined = session is not None and not public and request.url.path not in PASSWORD_PATHS
        if confined and session is not None and self._authentication.must_change(session):
            raise PasswordChangeNeeded("choose your own password first, at /password")
        await self.app(scope, receive, send)


def _is_foreign(headers: Headers) -> bool:
    """Browsers say where a request comes from; clients that say nothing carry no cookie by accident."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


async def _check_csrf(request: Request[Any, Any, Any], session: "WebSession") -> None:
    given = request.headers.get(CSRF_HEADER, "")
    content_type = request.headers.get("content-type", "")
    if not given and content_type.startswith("application/x-www-form-urlencoded"):
        # The body stays readable for the route: Litestar keeps it in the scope.
        fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=200)
        given = fields.get(CSRF_FIELD, [""])[0]
    if not hmac.compare_digest(given.encode(), session.csrf.encode()):
        raise PermissionDeniedException("this page is out of date (its CSRF token doesn't fit): reload it")


def web_session(request: Request[Any, Any, Any]) -> "WebSession":
    """The session of a request that the Guard let through."""
    return cast("WebSession", request.scope["user"])
