"""Who asks: log in, log out, change the password."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.exceptions import NotAuthorizedException
from litestar.params import JSONBody

from hub.registry import WebSession
from hub.web.auth import Login as NewLogin
from hub.web.auth import PasswordRefused
from hub.web.guard import web_session
from hub.web.routes.account import address_of, with_cookie
from hub.web.routes.api import answers
from hub.web.routes.api.described import SAFE, UNSAFE, exact_body, problems
from hub.web.routes.api.orders import LoginOrder, PasswordOrder, refused
from hub.web.running import Hub, hub_of

AnyRequest = Request[Any, Any, Any]


def _told(hub: Hub, session: WebSession) -> answers.Login:
    return answers.Login(
        user=session.user,
        csrf=session.csrf,
        expires_ns=str(session.expires_ns),
        must_change_password=hub.authentication.must_change(session),
    )


def _logged_in(hub: Hub, login: NewLogin) -> Response[answers.Login]:
    session = hub.authentication.session_of(login.token)
    if session is None:  # it was ended between two lines: somebody else changed the password
        raise NotAuthorizedException("this login has ended already; log in again")
    response = Response(_told(hub, session))
    with_cookie(response, login.token, hub.settings.session_lifetime_s)
    return response


@post(
    "/api/login",
    status_code=200,
    opt={"public": True},
    tags=["Login"],
    security=[{}],
    responses=problems(),
    before_request=exact_body,
)
async def log_in(request: AnyRequest, data: JSONBody[LoginOrder]) -> Response[answers.Login]:
    """Open a web session: the answer sets its cookie and tells its CSRF token."""
    hub = hub_of(request)
    login = await hub.authentication.log_in(data.name.strip(), data.password, address_of(request))
    if login is None:
        raise NotAuthorizedException("the name or the password is wrong")
    return _logged_in(hub, login)


@get("/api/session", tags=["Login"], **SAFE)
async def who(request: AnyRequest) -> answers.Login:
    """Who is logged in, and the CSRF token."""
    return _told(hub_of(request), web_session(request))


@post("/api/logout", status_code=204, tags=["Login"], **UNSAFE)
async def log_out(request: AnyRequest) -> Response[None]:
    """End this web session."""
    hub_of(request).authentication.log_out(web_session(request))
    response: Response[None] = Response(None, status_code=204)
    with_cookie(response, "", 0)
    return response


@post("/api/password", status_code=200, tags=["Login"], **UNSAFE)
async def change_password(request: AnyRequest, data: JSONBody[PasswordOrder]) -> Response[answers.Login]:
    """Replace the password; every other login of the user ends, and this one gets a new cookie and token."""
    hub = hub_of(request)
    user = web_session(request).user
    try:
        login = await hub.authentication.change_password(user, data.old, data.new, address_of(request))
    except PasswordRefused as error:
        raise refused(str(error)) from None
    if login is None:
        raise refused("old: the password until now is wrong")
    return _logged_in(hub, login)


handlers = [log_in, who, log_out, change_password]
