"""/metrics: the hub's counters in Prometheus' text format (version 0.0.4), for who is logged in or has the token.

A monitoring system has no login: it sends `authorization: Bearer TOKEN`, TOKEN being what stands in the file that
hub.yaml names (`metrics_token_file`). Where the request comes from gives no right: behind a proxy everybody comes from
the loopback.
"""

import hmac
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litestar import Request, get
from litestar.exceptions import NotAuthorizedException
from litestar.response import Response

from hub.pool.books import all_pooled
from hub.pool.pool import Pool
from hub.web.guard import PasswordChangeNeeded
from hub.web.running import Hub, hub_of, program_version

log = logging.getLogger(__name__)

MEDIA_TYPE = "text/plain; version=0.0.4"
LEAST_TOKEN = 16
MOST_TOKEN = 1_024

Metric = tuple[str, str, float, str]
"""(name without `wirepool_`, counter or gauge, value, what it says)."""


def metrics_of(hub: Hub) -> Iterator[Metric]:
    """All of them; counters begin with the hub's start, unless they say otherwise."""
    ledger = hub.ledger.counts
    yield "start_time_seconds", "gauge", hub.started_ns / 1e9, "When the hub was started, Unix time."
    yield "nats_connected", "gauge", hub.bus.connected, "Whether the NATS server is there."
    yield "viewers", "gauge", hub.live.viewers, "Pages that watch live."
    yield "batches_total", "counter", ledger.batches, "Batches that the ledger verified and booked."
    yield "packets_total", "counter", ledger.packets, "Packets in those batches."
    yield "duplicate_batches_total", "counter", ledger.duplicates, "Batches that came twice, counted once."
    yield "quarantined_batches_total", "counter", ledger.quarantined, "Messages that didn't verify."
    yield (
        "ledger_stalled_total",
        "counter",
        ledger.stalled,
        "Rounds in which the registry couldn't be written.",
    )
    pending = sum(hub.ledger.pending.values())
    yield "ledger_pending_messages", "gauge", pending, "In the archive and not verified yet."
    if hub.pool is not None:
        yield from _of_pool(hub, hub.pool)


def _of_pool(hub: Hub, pool: Pool) -> Iterator[Metric]:
    status, sums = pool.ingest.status, all_pooled(hub.registry)
    yield (
        "pooled_packets_total",
        "counter",
        sums.pooled,
        "Packets pooled, ever, of sessions that still exist.",
    )
    yield "pool_left_out_packets_total", "counter", sums.left_out, "Left out by their sessions' level, ever."
    yield "pool_refused_packets_total", "counter", sums.refused, "Refused by the store or unreadable, ever."
    yield (
        "pool_unverified_messages_total",
        "counter",
        status.counts.unverified,
        "Messages nobody vouches for.",
    )
    yield "pool_lag_seconds", "gauge", status.lag_s, "How long the oldest batch not pooled has been archived."
    yield "pool_lag_p95_seconds", "gauge", status.lag_p95_s, "From archived to pooled, latest 4,096 batches."
    yield "pool_pending_messages", "gauge", status.pending, "In the archive and not read by the pool yet."
    yield "pool_waiting", "gauge", bool(status.waiting_for), "Whether the pool waits for its store."
    if pool.correlation is not None:
        counts, waiting = pool.correlation.counts, pool.correlation.waiting_packets
        yield "correlated_packets_total", "counter", counts.packets, "Packets the correlation took."
        yield "not_correlated_packets_total", "counter", counts.passed_over, "That came faster than it works."
        yield "correlation_unstored_total", "counter", counts.unstored, "Results that no store took."
        yield "correlation_queue_packets", "gauge", waiting, "Packets that wait for the correlation."


def as_text(version: str, metrics: Iterator[Metric]) -> str:
    """Prometheus' text format."""
    lines = ["# TYPE wirepool_build_info gauge", f'wirepool_build_info{{version="{version}"}} 1']
    for name, kind, value, told in metrics:
        lines += [f"# HELP wirepool_{name} {told}", f"# TYPE wirepool_{name} {kind}"]
        lines.append(f"wirepool_{name} {float(value):.17g}")
    return "\n".join(lines) + "\n"


def _has_token(hub: Hub, request: Request[Any, Any, Any]) -> bool:
    """Whether the request has the token; it is read each time, so that a new one is good at once."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if hub.settings.metrics_token_file is None or scheme.lower() != "bearer":
        return False
    try:
        with Path(hub.settings.metrics_token_file).open("rb") as file:
            wanted = file.read(MOST_TOKEN).strip()
    except OSError as error:
        log.error("metrics_token_file can't be read: %s", error)
        return False
    if len(wanted) < LEAST_TOKEN:
        log.error("metrics_token_file: a token has at least %d characters", LEAST_TOKEN)
        return False
    return hmac.compare_digest(given.strip().encode(), wanted)


@get("/metrics", opt={"public": True}, sync_to_thread=False)
def metrics(request: Request[Any, Any, Any]) -> Response[str]:
    """The counters. `public` only for the Guard, which knows no tokens: a stranger is refused here."""
    hub, session = hub_of(request), request.scope["user"]
    if not _has_token(hub, request):
        if session is None:
            raise NotAuthorizedException("log in first, or send the token that metrics_token_file names")
        if hub.authentication.must_change(session):
            raise PasswordChangeNeeded("choose your own password first, at /password")
    return Response(as_text(program_version(), metrics_of(hub)), media_type=MEDIA_TYPE)


handlers = [metrics]
