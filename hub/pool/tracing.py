"""Traces of batches on their way into a store, for OpenTelemetry: of some of them, when a collector is set up.

    batch                from when the archive stored the message to when the store confirmed it
    ├ wait and decode    … to when it was given to the store
    └ put                … to when that confirmed it, with what became of the packets

Sent as OTLP over HTTP in its JSON form, which every collector takes: the protobuf form would bring three more packages.
Nothing waits for a collector: what doesn't fit its queue is left out and counted.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from hub.pool.store import Put

if TYPE_CHECKING:
    from hub.pool.observed import ObservedBatch

log = logging.getLogger(__name__)

EXPORT_S = 10.0
QUEUE = 2_048
"""Spans that wait for the collector."""


class OtlpJson(SpanExporter):
    """Spans to a collector: OTLP 1.x over HTTP, JSON."""

    def __init__(self, url: str) -> None:
        """url: of the collector, `http://host:4318`."""
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} isn't a collector's address: write http://host:4318")
        self._url = f"{url.rstrip('/')}/v1/traces"
        self._trouble = ""
        self.sent = 0
        self.failed = 0
        """Spans that the collector didn't take."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """One request; not repeated, since traces are samples anyway."""
        body = orjson.dumps({"resourceSpans": [_resource_spans(spans)]})
        request = urllib.request.Request(self._url, body, {"content-type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=EXPORT_S) as answer:  # noqa: S310 - checked above
                answer.read(1 << 16)
        except (OSError, urllib.error.URLError) as error:
            self.failed += len(spans)
            if str(error) != self._trouble:
                log.warning("traces can't be sent to %s: %s", self._url, error)
            self._trouble = str(error)
            return SpanExportResult.FAILURE
        self.sent += len(spans)
        self._trouble = ""
        return SpanExportResult.SUCCESS


class Tracing:
    """Follows one batch in so many. Thread-safe."""

    def __init__(self, url: str, percent: int, *, delay_ms: int = 5_000) -> None:
        """percent: how many of a hundred batches are followed. delay_ms: between two sendings."""
        self.exporter = OtlpJson(url)
        resource = Resource.create({"service.name": "wirepool-hub"})
        self._provider = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(self.exporter, max_queue_size=QUEUE, schedule_delay_millis=delay_ms)
        )
        self._tracer = self._provider.get_tracer("wirepool.pool")
        self._least = percent * 2**32 // 100
        self._lock = threading.Lock()
        self.followed = 0
        """Batches."""

    def follows(self, batch: ObservedBatch) -> bool:
        """The same batch always or never, whoever asks."""
        name = batch.observation_id(0).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "big") < self._least

    def confirmed(
        self, batches: Sequence[ObservedBatch], puts: Sequence[Put], store: str, begun_ns: int, ended_ns: int
    ) -> None:
        """The store has confirmed these, given to it at begun_ns."""
        for batch, put in zip(batches, puts, strict=True):
            if not self.follows(batch):
                continue
            with self._lock:
                self.followed += 1
            header = batch.header
            received_ns = min(batch.stored_ns, begun_ns)
            root = self._tracer.start_span(
                "batch",
                start_time=received_ns,
                attributes={
                    "wirepool.agent": header.agent,
                    "wirepool.session": header.session,
                    "wirepool.lane": header.lane.value,
                    "wirepool.sequence": header.sequence,
                    "wirepool.packets": len(batch),
                },
            )
            context = trace.set_span_in_context(root)
            self._tracer.start_span("wait and decode", context, start_time=received_ns).end(begun_ns)
            writing = self._tracer.start_span(
                "put",
                context,
                start_time=begun_ns,
                attributes={
                    "db.system": store,
                    "wirepool.stored": put.stored,
                    "wirepool.known": put.known,
                    "wirepool.refused": put.refused,
                },
            )
            if put.refused:
                writing.set_status(trace.Status(trace.StatusCode.ERROR, put.reason))
            writing.end(ended_ns)
            root.end(ended_ns)

    def close(self) -> None:
        """Send what is left, and end."""
        self._provider.shutdown()


def _resource_spans(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    resource = spans[0].resource.attributes if spans else {}
    return {
        "resource": {"attributes": _attributes(resource)},
        "scopeSpans": [{"scope": {"name": "wirepool.pool"}, "spans": [_span(span) for span in spans]}],
    }


def _span(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        **({"parentSpanId": f"{span.parent.span_id:016x}"} if span.parent else {}),
        "name": span.name,
        "kind": 1,
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes or {}),
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
    }


def _attributes(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in found.items()]


def _value(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"stringValue": str(value)}
