"""What the ledger keeps of each chain, in memory while it is busy and in the registry always.

A chain's row, runs and interfaces are loaded once, changed by each batch, and written once per transaction however
many batches it held. After a transaction that failed everything in memory is forgotten: the registry is the truth.
"""

import sqlite3
from collections import OrderedDict
from dataclasses import dataclass, field

import cbor2

from hub.ledger.chain_runs import Run, Runs, TooScattered
from hub.registry import Registry
from hub.registry.sessions import note_event
from wire.batch import Header, Kind, OpenBatch, decode_tombstone
from wire.books import Books
from wire.fields import MAX_U63
from wire.names import parse_batch_subject
from wire.strict_cbor import loads_map

MAX_CACHED = 2048
MAX_CHAINS_PER_AGENT = 20_000
"""A new boot or session makes a new chain; more than this is an agent that fills the disk on purpose."""
MAX_INTERFACES_PER_CHAIN = 1024
"""Interfaces × filter revisions of one boot of a session; more is an agent that makes them up."""
MAX_BOOTS_PER_SESSION = 1024
"""Books of boots that never sent a batch: heartbeats with invented boots must not fill the disk."""
MARK_BYTES = 1 << 20
MAX_SUM = MAX_U63
"""Where a chain's sums stop in the registry (SQLite's largest integer). What one batch may say is bounded by wire, but
an agent can sign any number of them: its own sums then end here, and nobody's batches fail."""

DROPS = ("dropped_ring", "dropped_invalid", "dropped_newest", "dropped_oldest")
"""Counters whose growth goes onto the session's time line."""
EVENT_NS = 1_000_000_000
"""What is dropped within this time is one entry."""

ChainKey = tuple[str, bytes, str, str]
"""(agent, boot, session, lane)."""
InterfaceKey = tuple[str, int, int, int]
"""(interface, link type, filter revision, snaplen)."""


class TooManyChains(Exception):
    """The agent has more chains than the ledger takes."""


@dataclass(slots=True)
class InterfaceSums:
    """Sums per interface and filter revision."""

    packets: int = 0
    captured_bytes: int = 0
    original_bytes: int = 0
    first_timestamp_ns: int = 2**63 - 1
    last_timestamp_ns: int = 0


@dataclass(slots=True)
class Chain:
    """One (agent, boot, session, lane)."""

    id: int
    key: ChainKey
    runs: Runs
    counts: dict[str, int]
    """The row's numeric columns by name."""
    interfaces: dict[InterfaceKey, InterfaceSums] = field(default_factory=dict)
    changed_interfaces: set[InterfaceKey] = field(default_factory=set)
    closed_reason: str | None = None
    previous_boot: bytes | None = None
    books: Books | None = None
    changed: bool = False


_COUNTS = (
    "batches", "packets", "captured_bytes", "original_bytes", "message_bytes", "duplicates", "redelivered",
    "tombstones", "declared_packets", "declared_bytes", "declared_kept_packets", "declared_newest",
    "first_timestamp_ns", "last_timestamp_ns", "first_received_ns", "last_received_ns",
)  # fmt: skip


def books_order(books: Books) -> tuple[int, ...]:
    """Grows with time: of two sets of running totals of one boot the greater is the newer."""
    delivered = books.acknowledged + books.dropped_oldest
    return (books.received, books.captured, books.spooled, delivered, books.flows_shipped or 0)


class Chains:
    """Loads, changes and writes chains; used by one thread."""

    def __init__(self, registry: Registry, mark_bytes: int = MARK_BYTES) -> None:
        self._mark_bytes = mark_bytes
        self._registry = registry
        self._cache: OrderedDict[ChainKey, Chain] = OrderedDict()
        self._marks: dict[str, list[int]] = {}
        """subject → [bytes stored so far, bytes at the last mark]."""

    def forget(self) -> None:
        """After a failed transaction: what is in memory may never have been written."""
        self._cache.clear()
        self._marks.clear()

    def get(self, key: ChainKey, received_ns: int) -> Chain:
        """The chain, made if it is new. TooManyChains at the bound."""
        chain = self._cache.get(key)
        if chain is not None:
            self._cache.move_to_end(key)
            return chain
        db = self._registry.connection
        row = db.execute(
            "SELECT * FROM chains WHERE agent = ? AND boot = ? AND session = ? AND lane = ?", key
        ).fetchone()
        if row is None:
            self.check_room(key[0])
            cursor = db.execute(
                """INSERT INTO chains(agent, boot, session, lane, first_received_ns, last_received_ns)
                   VALUES(?, ?, ?, ?, ?, ?)""",
                (*key, received_ns, received_ns),
            )
            chain = Chain(int(cursor.lastrowid or 0), key, Runs(), dict.fromkeys(_COUNTS, 0))
            chain.counts["first_received_ns"] = received_ns
        else:
            chain = self._loaded(row, key)
        self._cache[key] = chain
        while len(self._cache) > MAX_CACHED:
            oldest = next((held for held in self._cache if not self._cache[held].changed), None)
            if oldest is None:
                break  # more than MAX_CACHED changed in one transaction: written and trimmed with the next
            del self._cache[oldest]
        return chain

    def check_room(self, agent: str) -> None:
        """TooManyChains when the agent can't have another chain."""
        db = self._registry.connection
        (held,) = db.execute("SELECT count(*) FROM chains WHERE agent = ?", (agent,)).fetchone()
        if held >= MAX_CHAINS_PER_AGENT:
            raise TooManyChains(f"agent {agent} has {held} chains already")

    def _loaded(self, row: sqlite3.Row, key: ChainKey) -> Chain:
        db = self._registry.connection
        runs = load_runs(db, row["id"])
        chain = Chain(row["id"], key, runs, {name: row[name] or 0 for name in _COUNTS})
        chain.closed_reason, chain.previous_boot = row["closed_reason"], row["previous_boot"]
        for sums in db.execute("SELECT * FROM chain_interfaces WHERE chain = ?", (row["id"],)):
            chain.interfaces[
                (sums["interface"], sums["link_type"], sums["filter_revision"], sums["snaplen"])
            ] = InterfaceSums(
                sums["packets"],
                sums["captured_bytes"],
                sums["original_bytes"],
                sums["first_timestamp_ns"],
                sums["last_timestamp_ns"],
            )
        return chain

    def add(
        self, chain: Chain, batch: OpenBatch, message_bytes: int, received_ns: int, *, redelivery: bool
    ) -> bool:
        """Book one verified batch; False when it was booked before. TooScattered, WireError (a tombstone's list)."""
        header = batch.header
        counts = chain.counts
        replaced = decode_tombstone(batch) if header.kind is Kind.TOMBSTONE else []
        if (
            header.kind is Kind.PACKETS
            and len(chain.interfaces) >= MAX_INTERFACES_PER_CHAIN
            and _interface_key(header) not in chain.interfaces
            and chain.runs.holds(header.sequence) != "duplicate"
        ):
            raise TooScattered(
                f"the chain names {len(chain.interfaces)} interfaces and filter revisions already"
            )
        if replaced:
            # The list stands for batches; the tombstone itself has no sequence of its own.
            fresh = set(
                chain.runs.add_declared(
                    header.sequence,
                    replaced[-1].sequence,
                    header.previous,
                    [one.header_hash for one in replaced],
                )
            )
            new = bool(fresh)
            counts["declared_packets"] += sum(one.packets for one in replaced if one.sequence in fresh)
            counts["declared_bytes"] += sum(one.captured_bytes for one in replaced if one.sequence in fresh)
            if not redelivery:
                # Given up by the agent and yet in the archive: stored before, its acknowledgement lost.
                counts["declared_kept_packets"] += sum(
                    one.packets
                    for one in replaced
                    if one.sequence not in fresh and chain.runs.holds(one.sequence) == "duplicate"
                )
                counts["tombstones"] += 1
        else:
            self._note_hole(chain, header, received_ns)
            outcome = chain.runs.add_kept(header.sequence, header.previous, batch.header_hash)
            new = outcome != "duplicate"
            if outcome == "recovered":
                counts["declared_packets"] -= header.packets
                counts["declared_bytes"] -= header.captured_bytes
                counts["declared_kept_packets"] += header.packets
        chain.changed = True
        counts["last_received_ns"] = max(counts["last_received_ns"], received_ns)
        if new or not redelivery:
            counts["message_bytes"] += message_bytes
        if not new:
            counts["redelivered" if redelivery else "duplicates"] += 1
            return False
        self._book(chain, header)
        return True

    def _note_hole(self, chain: Chain, header: Header, received_ns: int) -> None:
        """Before a batch is added: remember when it is from if the one before it is missing; forget what it fills.

        Where a session's own line draws a gap that its runs have; hub.ledger.losses has its length, for all sessions.
        """
        sequence, runs = header.sequence, chain.runs
        if runs.holds(sequence) != "new":
            return
        db = self._registry.connection
        if sequence > 0 and runs.holds(sequence - 1) == "new":
            at_ns = min(header.first_timestamp_ns, MAX_SUM) or received_ns
            db.execute("INSERT OR IGNORE INTO chain_holes VALUES(?, ?, ?)", (chain.id, sequence, at_ns))
        if runs.holds(sequence + 1) != "new":
            db.execute("DELETE FROM chain_holes WHERE chain = ? AND sequence = ?", (chain.id, sequence + 1))

    def _book(self, chain: Chain, header: Header) -> None:
        counts = chain.counts
        counts["batches"] += 1
        if header.kind is Kind.CLOSING:
            chain.closed_reason = header.reason
        elif header.kind is Kind.TOMBSTONE:
            if header.body_bytes == 0:
                counts["declared_newest"] += header.packets
                counts["tombstones"] += 1
        elif header.kind is Kind.PACKETS:
            counts["packets"] += header.packets
            counts["captured_bytes"] += header.captured_bytes
            counts["original_bytes"] += header.original_bytes
            key = _interface_key(header)
            chain.changed_interfaces.add(key)
            sums = chain.interfaces.setdefault(key, InterfaceSums())
            sums.packets += header.packets
            sums.captured_bytes += header.captured_bytes
            sums.original_bytes += header.original_bytes
            # Times may be up to 2^64 - 1 on the wire; SQLite's integers end at 2^63 - 1 (the year 2262).
            first, last = min(header.first_timestamp_ns, 2**63 - 1), min(header.last_timestamp_ns, 2**63 - 1)
            sums.first_timestamp_ns = min(sums.first_timestamp_ns, first)
            sums.last_timestamp_ns = max(sums.last_timestamp_ns, last)
            earliest = counts["first_timestamp_ns"]
            counts["first_timestamp_ns"] = min(earliest, first) if earliest else first
            counts["last_timestamp_ns"] = max(counts["last_timestamp_ns"], last)
        if header.sequence == 0 and header.previous_boot is not None:
            chain.previous_boot = header.previous_boot
        if chain.books is None or books_order(header.books) >= books_order(chain.books):
            chain.books = header.books

    def mark(self, stream: str, subject: str, sequence: int, size: int, received_ns: int) -> None:
        """Remember where in the stream every MARK_BYTES of a subject begin, for the keeper."""
        state = self._marks.get(subject)
        if state is None:
            agent, session, lane = parse_batch_subject(subject)
            (stored,) = self._registry.connection.execute(
                "SELECT coalesce(sum(message_bytes), 0) FROM chains WHERE agent = ? AND session = ? AND lane = ?",
                (agent, session, lane),
            ).fetchone()
            state = self._marks[subject] = [stored, -1]
        if state[1] < 0 or state[0] - state[1] >= self._mark_bytes:
            self._registry.connection.execute(
                "INSERT OR IGNORE INTO archive_marks VALUES(?, ?, ?, ?, ?)",
                (stream, subject, sequence, state[0], received_ns),
            )
            state[1] = state[0]
        state[0] += size

    def write(self, now_ns: int) -> None:
        """Write what changed; inside the caller's transaction."""
        db = self._registry.connection
        for chain in self._cache.values():
            if not chain.changed:
                continue
            names = ", ".join(f"{name} = ?" for name in _COUNTS)
            db.execute(
                f"UPDATE chains SET {names}, closed_reason = ?, previous_boot = ? WHERE id = ?",  # noqa: S608
                (
                    *(_storable(chain.counts[name]) for name in _COUNTS),
                    chain.closed_reason,
                    chain.previous_boot,
                    chain.id,
                ),
            )
            db.execute("DELETE FROM runs WHERE chain = ?", (chain.id,))
            db.executemany(
                "INSERT INTO runs VALUES(?, ?, ?, ?, ?, ?)",
                [(chain.id, r.first, r.last, r.kept, r.previous, r.head) for r in chain.runs.runs],
            )
            db.executemany(
                "INSERT OR REPLACE INTO chain_interfaces VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        chain.id,
                        *key,
                        _storable(sums.packets),
                        _storable(sums.captured_bytes),
                        _storable(sums.original_bytes),
                        sums.first_timestamp_ns,
                        sums.last_timestamp_ns,
                    )
                    for key, sums in ((key, chain.interfaces[key]) for key in chain.changed_interfaces)
                ],
            )
            chain.changed_interfaces.clear()
            if chain.books is not None:
                agent, boot, session, _ = chain.key
                save_books(db, session, agent, boot, chain.books, "batch", now_ns)
                chain.books = None
            chain.changed = False


def _storable(sum_: int) -> int:
    return max(-MAX_SUM, min(sum_, MAX_SUM))


def _interface_key(header: Header) -> InterfaceKey:
    return header.interface, header.link_type, header.filter_revision, header.snaplen


def has_room_for_books(db: sqlite3.Connection, session: str, agent: str, boot: bytes) -> bool:
    """Whether a heartbeat may bring books of this boot: it is known, or the session hasn't too many boots yet."""
    known = db.execute(
        """SELECT 1 FROM books WHERE session = ?1 AND agent = ?2 AND boot = ?3
           UNION ALL SELECT 1 FROM chains WHERE session = ?1 AND agent = ?2 AND boot = ?3""",
        (session, agent, boot),
    ).fetchone()
    if known is not None:
        return True
    (held,) = db.execute(
        "SELECT count(*) FROM books WHERE session = ? AND agent = ?", (session, agent)
    ).fetchone()
    return bool(held < MAX_BOOTS_PER_SESSION)


def load_runs(db: sqlite3.Connection, chain: int) -> Runs:
    """The runs of a chain as the registry has them."""
    rows = db.execute("SELECT * FROM runs WHERE chain = ? ORDER BY first", (chain,))
    return Runs([Run(r["first"], r["last"], bool(r["kept"]), r["previous"], r["head"]) for r in rows])


def save_books(
    db: sqlite3.Connection, session: str, agent: str, boot: bytes, books: Books, origin: str, now_ns: int
) -> None:
    """Keep the agent's running totals unless newer ones are kept already; inside a transaction."""
    row = db.execute(
        "SELECT books FROM books WHERE session = ? AND agent = ? AND boot = ?", (session, agent, boot)
    ).fetchone()
    before = load_books(row["books"]) if row is not None else Books()
    if books_order(before) > books_order(books):
        return
    for name in DROPS:
        dropped = getattr(books, name) - getattr(before, name)
        if dropped > 0:
            note_event(db, session, name, now_ns // EVENT_NS * EVENT_NS, dropped)
    db.execute(
        "INSERT OR REPLACE INTO books VALUES(?, ?, ?, ?, ?, ?)",
        (session, agent, boot, cbor2.dumps(books.to_map()), origin, now_ns),
    )


def load_books(data: bytes) -> Books:
    """Books as the registry keeps them."""
    return Books.from_map(loads_map(data, max_bytes=4096))
