"""A batch's trace arrives at a collector: when it was received, given to the store and confirmed; off without one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import pytest

from hub.config import ConfigError, HubSettings
from hub.pool.elastic.connection import Access
from hub.pool.elastic.settings import tracing_of
from hub.pool.elastic.store import ElasticStore
from hub.pool.store import Put
from hub.pool.tracing import Tracing
from tests.hub.pool.elastic.conftest import connected
from tests.hub.pool.elastic.test_lines import FRAMES
from tests.hub.pool.made import START_NS, Made
from tests.support.elasticsearch import Node, free_port
from tests.support.nats_backbone import until

Requests = list[tuple[str, str, Any]]


@pytest.fixture
def collector() -> Iterator[tuple[str, Requests]]:
    """Takes OTLP over HTTP on a port of its own."""
    taken: Requests = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append((self.path, self.headers["content-type"], orjson.loads(body)))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", taken
        server.shutdown()
        thread.join()


def spans(taken: Requests) -> list[dict[str, Any]]:
    return [
        span
        for _, _, body in taken
        for resource in body["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def test_a_trace_tells_when_a_batch_was_received_given_and_confirmed(collector: tuple[str, Requests]) -> None:
    url, taken = collector
    tracing = Tracing(url, 100)
    batch = Made().frames(FRAMES)
    tracing.confirmed([batch], [Put(30, 2, 1, "why")], "elasticsearch", START_NS + 5, START_NS + 9)
    tracing.close()
    assert {(path, kind) for path, kind, _ in taken} == {("/v1/traces", "application/json")}
    resource = taken[0][2]["resourceSpans"][0]["resource"]["attributes"]
    assert {"key": "service.name", "value": {"stringValue": "wirepool-hub"}} in resource
    by_name = {span["name"]: span for span in spans(taken)}
    times = {n: (int(s["startTimeUnixNano"]), int(s["endTimeUnixNano"])) for n, s in by_name.items()}
    assert times == {
        "batch": (START_NS, START_NS + 9),
        "wait and decode": (START_NS, START_NS + 5),
        "put": (START_NS + 5, START_NS + 9),
    }
    root = by_name.pop("batch")
    assert "parentSpanId" not in root
    for span in by_name.values():
        assert (span["traceId"], span["parentSpanId"]) == (root["traceId"], root["spanId"])
    told = {one["key"]: one["value"] for one in by_name["put"]["attributes"]}
    assert told["wirepool.refused"] == {"intValue": "1"}
    assert by_name["put"]["status"] == {"code": 2, "message": "why"}


def test_one_batch_in_so_many_is_followed_and_always_the_same() -> None:
    made = Made()
    batches = [made.frames(FRAMES[:1]) for _ in range(300)]
    some, again = Tracing("http://127.0.0.1:9", 10), Tracing("http://127.0.0.1:9", 10)
    followed = [some.follows(batch) for batch in batches]
    assert followed == [again.follows(batch) for batch in batches]
    assert 10 < sum(followed) < 55
    for tracing in (some, again):
        tracing.close()


def test_a_collector_that_is_away_costs_only_its_traces() -> None:
    tracing = Tracing(f"http://127.0.0.1:{free_port()}", 100)
    tracing.confirmed([Made().frames(FRAMES[:1])], [Put(1, 0)], "elasticsearch", START_NS, START_NS)
    tracing.close()
    assert (tracing.exporter.sent, tracing.exporter.failed) == (0, 3)


def test_off_unless_an_address_is_set() -> None:
    assert tracing_of(HubSettings()) is None
    with pytest.raises(ConfigError, match="traces_url"):
        tracing_of(HubSettings(traces_url="collector:4318"))


@pytest.mark.slow
async def test_a_batch_that_elasticsearch_confirmed_is_traced(
    node: Node, collector: tuple[str, Requests]
) -> None:
    url, taken = collector
    tracing = Tracing(url, 100, delay_ms=50)
    async with connected(Access([node.url]), tracing=tracing) as store:
        assert isinstance(store, ElasticStore)
        await store.put([Made().frames(FRAMES)])
        await until(lambda: len(spans(taken)) == 3)
    (put,) = (span for span in spans(taken) if span["name"] == "put")
    told = {one["key"]: one["value"] for one in put["attributes"]}
    assert told["wirepool.stored"] == {"intValue": str(len(FRAMES))}
