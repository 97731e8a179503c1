"""Downloads: the archive's packets as pcapng, and the signed messages themselves as evidence."""

from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response, get
from litestar.types import ASGIApp

from hub.http.streaming import download
from hub.ledger.flow_totals import flow_table
from hub.web.flow_csv import csv_of
from hub.web.routes.api.described import SessionId, file_of
from hub.web.running import Hub, hub_of
from wire.names import check_session_id

AnyRequest = Request[Any, Any, Any]


def file_name(hub: Hub, session_id: str, suffix: str) -> str:
    """wirepool-<agent>-<start in UTC>-<id>.<suffix>: letters, digits and dashes, whatever the agent says."""
    record = hub.registry.sessions.require(check_session_id(session_id))
    start = datetime.fromtimestamp(record.created_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"wirepool-{record.agent}-{start}-{record.id[:8]}.{suffix}"


@get("/sessions/{session_id:str}/export.pcapng", **file_of("application/x-pcapng"))
async def export_pcapng(request: AnyRequest, session_id: SessionId) -> ASGIApp:
    """All packets of the session, for Wireshark and its kin."""
    hub = hub_of(request)
    name = file_name(hub, session_id, "pcapng")
    return download(
        hub.export.pcapng([session_id]),
        file_name=name,
        media_type="application/x-pcapng",
        stopping=hub.stopping,
    )


@get("/sessions/{session_id:str}/export.wpz", **file_of("application/zip"))
async def export_wpz(request: AnyRequest, session_id: SessionId) -> ASGIApp:
    """The original messages with certificates and manifest, for `wirepool verify`."""
    hub = hub_of(request)
    name = file_name(hub, session_id, "wpz")
    return download(
        hub.export.wpz([session_id]), file_name=name, media_type="application/zip", stopping=hub.stopping
    )


@get("/sessions/{session_id:str}/flows.csv", **file_of("text/csv"))
async def export_flows(request: AnyRequest, session_id: SessionId) -> Response[str]:
    """The flows that are kept of the session, the largest first, for a spreadsheet."""
    hub = hub_of(request)
    name = file_name(hub, session_id, "flows.csv")
    return Response(
        csv_of(flow_table(hub.registry, session_id)),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


handlers = [export_pcapng, export_wpz, export_flows]
