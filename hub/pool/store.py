"""What a store of the pool must do, and what comes back from it.

Two kinds of rows: observations, which never change and have an id that follows from the signed batch alone, and what
the correlation made of them (conversations, clock offsets), which replaces what it made before. All times are
nanoseconds since 1970, UTC, by the pool's clock unless the name says raw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hub.observation import Observation
from hub.pool.values import TRANSPORTS

if TYPE_CHECKING:
    from hub.pool.observed import ObservedBatch
    from hub.pool.query import Query

Value = str | int | bool | bytes
Octets = bytes
"""Of a field: str for KEYWORD, IP, MAC and HASH, int for INTEGER and TIME."""

MAX_PAGE = 10_000
MAX_BUCKETS = 2_000


class StoreAway(Exception):
    """The store can't be reached or can't take more for now; asked again later it may. The text says why."""


class StoreRefused(Exception):
    """The store won't take this, however often it is asked; or a question it can't answer. The text says why."""


@dataclass(frozen=True, slots=True)
class Put:
    """What became of one batch that was put."""

    stored: int
    """Observations that are new."""
    known: int
    """That were there already (a redelivery)."""
    refused: int = 0
    """That the store won't take."""
    reason: str = ""
    """Why not, of the first one refused."""


@dataclass(frozen=True, slots=True)
class PacketRow:
    """One observation."""

    observation: Observation
    time_ns: int
    """By the pool's clock, as known when it was pooled."""
    values: Mapping[str, Value]
    """By the field's name (hub.pool.fields); a field without a value isn't there."""


@dataclass(frozen=True, slots=True)
class PacketPage:
    """Observations in order of time."""

    rows: Sequence[PacketRow]
    after: str | None
    """Where the next page begins; None: this was the last one."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts over time."""

    since_ns: int
    bucket_ns: int
    packets: Sequence[int]
    """Per bucket."""
    bytes: Sequence[int]
    """Length on the wire, per bucket."""
    agents: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Packets per bucket and agent."""


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """One conversation, over all vantage points, as the correlation last saw it."""

    id: str
    """The same for ever, whatever is learnt later. URL-safe, at most 64 characters."""
    revision: int
    """A higher one replaces a lower one."""
    community_id: str
    """As the client's side shows it; `aliases` has those behind address translation."""
    first_ns: int
    last_ns: int
    source: str
    """Address of who began, as nearest to it; as text."""
    destination: str
    source_port: int | None
    destination_port: int | None
    protocol: int
    """IP protocol number."""
    packets: int
    """Distinct ones, however many agents saw each."""
    bytes: int
    """Their lengths on the wire."""
    observations: int
    """Packets times the agents that saw them."""
    agents: Sequence[str]
    """That saw it."""
    sessions: Sequence[str]
    """Capture sessions it was seen in."""
    aliases: Sequence[str] = ()
    """Other community ids of it: behind address translation."""
    names: Sequence[str] = ()
    """Host names that were spoken in it (SNI, HTTP host, DNS question)."""
    lost_packets: int | None = None
    """Seen at one vantage point and not at a later one; None: unknown."""
    retransmissions: int | None = None
    details: Octets = b""
    """JSON, the correlation's own: vantage points, delays, where segments vanished. At most 256 KB."""

    @property
    def transport(self) -> str | None:
        """The protocol's common name."""
        return TRANSPORTS.get(self.protocol)

    @property
    def community_ids(self) -> Sequence[str]:
        """All of them."""
        return (self.community_id, *self.aliases)


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """Conversations, the newest first."""

    rows: Sequence[ConversationRow]
    after: str | None


@dataclass(frozen=True, slots=True)
class OffsetRow:
    """What was known of an agent's clock at a time. One per (agent, at_ns)."""

    agent: str
    at_ns: int
    anchor: str
    """Agent whose clock is the pool's; "" when there is none."""
    estimate_ns: int | None
    """Ahead of the anchor by so much; None: unknown."""
    low_ns: int | None
    high_ns: int | None
    """The guaranteed interval."""
    drift_ppb: float | None = None
    origin: str = ""
    """traffic, control, ntp, anchor, unknown."""
    note: str = ""
    """A step, a false match, …"""


@dataclass(frozen=True, slots=True)
class SessionSize:
    """What the pool holds of a session."""

    session: str
    packets: int
    bytes: int
    """Of the store; an estimate where it can't tell."""
    first_ns: int | None
    last_ns: int | None


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept: observations, conversations and offsets alike. None: no bound."""

    max_age_s: int | None = None
    max_bytes: int | None = None
    """Of the whole store."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """The store as it is."""

    kind: str
    """embedded or elasticsearch."""
    ready: bool
    problem: str
    """Why it isn't ready; "" when it is."""
    packets: int
    conversations: int
    bytes: int
    oldest_ns: int | None
    newest_ns: int | None


class Store(Protocol):
    """A store. Methods may be called from the event loop at any time and never block it.

    StoreAway and StoreRefused come out of each; QueryError (hub.pool.query) out of those that take a query.
    """

    async def run(self) -> None:
        """Work until cancelled: connect, keep house. The other methods wait for it or raise StoreAway."""

    async def put(self, batches: Sequence[ObservedBatch]) -> Sequence[Put]:
        """Keep the observations; returns when they are durable, with what became of each batch, in their order.

        The same batch twice is kept once. Batches that a StoreAway leaves half kept may be put again as a whole.
        Of the levels OFF and CONVERSATIONS nothing is kept, and nothing counts.
        """

    async def packets(
        self,
        query: Query | None,
        *,
        since_ns: int,
        until_ns: int,
        limit: int = 100,
        after: str | None = None,
        newest_first: bool = False,
    ) -> PacketPage:
        """Observations with since_ns ≤ time < until_ns that the query fits, at most `limit` (MAX_PAGE)."""

    async def count(self, query: Query | None, *, since_ns: int, until_ns: int) -> int:
        """How many observations fit."""

    async def histogram(
        self, query: Query | None, *, since_ns: int, until_ns: int, buckets: int = 100
    ) -> Histogram:
        """Counts of what fits, over time; at most MAX_BUCKETS."""

    async def put_conversations(self, rows: Sequence[ConversationRow]) -> None:
        """Keep or replace conversations; one with a lower revision than what is there is left out."""

    async def forget_conversations(self, ids: Sequence[str]) -> None:
        """Remove those that turned out to be a part of another."""

    async def conversations(
        self,
        query: Query | None,
        *,
        since_ns: int,
        until_ns: int,
        limit: int = 100,
        after: str | None = None,
    ) -> ConversationPage:
        """Conversations that overlap the time and fit the query (fields of CONVERSATION_FIELDS)."""

    async def conversation(self, id: str) -> ConversationRow | None:
        """One of them."""

    async def put_offsets(self, rows: Sequence[OffsetRow]) -> None:
        """Keep or replace clock offsets."""

    async def offsets(
        self, *, since_ns: int, until_ns: int, agents: Sequence[str] | None = None, limit: int = 100_000
    ) -> Sequence[OffsetRow]:
        """Clock offsets in order of time."""

    async def sessions(self) -> Sequence[SessionSize]:
        """What is held of each session."""

    async def delete_session(self, session: str) -> int:
        """Delete a session's observations; how many there were. Conversations that only it saw go, too."""

    async def retain(self, retention: Retention) -> int:
        """Delete the oldest beyond the bounds; how many observations went."""

    async def stats(self) -> StoreStats:
        """As it is now; doesn't raise."""
