"""The page Connect: one field for a host, and what can be captured there; or how to let an unknown host in."""

import re
from typing import Any

from litestar import Request, Response, get

from hub.agents.finding import MAX_ASKED_CHARACTERS, find
from hub.web.running import hub_of
from wire.errors import WireError
from wire.names import check_agent_id

AnyRequest = Request[Any, Any, Any]

_LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,252}", re.ASCII)
"""What may stand in a command that somebody copies into a shell."""


@get("/connect")
async def connect_page(request: AnyRequest) -> Response[str]:
    """?host= is an address, a host name or an agent's name: the agents it means, or what to do when it means none."""
    hub = hub_of(request)
    asked = request.query_params.get("host", "")[:MAX_ASKED_CHARACTERS].strip()
    statuses = hub.presence.all()
    found = await find(statuses, asked)
    return hub.pages.page(
        request,
        "pages/connect.html",
        found=found,
        name=agent_name(asked),
        login=asked if _LOGIN.fullmatch(asked) else "",
        known=[status.id for status in statuses if not status.imported],
    )


def agent_name(asked: str) -> str:
    """A name under which the host asked for could be enrolled: its first label, as far as agent ids go."""
    first = asked.lower().partition(".")[0] if re.search("[a-z]", asked.lower()) and ":" not in asked else ""
    name = re.sub(r"[^a-z0-9-]+", "-", first).strip("-")[:32]
    try:
        return check_agent_id(name)
    except WireError:
        return "web1"


handlers = [connect_page]
