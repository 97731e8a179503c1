"""Questions about observations, conversations and clocks: each one search. Calls block.

Pages go on from the place of the last row in a total order (time, then the observation's name), not from a snapshot
(point in time): observations never change, so no row is missed or shown twice, a link to a page never expires, and
nothing is held in Elasticsearch meanwhile. What arrives later shows up on the pages that are yet to come.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from hub.pool.elastic.answers import conversation_row, offset_row, packet_row
from hub.pool.elastic.connection import Answered, Connection, name_in_path
from hub.pool.elastic.indices import Indices
from hub.pool.elastic.questions import CONVERSATIONS, PACKETS, Clause, between, compiled, instant
from hub.pool.query import Query
from hub.pool.store import (
    MAX_BUCKETS,
    MAX_PAGE,
    ConversationPage,
    ConversationRow,
    Histogram,
    OffsetRow,
    PacketPage,
    SessionSize,
    StoreAway,
    StoreRefused,
)

MILLISECOND_NS = 10**6
MOST_AGENTS = 1_000
MOST_SESSIONS = 10_000
_TIE = ("agent_id", "wirepool.session", "wirepool.boot", "wirepool.lane", "event.sequence", "wirepool.index")
_NANOS = {"format": "strict_date_optional_time_nanos", "numeric_type": "date_nanos"}
_TIMED_OUT = "Elasticsearch has no answer in time: ask for less time or more narrowly"


@dataclass(frozen=True, slots=True)
class Asking:
    """Questions to one cluster."""

    connection: Connection
    indices: Indices

    def search(self, index: str, body: dict[str, Any]) -> dict[str, Any]:
        """One search; indices that aren't there hold nothing. StoreAway when shards didn't answer."""
        query = {"ignore_unavailable": True, "allow_no_indices": True, "allow_partial_search_results": False}
        try:
            answer: dict[str, Any] = self.connection.ask(
                "POST", f"/{name_in_path(index)}/_search", {"timeout": "50s"} | body, query=query
            )
        except Answered as error:
            if error.passes:
                raise StoreAway(str(error)) from None
            raise
        if answer.get("timed_out"):
            raise StoreRefused(_TIMED_OUT)
        return answer

    def packets(
        self,
        query: Query | None,
        since_ns: int,
        until_ns: int,
        limit: int,
        after: str | None,
        newest_first: bool,
    ) -> PacketPage:
        """See Store."""
        order = "desc" if newest_first else "asc"
        sort: list[Any] = [{"@timestamp": {"order": order, **_NANOS}}, *({name: order} for name in _TIE)]
        body = {"query": _within(query, since_ns, until_ns), "sort": sort}
        hits, cursor = self._page(self.indices.all_packets, body, limit, after, len(sort))
        return PacketPage([packet_row(hit["_source"]) for hit in hits], cursor)

    def count(self, query: Query | None, since_ns: int, until_ns: int) -> int:
        """See Store."""
        body = {"query": _within(query, since_ns, until_ns), "size": 0, "track_total_hits": True}
        return int(self.search(self.indices.all_packets, body)["hits"]["total"]["value"])

    def histogram(self, query: Query | None, since_ns: int, until_ns: int, buckets: int) -> Histogram:
        """See Store. Fast where begin and width are whole milliseconds: finer Elasticsearch's own can't be."""
        if not 1 <= buckets <= MAX_BUCKETS or until_ns <= since_ns:
            raise StoreRefused(f"a histogram has 1 to {MAX_BUCKETS} buckets over some time")
        width = max(1, -(-(until_ns - since_ns) // buckets))
        count = -(-(until_ns - since_ns) // width)
        if since_ns % MILLISECOND_NS or width % MILLISECOND_NS:
            over: dict[str, Any] = {
                "filters": {
                    "filters": [
                        between(since_ns + n * width, min(until_ns, since_ns + (n + 1) * width))
                        for n in range(count)
                    ]
                }
            }
        else:
            width_ms, since_ms = width // MILLISECOND_NS, since_ns // MILLISECOND_NS
            over = {
                "date_histogram": {
                    "field": "@timestamp",
                    "fixed_interval": f"{width_ms}ms",
                    "offset": f"+{since_ms % width_ms}ms",
                    "min_doc_count": 1,
                }
            }
        inner = {
            "bytes": {"sum": {"field": "network.bytes"}},
            "agents": {"terms": {"field": "agent_id", "size": MOST_AGENTS}},
        }
        body = {
            "query": _within(query, since_ns, until_ns),
            "size": 0,
            "track_total_hits": False,
            "aggs": {"over": over | {"aggs": inner}},
        }
        answer = self.search(self.indices.all_packets, body)
        return _histogram(answer.get("aggregations", {}), since_ns, width, count)

    def conversations(
        self, query: Query | None, since_ns: int, until_ns: int, limit: int, after: str | None
    ) -> ConversationPage:
        """See Store."""
        overlap = [between(0, until_ns), {"range": {"event.end": {"gte": instant(since_ns)}}}]
        sort = [{"@timestamp": {"order": "desc", **_NANOS}}, {"wirepool.conversation": "desc"}]
        body = {"query": {"bool": {"filter": [*overlap, compiled(query, CONVERSATIONS)]}}, "sort": sort}
        hits, cursor = self._page(self.indices.all_conversations, body, limit, after, len(sort))
        return ConversationPage([conversation_row(hit["_source"]) for hit in hits], cursor)

    def conversation(self, id_: str) -> ConversationRow | None:
        """See Store."""
        body = {"query": {"term": {"wirepool.conversation": id_}}, "size": 1}
        hits = self.search(self.indices.all_conversations, body)["hits"]["hits"]
        return conversation_row(hits[0]["_source"]) if hits else None

    def offsets(
        self, since_ns: int, until_ns: int, agents: Sequence[str] | None, limit: int
    ) -> list[OffsetRow]:
        """See Store."""
        some = [] if agents is None else [{"terms": {"agent_id": list(agents)}}]
        sort = [{"@timestamp": {"order": "asc", **_NANOS}}, {"agent_id": "asc"}]
        body = {"query": {"bool": {"filter": [between(since_ns, until_ns), *some]}}, "sort": sort}
        found: list[OffsetRow] = []
        cursor: str | None = None
        while len(found) < limit:
            size = min(MAX_PAGE - 1, limit - len(found))
            hits, cursor = self._page(self.indices.all_clocks, body, size, cursor, len(sort))
            found += [offset_row(hit["_source"]) for hit in hits]
            if cursor is None:
                break
        return found

    def sessions(self, store_bytes: int) -> list[SessionSize]:
        """See Store; bytes are the session's share of the store's by its packets."""
        terms = {"field": "wirepool.session", "size": MOST_SESSIONS, "order": {"_key": "asc"}}
        body = {"size": 0, "track_total_hits": False, "aggs": {"s": {"terms": terms}}}
        found = (
            self.search(self.indices.all_packets, body)
            .get("aggregations", {})
            .get("s", {})
            .get("buckets", [])
        )
        total = sum(one["doc_count"] for one in found)
        return [
            SessionSize(
                one["key"],
                one["doc_count"],
                store_bytes * one["doc_count"] // total,
                self.edge(one["key"], "asc"),
                self.edge(one["key"], "desc"),
            )
            for one in found
        ]

    def edge(self, session: str | None, order: str) -> int | None:
        """Time of the first (asc) or last (desc) observation, of a session or of all."""
        query: Clause = {"term": {"wirepool.session": session}} if session else {"match_all": {}}
        sort = [{"@timestamp": {"order": order, **_NANOS}}]
        body = {"size": 1, "query": query, "sort": sort, "track_total_hits": False}
        hits = self.search(self.indices.all_packets, body)["hits"]["hits"]
        return packet_row(hits[0]["_source"]).time_ns if hits else None

    def _page(
        self, index: str, body: dict[str, Any], limit: int, after: str | None, keys: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        if not 1 <= limit <= MAX_PAGE:
            raise StoreRefused(f"a page has 1 to {MAX_PAGE} rows")
        most = min(limit + 1, MAX_PAGE)  # one more says whether there is a next page
        body = body | {"size": most, "track_total_hits": False}
        if after is not None:
            body["search_after"] = _place(after, keys)
        hits = self.search(index, body)["hits"]["hits"]
        more = len(hits) > limit or (limit == MAX_PAGE and len(hits) == limit)
        shown = hits[:limit]
        return shown, _cursor(shown[-1]["sort"]) if more else None


def _within(query: Query | None, since_ns: int, until_ns: int) -> Clause:
    return {"bool": {"filter": [between(since_ns, until_ns), compiled(query, PACKETS)]}}


def _cursor(keys: Sequence[object]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(keys)).decode().rstrip("=")


def _place(after: str, keys: int) -> list[Any]:
    """The sort keys in a cursor, which comes back from outside. StoreRefused when it is none."""
    try:
        found = orjson.loads(base64.urlsafe_b64decode(after[:1024] + "=" * (-len(after) % 4)))
    except (ValueError, orjson.JSONDecodeError):
        found = None
    if (
        not isinstance(found, list)
        or len(found) != keys
        or not all(isinstance(one, str | int) for one in found)
    ):
        raise StoreRefused("not a place to go on from")
    return found


def _histogram(found: dict[str, Any], since_ns: int, width: int, count: int) -> Histogram:
    packets, sizes = [0] * count, [0] * count
    agents: dict[str, list[int]] = {}
    for number, bucket in enumerate(found.get("over", {}).get("buckets", [])):
        place = number
        if "key" in bucket:
            place = (int(bucket["key"]) * MILLISECOND_NS - since_ns) // width
        packets[place] = int(bucket["doc_count"])
        sizes[place] = int(bucket["bytes"]["value"])
        for agent in bucket["agents"]["buckets"]:
            agents.setdefault(agent["key"], [0] * count)[place] = int(agent["doc_count"])
    return Histogram(since_ns, width, packets, sizes, dict(sorted(agents.items())))
