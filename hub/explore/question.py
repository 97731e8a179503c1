"""What is asked, as it stands in the page's address: a query, a time, packets or conversations.

    q=TEXT  what=packets|conversations  last=15m | since=… until=…  order=oldest|newest

`last` moves with the clock; a link to share holds `since` and `until` (UTC, ISO 8601).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hub.pool.query import Query, QueryError
from hub.pool.query.operands import time_of, time_text
from hub.pool.query.parse import parse
from hub.pool.query.vocabulary import What

NS = 10**9
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
DEFAULT_LAST = "1h"
LASTS = ("5m", "15m", "1h", "6h", "24h", "7d", "30d")
"""Offered by the page; any other may stand in the address."""
MAX_LAST_S = 10 * 365 * 86_400
CLOCK_SLACK_NS = 60 * NS
"""A relative time ends this much after now: an agent's clock may be ahead."""
_LAST = re.compile(r"([1-9]\d{0,8})([smhd])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Question:
    """See the module."""

    text: str
    what: What
    last: str
    """"": the time is absolute."""
    since_ns: int
    until_ns: int
    """The first nanosecond that isn't asked for."""
    newest_first: bool
    query: Query | None
    """None: the text is wrong, and `error` says why."""
    error: QueryError | None = None
    time_error: str = ""
    """Why the time wasn't understood; the default is taken then."""

    @classmethod
    def read(cls, values: Mapping[str, str], now_ns: int) -> Question:
        """Never raises: what is wrong is in `error` and `time_error`."""
        what = What.CONVERSATIONS if values.get("what") == What.CONVERSATIONS else What.PACKETS
        text = values.get("q", "").strip()
        query, error = None, None
        try:
            query = parse(text, what)
        except QueryError as refused:
            error = refused
        last, since_ns, until_ns, time_error = _time(values, now_ns)
        return cls(
            text, what, last, since_ns, until_ns, values.get("order") == "newest", query, error, time_error
        )

    @property
    def usable(self) -> Query:
        """The query; QueryError when it is wrong."""
        if self.query is None:
            raise self.error or QueryError("the query is wrong")
        return self.query

    def parameters(self, *, absolute: bool = False, **other: str) -> dict[str, str]:
        """As in an address. absolute: what it means now, for ever. other: in place of what is there; "" takes away."""
        found = {"q": self.text, "what": str(self.what)}
        if self.last and not absolute:
            found["last"] = self.last
        else:
            found |= {"since": time_text(self.since_ns), "until": time_text(self.until_ns)}
        if self.newest_first:
            found["order"] = "newest"
        if "since" in other or "until" in other:
            found.pop("last", None)
        found |= other
        return {name: value for name, value in found.items() if value}

    def between(self, since_ns: int, until_ns: int) -> Question:
        """The same of another time."""
        since_ns = max(0, since_ns)
        return replace(self, last="", since_ns=since_ns, until_ns=max(until_ns, since_ns + 1))


def _time(values: Mapping[str, str], now_ns: int) -> tuple[str, int, int, str]:
    """(last, since_ns, until_ns, error)."""
    since_text, until_text = values.get("since", "").strip(), values.get("until", "").strip()
    last, error = values.get("last", "").strip(), ""
    if since_text or until_text:
        since_ns = time_of(since_text) if since_text else 0
        until_ns = time_of(until_text) if until_text else now_ns + CLOCK_SLACK_NS
        if since_ns is None or until_ns is None:
            wrong = since_text if since_ns is None else until_text
            error = f'"{wrong[:40]}" is no time: write it as 2026-11-23T12:00:00Z'
        elif since_ns >= until_ns:
            error = "the time ends before it begins"
        else:
            return "", since_ns, until_ns, ""
    elif last:
        match = _LAST.fullmatch(last)
        seconds = int(match[1]) * UNITS_S[match[2]] if match else 0
        if 0 < seconds <= MAX_LAST_S:
            return last, max(0, now_ns - seconds * NS), now_ns + CLOCK_SLACK_NS, ""
        error = f'"{last[:20]}" is no time span: write it as 15m, 24h or 7d'
    return DEFAULT_LAST, max(0, now_ns - 3600 * NS), now_ns + CLOCK_SLACK_NS, error
