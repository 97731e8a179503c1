"""One packet of the page Live, opened: its protocol tree and its bytes."""

from typing import Any

from litestar import Request, Response, get

from hub.live.lookup import PacketGone
from hub.live.observation import Observation
from hub.web.packet_view import packet_view
from hub.web.running import hub_of

AnyRequest = Request[Any, Any, Any]

_MAX_DIGITS = 19


@get("/live/packet")
async def open_packet(request: AnyRequest) -> Response[str]:
    """?observation=agent/boot/session/lane/sequence/index&heard=ns, as a row of the list carries them."""
    hub = hub_of(request)
    observation = Observation.parse(request.query_params.get("observation", ""))
    heard = request.query_params.get("heard", "")
    heard_ns = int(heard) if heard.isascii() and heard.isdigit() and len(heard) <= _MAX_DIGITS else 0
    try:
        found = await hub.packets.find(observation, heard_ns)
    except PacketGone as gone:
        return hub.pages.fragment("fragments/packet_gone.html", text=str(gone))
    return hub.pages.fragment("fragments/packet.html", packet=packet_view(found))


handlers = [open_packet]
