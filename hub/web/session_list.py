"""The list of sessions: what the address asks for, a page of what fits, and the addresses around it."""

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from litestar import Request

from hub.registry import Registry, SessionRecord
from hub.web.session_view import STATES, SessionView, matches, view
from wire.errors import WireError
from wire.names import check_agent_id

PAGE_ROWS = 50
MAX_PAGE = 10_000
MAX_QUERY_CHARACTERS = 200
CHUNK = 500
MAX_SEARCHED = 20_000
"""The newest sessions that a search looks at."""


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """What is looked for, as the address says it."""

    words: str = ""
    state: str = ""
    agent: str = ""
    by: str = ""
    page: int = 1

    @classmethod
    def of(cls, request: Request[Any, Any, Any]) -> "SessionQuery":
        """?q=, ?state=, ?agent=, ?by=, ?page=. What makes no sense counts as not said."""
        given = request.query_params
        state, agent, page = given.get("state", ""), given.get("agent", ""), given.get("page", "")
        try:
            agent = check_agent_id(agent)
        except WireError:
            agent = ""
        number = int(page) if page.isascii() and page.isdigit() and len(page) < 8 else 1
        return cls(
            given.get("q", "")[:MAX_QUERY_CHARACTERS].strip(),
            state if state in STATES else "",
            agent,
            given.get("by", "")[:MAX_QUERY_CHARACTERS],
            min(max(1, number), MAX_PAGE),
        )

    @property
    def narrowed(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.words or self.state or self.agent or self.by)

    def address(self, **changes: object) -> str:
        """The address of this list with something changed. Every state of it is in its address."""
        one = replace(self, **changes)  # type: ignore[arg-type]
        values = {"q": one.words, "state": one.state, "agent": one.agent, "by": one.by}
        given: dict[str, object] = {name: value for name, value in values.items() if value}
        if one.page > 1:
            given["page"] = one.page
        return "/sessions" + (f"?{urlencode(given)}" if given else "")


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A row of the list."""

    view: SessionView
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SessionPage:
    """A page of the list."""

    rows: tuple[ListedSession, ...]
    query: SessionQuery
    more: bool
    """There are older ones that fit."""
    searched_all: bool
    """False: only the newest MAX_SEARCHED were looked at."""

    @property
    def first(self) -> int:
        """The number of its first row, counted from 1."""
        return (self.query.page - 1) * PAGE_ROWS + 1


def session_page(registry: Registry, query: SessionQuery, *, searched: int = MAX_SEARCHED) -> SessionPage:
    """A page of what fits among the newest `searched`, the newest first. Slow with many: call it in a thread."""
    wanted, skip = PAGE_ROWS + 1, (query.page - 1) * PAGE_ROWS
    found: list[SessionView] = []
    offset = 0
    by_database = not query.words and query.state in ("", "active")
    if by_database:  # nothing to look at one by one
        offset, skip = skip, 0
    while offset < searched and len(found) < wanted:
        chunk = registry.sessions.all(
            agent=query.agent or None,
            active_only=query.state in ("active", "running", "paused"),
            by=query.by or None,
            limit=wanted if by_database else min(CHUNK, searched),
            offset=offset,
        )
        for record in chunk:
            one = view(record)
            if not matches(one, query.words, query.state):
                continue
            if skip:
                skip -= 1
            elif len(found) < wanted:
                found.append(one)
        offset += len(chunk)
        if not chunk or by_database:
            break
    sums = _sums(registry, [one.record for one in found[:PAGE_ROWS]])
    rows = tuple(ListedSession(one, *sums.get(one.record.id, (0, 0))) for one in found[:PAGE_ROWS])
    return SessionPage(rows, query, len(found) > PAGE_ROWS, by_database or offset < searched)


def _sums(registry: Registry, records: list[SessionRecord]) -> dict[str, tuple[int, int]]:
    marks = ",".join("?" * len(records))
    rows = registry.connection.execute(
        "SELECT session, sum(packets) AS packets, sum(captured_bytes) AS bytes FROM chains "  # noqa: S608
        f"WHERE session IN ({marks}) GROUP BY session",
        [record.id for record in records],
    )
    return {row["session"]: (row["packets"], row["bytes"]) for row in rows}
