"""The entry of one lane: room in the spool, then a sequence and a signature, then the spool's file.

The order matters. Room is asked for *before* a batch is sealed, so what is turned away never had a sequence; the chain
declares it by a link of its own as soon as there is room again. The threads that take a session's packets encode and
compress each for itself and then enter one after the other, through the session's `LaneDoor`.
"""

from __future__ import annotations

import threading

from agent.batcher import HEADER_ROOM_BYTES, Chain, Origin, Packed
from agent.books import SessionBooks
from agent.lane import SpoolLane
from agent.segment import Record
from agent.session_memory import SessionMemory
from agent.spool import Admission
from agent.surroundings import Surroundings
from wire.batch import GOES_ON, NO_HASH
from wire.books import Books
from wire.names import Lane
from wire.report import LaneHead
from wire.session import SessionSpec

MAX_AWAY_REASONS = 4
"""Of the packets turned away between two batches; a link has room for 256 bytes."""


class LaneDoor:
    """What all lanes of one session share: one batch enters at a time, and each header has the books over all lanes."""

    def __init__(self) -> None:
        self.entering = threading.Lock()
        self.lanes: list[SpoolLane] = []
        """Those that are open, in the order of their opening. Only ever added to."""


class LaneWriter:
    """One lane of one session in this boot; its chain goes on where the boot before left it."""

    def __init__(
        self,
        spec: SessionSpec,
        memory: SessionMemory,
        books: SessionBooks,
        around: Surroundings,
        *,
        lane: Lane,
        door: LaneDoor,
        from_file: bool,
    ) -> None:
        self._name = lane
        self._door = door
        self._memory = memory
        self._books = books
        self._around = around
        self._away_reasons: list[str] = []
        head = memory.catch_up(lane, around.last_records.get((spec.id, lane)))
        known = head.known and head.header_hash != NO_HASH
        self._chain = Chain(
            agent=around.agent,
            boot=around.boot,
            session=spec.id,
            lane=lane,
            key=around.key,
            previous=head.header_hash if known else NO_HASH,
            previous_boot=head.boot if known else None,
            clock=around.clock,
            from_file=from_file,
        )
        # A file's batches are never dropped: they wait (see `agent.intake`), whatever was declared.
        self.lane: SpoolLane = around.spool.open_lane(
            around.boot, spec.id, lane, "drop_newest" if from_file else spec.overflow
        )
        door.lanes.append(self.lane)

    def head(self) -> LaneHead:
        """Where the chain stands, for the report."""
        return LaneHead(self._chain.next_sequence, self._chain.header_hash)

    def write(self, packed: Packed, origin: Origin) -> Admission:
        """Seal and spool a batch if there is room; otherwise nothing happened but, perhaps, the link's declaration."""
        with self._door.entering:
            if self._chain.turned_away.packets and not self._declare_turned_away(origin):
                return Admission.DROP_NEWEST
            admission = self._around.spool.admit(self.lane, packed.size)
            if admission is Admission.ACCEPTED:
                self._books.flows_shipped += packed.flow_packets
                self._count(packed)  # before the memory is saved: an import goes on behind what it counts
                record, message = self._chain.seal_packets(packed, self._read_books(entering=packed.packets))
                self._append(record, message, packed.size)
            return admission

    def turn_away(self, packed: Packed, reason: str = "spool full") -> None:
        """Count a batch that found no room, here and in the chain."""
        with self._door.entering:
            self._count(packed)
            if reason not in self._away_reasons and len(self._away_reasons) < MAX_AWAY_REASONS:
                self._away_reasons.append(reason)
            self._chain.note_turned_away(packed)
            with self._around.spool.lock:
                self._books.dropped_newest += packed.packets

    def close(self, reason: str, origin: Origin, *, last: bool = True) -> None:
        """End the lane for good, or (GOES_ON) only for this boot: its closing batch always fits.

        last: with it the session has ended.
        """
        with self._door.entering:
            if self._chain.turned_away.packets:
                self._declare_turned_away(origin, closing=True)
            self._around.spool.admit(self.lane, HEADER_ROOM_BYTES, closing=True)
            record, message = self._chain.seal_closing(origin, reason, self._read_books())
            if reason != GOES_ON and last:
                self._memory.ended, self._memory.reason = True, reason
            self._append(record, message, HEADER_ROOM_BYTES)
            self._around.spool.finish_lane(self.lane)
        self._around.wake_publisher()

    def _count(self, packed: Packed) -> None:
        self._memory.packets += packed.packets
        self._memory.captured_bytes += packed.captured_bytes

    def _declare_turned_away(self, origin: Origin, *, closing: bool = False) -> bool:
        room = HEADER_ROOM_BYTES
        if self._around.spool.admit(self.lane, room, closing=closing) is not Admission.ACCEPTED:
            return False
        reason = "; ".join(self._away_reasons)
        record, message = self._chain.seal_turned_away(origin, reason, self._read_books())
        self._away_reasons = []
        self._append(record, message, room)
        return True

    def _read_books(self, *, entering: int = 0) -> Books:
        with self._around.spool.lock:
            return self._books.read(self._door.lanes, entering=entering, sealing=True)

    def _append(self, record: Record, message: bytes, admitted: int) -> None:
        self._around.spool.append(self.lane, record, message, admitted=admitted)
        head = self._memory.heads[self._name]
        head.boot, head.next_sequence = self._around.boot, self._chain.next_sequence
        head.header_hash = self._chain.header_hash
        self._memory.save()
        self._around.wake_publisher()
