"""The pool by the API: its numbers, what it made of a session, analysing one afterwards."""

from typing import Annotated, Any, Literal

from litestar import Request, get, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from hub.pool.books import all_pooled
from hub.pooling import Pooling
from hub.web.routes.api.described import UNSAFE, SessionId, problems
from hub.web.routes.pool import pool_context, running_pool
from hub.web.running import Hub, hub_of
from wire.names import check_session_id

AnyRequest = Request[Any, Any, Any]

WITH_404: dict[str, Any] = UNSAFE | {"responses": problems(404, 409)}
Level = Literal["off", "conversations", "headers", "payload"]


class PoolNumbers(Struct, frozen=True):
    """The pool as a whole, since the hub has one; times in ns as strings."""

    store: Annotated[str, Meta(description="embedded, elasticsearch, or off.")]
    ready: bool = False
    problem: Annotated[str, Meta(description="What it waits for; empty: nothing.")] = ""
    packets: Annotated[int, Meta(description="In the store now.")] = 0
    conversations: int = 0
    bytes: Annotated[int, Meta(description="Of the store.")] = 0
    oldest_ns: str | None = None
    newest_ns: str | None = None
    lag_s: Annotated[
        float, Meta(description="How long the oldest batch that isn't pooled has been in the archive.")
    ] = 0.0
    lag_p95_s: Annotated[float, Meta(description="Of the latest 4,096 batches, 95 % took less.")] = 0.0
    pending_messages: int = 0
    pooled: Annotated[int, Meta(description="Packets of all sessions that were ever pooled.")] = 0
    left_out: Annotated[int, Meta(description="Packets that a session's level leaves out.")] = 0
    refused: int = 0
    duplicate_batches: int = 0
    unverified_messages: int = 0
    correlated: Annotated[
        int, Meta(description="Packets that the correlation took, since the hub's start.")
    ] = 0
    not_correlated: Annotated[int, Meta(description="Packets that came faster than it works.")] = 0
    stores: Annotated[list[str], Meta(description="That a session can be analysed into.")] = []


class AnalysisNumbers(Struct, frozen=True):
    """How far a session's analysis is."""

    state: Annotated[str, Meta(description="waiting, running, done, stopped or failed.")]
    target: str
    level: str
    problem: str
    packets: int
    refused: int
    total: int
    share: Annotated[float, Meta(description="From 0 to 1.")]


class SessionPool(Struct, frozen=True):
    """What the pool made of a session: archived = pooled + left_out + refused + behind."""

    pooling: str
    archived: int
    pooled: int
    left_out: int
    refused: int
    reasons: list[str]
    behind: Annotated[int, Meta(description="In the archive and not read yet.")]
    analysis: AnalysisNumbers | None


class PoolingOrder(Struct, forbid_unknown_fields=True):
    """How much of the session is pooled from now on."""

    pooling: Level


class AnalyzeOrder(Struct, forbid_unknown_fields=True):
    """What to read of the session's archive, and into which store."""

    target: Annotated[str, Meta(max_length=64, description="Empty: the hub's own.")] = ""
    level: Literal["headers", "payload"] = "headers"


def _answer(hub: Hub, session_id: str) -> SessionPool:
    running_pool(hub)
    context = pool_context(hub, check_session_id(session_id))
    counts, analysis = context["counts"], context["analysis"]
    return SessionPool(
        pooling=context["level"].value,
        archived=context["archived"],
        pooled=counts.pooled,
        left_out=counts.left_out,
        refused=counts.refused,
        reasons=counts.reasons,
        behind=context["behind"],
        analysis=None
        if analysis is None
        else AnalysisNumbers(
            state=analysis.state,
            target=analysis.target,
            level=analysis.level.value,
            problem=analysis.problem,
            packets=analysis.packets,
            refused=analysis.refused,
            total=analysis.total,
            share=round(analysis.share, 4),
        ),
    )


@get("/api/pool", tags=["Pool"], responses=problems())
async def pool_numbers(request: AnyRequest) -> PoolNumbers:
    """The pool's store, its lag, and what became of all packets."""
    hub = hub_of(request)
    if hub.pool is None:
        return PoolNumbers("off")
    stats, status, sums = await hub.pool.store.stats(), hub.pool.ingest.status, all_pooled(hub.registry)
    correlation = hub.pool.correlation
    return PoolNumbers(
        store=stats.kind,
        ready=stats.ready,
        problem=stats.problem or status.waiting_for,
        packets=stats.packets,
        conversations=stats.conversations,
        bytes=stats.bytes,
        oldest_ns=None if stats.oldest_ns is None else str(stats.oldest_ns),
        newest_ns=None if stats.newest_ns is None else str(stats.newest_ns),
        lag_s=round(status.lag_s, 3),
        lag_p95_s=round(status.lag_p95_s, 3),
        pending_messages=status.pending,
        pooled=sums.pooled,
        left_out=sums.left_out,
        refused=sums.refused,
        duplicate_batches=status.counts.duplicates,
        unverified_messages=status.counts.unverified,
        correlated=0 if correlation is None else correlation.counts.packets,
        not_correlated=0 if correlation is None else correlation.counts.passed_over,
        stores=list(hub.pool.stores),
    )


@get("/api/sessions/{session_id:str}/pool", tags=["Pool"], responses=problems(404))
async def session_in_pool(request: AnyRequest, session_id: SessionId) -> SessionPool:
    """What the pool made of a session."""
    return _answer(hub_of(request), session_id)


@post("/api/sessions/{session_id:str}/pooling", status_code=200, tags=["Pool"], **WITH_404)
async def change_session_pooling(
    request: AnyRequest, session_id: SessionId, data: JSONBody[PoolingOrder]
) -> SessionPool:
    """Pool more or less of what comes from now on."""
    hub = hub_of(request)
    running_pool(hub)
    hub.registry.sessions.set_pooling(check_session_id(session_id), Pooling(data.pooling))
    return _answer(hub, session_id)


@post("/api/sessions/{session_id:str}/analyze", status_code=202, tags=["Pool"], **WITH_404)
async def analyze_session(
    request: AnyRequest, session_id: SessionId, data: JSONBody[AnalyzeOrder]
) -> SessionPool:
    """Read the session's archive again into a store. Goes on where it was stopped."""
    hub = hub_of(request)
    pool = running_pool(hub)
    pool.analyses.start(check_session_id(session_id), data.target or pool.name, Pooling(data.level))
    return _answer(hub, session_id)


@post("/api/sessions/{session_id:str}/analyze/stop", status_code=200, tags=["Pool"], **WITH_404)
async def stop_session_analysis(request: AnyRequest, session_id: SessionId) -> SessionPool:
    """Leave off."""
    hub = hub_of(request)
    running_pool(hub).analyses.stop(check_session_id(session_id))
    return _answer(hub, session_id)


handlers = [pool_numbers, session_in_pool, change_session_pooling, analyze_session, stop_session_analysis]
