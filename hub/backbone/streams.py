"""The streams of the bus: the raw archive, its priority lane, and the bucket with every agent's desired
state.

`ensure_streams` makes them or brings them up to date; it may be called at each start, by several hubs at
once, and against a server that isn't ours. Every stream has limits retention and `discard: new`: once full it
refuses, so that the sender spools and nothing acknowledged is thrown away. The hub's keeper makes room by
purging what is confirmed.

The server offers no byte budget per subject. What it does offer is a count: a single (agent, session, lane)
can't hold more than MAX_MESSAGES_PER_SUBJECT messages, and beyond that only this sender is refused
(discard_new_per_subject).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.errors import NoRespondersError

from hub.backbone.first_start import MEBIBYTE
from wire import names

SECOND_NS = 1_000_000_000
DUPLICATE_WINDOW_S = 120
"""How long the server remembers message ids. Beyond it the hub's own check by (boot, session, lane, sequence)
holds.
"""
MAX_MESSAGE_BYTES = MEBIBYTE + 64 * 1024
"""Largest stored message: a payload of 1 MiB and its headers."""
MAX_MESSAGES_PER_SUBJECT = 4_000_000
MAX_DESIRED_BYTES = 256 * 1024
"""Largest signed `desired` of one agent (wire.control's bound)."""
DESIRED_STREAM = f"KV_{names.DESIRED_BUCKET}"
API_TIMEOUT_S = 10.0
STREAM_NOT_FOUND = 10059


class StreamError(Exception):
    """The server refused a stream; the message is its own reason and what to do."""


@dataclass(frozen=True, slots=True)
class StreamBudget:
    """Bytes on disk for each stream; their sum stays within the budget of the server."""

    capture: int
    priority: int
    desired: int

    @classmethod
    def of(cls, total_bytes: int) -> StreamBudget:
        """Split a budget: a sixteenth each for priority (at most 2 GiB) and desired (at most 64 MiB), the
        rest to the archive.
        """
        priority = max(16 * MEBIBYTE, min(total_bytes // 16, 2048 * MEBIBYTE))
        desired = max(8 * MEBIBYTE, min(total_bytes // 16, 64 * MEBIBYTE))
        # A sixteenth stays free: the server counts a block's slack and the consumers' state on top.
        return cls(total_bytes - total_bytes // 16 - priority - desired, priority, desired)


def stream_configurations(budget: StreamBudget, replicas: int = 1) -> list[dict[str, Any]]:
    """The wanted configuration of each stream, in the terms of the JetStream API (docs.nats.io,
    STREAM.CREATE).
    """
    common: dict[str, Any] = {
        "retention": "limits",
        "storage": "file",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_age": 0,
        "num_replicas": replicas,
        "no_ack": False,
        "sealed": False,
        "deny_delete": False,
        "deny_purge": False,
        # A header could otherwise wipe other subjects: `Nats-Rollup: all` from any agent.
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
    }
    lane: dict[str, Any] = {
        **common,
        "discard": "new",
        "discard_new_per_subject": True,
        "max_msgs_per_subject": MAX_MESSAGES_PER_SUBJECT,
        "max_msg_size": MAX_MESSAGE_BYTES,
        "duplicate_window": DUPLICATE_WINDOW_S * SECOND_NS,
        "allow_direct": True,
        "compression": "none",
    }
    return [
        {
            **lane,
            "name": names.STREAM_CAPTURE,
            "description": "wirepool: the raw archive",
            "subjects": [f"cap.*.*.{names.Lane.BULK}"],
            "max_bytes": budget.capture,
        },
        {
            **lane,
            "name": names.STREAM_PRIORITY,
            "description": "wirepool: the priority lane, which never waits behind the archive",
            "subjects": [f"cap.*.*.{names.Lane.PRIO}"],
            "max_bytes": budget.priority,
        },
        {
            **common,
            "name": DESIRED_STREAM,
            "description": "wirepool: desired state, one signed envelope per agent",
            "subjects": [f"$KV.{names.DESIRED_BUCKET}.>"],
            "max_bytes": budget.desired,
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_msg_size": MAX_DESIRED_BYTES + 4096,
            "duplicate_window": DUPLICATE_WINDOW_S * SECOND_NS,
            "allow_direct": True,
        },
    ]


async def ensure_streams(connection: Client, budget_bytes: int, replicas: int = 1) -> list[str]:
    """Make the streams that are missing and update those that differ. Returns the names of what changed.

    connection: a user with everything in the account (the hub). Raises StreamError.
    """
    changed: list[str] = []
    for wanted in stream_configurations(StreamBudget.of(budget_bytes), replicas):
        name = wanted["name"]
        info = await _request(connection, f"$JS.API.STREAM.INFO.{name}", {})
        if _error_code(info) == STREAM_NOT_FOUND:
            await _must(connection, f"$JS.API.STREAM.CREATE.{name}", wanted, name)
            changed.append(name)
            continue
        if "error" in info:
            raise StreamError(f"stream {name}: {info['error'].get('description', 'refused')}")
        present = info["config"]
        if any(present.get(key, _absent(value)) != value for key, value in wanted.items()):
            await _must(connection, f"$JS.API.STREAM.UPDATE.{name}", {**present, **wanted}, name)
            changed.append(name)
    return changed


def _absent(value: Any) -> Any:
    """What the server means by leaving a field out: its zero value."""
    return {bool: False, int: 0, str: ""}.get(type(value))


async def _must(connection: Client, subject: str, body: Mapping[str, Any], name: str) -> None:
    answer = await _request(connection, subject, body)
    if "error" in answer:
        reason = answer["error"].get("description", "refused")
        raise StreamError(
            f"the NATS server refused stream {name}: {reason}. If it is out of space, give it a larger disk "
            "or a smaller budget (`wirepool init --budget`)."
        )


async def _request(connection: Client, subject: str, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        message = await connection.request(subject, json.dumps(body).encode(), timeout=API_TIMEOUT_S)
    except NoRespondersError:
        raise StreamError("the NATS server has no JetStream for this account: enable it there") from None
    answer = json.loads(message.data)
    if not isinstance(answer, dict):
        raise StreamError(f"unexpected answer to {subject}")
    return answer


def _error_code(answer: Mapping[str, Any]) -> int | None:
    error = answer.get("error")
    return int(error.get("err_code", 0)) if isinstance(error, dict) else None
