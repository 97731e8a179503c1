"""The verdict "is this agent there", as plain logic over events and a clock that comes in as an argument.

Three kinds of evidence. *Life*: anything the agent signed just now (heartbeat, report, batch, answer). *Connect and
disconnect* events of the server: they come within milliseconds when a process dies, and never when a cable is pulled.
*Silence*: no life for OFFLINE_AFTER_S.

A killed agent: the server reports the disconnect, nobody reconnects within GRACE_S → offline within 2 s. An unplugged
host: silence → 15 s. A busy agent sends heartbeats late, but its batches are life; and before silence becomes a
verdict it is asked (`wants_probe`), so busy is never offline.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

OFFLINE_AFTER_S = 15.0
"""Three heartbeats."""
PROBE_AFTER_S = 9.0
PROBE_EVERY_S = 2.0
GRACE_S = 1.5
"""A renewal of credentials reconnects within 0.1 s: not an absence."""
MAX_BOOTS = 16
MAX_CONNECTIONS = 64


@dataclass(slots=True)
class Sighting:
    """One agent. All times are seconds of one monotonic clock."""

    started_s: float
    """When the hub began to look."""
    seen_before: bool = False
    """An earlier run of the hub has heard of it."""
    last_life_s: float | None = None
    disconnected_s: float | None = None
    """When its last connection ended; None while there is one or none is known."""
    disconnect_reason: str = ""
    connections: OrderedDict[str, str] = field(default_factory=OrderedDict)
    """Known open connections: the server's client id → address."""
    _boots: OrderedDict[bytes, int] = field(default_factory=OrderedDict)
    """The last heartbeat's sequence per boot."""
    _probed_s: float = 0.0

    def heartbeat(self, boot: bytes, sequence: int, now_s: float) -> bool:
        """A verified heartbeat came; False when it is old or was seen (a replay) and must be ignored."""
        newest = next(reversed(self._boots), None)
        if boot in self._boots and (boot != newest or sequence <= self._boots[boot]):
            return False
        self._boots[boot] = sequence
        while len(self._boots) > MAX_BOOTS:
            self._boots.popitem(last=False)
        self.life(now_s)
        return True

    def life(self, now_s: float) -> None:
        """The agent did something just now."""
        self.last_life_s = now_s
        # Late bytes of a dead connection may arrive just behind its end; later ones mean that we missed a connect.
        if self.disconnected_s is not None and now_s - self.disconnected_s > 1.0:
            self.disconnected_s = None

    def connected(self, client: str, address: str) -> None:
        """The server saw a connection of this agent's user open."""
        self.connections[client] = address
        while len(self.connections) > MAX_CONNECTIONS:
            self.connections.popitem(last=False)
        self.disconnected_s = None

    def disconnected(self, client: str, reason: str, now_s: float) -> None:
        """The server saw a connection of this agent's user end."""
        self.connections.pop(client, None)
        if not self.connections:
            self.disconnected_s = now_s
            self.disconnect_reason = reason

    def forget_connections(self) -> None:
        """The hub was away itself: what the server told meanwhile is lost."""
        self.connections.clear()
        self.disconnected_s = None

    def resume(self, now_s: float) -> None:
        """The hub is back on the bus: silence counts from now."""
        self.started_s = now_s

    def silence_s(self, now_s: float) -> float:
        """Seconds without life, counted from the hub's own return at the earliest."""
        return now_s - max(
            self.started_s, self.last_life_s if self.last_life_s is not None else self.started_s
        )

    def state(self, now_s: float) -> Literal["online", "offline", "never", "unknown"]:
        """online, offline, never, or unknown (the hub has just begun to look)."""
        if self.last_life_s is None and not self.seen_before:
            return "never"
        if self.disconnected_s is not None and now_s - self.disconnected_s >= GRACE_S:
            return "offline"
        if self.silence_s(now_s) >= OFFLINE_AFTER_S:
            return "offline"
        return "unknown" if self.last_life_s is None or self.last_life_s < self.started_s else "online"

    def wants_probe(self, now_s: float) -> bool:
        """Whether to ask the agent before silence becomes a verdict; at most every PROBE_EVERY_S."""
        silent = self.last_life_s is not None and self.disconnected_s is None
        if not silent or not PROBE_AFTER_S <= self.silence_s(now_s) < OFFLINE_AFTER_S:
            return False
        if now_s - self._probed_s < PROBE_EVERY_S:
            return False
        self._probed_s = now_s
        return True

    def due_s(self, now_s: float) -> float:
        """When the verdict may change by itself."""
        due = now_s + 60.0
        if self.disconnected_s is not None:
            due = min(due, self.disconnected_s + GRACE_S)
        if self.last_life_s is not None:
            due = min(due, now_s + max(0.0, OFFLINE_AFTER_S - self.silence_s(now_s)))
        return due
