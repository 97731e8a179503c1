"""Who is there. (Signatures first; the verdicts follow.)"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from wire.report import Heartbeat, Report


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What the hub knows of one agent at one moment."""

    id: str
    label: str
    state: Literal["online", "offline", "never", "disabled", "unknown"]
    """`unknown`: the hub itself has no connection to the server, so it can't tell."""
    reason: str
    """The state in words for people: "online", "offline 3 min, 42 MB spooled", "never seen", "disabled: …"."""
    since_ns: int | None
    """When the present state began (UTC)."""
    warnings: tuple[str, ...]
    """E.g. "clock not synchronised", "spool 91 % full", "two connections use this agent's credentials"."""
    report: "Report | None"
    heartbeat: "Heartbeat | None"
    heartbeat_age_s: float | None
    spool_bytes: int
    packets_per_second: float
    bits_per_second: float
    credentials_expire_ns: int | None

    @property
    def online(self) -> bool:
        """Whether the agent is there now."""
        return self.state == "online"


class Changes:
    """A subscription: `async for agents in changes` gives the set of agent ids whose status changed since last time.

    Bounded by nature: however slow the reader, what waits is one set of ids.
    """

    def __aiter__(self) -> AsyncIterator[frozenset[str]]:
        raise NotImplementedError


class Presence:
    """Verifies heartbeats and reports, follows the server's connect events, keeps the verdict per agent."""

    async def run(self) -> None:
        """Work until cancelled."""
        raise NotImplementedError

    def status(self, agent: str) -> AgentStatus:
        """One agent's status; UnknownError without such an agent."""
        raise NotImplementedError

    def all(self) -> list[AgentStatus]:
        """Every enrolled agent's status, by id."""
        raise NotImplementedError

    @contextmanager
    def changes(self) -> Iterator[Changes]:
        """Subscribe for the time of the `with` block. A change of a session's reported state counts as well."""
        raise NotImplementedError
