"""The blocks of an exported pcapng section.

One interface block per (agent, boot, interface, link type, filter revision, snaplen, payload policy), written when its
first packet comes; one statistics block per interface block at the end. A boot's counters are of its whole session:
they stand in the boot's last interface block, the others carry only what the file holds, so that a sum is right.
"""

from dataclasses import dataclass

from hub.ledger.session_books import SessionBooks, session_books
from hub.registry import AgentRecord, Registry
from wire import pcapng
from wire.batch import Header, OpenBatch, decode_columns
from wire.errors import WireError
from wire.payload import PayloadPolicy
from wire.report import Report
from wire.strict_cbor import loads_map

MAX_INTERFACES = 10_000

InterfaceKey = tuple[str, str, bytes, str, int, int, int, PayloadPolicy | None]


def host_words(agent: AgentRecord) -> tuple[str, str] | None:
    """(system, host name) that an export's blocks say of an agent; None when it hasn't reported."""
    if agent.report is None:
        return None
    try:
        report = Report.from_map(loads_map(agent.report, max_bytes=256 * 1024, max_depth=8, max_items=32768))
    except WireError:
        return None
    return f"{report.os} ({report.kernel})", report.hostname


@dataclass(slots=True)
class _Interface:
    number: int
    session: str
    boot: bytes
    packets: int = 0
    first_ns: int = 2**64 - 1
    last_ns: int = 0


class PcapngSection:
    """One section under construction; used by one thread at a time."""

    def __init__(self, registry: Registry, sessions: list[str]) -> None:
        """Reads books, filters and reports of the sessions once, at the beginning."""
        self._books: dict[str, SessionBooks] = {
            session: session_books(registry, session) for session in sessions
        }
        self._filters = {session: registry.sessions.filters(session) for session in sessions}
        self._systems: dict[str, str] = {}
        self._hosts: dict[str, str] = {}
        for agent in {books.agent for books in self._books.values()}:
            record = registry.agents.get(agent)
            if record is not None and (words := host_words(record)) is not None:
                self._systems[agent], self._hosts[agent] = words
        self._interfaces: dict[InterfaceKey, _Interface] = {}

    def header(self) -> bytes:
        """The section header; its comment says what the file can't hold."""
        lines = []
        for session, books in self._books.items():
            line = f"session {session} of agent {books.agent}: {books.archived_packets} packets archived"
            if books.quarantined:
                line += f", {books.quarantined} messages in quarantine and left out"
            if books.declared_packets:
                line += f", {books.declared_packets} packets declared dropped"
            if books.missing_batches:
                line += f", {books.missing_batches} batches missing without a declaration"
            lines.append(line)
        return pcapng.section_header(os="", comment="\n".join(lines))

    def packets(self, batch: OpenBatch) -> bytes:
        """A batch's packets, behind its interface block if that is new. WireError for a body that doesn't hold."""
        header = batch.header
        columns = decode_columns(batch)
        key = (
            header.agent,
            header.session,
            header.boot,
            header.interface,
            header.link_type,
            header.filter_revision,
            header.snaplen,
            header.payload,
        )
        block = b""
        interface = self._interfaces.get(key)
        if interface is None:
            if len(self._interfaces) >= MAX_INTERFACES:
                raise WireError(f"more than {MAX_INTERFACES} interfaces in one export")
            interface = self._interfaces[key] = _Interface(len(self._interfaces), header.session, header.boot)
            block = self._interface_block(header)
        interface.packets += header.packets
        interface.first_ns = min(interface.first_ns, header.first_timestamp_ns)
        interface.last_ns = max(interface.last_ns, header.last_timestamp_ns)
        return block + pcapng.packet_blocks(interface.number, columns)

    def _interface_block(self, header: Header) -> bytes:
        host = self._hosts.get(header.agent, "")
        where = f"agent {header.agent}" + (f" ({host})" if host and host != header.agent else "")
        return pcapng.interface_block(
            name=header.interface,
            description=f"{where}, interface {header.interface}",
            link_type=header.link_type,
            snaplen=header.snaplen,
            filter=self._filters[header.session].get(header.filter_revision, ""),
            os=self._systems.get(header.agent, ""),
            comment=(
                f"wirepool session {header.session}, boot {header.boot.hex()}, "
                f"filter revision {header.filter_revision}"
                + (f", cut on the host: {header.payload.words}" if header.payload is not None else "")
            ),
        )

    def statistics(self, duplicates: int, left_out: int, reasons: list[str]) -> bytes:
        """The statistics blocks; the first one's comment says what this export skipped."""
        last_of_boot = {(one.session, one.boot): one.number for one in self._interfaces.values()}
        blocks = []
        for one in self._interfaces.values():
            comments = []
            if one.number == 0 and duplicates:
                comments.append(f"{duplicates} batches were stored twice and are here once")
            if one.number == 0 and left_out:
                comments.append(
                    f"{left_out} batches failed verification and are left out: {'; '.join(reasons)}"
                )
            counters: dict[str, int | None] = {"delivered": one.packets}
            if last_of_boot[one.session, one.boot] == one.number:
                boot = next((b for b in self._books[one.session].boots if b.boot == one.boot), None)
                if boot is not None:
                    books = boot.books
                    of_boot = pcapng.statistics_of(books)
                    counters = {
                        "received": of_boot["received"],
                        "dropped": of_boot["dropped"],
                        "filter_accepted": of_boot["filter_accepted"],
                        "delivered": one.packets,
                    }
                    spool = books.dropped_newest + books.dropped_oldest
                    comments.append(
                        f"counters of the whole boot: {books.received} received, {books.dropped_ring} dropped by the "
                        f"full ring, {spool} by full spool or host's limits, {books.dropped_invalid} invalid, "
                        f"{books.own_traffic} of wirepool's own left out"
                    )
            blocks.append(
                pcapng.statistics_block(
                    one.number,
                    one.last_ns,
                    start_ns=one.first_ns,
                    end_ns=one.last_ns,
                    comment="\n".join(comments),
                    **counters,
                )
            )
        return b"".join(blocks)
