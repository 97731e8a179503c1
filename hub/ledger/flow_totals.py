"""What flow records add up to: a session's largest flows, kept in the registry as its batches are booked.

Of each session KEPT_FLOWS flows are kept, those with the most bytes; what is smaller goes into one sum, so that the
sum of all is always exact. A flow that left the table and grows again begins anew there: with more flows than that, a
flow's figures are what it had since it came into the table for the last time.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from hub.registry import Registry
from wire.flows import MAX_FLOWS, FlowRecord, end_text, protocol_name

KEPT_FLOWS = 2048
MAX_SESSIONS = 16
"""Whose tables stay in memory: about a megabyte each."""
_MOST = 2**63 - 1
"""What a column of SQLite holds: sums stop there."""

FlowKey = tuple[int, bytes, int, bytes, int]
"""Protocol, address and port of the lower end, of the other end."""


@dataclass(slots=True)
class FlowSum:
    """What one flow's records add up to. A is the end whose address, then port, is the lower."""

    packets_a: int = 0
    packets_b: int = 0
    bytes_a: int = 0
    bytes_b: int = 0
    first_timestamp_ns: int = _MOST
    last_timestamp_ns: int = 0

    @property
    def bytes(self) -> int:
        return self.bytes_a + self.bytes_b

    @property
    def packets(self) -> int:
        return self.packets_a + self.packets_b


@dataclass(slots=True)
class Rest:
    """All that isn't kept by flow."""

    flows: int = 0
    """How often one left the table."""
    packets: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Table:
    flows: dict[FlowKey, FlowSum] = field(default_factory=dict)
    rest: Rest = field(default_factory=Rest)
    stored: set[FlowKey] = field(default_factory=set)
    changed: set[FlowKey] = field(default_factory=set)


def _added(one: int, other: int) -> int:
    return min(_MOST, one + other)


class FlowTotals:
    """Used by the ledger's worker thread: `add` and, in the same transaction, `write`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._tables: OrderedDict[str, _Table] = OrderedDict()

    def forget(self) -> None:
        """What was added since the last commit didn't happen."""
        self._tables.clear()

    def add(self, session: str, records: Iterable[FlowRecord]) -> None:
        """The records of one batch that wasn't booked before."""
        table = self._tables.get(session)
        if table is None:
            table = self._tables[session] = _loaded(self._registry, session)
        self._tables.move_to_end(session)
        for one in records:
            a, b = (one.address_a, one.port_a), (one.address_b, one.port_b)
            turned = b < a
            key = (one.protocol, *b, *a) if turned else (one.protocol, *a, *b)
            flow = table.flows.setdefault(key, FlowSum())
            there, back = (one.packets_a, one.bytes_a), (one.packets_b, one.bytes_b)
            if turned:
                there, back = back, there
            flow.packets_a, flow.bytes_a = _added(flow.packets_a, there[0]), _added(flow.bytes_a, there[1])
            flow.packets_b, flow.bytes_b = _added(flow.packets_b, back[0]), _added(flow.bytes_b, back[1])
            flow.first_timestamp_ns = min(flow.first_timestamp_ns, one.first_timestamp_ns)
            flow.last_timestamp_ns = max(flow.last_timestamp_ns, one.last_timestamp_ns)
            table.changed.add(key)
        if len(table.flows) > KEPT_FLOWS + MAX_FLOWS:
            _prune(table)

    def write(self) -> None:
        """What changed, in the caller's transaction."""
        db = self._registry.connection
        for session, table in self._tables.items():
            if not table.changed:
                continue
            _prune(table)
            gone = table.stored - table.flows.keys()
            db.executemany(
                """DELETE FROM session_flows WHERE session = ? AND protocol = ? AND address_a = ? AND port_a = ?
                   AND address_b = ? AND port_b = ?""",
                [(session, *key) for key in gone],
            )
            db.executemany(
                "INSERT OR REPLACE INTO session_flows VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(session, *key, *_values(table.flows[key])) for key in table.changed if key in table.flows],
            )
            rest = table.rest
            db.execute(
                "INSERT OR REPLACE INTO session_flows_rest VALUES(?, ?, ?, ?)",
                (session, rest.flows, rest.packets, rest.bytes),
            )
            table.stored = set(table.flows)
            table.changed = set()
        while len(self._tables) > MAX_SESSIONS:
            self._tables.popitem(last=False)


def _values(flow: FlowSum) -> tuple[int, ...]:
    return (
        *(flow.packets_a, flow.packets_b, flow.bytes_a, flow.bytes_b),
        *(flow.first_timestamp_ns, flow.last_timestamp_ns),
    )


def _prune(table: _Table) -> None:
    """The smallest flows into the sum of the rest, until the table is of its size."""
    if len(table.flows) <= KEPT_FLOWS:
        return
    by_bytes = sorted(table.flows, key=lambda key: table.flows[key].bytes, reverse=True)
    for key in by_bytes[KEPT_FLOWS:]:
        flow = table.flows.pop(key)
        table.rest.flows = _added(table.rest.flows, 1)
        table.rest.packets = _added(table.rest.packets, flow.packets)
        table.rest.bytes = _added(table.rest.bytes, flow.bytes)


def _loaded(registry: Registry, session: str) -> _Table:
    db = registry.connection
    table = _Table()
    for row in db.execute("SELECT * FROM session_flows WHERE session = ?", (session,)):
        _, protocol, address_a, port_a, address_b, port_b, *values = row
        table.flows[protocol, address_a, port_a, address_b, port_b] = FlowSum(*values)
    rest = db.execute("SELECT * FROM session_flows_rest WHERE session = ?", (session,)).fetchone()
    if rest is not None:
        table.rest = Rest(rest["flows"], rest["packets"], rest["bytes"])
    table.stored = set(table.flows)
    return table


@dataclass(frozen=True, slots=True)
class FlowRow:
    """A flow of the table, ready to be shown."""

    protocol: int
    address_a: bytes
    port_a: int
    address_b: bytes
    port_b: int
    sum: FlowSum

    @property
    def protocol_name(self) -> str:
        return protocol_name(self.protocol)

    @property
    def end_a(self) -> str:
        """Address and port, as people write them."""
        return end_text(self.address_a, self.port_a)

    @property
    def end_b(self) -> str:
        """As `end_a`."""
        return end_text(self.address_b, self.port_b)


@dataclass(frozen=True, slots=True)
class FlowTable:
    """The largest flows of a session, by bytes, and the sum of all others."""

    rows: tuple[FlowRow, ...]
    rest: Rest

    @property
    def packets(self) -> int:
        """Of all flow records."""
        return sum(row.sum.packets for row in self.rows) + self.rest.packets

    @property
    def bytes(self) -> int:
        """Of all flow records."""
        return sum(row.sum.bytes for row in self.rows) + self.rest.bytes


def flow_table(registry: Registry, session: str, most: int = KEPT_FLOWS) -> FlowTable:
    """A session's `most` largest flows; empty without flow records."""
    table = _loaded(registry, session)
    by_bytes = sorted(table.flows.items(), key=lambda item: (-item[1].bytes, item[0]))
    rest = table.rest
    for _, flow in by_bytes[most:]:
        rest.flows, rest.packets, rest.bytes = (
            rest.flows + 1,
            rest.packets + flow.packets,
            rest.bytes + flow.bytes,
        )
    return FlowTable(tuple(FlowRow(*key, flow) for key, flow in by_bytes[:most]), rest)


def delete_flows(registry: Registry, session: str) -> None:
    """In the caller's transaction: somebody wants what the session saw gone."""
    registry.connection.execute("DELETE FROM session_flows WHERE session = ?", (session,))
    registry.connection.execute("DELETE FROM session_flows_rest WHERE session = ?", (session,))
