"""Logging in and out, and changing the password. The only pages strangers see are made here."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.enums import RequestEncodingType
from litestar.response import Redirect

from hub.web.auth import COOKIE, FIRST_USER, MIN_PASSWORD_CHARACTERS, PasswordRefused, TooManyLogins
from hub.web.guard import web_session
from hub.web.running import hub_of

AnyRequest = Request[Any, Any, Any]
FORM = RequestEncodingType.URL_ENCODED


def local_path(address: str) -> str:
    """Where to go after the login: a path of this hub, or the first page. Never another host."""
    if address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable():
        return address
    return "/agents"


def address_of(request: AnyRequest) -> str:
    """The client's address; IPv6 by its /64, which one host has whole."""
    host = request.client.host if request.client else "?"
    return ":".join(host.split(":")[:4]) if ":" in host else host


def with_cookie(response: Response[Any], token: str, max_age_s: int) -> None:
    """Give the browser a session's token, or take it away: `max_age_s` 0."""
    response.set_cookie(
        COOKIE, token, max_age=max_age_s, path="/", secure=True, httponly=True, samesite="strict"
    )


@get("/", name="first")
async def first(request: AnyRequest) -> Redirect:
    """The first page."""
    return Redirect("/agents", status_code=303)


@get("/login", opt={"public": True})
async def login_page(request: AnyRequest) -> Response[Any]:
    """The login form."""
    if request.scope.get("user"):
        return Redirect(local_path(request.query_params.get("next", "")), status_code=303)
    return _login_form(request, next_path=local_path(request.query_params.get("next", "")))


def _login_form(
    request: AnyRequest,
    *,
    next_path: str,
    name: str = "",
    error: str = "",
    status: int = 200,
    wait_s: float = 0,
) -> Response[str]:
    hub = hub_of(request)
    users = hub.registry.users.all()
    only = users[0] if len(users) == 1 else None
    response = hub.pages.page(
        request,
        "pages/login.html",
        status=status,
        next=next_path,
        name=name
        or (FIRST_USER if only is not None and only.name == FIRST_USER and only.must_change else ""),
        error=error,
        first_login=only is not None and only.must_change,
    )
    if wait_s:
        response.set_header("retry-after", str(int(wait_s) + 1))
    return response


@post("/login", opt={"public": True}, status_code=200)
async def login(request: AnyRequest) -> Response[Any]:
    """Check name and password; open a web session."""
    hub = hub_of(request)
    form = await request.form()
    name, password = str(form.get("name", "")).strip(), str(form.get("password", ""))
    next_path = local_path(str(form.get("next", "")))
    try:
        result = await hub.authentication.log_in(name, password, address_of(request))
    except TooManyLogins as error:
        text = f"{str(error)[:1].upper()}{str(error)[1:]}."
        return _login_form(
            request, next_path=next_path, name=name, error=text, status=429, wait_s=error.retry_after_s
        )
    if result is None:
        return _login_form(
            request, next_path=next_path, name=name, error="The name or the password is wrong.", status=401
        )
    if result.user.must_change:
        next_path = "/password"
    response: Response[Any] = Redirect(next_path, status_code=303)
    with_cookie(response, result.token, hub.settings.session_lifetime_s)
    return response


@post("/logout", status_code=303)
async def logout(request: AnyRequest) -> Response[Any]:
    """End this web session."""
    hub_of(request).authentication.log_out(web_session(request))
    response: Response[Any] = Redirect("/login", status_code=303)
    with_cookie(response, "", 0)
    response.set_header("clear-site-data", '"cache"')
    return response


@get("/password")
async def password_page(request: AnyRequest) -> Response[str]:
    """The form to change the password."""
    return _password_form(request)


def _password_form(request: AnyRequest, *, error: str = "", status: int = 200) -> Response[str]:
    hub = hub_of(request)
    user = hub.registry.users.get(web_session(request).user)
    return hub.pages.page(
        request,
        "pages/password.html",
        status=status,
        error=error,
        must_change=user is not None and user.must_change,
        minimum=MIN_PASSWORD_CHARACTERS,
    )


@post("/password", status_code=200)
async def change_password(request: AnyRequest) -> Response[Any]:
    """Replace the password; every other login of the user ends."""
    hub = hub_of(request)
    form = await request.form()
    old, new, again = (str(form.get(field, "")) for field in ("old", "new", "again"))
    if new != again:
        return _password_form(request, error="The two new passwords differ.", status=422)
    try:
        result = await hub.authentication.change_password(
            web_session(request).user, old, new, address_of(request)
        )
    except PasswordRefused as error:
        return _password_form(request, error=str(error), status=422)
    except TooManyLogins as error:
        return _password_form(request, error=f"{error}".capitalize() + ".", status=429)
    if result is None:
        return _password_form(request, error="The password until now is wrong.", status=422)
    response: Response[Any] = Redirect("/agents", status_code=303)
    with_cookie(response, result.token, hub.settings.session_lifetime_s)
    return response


handlers = [first, login_page, login, logout, password_page, change_password]
