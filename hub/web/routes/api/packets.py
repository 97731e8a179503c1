"""One packet, dissected."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.exceptions import NotFoundException
from litestar.params import QueryParameter

from hub.live.lookup import PacketGone
from hub.live.observation import Observation
from hub.web.packet_view import packet_view
from hub.web.routes.api import answers
from hub.web.routes.api.described import problems
from hub.web.running import hub_of

AnyRequest = Request[Any, Any, Any]


@get("/api/packet", tags=["Sessions"], responses=problems(404))
async def one_packet(
    request: AnyRequest,
    observation: Annotated[
        str, QueryParameter(description="agent/boot/session/lane/sequence/index: which one.", max_length=256)
    ],
    heard_ns: Annotated[
        int,
        QueryParameter(description="When the hub heard of it, if known: found sooner.", ge=0, le=2**63 - 1),
    ] = 0,
) -> answers.PacketAnswer:
    """A packet's protocol tree and bytes, from the live feed or the archive."""
    hub = hub_of(request)
    try:
        found = await hub.packets.find(Observation.parse(observation), heard_ns)
    except PacketGone as gone:
        raise NotFoundException(str(gone)) from None
    return answers.PacketAnswer(answers.Packet.of(found, packet_view(found)))


handlers = [one_packet]
