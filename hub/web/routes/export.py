"""Downloads: the archive's packets as pcapng, and the signed messages themselves as evidence.

Of an ended session the file is the same each time, so that a broken download can go on (Range, with If-Range for the
file's ETag). A part is cut out of the file made anew, and its length has to be known before its first byte: a file that
was never sent whole is made once more for it.
"""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response, get
from litestar.types import ASGIApp

from hub.archive.export_identity import export_identity
from hub.http.byte_range import cut_out, wanted_range
from hub.http.streaming import download
from hub.ledger.flow_totals import flow_table
from hub.web.downloads import TOKEN, DownloadProgress
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


async def _export(request: AnyRequest, session_id: str, form: str, media_type: str) -> ASGIApp:
    """The file, or the part of it that is asked for; ?watch= names this download for `/downloads/…`."""
    hub = hub_of(request)
    name = file_name(hub, session_id, form)
    identity = await export_identity(hub.registry, hub.bus, session_id, form)
    estimate = hub.export.estimate([session_id])
    expected_bytes = estimate.pcapng_bytes if form == "pcapng" else estimate.wpz_bytes

    def make() -> AsyncGenerator[bytes, None]:
        return hub.export.pcapng([session_id]) if form == "pcapng" else hub.export.wpz([session_id])

    headers, status = {"accept-ranges": "none"}, 200
    chunks, first_byte = make, 0
    length = None
    if identity is not None:
        etag = f'"{identity}"'
        headers = {"accept-ranges": "bytes", "etag": etag}
        length = hub.downloads.length(identity)
        wanted = wanted_range(request.headers.get("range", ""), request.headers.get("if-range", ""), etag)
        if wanted is not None:
            length = await hub.downloads.measure(identity, make)
            first_byte, last_byte = wanted.within(length)
            headers["content-range"] = f"bytes {first_byte}-{last_byte}/{length}"
            headers["content-length"] = str(last_byte + 1 - first_byte)
            status, identity = 206, None

            def chunks() -> AsyncGenerator[bytes, None]:
                return cut_out(make(), first_byte, last_byte)

        elif length is not None:
            headers["content-length"] = str(length)
    progress = DownloadProgress(length or expected_bytes, length is not None, first_byte)
    watch = request.query_params.get("watch", "")
    if TOKEN.fullmatch(watch):
        hub.downloads.watch(watch, progress)
    return download(
        hub.downloads.followed(chunks(), progress, identity),
        file_name=name,
        media_type=media_type,
        stopping=hub.stopping,
        status=status,
        headers=headers,
    )


@get("/sessions/{session_id:str}/export.pcapng", **file_of("application/x-pcapng"))
async def export_pcapng(request: AnyRequest, session_id: SessionId) -> ASGIApp:
    """All packets of the session, for Wireshark and its kin."""
    return await _export(request, session_id, "pcapng", "application/x-pcapng")


@get("/sessions/{session_id:str}/export.wpz", **file_of("application/zip"))
async def export_wpz(request: AnyRequest, session_id: SessionId) -> ASGIApp:
    """The original messages with certificates and manifest, for `wirepool verify`."""
    return await _export(request, session_id, "wpz", "application/zip")


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
