"""A session's books from the socket to the archive, with every difference that must be zero at rest.

The agent's totals (heartbeats, batch headers) and the archive's (the ledger) are counted apart and compared here.
A boot that is over sends no heartbeats any more: what its last ones could not say follows from its chain, and what
was received and never spooled (the open batch and the ring of a killed process) is named `lost_at_end`.
"""

import sqlite3
from dataclasses import dataclass, field

from hub.ledger.chains import load_books, load_runs
from hub.registry import Registry
from hub.registry.agents import stored_boot
from wire.batch import GOES_ON
from wire.books import Books, total

MAX_GAPS = 100


@dataclass(slots=True)
class Gap:
    """Sequences that are missing with nobody's declaration."""

    boot: bytes
    lane: str
    first: int
    last: int
    at_ns: int | None = None
    """About when: the first time stamp of the batch behind it."""


@dataclass(slots=True)
class BootBooks:
    """One boot of the agent within the session."""

    boot: bytes
    current: bool
    """The agent's present boot: its heartbeats go on."""
    books: Books
    archived_packets: int = 0
    """Distinct packets in the archive, verified."""
    declared_packets: int = 0
    """In tombstones (drop_oldest) and not in the archive."""
    declared_kept_packets: int = 0
    """In tombstones and yet in the archive: stored, but the acknowledgement was lost."""
    declared_newest: int = 0
    """In tombstones of packets turned away (drop_newest, stop)."""
    lost_at_end: int = 0
    """Received by a boot that ended, never spooled."""
    closed: bool = False
    """Every lane seen has its closing batch, and the next boot's first one where that says the session goes on."""


@dataclass(slots=True)
class SessionBooks:
    """What the page shows. Units: packets, unless the name says otherwise."""

    session: str
    agent: str
    books: Books
    """The agent's totals over all boots."""
    boots: list[BootBooks]
    batches: int = 0
    tombstones: int = 0
    archived_packets: int = 0
    archived_bytes: int = 0
    """Captured bytes of the archived packets."""
    original_bytes: int = 0
    message_bytes: int = 0
    """Stored in the archive (messages, duplicates included)."""
    declared_packets: int = 0
    declared_kept_packets: int = 0
    declared_newest: int = 0
    lost_at_end: int = 0
    duplicates: int = 0
    """Batches stored twice by the agent's resending, counted once."""
    redelivered: int = 0
    """Batches the hub read twice (a restart), counted once."""
    quarantined: int = 0
    """Messages refused."""
    gaps: list[Gap] = field(default_factory=list)
    """At most MAX_GAPS."""
    missing_batches: int = 0
    """In all gaps."""
    broken_links: int = 0
    """Places where a batch doesn't name the one before it."""
    first_timestamp_ns: int | None = None
    last_timestamp_ns: int | None = None
    updated_ns: int | None = None
    """When the agent's totals were last heard."""

    @property
    def differences(self) -> dict[str, int]:
        """Each must be 0 at rest; while capturing, what is on its way. Names say which stage disagrees."""
        books = self.books
        return {
            "received": books.received_difference() - self.lost_at_end,
            "captured": books.captured_difference(),
            "spooled": books.spooled_difference(),
            "archived": books.acknowledged + self.declared_kept_packets - self.archived_packets,
            "declared": books.dropped_oldest - self.declared_packets - self.declared_kept_packets,
            "declared_newest": books.dropped_newest - self.declared_newest,
        }

    @property
    def balanced(self) -> bool:
        """Everything is in exactly one place, nothing is missing and no link is broken."""
        return not any(self.differences.values()) and not self.missing_batches and not self.broken_links


def session_books(registry: Registry, session: str) -> SessionBooks:
    """The books of a session; UnknownError without it. A few indexed queries."""
    record = registry.sessions.require(session)
    db = registry.connection
    agent = registry.agents.get(record.agent)
    current_boot = stored_boot(agent.heartbeat) if agent and agent.heartbeat else None
    boots: dict[bytes, BootBooks] = {}
    result = SessionBooks(session, record.agent, Books(), [])
    rows = db.execute(
        "SELECT * FROM books WHERE session = ? AND agent = ? ORDER BY updated_ns", (session, record.agent)
    )
    for row in rows:
        boots[row["boot"]] = BootBooks(row["boot"], row["boot"] == current_boot, load_books(row["books"]))
        result.updated_ns = row["updated_ns"]
    chains = db.execute(
        "SELECT * FROM chains WHERE session = ? AND agent = ? ORDER BY id", (session, record.agent)
    ).fetchall()
    continued = {(row["lane"], row["previous_boot"]) for row in chains}
    for row in chains:
        boot = boots.setdefault(row["boot"], BootBooks(row["boot"], row["boot"] == current_boot, Books()))
        first = boot.archived_packets == boot.declared_packets == 0 and not boot.closed
        closed = row["closed_reason"] is not None and (
            row["closed_reason"] != GOES_ON or (row["lane"], row["boot"]) in continued
        )
        boot.closed = closed and (boot.closed or first)
        boot.archived_packets += row["packets"]
        boot.declared_packets += row["declared_packets"]
        boot.declared_kept_packets += row["declared_kept_packets"]
        boot.declared_newest += row["declared_newest"]
        for name in ("batches", "tombstones", "original_bytes", "message_bytes", "duplicates", "redelivered"):
            setattr(result, name, getattr(result, name) + row[name])
        result.archived_bytes += row["captured_bytes"]
        runs = load_runs(db, row["id"])
        result.broken_links += len(runs.broken_links())
        for low, high in runs.gaps():
            result.missing_batches += high - low + 1
            if len(result.gaps) < MAX_GAPS:
                result.gaps.append(
                    Gap(row["boot"], row["lane"], low, high, _hole_ns(db, row["id"], high + 1))
                )
        if row["packets"]:
            result.first_timestamp_ns = min(
                result.first_timestamp_ns or row["first_timestamp_ns"], row["first_timestamp_ns"]
            )
            result.last_timestamp_ns = max(result.last_timestamp_ns or 0, row["last_timestamp_ns"])
    for boot in boots.values():
        if not boot.current:
            _settle(boot)
        result.archived_packets += boot.archived_packets
        result.declared_packets += boot.declared_packets
        result.declared_kept_packets += boot.declared_kept_packets
        result.declared_newest += boot.declared_newest
        result.lost_at_end += boot.lost_at_end
    result.boots = list(boots.values())
    result.books = total(boot.books for boot in result.boots)
    result.quarantined = registry.quarantine.count(session=session)
    return result


def _hole_ns(db: sqlite3.Connection, chain: int, sequence: int) -> int | None:
    row = db.execute(
        "SELECT at_ns FROM chain_holes WHERE chain = ? AND sequence = ?", (chain, sequence)
    ).fetchone()
    return None if row is None else int(row["at_ns"])


def _settle(boot: BootBooks) -> None:
    """What a boot that is over can't say itself any more follows from its chain."""
    books = boot.books
    books.dropped_oldest = max(books.dropped_oldest, boot.declared_packets + boot.declared_kept_packets)
    books.acknowledged = max(books.acknowledged, boot.archived_packets - boot.declared_kept_packets)
    books.dropped_newest = max(books.dropped_newest, boot.declared_newest)
    books.spooled = max(books.spooled, books.acknowledged + books.dropped_oldest)
    books.captured = max(books.captured, books.spooled + books.dropped_newest)
    books.pending = books.spooled - books.acknowledged - books.dropped_oldest
    accounted = books.dropped_ring + books.own_traffic + books.dropped_invalid + books.captured
    books.received = max(books.received, accounted)
    open_batch = books.captured - books.spooled - books.dropped_newest
    boot.lost_at_end = books.received - accounted + open_batch
    books.captured -= open_batch
