"""What the pool makes of a session, on its page: how much is pooled, and analysing it afterwards."""

from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response, get, post
from litestar.exceptions import ClientException, ServiceUnavailableException
from litestar.params import FromPath

from hub.archive.freed import freed_of
from hub.archive.keeper import DELETED
from hub.explore.question import CLOCK_SLACK_NS
from hub.ledger.session_books import SessionBooks, session_books
from hub.pool.books import session_pool
from hub.pool.pool import Pool
from hub.pool.query.operands import time_text
from hub.pooling import WORDS, Pooling
from hub.registry import ConflictError
from hub.registry.sessions import SessionRecord
from hub.web.running import Hub, hub_of
from wire.names import check_session_id

AnyRequest = Request[Any, Any, Any]


def pool_context(hub: Hub, session_id: str) -> dict[str, Any]:
    """For fragments/session_pool.html."""
    if hub.pool is None:
        return {"pool": None, "explore_address": ""}
    record = hub.registry.sessions.require(session_id)
    account = session_books(hub.registry, session_id)
    counts = session_pool(hub.registry, session_id)
    analysis = hub.pool.analyses.get(session_id)
    deleted = any(one.reason.startswith(DELETED) for one in freed_of(hub.registry, record.agent, record.id))
    return {
        "pool": hub.pool,
        "deleted": deleted,
        "session_id": session_id,
        "counts": counts,
        "behind": max(0, account.archived_packets - counts.pooled - counts.left_out - counts.refused),
        "archived": account.archived_packets,
        "ingest": hub.pool.ingest.status,
        "level": record.pooling or hub.pool.level,
        "levels": WORDS,
        "analysis": analysis,
        "explore_address": "" if deleted else _explore_address(record, account, counts.pooled),
        "moving": record.ended_ns is None or (analysis is not None and analysis.active),
    }


def _explore_address(record: SessionRecord, account: SessionBooks, pooled: int) -> str:
    """Where Explore shows the session's packets, "" for none.

    In the time they are of: those of an imported file may be years old.
    """
    first_ns, last_ns = account.first_timestamp_ns, account.last_timestamp_ns
    if not pooled or first_ns is None or last_ns is None:
        return ""
    asked = {"q": f"session:{record.id}", "since": time_text(max(0, first_ns - CLOCK_SLACK_NS))}
    if record.ended_ns is not None:
        asked["until"] = time_text(last_ns + CLOCK_SLACK_NS)
    return f"/explore?{urlencode(asked)}"


async def delete_packets_everywhere(hub: Hub, record: SessionRecord, user: str) -> None:
    """Remove an ended session's packets, and what the pool's stores have of them.

    The pool goes first: where a store is away (StoreAway) nothing is gone yet, and it can be asked for again.
    """
    if hub.pool is not None:
        analysis = hub.pool.analyses.get(record.id)
        if analysis is not None and analysis.active:
            raise ConflictError("the session is being analysed: stop that first")
        for store in hub.pool.stores.values():
            await store.delete_session(record.id)
    await hub.keeper.forget(record.agent, record.id, user)


def running_pool(hub: Hub) -> Pool:
    """The hub's pool; 503 where it is switched off."""
    if hub.pool is None:
        raise ServiceUnavailableException("the pool is switched off (pool_store in hub.yaml)")
    return hub.pool


def _fragment(hub: Hub, session_id: str) -> Response[str]:
    context = pool_context(hub, check_session_id(session_id))
    return hub.pages.fragment("fragments/session_pool.html", **context)


def read_level(text: str) -> Pooling:
    """A word as people send it."""
    try:
        return Pooling(text)
    except ValueError:
        words = ", ".join(level.value for level in Pooling)
        raise ClientException(f"pooling: want one of {words}", status_code=422) from None


@get("/sessions/{session_id:str}/pool")
async def session_pool_fragment(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """As it is now."""
    return _fragment(hub_of(request), session_id)


@post("/sessions/{session_id:str}/pooling", status_code=200)
async def change_pooling(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """Another level for what comes from now on."""
    hub, form = hub_of(request), await request.form()
    running_pool(hub)
    hub.registry.sessions.set_pooling(check_session_id(session_id), read_level(str(form.get("pooling", ""))))
    return _fragment(hub, session_id)


@post("/sessions/{session_id:str}/analyze", status_code=200)
async def analyze(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """Read the session's archive again, into the store that the form names."""
    hub, form = hub_of(request), await request.form()
    pool = running_pool(hub)
    level = read_level(str(form.get("level", Pooling.HEADERS)))
    pool.analyses.start(check_session_id(session_id), str(form.get("target", pool.name))[:64], level)
    return _fragment(hub, session_id)


@post("/sessions/{session_id:str}/analyze/stop", status_code=200)
async def stop_analysis(request: AnyRequest, session_id: FromPath[str]) -> Response[str]:
    """Leave off; it can go on later."""
    hub = hub_of(request)
    running_pool(hub).analyses.stop(check_session_id(session_id))
    return _fragment(hub, session_id)


handlers = [session_pool_fragment, change_pooling, analyze, stop_analysis]
