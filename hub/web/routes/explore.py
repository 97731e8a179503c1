"""The page Explore: what was asked, when it was, and the rows; a conversation with its lanes; the agents' clocks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response, get
from litestar.params import FromPath

from hub.explore.clocks import clocks_view
from hub.explore.conversation import SLACK_NS, conversation_view
from hub.explore.lanes import ROW_PX, drawn, lane_x
from hub.explore.question import LASTS, Question
from hub.explore.rows import ShownPacket, shown
from hub.explore.timeline import BUCKETS, Timeline, timeline
from hub.ledger.losses import losses_between
from hub.pool.query import QueryError
from hub.pool.query.parse import parse
from hub.pool.query.vocabulary import What
from hub.pool.store import ConversationRow, OffsetRow, Store, StoreAway, StoreRefused, StoreStats
from hub.registry import UnknownError
from hub.web.running import Hub, hub_of

AnyRequest = Request[Any, Any, Any]

PAGE_ROWS = 100
MAX_CURSOR = 2_000
ORDERS = (("oldest", "Oldest first"), ("newest", "Newest first"))


@dataclass(frozen=True, slots=True)
class Result:
    """What the store answered."""

    packets: Sequence[ShownPacket]
    conversations: Sequence[ConversationRow]
    after: str | None
    """Where the next rows begin."""
    timeline: Timeline | None
    timeline_of: str
    """What the timeline counts, where that isn't the rows."""
    stats: StoreStats | None
    problem: str = ""
    """Why there is no answer."""


NOTHING = Result((), (), None, None, "", None)


def pool_of(hub: Hub) -> Store:
    """The store; StoreAway where this hub has none."""
    if hub.pool is None:
        raise StoreAway("the pool is switched off (pool_store in hub.yaml): there is nothing to explore")
    return hub.pool.store


def asked(request: AnyRequest) -> Question:
    """What the address asks."""
    return Question.read(request.query_params, time.time_ns())


async def rows_of(
    store: Store, question: Question, after: str | None, limit: int = PAGE_ROWS
) -> tuple[Sequence[ShownPacket], Sequence[ConversationRow], str | None]:
    """One page: (packets, conversations, where the next begins)."""
    within = {"since_ns": question.since_ns, "until_ns": question.until_ns}
    if question.what is What.CONVERSATIONS:
        found = await store.conversations(question.usable, **within, limit=limit, after=after)
        return (), found.rows, found.after
    page = await store.packets(
        question.usable, **within, limit=limit, after=after, newest_first=question.newest_first
    )
    return [shown(row) for row in page.rows], (), page.after


async def timeline_of(hub: Hub, question: Question) -> tuple[Timeline, str]:
    """The result over time. Of conversations: the packets that fit, where the query can be asked of packets."""
    query, words = question.usable, ""
    if question.what is What.CONVERSATIONS:
        words = "packets that fit"
        try:
            query = parse(question.text)
        except QueryError:
            query, words = parse(""), "all packets: the query asks for what only conversations have"
    counted = await pool_of(hub).histogram(
        query, since_ns=question.since_ns, until_ns=question.until_ns, buckets=BUCKETS
    )
    lost = losses_between(hub.registry, question.since_ns, question.until_ns)
    return timeline(counted, question.since_ns, question.until_ns, lost), words


async def _result(hub: Hub, question: Question) -> Result:
    if question.query is None:
        return NOTHING
    try:
        store = pool_of(hub)
        packets, conversations, after = await rows_of(store, question, None)
        over_time, words = await timeline_of(hub, question)
        stats = None if packets or conversations else await store.stats()
    except (StoreAway, StoreRefused, QueryError) as error:
        return Result((), (), None, None, "", None, str(error))
    return Result(packets, conversations, after, over_time, words, stats)


@get("/explore")
async def explore_page(request: AnyRequest) -> Response[str]:
    """?q=&what=&last= or &since=&until=, &order="""
    hub, question = hub_of(request), asked(request)
    wrong = question.error is not None or bool(question.time_error)
    return hub.pages.page(
        request,
        "pages/explore.html",
        status=422 if wrong else 200,
        question=question,
        result=await _result(hub, question),
        lasts=LASTS if question.last in ("", *LASTS) else (question.last, *LASTS),
        orders=ORDERS,
        whats=list(What),
        link=_link,
        steps=_steps(question),
    )


def _link(path: str, question: Question, **other: str) -> str:
    absolute = other.pop("absolute", "") != ""
    return f"{path}?{urlencode(question.parameters(absolute=absolute, **other))}"


def _steps(question: Question) -> Mapping[str, Question]:
    """Other times around this one."""
    since_ns, until_ns = question.since_ns, question.until_ns
    half = max(1, (until_ns - since_ns) // 2)
    return {
        "earlier": question.between(since_ns - half, until_ns - half),
        "later": question.between(since_ns + half, until_ns + half),
        "wider": question.between(since_ns - half, until_ns + half),
    }


@get("/explore/rows")
async def explore_rows(request: AnyRequest) -> Response[str]:
    """More rows: the same question with &after=."""
    hub, question = hub_of(request), asked(request)
    after = request.query_params.get("after", "")[:MAX_CURSOR] or None
    packets, conversations, after = await rows_of(pool_of(hub), question, after)
    return hub.pages.fragment(
        "fragments/explore_more.html",
        question=question,
        packets=packets,
        conversations=conversations,
        after=after,
        link=_link,
    )


@get("/explore/conversations/{id:str}")
async def conversation_page(request: AnyRequest, id: FromPath[str]) -> Response[str]:
    """One conversation: its vantage points as lanes."""
    hub = hub_of(request)
    row = await pool_of(hub).conversation(id[:64])
    if row is None:
        raise UnknownError("no such conversation: it was removed, or its address is wrong")
    view = await conversation_view(pool_of(hub), row)
    around = Question.read(
        {
            "q": view.query,
            "since": str(max(0, row.first_ns - SLACK_NS)),
            "until": str(row.last_ns + SLACK_NS + 1),
        },
        time.time_ns(),
    )
    return hub.pages.page(
        request,
        "pages/conversation.html",
        view=view,
        drawn=drawn(view.lanes, view.segments),
        xs=[lane_x(lane.number, len(view.lanes)) for lane in view.lanes],
        row_px=ROW_PX,
        link=_link("/explore", around),
    )


@get("/clocks")
async def clocks_page(request: AnyRequest) -> Response[str]:
    """The agents' clocks over time: ?last= or ?since=&until=."""
    hub, question = hub_of(request), asked(request)
    problem, offsets = "", list[OffsetRow]()
    try:
        offsets = list(await pool_of(hub).offsets(since_ns=question.since_ns, until_ns=question.until_ns))
    except (StoreAway, StoreRefused) as error:
        problem = str(error)
    agents = [record.id for record in hub.registry.agents.all()]
    view = clocks_view(offsets, agents, question.since_ns, question.until_ns)
    return hub.pages.page(
        request, "pages/clocks.html", question=question, view=view, problem=problem, lasts=LASTS, link=_link
    )


handlers = [explore_page, explore_rows, conversation_page, clocks_page]
