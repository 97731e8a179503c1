"""One packet of the page Live, opened: its protocol tree and its bytes, by tshark where that is asked for."""

import struct
from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response, get

from hub.dissect.tshark import TsharkError
from hub.live.lookup import FoundPacket, PacketGone
from hub.observation import Observation
from hub.observe.decode import observe
from hub.web.packet_view import packet_view, tree_lines
from hub.web.running import hub_of
from wire.body import Columns

AnyRequest = Request[Any, Any, Any]

_MAX_DIGITS = 19
AROUND_NS = 30 * 60 * 10**9
"""Of a conversation this much before and behind one of its packets is shown."""


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
        follow=_conversation_of(found) if hub.pool is not None else "",
    )


def _conversation_of(found: FoundPacket) -> str:
    """Where Explore shows the packet's conversation, some time around it; "" where it belongs to none."""
    size = struct.pack("<I", len(found.data))
    time_ns = struct.pack("<Q", found.time_ns)
    seen = observe(Columns(time_ns, size, size, b"\0\0", found.data), found.header.link_type)
    community_id = bytes(seen.community_id[0]).decode()
    if not community_id:
        return ""
    around = {
        "q": f"community_id:{community_id}",
        "since": str(max(0, found.time_ns - AROUND_NS)),
        "until": str(found.time_ns + AROUND_NS),
    }
    return f"/explore?{urlencode(around)}"


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
