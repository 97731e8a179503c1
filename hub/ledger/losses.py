"""When packets were lost, as well as signed batches tell: for the pool's timeline.

A session's books say how many; here is when. A counter of drops that has grown from one batch to the next of a boot
grew between their packets' times; what a tombstone declares, or what nobody does, lay between the batches before and
behind it. Losses of a kind that follow each other within JOIN_NS are one row, and a session has at most MAX_ROWS.

A session's own time line has a record of its own (hub.registry.sessions.note_event): drops as the hub heard of them,
also by the heartbeats of a session that sends no batch any more, and so by the hub's clock. What is here lies beside
packets on Explore, and is told by signed batches alone, by the agent's clock. Neither follows from the other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from hub.registry import Registry
from wire.batch import Header, Kind
from wire.books import Books

JOIN_NS = 10**9
MAX_ROWS = 2_000
"""Per session; more of a kind widen its last row."""
MAX_CACHED = 2_048
"""Chains and boots in memory."""
MAX_SHOWN = 200
_LATEST = 2**63 - 1

WORDS = {
    "ring": "dropped by the kernel: the ring was full",
    "turned_away": "turned away by the agent: its spool was full, or its limits reached",
    "invalid": "left out by the agent: impossible",
    "declared": "dropped from the agent's spool to make room",
    "missing": "missing: nobody declared it",
}
"""Kinds of losses, for people."""
_COUNTED = {"ring": "dropped_ring", "turned_away": "dropped_newest", "invalid": "dropped_invalid"}


@dataclass(frozen=True, slots=True)
class Loss:
    """Packets that were there and aren't in the archive."""

    agent: str
    session: str
    kind: str
    """A key of WORDS."""
    since_ns: int
    until_ns: int
    """By the agent's clock; the packets lay between."""
    packets: int
    """0: not known (of batches that are missing)."""
    batches: int
    """Of kind missing."""

    @property
    def words(self) -> str:
        """A sentence."""
        number, noun = (self.packets, "packet") if self.packets else (self.batches, "batch")
        grouped = f"{number:,}".replace(",", "\u202f")
        what = f"{grouped} {noun}" if number == 1 else f"{grouped} {noun}{'s' if noun == 'packet' else 'es'}"
        return f"{self.agent}: {what} {WORDS[self.kind]}"


@dataclass(slots=True)
class _Chain:
    """One (agent, boot, session, lane) as far as its batches were seen."""

    sequence: int
    last_ns: int
    declared: int = 0
    """Packets of tombstones since then."""


@dataclass(slots=True)
class _Boot:
    """One (agent, boot, session): both lanes carry its counters."""

    books: Books
    last_ns: int
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    """kind → (row, its until_ns)."""


class LossTimes:
    """Used by the ledger's worker thread, within its transactions."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._chains: OrderedDict[tuple[str, bytes, str, str], _Chain] = OrderedDict()
        self._boots: OrderedDict[tuple[str, bytes, str], _Boot] = OrderedDict()

    def forget(self) -> None:
        """What was seen since the last commit didn't happen. The next batch of each is the first again."""
        self._chains.clear()
        self._boots.clear()

    def saw(self, header: Header) -> None:
        """A batch that wasn't booked before."""
        boot_key = (header.agent, header.boot, header.session)
        key = (*boot_key, header.lane.value)
        first_ns, last_ns = min(header.first_timestamp_ns, _LATEST), min(header.last_timestamp_ns, _LATEST)
        boot = self._boots.get(boot_key)
        if boot is None:  # the first one of all has counted from 0; of any other it isn't known since when
            boot = _Boot(Books(), first_ns) if header.sequence == 0 else _Boot(header.books, last_ns)
            self._boots[boot_key] = boot
        self._boots.move_to_end(boot_key)
        chain = self._chains.get(key)
        last_sequence = header.last_sequence if header.last_sequence is not None else header.sequence
        if chain is None:
            chain = self._chains[key] = _Chain(
                last_sequence, first_ns if header.kind is Kind.PACKETS else boot.last_ns
            )
        elif header.sequence <= chain.sequence:
            self._fill(key, header.sequence, last_sequence)
            return
        else:
            until_ns = first_ns if header.kind is Kind.PACKETS else chain.last_ns
            if header.sequence > chain.sequence + 1:
                self._add_missing(key, chain.last_ns, until_ns, chain.sequence + 1, header.sequence - 1)
            chain.sequence = last_sequence
        self._chains.move_to_end(key)
        if header.kind is Kind.TOMBSTONE and header.body_bytes:
            chain.declared += header.packets
        if chain.declared and header.kind in (Kind.PACKETS, Kind.CLOSING):
            until_ns = first_ns if header.kind is Kind.PACKETS else chain.last_ns
            self._add(boot, boot_key, "declared", chain.last_ns, until_ns, chain.declared)
            chain.declared = 0
        self._counted(boot, boot_key, header, last_ns)
        if header.kind is Kind.PACKETS:
            chain.last_ns = max(chain.last_ns, last_ns)
        for cache in (self._chains, self._boots):
            while len(cache) > MAX_CACHED:
                cache.popitem(last=False)

    def _counted(self, boot: _Boot, key: tuple[str, bytes, str], header: Header, last_ns: int) -> None:
        """Counters that have grown since the boot's batch before."""
        until_ns = last_ns if header.kind is Kind.PACKETS else boot.last_ns
        for kind, name in _COUNTED.items():
            grown = getattr(header.books, name) - getattr(boot.books, name)
            if grown > 0:
                self._add(boot, key, kind, boot.last_ns, until_ns, grown)
        if header.books.received >= boot.books.received:
            boot.books = header.books
        if header.kind is Kind.PACKETS:
            boot.last_ns = max(boot.last_ns, last_ns)

    def _add(
        self, boot: _Boot, key: tuple[str, bytes, str], kind: str, since_ns: int, until_ns: int, packets: int
    ) -> None:
        since_ns, until_ns = min(since_ns, until_ns), max(since_ns, until_ns)
        db = self._registry.connection
        row, row_until_ns = boot.rows.get(kind, (0, 0))
        if row and (since_ns - row_until_ns <= JOIN_NS or not self._has_room(key[2])):
            until_ns = max(until_ns, row_until_ns)
            db.execute(
                "UPDATE losses SET until_ns = ?, packets = min(packets + ?, ?) WHERE id = ?",
                (until_ns, packets, _LATEST, row),
            )
        elif self._has_room(key[2]):
            agent, number, session = key
            cursor = db.execute(
                "INSERT INTO losses(agent, boot, session, lane, kind, since_ns, until_ns, packets) "
                "VALUES(?, ?, ?, '', ?, ?, ?, ?)",
                (agent, number, session, kind, since_ns, until_ns, min(packets, _LATEST)),
            )
            row = int(cursor.lastrowid or 0)
        boot.rows[kind] = (row, until_ns)

    def _has_room(self, session: str) -> bool:
        (held,) = self._registry.connection.execute(
            "SELECT count(*) FROM losses WHERE session = ?", (session,)
        ).fetchone()
        return bool(held < MAX_ROWS)

    def _add_missing(
        self, key: tuple[str, bytes, str, str], since_ns: int, until_ns: int, first: int, last: int
    ) -> None:
        if not self._has_room(key[2]):
            return
        self._registry.connection.execute(
            "INSERT INTO losses(agent, boot, session, lane, kind, since_ns, until_ns, packets, first, last) "
            "VALUES(?, ?, ?, ?, 'missing', ?, ?, 0, ?, ?)",
            (*key, min(since_ns, until_ns), max(since_ns, until_ns), first, last),
        )

    def _fill(self, key: tuple[str, bytes, str, str], first: int, last: int) -> None:
        """Batches that came late after all: what is still missing around them stays."""
        db = self._registry.connection
        rows = db.execute(
            "SELECT * FROM losses WHERE session = ? AND agent = ? AND boot = ? AND lane = ? AND kind = 'missing' "
            "AND first <= ? AND last >= ?",
            (key[2], key[0], key[1], key[3], last, first),
        ).fetchall()
        for row in rows:
            db.execute("DELETE FROM losses WHERE id = ?", (row["id"],))
            for low, high in ((row["first"], first - 1), (last + 1, row["last"])):
                if low <= high:
                    self._add_missing(key, row["since_ns"], row["until_ns"], low, high)


def losses_between(
    registry: Registry,
    since_ns: int,
    until_ns: int,
    *,
    agents: Collection[str] | None = None,
    limit: int = MAX_SHOWN,
) -> list[Loss]:
    """What was lost in a time, the largest first; agents: only theirs."""
    rows: Iterable[dict[str, object]] = registry.connection.execute(
        "SELECT agent, session, kind, since_ns, until_ns, packets, coalesce(last - first + 1, 0) AS batches "
        "FROM losses WHERE until_ns >= ? AND since_ns <= ? ORDER BY packets DESC, batches DESC, since_ns",
        (max(0, min(since_ns, _LATEST)), max(0, min(until_ns, _LATEST))),
    )
    found: list[Loss] = []
    for row in rows:
        if agents is None or row["agent"] in agents:
            found.append(Loss(**{name: row[name] for name in Loss.__slots__}))  # type: ignore[arg-type]
        if len(found) >= limit:
            break
    return found
