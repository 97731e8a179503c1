"""One packet, dissected."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from litestar import Request, get
from litestar.exceptions import NotFoundException, ServiceUnavailableException
from litestar.params import QueryParameter

from hub.dissect.tshark import TsharkError
from hub.live.lookup import PacketGone
from hub.observation import Observation
from hub.web.packet_view import packet_view, tree_lines
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
    by: Annotated[
        Literal["wirepool", "tshark"],
        QueryParameter(
            description="Whose tree: the hub's own, or tshark's where it is installed on the hub."
        ),
    ] = "wirepool",
) -> answers.PacketAnswer:
    """A packet's protocol tree and bytes, from the live feed or the archive."""
    hub = hub_of(request)
    try:
        found = await hub.packets.find(Observation.parse(observation), heard_ns)
    except PacketGone as gone:
        raise NotFoundException(str(gone)) from None
    view = packet_view(found)
    if by == "tshark":
        try:
            layers = await hub.tshark.dissect(
                found.data, found.header.link_type, found.time_ns, found.original_bytes
            )
        except TsharkError as trouble:
            raise ServiceUnavailableException(str(trouble)) from None
        view = replace(view, lines=tree_lines(layers))
    return answers.PacketAnswer(answers.Packet.of(found, view))


handlers = [one_packet]
