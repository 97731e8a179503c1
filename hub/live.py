"""The live view. (Signatures first.)"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub.decoder import Row
    from wire.books import Books


@dataclass(frozen=True, slots=True)
class SessionTotals:
    """The always-visible counters of one session, from signed batch headers and heartbeats."""

    session: str
    agent: str
    packets: int
    """Captured since the session began (the agent's books, all boots this feed has seen)."""
    packets_per_second: float
    bits_per_second: float
    dropped: dict[str, int]
    """By place: ring, newest, oldest, invalid; 0 included."""
    own_traffic: int
    filtered: int | None
    """None = not counted (classic BPF)."""
    books: "Books | None"
    lag_s: float | None
    """Now minus the newest capture time seen; None before the first batch. Includes clock error between hosts."""
    spool_bytes: int
    """The agent's spool, all its sessions."""
    unverified: int
    """Batches refused since the feed began (bad signature or malformed): also in quarantine."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a viewer gets at most 25 times a second."""

    rows: "list[Row]"
    """In time order within the update, at most the viewer's row cap."""
    not_shown: int
    """Packets of the watched sessions since the last update that have no row here (counted, never hidden)."""
    totals: dict[str, SessionTotals]
    """By session id."""


class Viewer:
    """`async for update in viewer`. What waits for a slow reader is at most one update's rows."""

    def __aiter__(self) -> AsyncIterator[Update]:
        raise NotImplementedError


class LiveFeed:
    """Core subscription shared by all viewers."""

    async def run(self) -> None:
        """Work until cancelled."""
        raise NotImplementedError

    @asynccontextmanager
    async def watch(self, sessions: Sequence[str], *, max_rows: int = 40) -> AsyncIterator[Viewer]:
        """Watch sessions for the time of the `async with` block; UnknownError for an unknown session.

        An update also comes about once a second when no packet does (totals, lag).
        """
        raise NotImplementedError
        yield
