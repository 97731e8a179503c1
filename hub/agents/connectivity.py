"""The connectivity test: from the hub to the agent and back, one timed step after the other.

The order is that of the way: what a step needs was shown to work by those before it. A step that can't be tried
because an earlier one failed says so and costs nothing. Each failure says what to do about it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import nats.errors

from hub.agents.control import AgentAway, AgentSilent, AnswerRefused, Control, ControlError, Ping
from hub.agents.presence import Presence
from hub.agents.status import CLOCK_WARNING_NS
from hub.archive.reading import ArchiveError, stream_state
from hub.bus import Bus
from hub.registry import Registry
from hub.words import duration_text
from wire.names import STREAM_CAPTURE, STREAM_PRIORITY

SERVER_TIMEOUT_S = 3.0
SLOW_ROUND_TRIP_NS = 500_000_000
STALE_HEARTBEAT_S = 12.0
STALE_SPOOL_S = 10.0
FULL_PERCENT = 98


@dataclass(frozen=True, slots=True)
class Check:
    """One step that has ended."""

    name: str
    title: str
    state: str
    """"ok", "warn", "bad" or "skipped"."""
    text: str
    """What was found."""
    advice: str
    """What to do; "" when there is nothing to do."""
    took_ns: int


Found = tuple[str, str, str]
"""(state, text, advice)."""


class _Way:
    """What the steps learn from each other."""

    def __init__(
        self, bus: Bus, control: Control, presence: Presence, registry: Registry, agent: str
    ) -> None:
        self.bus, self.control, self.presence, self.registry, self.agent = (
            bus,
            control,
            presence,
            registry,
            agent,
        )
        self.ping: Ping | None = None
        self.server = False

    async def ask_server(self) -> Found:
        if not self.bus.connected:
            return (
                "bad",
                "the hub has no connection to the NATS server",
                "Is nats-server running? `wirepool up` starts it; with one of your own, look at its address and log.",
            )
        try:
            client = await self.bus.client()
            begin_ns = time.perf_counter_ns()
            await client.flush(timeout=int(SERVER_TIMEOUT_S))
        except (TimeoutError, nats.errors.Error) as error:
            return (
                "bad",
                f"the NATS server doesn't answer: {error or type(error).__name__}",
                "Look into its log.",
            )
        self.server = True
        return "ok", f"answers after {_ms(time.perf_counter_ns() - begin_ns)}", ""

    async def ask_streams(self) -> Found:
        if not self.server:
            return _skipped("the NATS server")
        parts, full = [], False
        for stream in (STREAM_CAPTURE, STREAM_PRIORITY):
            try:
                state = await stream_state(self.bus, stream)
            except ArchiveError as error:
                return "bad", str(error), "The hub makes its streams when it connects: look into its log."
            share = state.bytes * 100 // state.max_bytes if state.max_bytes > 0 else 0
            full = full or share >= FULL_PERCENT
            parts.append(f"{stream} {share} % full" if state.max_bytes > 0 else f"{stream} answers")
        if full:
            return "warn", ", ".join(parts), "No room: delete sessions, or give the archive a larger budget."
        return "ok", ", ".join(parts), ""

    async def ask_agent(self) -> Found:
        if not self.server:
            return _skipped("the NATS server")
        try:
            self.ping = await self.control.ping(self.agent)
        except AgentAway as error:
            return (
                "bad",
                str(error),
                "On the host: is `wirepool agent run` running, and can it reach the server's address and port? Its log "
                "says what it tries.",
            )
        except AgentSilent as error:
            return (
                "bad",
                str(error),
                "It is connected but doesn't get to answer: is its host overloaded, or asleep?",
            )
        except AnswerRefused as error:
            return (
                "bad",
                str(error),
                "Does somebody else answer in its name, or was the host set up anew? Then enrol it with --replace.",
            )
        text = f"signed answer after {_ms(self.ping.round_trip_ns)}, version {self.ping.version}"
        if self.ping.round_trip_ns > SLOW_ROUND_TRIP_NS:
            return "warn", text, "A slow or busy link: the live view will lag by as much."
        return "ok", text, ""

    async def compare_clocks(self) -> Found:
        if self.ping is None:
            return _skipped("the agent's answer")
        text = f"agent's clock {_signed(self.ping.offset_ns)} against the hub's, ± {_ms(self.ping.round_trip_ns // 2)}"
        if abs(self.ping.offset_ns) > CLOCK_WARNING_NS:
            return (
                "warn",
                text,
                "Packets of several hosts will be out of order: run a time service (chrony, …) on both.",
            )
        return "ok", text, ""

    async def ask_interfaces(self) -> Found:
        if self.ping is None:
            return _skipped("the agent's answer")
        now = await self.control.interfaces(self.agent)
        up = [one.name for one in now.interfaces if one.state == "up" and one.name != "lo"]
        text = f"{len(now.interfaces)} interfaces after {_ms(now.round_trip_ns)}"
        if not up:
            return (
                "warn",
                f"{text}, none up but loopback",
                "Bring an interface up on the host, or plug it in.",
            )
        return "ok", f"{text}, up: {', '.join(up[:6])}{' …' if len(up) > 6 else ''}", ""

    async def ask_filter(self) -> Found:
        if self.ping is None:
            return _skipped("the agent's answer")
        verdict = await self.control.check_filter(self.agent, "tcp port 443")
        if not verdict.accepted:
            return (
                "warn",
                f"its libpcap refused `tcp port 443`: {verdict.error}",
                "Is libpcap installed on the host?",
            )
        return "ok", f"its libpcap compiles filters ({verdict.instructions} instructions)", ""

    async def compare_orders(self) -> Found:
        row = self.registry.connection.execute(
            "SELECT revision, published_ns FROM desired WHERE agent = ?", (self.agent,)
        ).fetchone()
        report = self.presence.status(self.agent).report
        if row is None:
            return (
                "warn",
                "no order was published for it yet",
                "The hub publishes within a second of being connected.",
            )
        if report is None:
            return "warn", "it has not reported yet", "It reports when it has connected for the first time."
        if report.desired_revision < row["revision"]:
            late_s = (time.time_ns() - row["published_ns"]) / 1e9
            state = "warn" if late_s > 5 else "ok"
            return (
                state,
                f"has yet to answer the orders of {duration_text(late_s)} ago",
                ("It reads them when it connects, on a notice and every minute." if state == "warn" else ""),
            )
        return "ok", "has answered the newest orders", ""

    async def look_at_heartbeat(self) -> Found:
        status = self.presence.status(self.agent)
        if status.heartbeat is None or status.heartbeat_age_s is None:
            return (
                "bad",
                "no heartbeat was ever heard",
                "Enrolled, never connected: see its log on the host.",
            )
        text = f"last heartbeat {duration_text(status.heartbeat_age_s)} ago"
        if status.heartbeat_age_s > STALE_HEARTBEAT_S:
            return "bad", text, "They come every 5 s: its host is away, asleep or overloaded."
        return "ok", text, ""

    async def look_at_archive(self) -> Found:
        status = self.presence.status(self.agent)
        beat = status.heartbeat
        (stored_ns,) = self.registry.connection.execute(
            "SELECT max(last_received_ns) FROM chains WHERE agent = ?", (self.agent,)
        ).fetchone()
        age = "nothing of it is archived yet"
        if stored_ns:
            age = f"its last batch was archived {duration_text(max(0, time.time_ns() - stored_ns) / 1e9)} ago"
        if beat is None or not beat.spool_bytes or beat.spool_oldest_ns is None:
            return "ok", f"nothing waits in its spool; {age}", ""
        waits_s = max(0.0, (beat.sent_ns - beat.spool_oldest_ns) / 1e9)
        text = f"the oldest batch in its spool waited {duration_text(waits_s)} at the last heartbeat; {age}"
        if waits_s > STALE_SPOOL_S:
            return (
                "warn",
                text,
                "Batches are made faster than they leave: a thin link, a full archive, or it was away.",
            )
        return "ok", text, ""


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.1f} ms" if nanoseconds < 10_000_000 else f"{nanoseconds / 1e6:.0f} ms"


def _signed(nanoseconds: int) -> str:
    if abs(nanoseconds) >= 1_000_000_000:
        return f"{nanoseconds / 1e9:+.1f} s"
    return f"{nanoseconds / 1e6:+.1f} ms"


def _skipped(needs: str) -> Found:
    return "skipped", f"not tried: it needs {needs}", ""


async def check_connection(
    bus: Bus, control: Control, presence: Presence, registry: Registry, agent: str
) -> AsyncGenerator[Check, None]:
    """Every step as it ends; at most about 12 s with an agent that is silent. UnknownError without such an agent."""
    presence.status(agent)
    way = _Way(bus, control, presence, registry, agent)
    steps: tuple[tuple[str, str, Callable[[], Awaitable[Found]]], ...] = (
        ("server", "Hub → NATS server", way.ask_server),
        ("streams", "Archive answers", way.ask_streams),
        ("agent", "Agent answers, signed", way.ask_agent),
        ("clock", "Clocks agree", way.compare_clocks),
        ("interfaces", "Interfaces", way.ask_interfaces),
        ("filter", "Filters compile", way.ask_filter),
        ("orders", "Orders arrive", way.compare_orders),
        ("heartbeat", "Heartbeats arrive", way.look_at_heartbeat),
        ("archive", "Packets reach the archive", way.look_at_archive),
    )
    for name, title, run in steps:
        begin_ns = time.perf_counter_ns()
        try:
            state, text, advice = await run()
        except ControlError as error:
            state, text, advice = "bad", str(error), "It answered before: try again."
        yield Check(name, title, state, text, advice, time.perf_counter_ns() - begin_ns)
        await asyncio.sleep(0)
