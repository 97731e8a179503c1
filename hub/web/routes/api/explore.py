"""What Explore asks the pool, as JSON: check and complete a query, packets, conversations, the timeline, clocks.

Parameters are those of the page (hub.explore.question).
"""

import time
from typing import Annotated, Any, Literal

from litestar import Request, get
from litestar.exceptions import NotFoundException
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta, Struct

from hub.explore.clocks import offset_map
from hub.explore.conversation import conversation_view, view_map
from hub.explore.question import Question
from hub.explore.tables import row_map
from hub.pool.query import QueryError
from hub.pool.query.complete import complete
from hub.pool.query.parse import parse
from hub.pool.query.text import to_text
from hub.pool.query.vocabulary import What
from hub.web.routes.api.answers import Count, TimeNs
from hub.web.routes.api.described import problems
from hub.web.routes.explore import pool_of, timeline_of
from hub.web.running import Hub, hub_of
from wire.errors import WireError

AnyRequest = Request[Any, Any, Any]

MAX_ROWS = 1_000
MAX_VALUES = 200
"""Of one field, offered while a query is written."""
MAX_CURSOR = 2_000

Ask = Annotated[
    str, QueryParameter(description="A query as in docs/explore.md; empty: everything.", max_length=4_000)
]
Last = Annotated[
    str, QueryParameter(description="The last so long: 15m, 24h, 7d. Without any time: 1h.", max_length=20)
]
When = Annotated[
    str, QueryParameter(description="ISO 8601 in UTC, or ns since 1970; goes before `last`.", max_length=40)
]
Order = Annotated[Literal["oldest", "newest"], QueryParameter(description="Which comes first.")]
Rows = Annotated[
    Literal["packets", "conversations"], QueryParameter(description="Which rows the query is about.")
]
Limit = Annotated[int, QueryParameter(description="Rows at most.", ge=1, le=MAX_ROWS)]
After = Annotated[str, QueryParameter(description="`after` of the answer before.", max_length=MAX_CURSOR)]
Place = Annotated[
    int, QueryParameter(description="Where suggestions are wanted, in characters.", ge=0, le=4_000)
]
Id = Annotated[str, PathParameter(description="The conversation's id.", max_length=64)]
Row = Annotated[
    dict[str, Any], Meta(description="Fields by their names; those without a value aren't there.")
]
Asked = Annotated[dict[str, str], Meta(description="The question as parameters, its time fixed.")]
Next = Annotated[str | None, Meta(description="Where the next rows begin; null: these were the last.")]


class QueryFault(Struct, frozen=True):
    """Why a query is wrong, and where."""

    message: str
    start: Annotated[Count, Meta(description="Of the first wrong character.")]
    end: Annotated[Count, Meta(description="Behind the last one.")]


class Suggested(Struct, frozen=True):
    """Something that could stand in place of the characters `start` to `end`."""

    text: str
    start: Count
    end: Count
    kind: Literal["field", "operator", "value", "word"]
    meaning: str


class CheckedQuery(Struct, frozen=True):
    """A query as it was understood."""

    query: Annotated[str | None, Meta(description="In the form that names every field; null: it is wrong.")]
    error: QueryFault | None
    suggestions: list[Suggested]


class FoundPackets(Struct, frozen=True):
    """Packets in order of time."""

    asked: Asked
    packets: list[Row]
    after: Next


class FoundConversations(Struct, frozen=True):
    """Conversations, the newest first."""

    asked: Asked
    conversations: list[Row]
    after: Next


class ConversationLanes(Struct, frozen=True):
    """A conversation with its packets at each vantage point."""

    conversation: Row
    lanes: list[Row]
    delays: list[Row]
    segments: list[Row]
    unknown: Annotated[list[str], Meta(description="What could not be decided.")]
    correlated: Annotated[
        bool, Meta(description="false: made of equal fingerprints alone; nothing is called lost.")
    ]
    complete: Annotated[bool, Meta(description="false: there are more packets than these.")]


class TimelineBar(Struct, frozen=True):
    """What fits in one stretch of time."""

    since_ns: TimeNs
    until_ns: TimeNs
    packets: Count
    bytes: Count


class TimelineLoss(Struct, frozen=True):
    """Packets that are known to be missing in a time."""

    since_ns: TimeNs
    until_ns: TimeNs
    kind: str
    text: str


class TimelineAnswer(Struct, frozen=True):
    """A result over time."""

    asked: Asked
    bars: list[TimelineBar]
    losses: list[TimelineLoss]


class ClockOffsets(Struct, frozen=True):
    """What was known of the agents' clocks, in order of time."""

    asked: Asked
    offsets: list[Row]


def known_values(hub: Hub) -> dict[str, list[str]]:
    """Values of fields that the registry knows, by the fields' names."""
    agents: list[str] = []
    hosts: list[str] = []
    interfaces: set[str] = set()
    for status in hub.presence.all()[:MAX_VALUES]:
        agents.append(status.id)
        if status.report is not None:
            hosts.append(status.report.hostname)
            interfaces.update(interface.name for interface in status.report.interfaces)
    sessions = [record.id for record in hub.registry.sessions.all(active_only=False, limit=MAX_VALUES)]
    return {
        "agent_id": agents,
        "agent_hostname": sorted(filter(None, hosts)),
        "observer.ingress.interface.name": sorted(interfaces)[:MAX_VALUES],
        "wirepool.session": sessions,
    }


def _question(
    q: str, last: str, since: str, until: str, order: str = "oldest", what: What = What.PACKETS
) -> Question:
    """As the page's, but what is wrong is an error."""
    values = {"q": q, "last": last, "since": since, "until": until, "order": order, "what": str(what)}
    question = Question.read(values, time.time_ns())
    if question.error is not None:
        raise question.error
    if question.time_error:
        raise WireError(question.time_error)
    return question


@get("/api/explore/query", tags=["Pool"], responses=problems())
async def check_query(
    request: AnyRequest, q: Ask = "", at: Place = 4_000, what: Rows = "packets"
) -> CheckedQuery:
    """Whether a query is right, and what could stand at a place in it."""
    found = complete(q, min(at, len(q)), What(what), known_values(hub_of(request)))
    suggestions = [
        Suggested(one.text, one.start, one.end, one.kind, one.meaning)  # type: ignore[arg-type]
        for one in found
    ]
    try:
        query = parse(q, What(what))
    except QueryError as error:
        return CheckedQuery(None, QueryFault(str(error), error.position, error.end), suggestions)
    return CheckedQuery(to_text(query, What(what)), None, suggestions)


@get("/api/explore/packets", tags=["Pool"], responses=problems())
async def find_packets(
    request: AnyRequest,
    q: Ask = "",
    last: Last = "",
    since: When = "",
    until: When = "",
    order: Order = "oldest",
    limit: Limit = 100,
    after: After = "",
) -> FoundPackets:
    """Packets of all agents that fit a query."""
    question = _question(q, last, since, until, order)
    page = await pool_of(hub_of(request)).packets(
        question.usable,
        since_ns=question.since_ns,
        until_ns=question.until_ns,
        limit=limit,
        after=after or None,
        newest_first=question.newest_first,
    )
    rows = [dict(row_map(row)) for row in page.rows]
    return FoundPackets(question.parameters(absolute=True), rows, page.after)


@get("/api/explore/conversations", tags=["Pool"], responses=problems())
async def find_conversations(
    request: AnyRequest,
    q: Ask = "",
    last: Last = "",
    since: When = "",
    until: When = "",
    limit: Limit = 100,
    after: After = "",
) -> FoundConversations:
    """Conversations that fit a query."""
    question = _question(q, last, since, until, what=What.CONVERSATIONS)
    page = await pool_of(hub_of(request)).conversations(
        question.usable,
        since_ns=question.since_ns,
        until_ns=question.until_ns,
        limit=limit,
        after=after or None,
    )
    rows = [dict(row_map(row)) for row in page.rows]
    return FoundConversations(question.parameters(absolute=True), rows, page.after)


@get("/api/explore/conversations/{conversation:str}", tags=["Pool"], responses=problems(404))
async def one_conversation(request: AnyRequest, conversation: Id) -> ConversationLanes:
    """One conversation: when each vantage point saw each of its packets."""
    store = pool_of(hub_of(request))
    row = await store.conversation(conversation)
    if row is None:
        raise NotFoundException("no such conversation")
    return ConversationLanes(conversation=dict(row_map(row)), **view_map(await conversation_view(store, row)))


@get("/api/explore/timeline", tags=["Pool"], responses=problems())
async def over_time(
    request: AnyRequest, q: Ask = "", last: Last = "", since: When = "", until: When = ""
) -> TimelineAnswer:
    """How many packets fit over time, and when packets are known to be missing."""
    question = _question(q, last, since, until)
    drawn, _ = await timeline_of(hub_of(request), question)
    bars = [TimelineBar(str(bar.since_ns), str(bar.until_ns), bar.packets, bar.bytes) for bar in drawn.bars]
    losses = [TimelineLoss(str(one.since_ns), str(one.until_ns), one.kind, one.text) for one in drawn.marks]
    return TimelineAnswer(question.parameters(absolute=True), bars, losses)


@get("/api/clocks", tags=["Pool"], responses=problems())
async def clock_offsets(
    request: AnyRequest, last: Last = "", since: When = "", until: When = ""
) -> ClockOffsets:
    """How far the agents' clocks are ahead of the pool's, with the interval that holds the truth."""
    question = _question("", last, since, until)
    rows = await pool_of(hub_of(request)).offsets(since_ns=question.since_ns, until_ns=question.until_ns)
    return ClockOffsets(question.parameters(absolute=True), [dict(offset_map(row)) for row in rows])


handlers = [
    check_query,
    find_packets,
    find_conversations,
    one_conversation,
    over_time,
    clock_offsets,
]
