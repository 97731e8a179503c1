"""One packet of the page Live, opened: its protocol tree and its bytes, by tshark where that is asked for."""

from typing import Any

from litestar import Request, Response, get

from hub.dissect.tshark import TsharkError
from hub.live.lookup import FoundPacket, PacketGone
from hub.observation import Observation
from hub.web.packet_view import packet_view, tree_lines
from hub.web.running import hub_of

AnyRequest = Request[Any, Any, Any]

_MAX_DIGITS = 19


async def _found(request: AnyRequest) -> tuple[FoundPacket, int]:
    """The packet that a request names by ?observation=agent/boot/session/lane/sequence/index&heard=ns, as a row of the
    list carries them, and when the hub heard of it (ns; 0: unknown)."""
    observation = Observation.parse(request.query_params.get("observation", ""))
    heard = request.query_params.get("heard", "")
    heard_ns = int(heard) if heard.isascii() and heard.isdigit() and len(heard) <= _MAX_DIGITS else 0
    return await hub_of(request).packets.find(observation, heard_ns), heard_ns


@get("/live/packet")
async def open_packet(request: AnyRequest) -> Response[str]:
    """The pane of an opened packet."""
    hub = hub_of(request)
    try:
        found, heard_ns = await _found(request)
    except PacketGone as gone:
        return hub.pages.fragment("fragments/packet_gone.html", text=str(gone))
    return hub.pages.fragment(
        "fragments/packet.html",
        packet=packet_view(found),
        tshark=hub.tshark.program is not None,
        observation=request.query_params["observation"],
        heard=heard_ns,
    )


@get("/live/packet/tshark")
async def packet_by_tshark(request: AnyRequest) -> Response[str]:
    """The tree that tshark makes of an opened packet, or a note why there is none."""
    hub = hub_of(request)
    try:
        found, _ = await _found(request)
        layers = await hub.tshark.dissect(
            found.data, found.header.link_type, found.time_ns, found.original_bytes
        )
    except (PacketGone, TsharkError) as trouble:
        return hub.pages.fragment("fragments/packet_no_tree.html", text=str(trouble))
    return hub.pages.fragment("fragments/packet_tree.html", lines=tree_lines(layers))


handlers = [open_packet, packet_by_tshark]
