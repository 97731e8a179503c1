"""Booking: what the ledger does with a round of messages, in one thread and one transaction.

What can't be right at a second look either (signature, names, structure) is quarantined at once with its reason and
terminated. What failed here (an exception of ours) is tried MAX_DELIVERIES times. A registry that can't be written
is nobody's batch's fault: everything waits.
"""

import logging
import sqlite3
import time
from dataclasses import dataclass, replace
from typing import Literal

from hub.ledger.chain_runs import TooScattered
from hub.ledger.chains import MARK_BYTES, Chains, TooManyChains, has_room_for_books, save_books
from hub.ledger.flow_totals import FlowTotals
from hub.ledger.losses import LossTimes
from hub.ledger.verifying import UnknownAgent, Verifier
from hub.registry import Registry
from wire.batch import Kind, OpenBatch, decode_flows
from wire.books import Books
from wire.errors import WireError
from wire.flows import records_of

log = logging.getLogger(__name__)

MAX_DELIVERIES = 3


@dataclass(frozen=True, slots=True)
class Incoming:
    """A stored message."""

    subject: str
    data: bytes
    stream: str
    sequence: int
    deliveries: int
    stored_ns: int


Verdict = Literal["ack", "retry", "term"]


@dataclass(slots=True)
class LedgerCounts:
    """Since the start of this process."""

    batches: int = 0
    packets: int = 0
    duplicates: int = 0
    redelivered: int = 0
    quarantined: int = 0
    retried: int = 0
    stalled: int = 0
    """Rounds that failed because the registry could not be written."""


class Booking:
    """Verifies and books messages; every method but the constructor belongs to one worker thread."""

    def __init__(self, registry: Registry, mark_bytes: int = MARK_BYTES) -> None:
        self._registry = registry
        self._chains = Chains(registry, mark_bytes)
        self._flows = FlowTotals(registry)
        self._losses = LossTimes(registry)
        self._verifier = Verifier(registry)
        self._sessions: dict[str, str] = {}
        self._positions: dict[str, int] = {}
        self._created: dict[str, str] = {}
        self.counts = LedgerCounts()
        """Of what has been committed; replaced as a whole, so any thread may read it."""
        self._counting = LedgerCounts()

    def stream_is(self, stream: str, created: str) -> None:
        """Which stream this is, by its time of creation: one made anew counts its sequences from 1 again."""
        if self._created.get(stream, created) != created:
            self._positions.pop(stream, None)
        self._created[stream] = created

    def book(self, incoming: list[Incoming]) -> tuple[list[Verdict], list[tuple[str, int]]]:
        """Verify and book messages in one transaction: (a verdict for each, (agent, stored_ns) of new batches).

        sqlite3.Error when the registry can't be written; then nothing was booked.
        """
        self._verifier.refresh()
        try:
            return self._book_all(incoming)
        except sqlite3.Error:
            self._forget()
            raise
        except Exception:
            # One of them hit a fault of ours in the middle of a change: each alone, so that only it waits.
            log.exception("booking %d messages failed, trying each alone", len(incoming))
            self._forget()
        verdicts: list[Verdict] = []
        booked: list[tuple[str, int]] = []
        for one in incoming:
            try:
                verdict, new = self._book_all([one])
                verdicts += verdict
                booked += new
            except sqlite3.Error:
                self._forget()
                raise
            except Exception as error:
                self._forget()
                if one.deliveries < MAX_DELIVERIES:
                    self._counting.retried += 1
                    verdicts.append("retry")
                else:
                    with self._registry.transaction():
                        self._quarantine(
                            one, f"failed {one.deliveries} times: {type(error).__name__}: {error}"
                        )
                    verdicts.append("term")
                self.counts = replace(self._counting)
        return verdicts, booked

    def _forget(self) -> None:
        self._chains.forget()
        self._flows.forget()
        self._losses.forget()
        self._positions.clear()
        self._sessions.clear()

    def _book_all(self, incoming: list[Incoming]) -> tuple[list[Verdict], list[tuple[str, int]]]:
        booked: list[tuple[str, int]] = []
        verified = [self._verify(one) for one in incoming]
        try:
            verdicts = self._write_all(incoming, verified, booked)
        except BaseException:
            self._counting = replace(self.counts)  # what was rolled back didn't happen
            raise
        self.counts = replace(self._counting)
        return verdicts, booked

    def _write_all(
        self,
        incoming: list[Incoming],
        verified: list[OpenBatch | WireError | UnknownAgent],
        booked: list[tuple[str, int]],
    ) -> list[Verdict]:
        with self._registry.transaction() as db:
            verdicts = [
                self._book_one(one, batch, booked) for one, batch in zip(incoming, verified, strict=True)
            ]
            self._chains.write(time.time_ns())
            self._flows.write()
            db.executemany(
                """INSERT INTO positions VALUES(?, ?, ?) ON CONFLICT(stream) DO UPDATE
                   SET created = excluded.created, sequence = excluded.sequence""",
                [
                    (stream, self._created.get(stream, ""), self._positions[stream])
                    for stream in {one.stream for one in incoming}
                ],
            )
        return verdicts

    def _verify(self, one: Incoming) -> OpenBatch | WireError | UnknownAgent:
        """Everything that needs no database lock: the expensive part."""
        try:
            return self._verifier.verify(one.subject, one.data)
        except (WireError, UnknownAgent) as error:
            return error

    def _book_one(
        self, one: Incoming, batch: OpenBatch | WireError | UnknownAgent, booked: list[tuple[str, int]]
    ) -> Verdict:
        redelivery = one.sequence <= self._position(one.stream)
        self._positions[one.stream] = max(self._position(one.stream), one.sequence)
        try:
            if not isinstance(batch, OpenBatch):
                raise batch
            header = batch.header
            agent, session = header.agent, header.session
            flows = list(records_of(decode_flows(batch))) if header.kind is Kind.FLOWS else []
            self._check_session(agent, session, one.stored_ns)
            chain = self._chains.get((agent, header.boot, session, header.lane.value), one.stored_ns)
            new = self._chains.add(chain, batch, len(one.data), one.stored_ns, redelivery=redelivery)
        except UnknownAgent as error:
            if one.deliveries < MAX_DELIVERIES:  # it may be enrolling at this moment
                self._counting.retried += 1
                return "retry"
            self._quarantine(one, str(error))
            return "term"
        except (WireError, TooScattered, TooManyChains) as error:
            self._quarantine(one, str(error))
            return "term"
        if new or not redelivery:
            self._chains.mark(one.stream, one.subject, one.sequence, len(one.data), one.stored_ns)
        if new:
            self._losses.saw(header)
            self._counting.batches += 1
            if flows:
                self._flows.add(session, flows)
            self._counting.packets += header.packets if header.kind == "packets" else 0
            booked.append((agent, one.stored_ns))
        elif redelivery:
            self._counting.redelivered += 1
        else:
            self._counting.duplicates += 1
        return "ack"

    def _position(self, stream: str) -> int:
        position = self._positions.get(stream)
        if position is None:
            row = self._registry.connection.execute(
                "SELECT sequence FROM positions WHERE stream = ? AND created = ?",
                (stream, self._created.get(stream, "")),  # a stream made anew counts from 1 again
            ).fetchone()
            position = self._positions[stream] = int(row["sequence"]) if row else 0
        return position

    def _check_session(self, agent: str, session: str, stored_ns: int) -> None:
        owner = self._sessions.get(session)
        if owner is None:
            record = self._registry.sessions.get(session)
            if record is None:
                self._chains.check_room(agent)  # before a record of it is made, which would stay
                self._registry.sessions.observe(session, agent, "", stored_ns)
                owner = agent
            else:
                owner = record.agent
            if len(self._sessions) > 50_000:
                self._sessions.clear()
            self._sessions[session] = owner
        if owner != agent:
            raise WireError(f"session {session} belongs to agent {owner!r}")

    def _quarantine(self, one: Incoming, reason: str) -> None:
        parts = one.subject.split(".")
        added = self._registry.quarantine.add(
            received_ns=one.stored_ns,
            stream=one.stream,
            sequence=one.sequence,
            subject=one.subject,
            agent=parts[1] if len(parts) > 1 else "",
            session=parts[2] if len(parts) > 2 else "",
            reason=reason,
            message=one.data,
            deliveries=one.deliveries,
        )
        if added:
            self._counting.quarantined += 1
            if self._counting.quarantined == 1:
                log.warning("quarantined a message on %s: %s (more are only counted)", one.subject, reason)

    def write_books(self, waiting: dict[tuple[str, str, bytes], tuple[Books, int]]) -> None:
        with self._registry.transaction() as db:
            for (session, agent, boot), (books, received_ns) in waiting.items():
                row = db.execute("SELECT agent FROM sessions WHERE id = ?", (session,)).fetchone()
                if row is None or row["agent"] != agent:
                    continue
                if has_room_for_books(db, session, agent, boot):
                    save_books(db, session, agent, boot, books, "heartbeat", received_ns)
