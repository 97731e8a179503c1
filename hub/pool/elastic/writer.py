"""Bulk requests: several at a time, each bounded in bytes; what Elasticsearch asks to repeat is repeated, that alone.

A document is created under an id that follows from its batch and place, so a repeated one is recognised (409) and
never there twice. Nothing is confirmed before Elasticsearch has confirmed each document of it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from hub.observe.observations import U64
from hub.pool.elastic.connection import LINES, Answered, Connection
from hub.pool.elastic.indices import Indices
from hub.pool.elastic.lines import Prepared, prepare
from hub.pool.observed import ObservedBatch, Pooling
from hub.pool.store import Put, StoreAway

REQUEST_BYTES = 4 << 20
"""Aimed at; one request holds at most this and one packet more."""
LEAST_BYTES = 64 << 10
"""A request that was refused as a whole is halved down to this."""
TRY_S = 20.0
"""What is rejected is tried again while some of its request gets through in so long; else the caller waits with it."""
BACKOFF_S = (0.1, 3.0)
"""Between tries: first and longest; each is drawn from the half to the whole of it."""
_FILTER = "errors,items.*.status,items.*.error.type,items.*.error.reason"
_GUESS_BYTES = 1024
"""Of a packet's lines, before the first ones are written."""
KNOWN, TOO_MANY = 409, 429
_PASSING = (403, 404, 408, TOO_MANY)
"""Rights, an index that nobody may make, overload: not the document's fault."""
_NOT_THE_DOCUMENT = ("validation_exception", "index_closed_exception", "cluster_block_exception")
"""Answered with 400, and nothing is wrong with the document: too many shards in the cluster, say."""


@dataclass(slots=True)
class WriterCounts:
    """Since the start of this process."""

    requests: int = 0
    bytes: int = 0
    documents: int = 0
    """Created."""
    known: int = 0
    """Were there already."""
    rejected: int = 0
    """Sent again, each time counted."""
    failed_requests: int = 0
    """As a whole, and sent again."""
    quarantined: int = 0
    """Refused for good."""


@dataclass(slots=True)
class _Request:
    """Documents of some batches. Arrays have an entry per document."""

    data: bytes
    ends: U64
    batch: NDArray[np.int32]
    """Which of the batches that were put."""

    def __len__(self) -> int:
        return len(self.ends)

    def only(self, which: NDArray[np.bool_]) -> _Request:
        """Those documents alone."""
        view = memoryview(self.data)
        begins = np.concatenate((np.zeros(1, np.uint64), self.ends[:-1]))
        kept = [
            view[begin:end]
            for begin, end in zip(begins[which].tolist(), self.ends[which].tolist(), strict=True)
        ]
        ends = np.cumsum([len(one) for one in kept], dtype=np.uint64)
        return _Request(b"".join(kept), ends, self.batch[which])

    def halves(self) -> tuple[_Request, _Request]:
        """The first documents and the others."""
        first = np.arange(len(self)) < len(self) // 2
        return self.only(first), self.only(~first)


@dataclass(slots=True)
class _Tally:
    """What became of one batch's documents."""

    stored: int = 0
    known: int = 0
    refused: int = 0
    reason: str = ""

    def put(self) -> Put:
        return Put(self.stored, self.known, self.refused, self.reason)


@dataclass(slots=True)
class Writer:
    """Writes batches. Thread-safe."""

    connection: Connection
    indices: Indices
    workers: Executor
    """Its number of threads bounds the requests on their way."""
    counts: WriterCounts = field(default_factory=WriterCounts)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, batches: Sequence[ObservedBatch]) -> list[Put]:
        """Write all observations; returns when Elasticsearch has confirmed each. StoreAway when it can't take them."""
        tallies = [_Tally() for _ in batches]
        pending: set[Future[None]] = set()
        trouble: BaseException | None = None
        for request in self._requests(batches):
            pending.add(self.workers.submit(self._send, request, tallies))
            if len(pending) > 3:  # more would only be memory
                done, pending = wait(pending, return_when="FIRST_COMPLETED")
                trouble = next((e for e in (one.exception() for one in done) if e), trouble)
                if trouble:
                    break
        for one in wait(pending).done:
            trouble = one.exception() or trouble
        if trouble:
            raise trouble
        return [tally.put() for tally in tallies]

    def _requests(self, batches: Sequence[ObservedBatch]) -> Iterator[_Request]:
        parts: list[bytes] = []
        ends: list[U64] = []
        owners: list[NDArray[np.int32]] = []
        size = 0
        for number, batch in enumerate(batches):
            if batch.level not in (Pooling.HEADERS, Pooling.PAYLOAD):
                continue
            prepared = prepare(batch, self.indices.packets(batch.header, batch.stored_ns))
            for data, ends_of in _pieces(prepared, REQUEST_BYTES - size):
                parts.append(data)
                ends.append(ends_of + np.uint64(size))
                owners.append(np.full(len(ends_of), number, np.int32))
                size += len(data)
                if size >= REQUEST_BYTES * 3 // 4:
                    yield _Request(b"".join(parts), np.concatenate(ends), np.concatenate(owners))
                    parts, ends, owners, size = [], [], [], 0
        if parts:
            yield _Request(b"".join(parts), np.concatenate(ends), np.concatenate(owners))

    def _send(self, request: _Request, tallies: list[_Tally]) -> None:
        """Until each document is confirmed or refused for good."""
        delay_s, longest_s = BACKOFF_S
        deadline = time.monotonic() + TRY_S
        queue = [request]
        while queue:
            one = queue.pop()
            try:
                left, why = self._once(one, tallies)
            except Answered as error:
                if error.status in (413, TOO_MANY) and len(one) > 1 and len(one.data) > LEAST_BYTES:
                    queue += one.halves()
                elif error.passes:
                    queue.append(one)
                else:
                    raise
                why = str(error)
                self._count(failed_requests=1)
            except StoreAway as error:
                self._count(failed_requests=1)
                queue.append(one)
                why = str(error)
            else:
                if left is None or len(left) < len(one):
                    delay_s, deadline = BACKOFF_S[0], time.monotonic() + TRY_S
                if left is None:
                    continue
                self._count(rejected=len(left))
                queue.append(left)
            if time.monotonic() + delay_s > deadline:
                raise StoreAway(why)
            time.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay_s = min(2 * delay_s, longest_s)

    def _once(self, request: _Request, tallies: list[_Tally]) -> tuple[_Request | None, str]:
        """Those that are to be sent again, and why."""
        self._count(requests=1, bytes=len(request.data))
        answer = self.connection.ask(
            "POST", "/_bulk", request.data, query={"filter_path": _FILTER}, content=LINES
        )
        items = [next(iter(item.values())) for item in answer.get("items", ())]
        if len(items) != len(request):
            raise StoreAway(f"Elasticsearch answers {len(items)} of {len(request)} documents")
        status = np.fromiter((item["status"] for item in items), np.int32, len(items))
        again = np.isin(status, _PASSING) | (status >= 500)
        again |= np.fromiter((_kind(item) in _NOT_THE_DOCUMENT for item in items), np.bool_, len(items))
        refused = (status >= 400) & ~again & (status != KNOWN)
        if refused.any():  # first: when this fails, all of the request is sent again, and counted then
            self._quarantine(request, refused, items, tallies)
        with self._lock:
            for number in np.unique(request.batch).tolist():
                of_batch = request.batch == number
                tally = tallies[number]
                created = int((of_batch & (status < 300)).sum())
                known = int((of_batch & (status == KNOWN)).sum())
                tally.stored += created
                tally.known += known
                self.counts.documents += created
                self.counts.known += known
        if not again.any():
            return None, ""
        error = items[int(np.argmax(again))].get("error") or {}
        return request.only(again), f"Elasticsearch takes no more for now: {error.get('reason', error)}"[:500]

    def _quarantine(
        self,
        request: _Request,
        refused: NDArray[np.bool_],
        items: list[dict[str, object]],
        tallies: list[_Tally],
    ) -> None:
        """Keep refused documents beside the others, as text, with the reason; count them in their batch."""
        kept = request.only(refused)
        told = [_reason(items[place]) for place in np.flatnonzero(refused).tolist()]
        lines: list[bytes] = []
        at = 0
        for end, reason in zip(kept.ends.tolist(), told, strict=True):
            action, document, _ = kept.data[at:end].split(b"\n", 2)
            aim = orjson.loads(action)["create"]
            lines.append(orjson.dumps({"create": {"_index": self.indices.quarantine, "_id": aim["_id"]}}))
            lines.append(
                orjson.dumps(
                    {
                        "@timestamp": time.time_ns() // 10**6,
                        "reason": reason,
                        "index": aim["_index"],
                        "document": document.decode(),
                    }
                )
            )
            at = end
        answer = self.connection.ask(
            "POST", "/_bulk", b"\n".join(lines) + b"\n", query={"filter_path": _FILTER}, content=LINES
        )
        if any(
            item["create"]["status"] >= 400 and item["create"]["status"] != KNOWN for item in answer["items"]
        ):
            raise StoreAway("Elasticsearch takes no more for now: what it refused can't be put aside")
        with self._lock:
            self.counts.quarantined += len(told)
            for number, reason in zip(kept.batch.tolist(), told, strict=True):
                tallies[number].refused += 1
                tallies[number].reason = tallies[number].reason or reason

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, count in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + count)


def _pieces(prepared: Prepared, room: int) -> Iterator[tuple[bytes, U64]]:
    """A batch's lines in pieces of about REQUEST_BYTES, the first of about `room`."""
    each = _GUESS_BYTES
    first = 0
    while first < prepared.packets:
        last = min(prepared.packets, first + max(1, room // each))
        lines = prepared.lines(first, last)
        yield lines.data, lines.ends
        each = max(1, len(lines.data) // (last - first))
        first, room = last, REQUEST_BYTES


def _kind(item: dict[str, object]) -> object:
    error = item.get("error")
    return error.get("type") if isinstance(error, dict) else None


def _reason(item: dict[str, object]) -> str:
    error = item.get("error")
    if isinstance(error, dict):
        return f"{error.get('type')}: {error.get('reason')}"[:256]
    return f"status {item.get('status')}"
