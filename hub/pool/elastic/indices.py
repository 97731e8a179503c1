"""Indices: their names, their templates, and which day a batch belongs to.

wirepool-packets-2026.11.26                    observations, all sessions in one index a day
wirepool-packets-<session>-2026.11.26          or one per session and day
wirepool-packets-undated                       whose capture times and the archive's clock disagree
wirepool-conversations-…, wirepool-clocks-…    what the correlation made
wirepool-quarantine                            documents that Elasticsearch refused, with the reason
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hub.pool.fields import CONVERSATION_FIELDS, PACKET_FIELDS, Field, Type
from wire.batch import Header

TEMPLATE_VERSION = 1
DAY_NS = 86_400 * 10**9
EARLY_DAYS, LATE_DAYS = 31, 1
"""A batch's day is believed when the archive stored it at most so long after it, and at most so long before: an agent
that was cut off for weeks sends late, but a clock that is wrong must not make an index for each day there is."""
MAX_FIELDS = 300
_PREFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}", re.ASCII)
_MAPPINGS: dict[Type, dict[str, Any]] = {
    Type.KEYWORD: {"type": "keyword", "ignore_above": 8191},
    Type.INTEGER: {"type": "long"},
    Type.TIME: {"type": "date_nanos", "format": "strict_date_optional_time_nanos||strict_date_optional_time"},
    Type.IP: {"type": "ip"},
    Type.MAC: {"type": "keyword"},
    Type.BOOLEAN: {"type": "boolean"},
    Type.HASH: {"type": "keyword"},
    Type.BYTES: {"type": "binary"},
}
_DAY = re.compile(r"\d{4}\.\d{2}\.\d{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Indices:
    """How the indices are named and made."""

    prefix: str = "wirepool"
    per_session: bool = False
    shards: int = 1
    """Of each index."""
    replicas: int = 1
    """Copies beside the first; on a cluster of one node they stay unassigned (yellow)."""

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"{self.prefix!r} can't begin an index's name: 1 to 41 of a-z, 0-9, -, _")

    @property
    def all_packets(self) -> str:
        """All indices of observations."""
        return f"{self.prefix}-packets-*"

    @property
    def all_conversations(self) -> str:
        return f"{self.prefix}-conversations-*"

    @property
    def all_clocks(self) -> str:
        return f"{self.prefix}-clocks-*"

    @property
    def quarantine(self) -> str:
        return f"{self.prefix}-quarantine"

    def of_session(self, session: str) -> str:
        """Those of one session's observations, where each has its own."""
        return f"{self.prefix}-packets-{session}-*"

    def packets(self, header: Header, stored_ns: int) -> str:
        """The index of a batch. Always the same for a batch: `stored_ns` is kept with the message in the archive."""
        early, late = stored_ns - EARLY_DAYS * DAY_NS, stored_ns + LATE_DAYS * DAY_NS
        believed = early <= header.first_timestamp_ns <= late
        session = f"{header.session}-" if self.per_session else ""
        return (
            f"{self.prefix}-packets-{session}{day_of(header.first_timestamp_ns) if believed else 'undated'}"
        )

    def conversations(self, first_ns: int) -> str:
        return f"{self.prefix}-conversations-{day_of(first_ns)}"

    def clocks(self, at_ns: int) -> str:
        return f"{self.prefix}-clocks-{day_of(at_ns)}"

    def templates(self) -> dict[str, dict[str, Any]]:
        """Name → composable index template."""
        conversation = _properties(CONVERSATION_FIELDS) | {
            "wirepool.details": {"type": "keyword", "index": False, "doc_values": False},
            "wirepool.conversation": {"type": "keyword"},
            "wirepool.revision": {"type": "long"},
            "wirepool.observations": {"type": "long"},
        }
        clock = {
            "@timestamp": _MAPPINGS[Type.TIME],
            **{
                name: {"type": "keyword"}
                for name in ("agent_id", "clock.anchor", "clock.origin", "clock.note")
            },
            **{name: {"type": "long"} for name in ("clock.estimate_ns", "clock.low_ns", "clock.high_ns")},
            "clock.drift_ppb": {"type": "double"},
        }
        refused = {"@timestamp": {"type": "date"}, "reason": {"type": "text"}, "index": {"type": "keyword"},
                   "document": {"type": "keyword", "index": False, "doc_values": False}}  # fmt: skip
        return {
            f"{self.prefix}-packets": self._template(self.all_packets, _properties(PACKET_FIELDS)),
            f"{self.prefix}-conversations": self._template(self.all_conversations, conversation),
            f"{self.prefix}-clocks": self._template(self.all_clocks, clock),
            f"{self.prefix}-quarantine": self._template(f"{self.quarantine}*", refused),
        }

    def _template(self, pattern: str, properties: dict[str, Any]) -> dict[str, Any]:
        settings = {
            "number_of_shards": self.shards,
            "number_of_replicas": self.replicas,
            "refresh_interval": "1s",  # said, since otherwise an index that nobody searches is not refreshed
            "mapping.total_fields.limit": MAX_FIELDS,
        }
        return {
            "index_patterns": [pattern],
            "priority": 300,
            "version": TEMPLATE_VERSION,
            "template": {
                "settings": {"index": settings},
                "mappings": {
                    "dynamic": False,
                    "properties": properties,
                    "_meta": {"wirepool": TEMPLATE_VERSION},
                },
            },
            "_meta": {"description": "Made by wirepool; changes are overwritten at its next start."},
        }


def _properties(fields: tuple[Field, ...]) -> dict[str, Any]:
    return {field.name: _MAPPINGS[field.type] for field in fields}


def day_of(time_ns: int) -> str:
    """UTC day as it stands in an index's name. Times beyond date_nanos count as its last day."""
    bounded_s = min(max(time_ns, 0), 2**63 - 1) // 10**9
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=bounded_s)).strftime("%Y.%m.%d")


def day_end_ns(index: str) -> int | None:
    """When the day of an index's name ended; None where it names none."""
    day = index[-10:]
    if not _DAY.fullmatch(day):
        return None
    try:
        begin = datetime.strptime(day, "%Y.%m.%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (int(begin.timestamp()) + 86_400) * 10**9
