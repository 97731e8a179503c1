"""One packet of the page Live, opened: its protocol tree and its bytes; by tshark where that is asked for; as JSON."""

from typing import Any

from litestar import Request, Response, get
from litestar.exceptions import ClientException

from hub.decode.summary import flag_words
from hub.dissect.packet import dissect
from hub.dissect.tree import Field
from hub.dissect.tshark import TsharkError
from hub.live.lookup import FoundPacket, PacketGone
from hub.live.observation import Observation
from hub.web.packet_view import fields_json, packet_view, tree_lines
from hub.web.running import Hub, hub_of

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
        lines = tree_lines(await _by_tshark(hub, found))
    except (PacketGone, TsharkError) as trouble:
        return hub.pages.fragment("fragments/packet_no_tree.html", text=str(trouble))
    return hub.pages.fragment("fragments/packet_tree.html", lines=lines)


@get("/api/packet")
async def packet_json(request: AnyRequest) -> dict[str, Any]:
    """One packet: ?observation=&heard= as rows carry them; ?by=tshark for its tree instead of ours."""
    hub = hub_of(request)
    by = request.query_params.get("by", "wirepool")
    if by not in ("wirepool", "tshark"):
        raise ClientException("by: want wirepool or tshark", status_code=422)
    try:
        found, _ = await _found(request)
    except PacketGone as gone:
        raise ClientException(str(gone), status_code=404) from None
    if by == "tshark":
        try:
            layers = await _by_tshark(hub, found)
        except TsharkError as trouble:
            raise ClientException(str(trouble), status_code=503) from None
    else:
        layers = dissect(found.data, found.header.link_type, found.original_bytes).layers
    return {
        "packet": {
            "observation": request.query_params["observation"],
            "agent": found.header.agent,
            "session": found.header.session,
            "interface": found.header.interface,
            "link_type": found.header.link_type,
            "time_ns": str(found.time_ns),
            "original_bytes": found.original_bytes,
            "captured_bytes": len(found.data),
            "flags": list(flag_words(found.flags)),
            "data": found.data.hex(),
            "by": by,
            "layers": fields_json(layers),
        }
    }


async def _by_tshark(hub: Hub, found: FoundPacket) -> list[Field]:
    return await hub.tshark.dissect(found.data, found.header.link_type, found.time_ns, found.original_bytes)


handlers = [open_packet, packet_by_tshark, packet_json]
