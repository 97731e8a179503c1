"""Keeping house: templates, conversations and offsets, and deleting by age, size and session. Calls block.

Whole daily indices go, which costs Elasticsearch next to nothing; it needs no lifecycle management. Only a session
among others in one index is deleted document by document.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from hub.pool.elastic.answers import conversation_document, offset_document, offset_id
from hub.pool.elastic.asking import Asking
from hub.pool.elastic.connection import LINES, Answered, Connection, name_in_path
from hub.pool.elastic.indices import Indices, day_end_ns
from hub.pool.store import ConversationRow, OffsetRow, Retention, StoreAway

MOST_REMEMBERED = 100_000
"""Conversations whose index is known without asking."""
LINES_BYTES = 4 << 20
_DELETED_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class IndexSize:
    """One index as Elasticsearch tells it."""

    name: str
    documents: int
    bytes: int
    """All copies."""
    created_ns: int

    @property
    def end_ns(self) -> int:
        """When its day ended; of one without a day, when it was made."""
        return day_end_ns(self.name) or self.created_ns


@dataclass(slots=True)
class Keeping:
    """What changes Elasticsearch beside the writer."""

    connection: Connection
    indices: Indices
    _homes: OrderedDict[str, str] = field(default_factory=OrderedDict)
    """Conversation → its index: the first revision chose it, and its time may have changed since."""
    _forgotten: bool = True
    """A conversation that isn't in `_homes` may be in Elasticsearch all the same, and not be found yet."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def install_templates(self) -> None:
        """Bring them to this version. Indices that are there already stay as they are."""
        for name, template in self.indices.templates().items():
            self.connection.ask("PUT", f"/_index_template/{name_in_path(name)}", template)

    def put_conversations(self, rows: Sequence[ConversationRow]) -> None:
        """See Store. One caller at a time."""
        with self._lock:
            homes = self._find_homes({row.id for row in rows})
            lines = []
            for row in rows:
                action = {
                    "_index": homes.setdefault(row.id, self.indices.conversations(row.first_ns)),
                    "_id": row.id,
                    "version": row.revision,
                    "version_type": "external_gte",
                }
                lines.append(({"index": action}, conversation_document(row)))
            self._write(lines)
            for id_, index in homes.items():
                self._homes[id_] = index
                self._homes.move_to_end(id_)
            while len(self._homes) > MOST_REMEMBERED:
                self._homes.popitem(last=False)
                self._forgotten = True

    def put_offsets(self, rows: Sequence[OffsetRow]) -> None:
        """See Store."""
        self._write(
            [
                (
                    {"index": {"_index": self.indices.clocks(row.at_ns), "_id": offset_id(row)}},
                    offset_document(row),
                )
                for row in rows
            ]
        )

    def forget_conversations(self, ids: Sequence[str]) -> None:
        """See Store."""
        with self._lock:
            homes = self._find_homes(set(ids))
            self._write([({"delete": {"_index": index, "_id": id_}}, None) for id_, index in homes.items()])
            for id_ in homes:
                self._homes.pop(id_, None)
        self._refresh(self.indices.all_conversations)  # else they would be found for some seconds more

    def _find_homes(self, ids: set[str]) -> dict[str, str]:
        found = {id_: self._homes[id_] for id_ in ids if id_ in self._homes}
        unknown = sorted(ids - found.keys())
        if not unknown:
            return found
        if self._forgotten:
            self._refresh(self.indices.all_conversations)
            self._forgotten = False
        asking = Asking(self.connection, self.indices)
        for at in range(0, len(unknown), 5_000):
            body = {"query": {"ids": {"values": unknown[at : at + 5_000]}}, "_source": False, "size": 10_000}
            for hit in asking.search(self.indices.all_conversations, body)["hits"]["hits"]:
                found[hit["_id"]] = hit["_index"]
        return found

    def _refresh(self, index: str) -> None:
        self.connection.ask(
            "POST",
            f"/{name_in_path(index)}/_refresh",
            query={"ignore_unavailable": True, "allow_no_indices": True},
        )

    def _write(self, documents: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]]) -> None:
        for data in _bounded(documents):
            try:
                answer = self.connection.ask("POST", "/_bulk", data, content=LINES)
            except Answered as error:
                if error.passes:
                    raise StoreAway(str(error)) from None
                raise
            for item in answer["items"]:
                (result,) = item.values()
                if (
                    result["status"] in (404, 409) or result["status"] < 300
                ):  # gone already, or a lower revision
                    continue
                told = result.get("error", {})
                refused = Answered(result["status"], str(told.get("type")), str(told.get("reason")))
                if refused.passes:
                    raise StoreAway(str(refused))
                raise refused

    def sizes(self) -> list[IndexSize]:
        """Of all of wirepool's indices."""
        prefix = name_in_path(f"{self.indices.prefix}-*")
        stats = self.connection.ask(
            "GET", f"/{prefix}/_stats/docs,store",
            query={"filter_path": "indices.*.primaries.docs.count,indices.*.total.store.size_in_bytes"},
        )  # fmt: skip
        made = self.connection.ask(
            "GET", f"/{prefix}/_settings", query={"filter_path": "*.settings.index.creation_date"}
        )
        return [
            IndexSize(
                name,
                one["primaries"]["docs"]["count"],
                one["total"]["store"]["size_in_bytes"],
                int(made[name]["settings"]["index"]["creation_date"]) * 10**6,
            )
            for name, one in sorted((stats.get("indices") or {}).items())
            if name in made and one.get("primaries")
        ]

    def retain(self, retention: Retention, now_ns: int) -> int:
        """See Store: whole days, and never the current one."""
        sizes = [one for one in self.sizes() if one.name != self.indices.quarantine]
        going: list[IndexSize] = []
        if retention.max_age_s is not None:
            oldest_ns = now_ns - retention.max_age_s * 10**9
            going = [one for one in sizes if one.end_ns <= oldest_ns]
        if retention.max_bytes is not None:
            left = sorted((one for one in sizes if one not in going), key=lambda one: (one.end_ns, one.name))
            total = sum(one.bytes for one in left)
            for one in left:
                if total <= retention.max_bytes:
                    break
                if one.end_ns <= now_ns:
                    going.append(one)
                    total -= one.bytes
        self._delete([one.name for one in going])
        packets = f"{self.indices.prefix}-packets-"
        return sum(one.documents for one in going if one.name.startswith(packets))

    def delete_session(self, session: str) -> int:
        """See Store."""
        self._refresh(self.indices.all_packets)
        self._refresh(self.indices.all_conversations)
        own = f"{self.indices.prefix}-packets-{session}-"
        whole = [one for one in self.sizes() if one.name.startswith(own)]
        self._delete([one.name for one in whole])
        gone = sum(one.documents for one in whole)
        gone += self._delete_each(self.indices.all_packets, {"term": {"wirepool.session": session}})
        self._delete_conversations(session)
        return gone

    def _delete_each(self, index: str, query: dict[str, Any]) -> int:
        """Without delete-by-query, which is a module of its own that not every distribution has."""
        asking = Asking(self.connection, self.indices)
        gone = 0
        while True:
            body = {"query": query, "_source": False, "sort": ["_doc"], "size": _DELETED_AT_ONCE}
            hits = asking.search(index, body)["hits"]["hits"]
            if not hits:
                return gone
            self._write([({"delete": {"_index": hit["_index"], "_id": hit["_id"]}}, None) for hit in hits])
            gone += len(hits)
            self._refresh(index)

    def _delete_conversations(self, session: str) -> None:
        """Those that only it saw."""
        asking = Asking(self.connection, self.indices)
        body = {
            "query": {"term": {"wirepool.session": session}},
            "_source": ["wirepool.session"],
            "size": _DELETED_AT_ONCE,
            "sort": [{"wirepool.conversation": "asc"}],
        }
        while hits := asking.search(self.indices.all_conversations, body)["hits"]["hits"]:
            alone = [hit for hit in hits if list(hit["_source"]["wirepool.session"]) == [session]]
            self._write([({"delete": {"_index": hit["_index"], "_id": hit["_id"]}}, None) for hit in alone])
            body["search_after"] = hits[-1]["sort"]

    def _delete(self, names: Sequence[str]) -> None:
        for at in range(0, len(names), 20):  # a request's line has an end
            some = ",".join(names[at : at + 20])
            self.connection.ask("DELETE", f"/{name_in_path(some)}", query={"ignore_unavailable": True})


def _bounded(documents: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]]) -> Iterator[bytes]:
    """Lines of bulk requests, each of about LINES_BYTES at most."""
    lines: list[bytes] = []
    size = 0
    for action, document in documents:
        some = (
            orjson.dumps(action) + b"\n" + (orjson.dumps(document) + b"\n" if document is not None else b"")
        )
        if lines and size + len(some) > LINES_BYTES:
            yield b"".join(lines)
            lines, size = [], 0
        lines.append(some)
        size += len(some)
    if lines:
        yield b"".join(lines)
