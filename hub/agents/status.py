"""An agent's status in words, made of what the hub knows of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from hub.agents.sighting import Sighting
from hub.registry import AgentRecord
from hub.words import bytes_text, duration_text
from wire.errors import WireError
from wire.report import Heartbeat, Report
from wire.strict_cbor import loads_map

IMPORTED = "imported files"
"""Label of a name under which files are imported: no host answers to it, and nothing can be captured there."""
CLOCK_WARNING_NS = 2_000_000_000
CREDENTIALS_WARNING_NS = 14 * 86400 * 10**9
SPOOL_WARNING_PERCENT = 75
MAX_BODY_BYTES = 256 * 1024

T = TypeVar("T")
State = Literal["online", "offline", "never", "revoked", "unknown"]


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What the hub knows of one agent at one moment."""

    id: str
    label: str
    state: State
    """`unknown`: the hub itself has no connection to the server, or has just started, so it can't tell yet."""
    reason: str
    """The state in words for people: "online", "offline 3 min, 42 MB spooled", "never seen", "revoked: …"."""
    since_ns: int | None
    """When the present state began (UTC)."""
    warnings: tuple[str, ...]
    """E.g. "clock not synchronised", "spool 91 % full", "two connections use this agent's credentials"."""
    report: Report | None
    heartbeat: Heartbeat | None
    heartbeat_age_s: float | None
    spool_bytes: int
    packets_per_second: float
    bits_per_second: float
    credentials_expire_ns: int | None
    off_words: str
    """"disabled by admin: reason" while the agent is to have no sessions; "" else."""
    clock_difference_ns: int | None
    """Agent's clock minus the hub's at the last heartbeat's arrival: too small by its time on the way."""
    addresses: tuple[str, ...]
    """Where its open connections come from, as the NATS server saw it."""

    @property
    def disabled(self) -> bool:
        """Whether it is to have no sessions, whatever its state."""
        return bool(self.off_words)

    @property
    def imported(self) -> bool:
        """Whether only files are imported under this name; what it reports of a host is the hub's own."""
        return self.label == IMPORTED

    @property
    def online(self) -> bool:
        """Whether the agent is there now."""
        return self.state == "online"


class KnownAgent:
    """What is held in memory per agent."""

    def __init__(self, record: AgentRecord, now_s: float) -> None:
        self.record = record
        self.sighting = Sighting(now_s, seen_before=record.heartbeat_ns is not None)
        self.report = stored_body(record.report, Report.from_map)
        self.heartbeat = stored_body(record.heartbeat, Heartbeat.from_map)
        self.heartbeat_ns = record.heartbeat_ns
        self.clock_difference_ns: int | None = None
        self.state = ""
        self.since_ns: int | None = record.heartbeat_ns
        self.rejected = 0


def status_of(known: KnownAgent, state: State, connected: bool, now_ns: int) -> AgentStatus:
    """The status in words; `connected`: whether the hub itself is on the bus."""
    heartbeat = known.heartbeat
    spool = heartbeat.spool_bytes if heartbeat else 0
    beats = list(heartbeat.sessions.values()) if heartbeat and state == "online" else []
    return AgentStatus(
        id=known.record.id,
        label=known.record.label,
        state=state,
        reason=_reason(known, state, spool, connected, now_ns),
        since_ns=known.since_ns,
        warnings=_warnings(known, state, now_ns),
        report=known.report,
        heartbeat=heartbeat,
        heartbeat_age_s=None if known.heartbeat_ns is None else max(0.0, (now_ns - known.heartbeat_ns) / 1e9),
        spool_bytes=spool,
        packets_per_second=sum(beat.packets_per_second for beat in beats),
        bits_per_second=sum(beat.bits_per_second for beat in beats),
        credentials_expire_ns=known.record.jwt_expires_ns,
        off_words=known.record.off_words,
        clock_difference_ns=known.clock_difference_ns,
        addresses=tuple(sorted(set(known.sighting.connections.values()))),
    )


def _reason(known: KnownAgent, state: State, spool: int, connected: bool, now_ns: int) -> str:
    if state == "revoked":
        reason = known.record.disabled_reason
        return f"revoked: {reason}" if reason and reason != "revoked" else "revoked"
    if state == "never":
        return "never seen"
    if state == "unknown":
        if not connected:
            return "unknown: the hub has no connection to the NATS server"
        return "waiting for its first heartbeat since the hub started"
    if state == "online":
        return "online"
    words = "offline"
    if known.heartbeat_ns is not None:
        words += f" {duration_text((now_ns - known.heartbeat_ns) / 1e9)}"
    if spool:
        words += f", {bytes_text(spool)} spooled"
    if known.sighting.disconnected_s is not None and known.sighting.disconnect_reason:
        words += f" ({known.sighting.disconnect_reason})"
    return words


def _warnings(known: KnownAgent, state: State, now_ns: int) -> tuple[str, ...]:
    warnings = []
    heartbeat = known.heartbeat
    if state == "online" and heartbeat is not None:
        if heartbeat.clock.state == "unsynchronized":
            warnings.append("clock not synchronised")
        difference = known.clock_difference_ns
        if difference is not None and abs(difference) > CLOCK_WARNING_NS:
            side = "ahead of" if difference > 0 else "behind"
            warnings.append(f"clock {duration_text(abs(difference) / 1e9)} {side} the hub's")
        if (
            heartbeat.spool_limit_bytes
            and heartbeat.spool_bytes * 100 >= heartbeat.spool_limit_bytes * SPOOL_WARNING_PERCENT
        ):
            warnings.append(f"spool {heartbeat.spool_bytes * 100 // heartbeat.spool_limit_bytes} % full")
        warnings += heartbeat.alerts
    if len(known.sighting.connections) > 1:
        addresses = ", ".join(sorted(set(known.sighting.connections.values())))
        count = len(known.sighting.connections)
        warnings.append(f"{count} connections use this agent's credentials ({addresses})")
    expires = known.record.jwt_expires_ns
    if expires is not None and expires - now_ns < CREDENTIALS_WARNING_NS:
        left = (expires - now_ns) / 1e9
        warnings.append(
            "credentials have expired" if left <= 0 else f"credentials end in {duration_text(left)}"
        )
    if known.rejected:
        warnings.append(f"{known.rejected} messages in its name were refused")
    return tuple(warnings)


def stored_body(body: bytes | None, read: Callable[[dict[str, Any]], T]) -> T | None:
    """A kept CBOR body read again; None when there is none, or another version wrote it."""
    if body is None:
        return None
    try:
        return read(loads_map(body, max_bytes=MAX_BODY_BYTES, max_depth=8, max_items=32768))
    except WireError:
        return None  # written by another version: it will be told again
