"""A result to take away: as a table (CSV, JSON) or as one capture file of all agents."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from litestar import Request, get
from litestar.types import ASGIApp

from hub.explore.merged_pcapng import MergedPcapng, packets_of
from hub.explore.question import Question
from hub.explore.tables import as_csv, as_json
from hub.http.streaming import download
from hub.pool.query.vocabulary import What
from hub.web.routes.explore import pool_of
from hub.web.running import hub_of
from wire.errors import WireError

AnyRequest = Request[Any, Any, Any]

FORMATS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


def _usable(request: AnyRequest, what: What) -> Question:
    if request.query_params.get("what", what) != what:
        raise WireError(f"this address is of {what}, and what={request.query_params['what'][:40]}")
    question = Question.read({**request.query_params, "what": str(what)}, time.time_ns())
    if question.error is not None:
        raise question.error
    if question.time_error:
        raise WireError(question.time_error)
    return question


def file_name(what: str, question: Question, suffix: str) -> str:
    """wirepool-<what>-<beginning in UTC>.<suffix>"""
    try:
        begin = datetime.fromtimestamp(question.since_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError, OSError):
        begin = str(question.since_ns)
    return f"wirepool-{what}-{begin}.{suffix}"


def _table(what: What, suffix: str) -> Any:
    @get(f"/explore/{what}.{suffix}", name=f"explore-{what}-{suffix}")
    async def table(request: AnyRequest) -> ASGIApp:
        hub, question = hub_of(request), _usable(request, what)
        make = as_csv if suffix == "csv" else as_json
        return download(
            make(pool_of(hub), question),
            file_name=file_name(str(what), question, suffix),
            media_type=FORMATS[suffix],
            stopping=hub.stopping,
        )

    return table


@get("/explore/packets.pcapng")
async def result_pcapng(request: AnyRequest) -> ASGIApp:
    """?times=corrected (the default) or raw."""
    hub, question = hub_of(request), packets_of(_usable(request, What.PACKETS))
    times = request.query_params.get("times", "corrected")
    if times not in ("corrected", "raw"):
        raise WireError("times: corrected or raw")
    merged = MergedPcapng(pool_of(hub), hub.registry, hub.bus, question, raw=times == "raw")
    return download(
        merged.chunks(),
        file_name=file_name("packets" if times == "corrected" else "packets-raw", question, "pcapng"),
        media_type="application/x-pcapng",
        stopping=hub.stopping,
    )


handlers = [*(_table(what, suffix) for what in What for suffix in FORMATS), result_pcapng]
