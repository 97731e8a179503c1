"""The keeper makes room in the archive: the streams refuse when they are full and never throw anything away.

What may go: messages below the floor that *every* purpose (durable consumer) has confirmed, and of those
the oldest above a watermark of the stream's size, and of each session what is older or more than it asked to keep.
Nothing unconfirmed ever goes: with a purpose that is away the archive fills, then the spools, and each session's
overflow policy decides.

A purge by sequence costs 70 ms for a fifth of a gigabyte, and refused publishes go on at once.
"""

import asyncio
import logging
import math
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import nats.errors
import orjson

from hub.archive.reading import ANSWER_TIMEOUT_S, ArchiveError, first_at, stream_state
from hub.bus import Bus
from hub.ledger.flow_totals import delete_flows
from hub.ledger.ledger import LANES
from hub.registry import Registry
from hub.words import bytes_text
from wire.names import Lane, batch_subject

log = logging.getLogger(__name__)

HIGH_WATER = 0.85
"""Of max_bytes: above it room is made …"""
LOW_WATER = 0.75
"""… down to this."""
ROUND_S = 1.0
RETENTION_EVERY_S = 30.0
MAX_PURGE_ROWS = 10_000
DELETED = "deleted by "
"""How the reason begins where a person wanted it gone; the name follows."""
STREAM_OF = {Lane.BULK: "CAPTURE", Lane.PRIO: "PRIORITY"}


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """One stream as the keeper last saw it, for the page."""

    stream: str
    bytes: int
    max_bytes: int
    messages: int
    confirmed_sequence: int
    """Everything up to this sequence has been confirmed by every purpose."""
    waiting_for: str
    """The durable that holds the floor back while the stream is over its watermark; "" when nothing does."""


class Keeper:
    """One loop over the streams."""

    def __init__(
        self, registry: Registry, bus: Bus, *, high_water: float = HIGH_WATER, low_water: float = LOW_WATER
    ) -> None:
        self._registry = registry
        self._bus = bus
        self._high_water = high_water
        self._low_water = low_water
        self.status: dict[str, ArchiveStatus] = {}
        self._trouble = ""
        self._empty: set[str] = set()
        """Ended sessions of which nothing is left."""

    async def run(self) -> None:
        """Work until cancelled."""
        retention_s = -math.inf
        while True:
            await self._bus.client()
            try:
                for stream in LANES:
                    await self.make_room(stream)
                if time.monotonic() - retention_s >= RETENTION_EVERY_S:
                    await self.keep_promises(time.time_ns())
                    retention_s = time.monotonic()
                self._trouble = ""
            except (nats.errors.Error, ArchiveError, TimeoutError, sqlite3.Error) as error:
                if self._trouble != str(error):
                    log.warning("no room can be made now, trying again: %s", error or type(error).__name__)
                self._trouble = str(error)
            await asyncio.sleep(ROUND_S)

    async def make_room(self, stream: str) -> int:
        """Purge the oldest confirmed messages while the stream is over its watermark; returns the messages freed."""
        freed = 0
        for _ in range(8):  # an average is a guess: a few steps reach the mark
            state = await stream_state(self._bus, stream)
            floor, slowest = await self.floor(stream)
            over = state.max_bytes > 0 and state.bytes > state.max_bytes * (
                self._low_water if freed else self._high_water
            )
            stuck = over and floor < state.first_sequence
            self.status[stream] = ArchiveStatus(
                stream, state.bytes, state.max_bytes, state.messages, floor, slowest if stuck else ""
            )
            if not over or stuck or not state.messages:
                break
            excess = state.bytes - state.max_bytes * self._low_water
            count = math.ceil(excess / (state.bytes / state.messages))
            below = min(state.first_sequence + max(1, count), floor + 1)
            freed += await self._purge(stream, None, below, "the archive is over its watermark")
        return freed

    async def keep_promises(self, now_ns: int) -> int:
        """Purge confirmed messages that are older or more than their session asked to keep; returns the messages."""
        freed = 0
        floors = {stream: (await self.floor(stream))[0] for stream in LANES}
        asked = await asyncio.to_thread(self._sessions_with_retention)
        for session, agent, retention_s, retention_bytes, ended in asked:
            empty = ended
            for lane, stream in STREAM_OF.items():
                subject = batch_subject(agent, session, lane)
                if retention_s is not None:
                    oldest = datetime.fromtimestamp(max(0, now_ns / 1e9 - retention_s), UTC)
                    found = await first_at(self._bus, stream, subject, oldest.isoformat())
                    empty = empty and found is None
                    below = floors[stream] + 1 if found is None else min(found, floors[stream] + 1)
                    freed += await self._purge(stream, subject, below, f"kept for {retention_s} s")
                if retention_bytes is not None:
                    mark = self._mark_beyond(stream, agent, session, lane, retention_bytes)
                    if mark is not None:
                        below = min(mark, floors[stream] + 1)
                        freed += await self._purge(
                            stream, subject, below, f"kept {bytes_text(retention_bytes)}"
                        )
        return freed

    async def forget(self, agent: str, session: str, who: str) -> int:
        """Purge what the archive holds of one ended session because `who` wants it gone; returns the messages freed.

        The record and its books stay: what was captured and that it was deleted must remain provable. Messages that a
        purpose hasn't confirmed yet stay as well; ask again later. ArchiveError, nats errors, TimeoutError.
        """
        freed = 0
        for lane, stream in STREAM_OF.items():
            subject = batch_subject(agent, session, lane)
            floor, _ = await self.floor(stream)
            freed += await self._purge(stream, subject, floor + 1, f"{DELETED}{who}")
            with self._registry.transaction() as db:
                # Marks are a MiB apart; here it is known that everything went.
                db.execute(
                    """UPDATE freed SET bytes = max(bytes, (SELECT coalesce(sum(message_bytes), 0) FROM chains
                       WHERE agent = ? AND session = ? AND lane = ?)) WHERE stream = ? AND subject = ?""",
                    (agent, session, lane, stream, subject),
                )
        with self._registry.transaction():
            delete_flows(self._registry, session)
        return freed

    async def _anything_left(self, agent: str, session: str) -> bool:
        for lane, stream in STREAM_OF.items():
            subject = batch_subject(agent, session, lane)
            if await first_at(self._bus, stream, subject, "1970-01-01T00:00:00Z") is not None:
                return True
        return False

    async def floor(self, stream: str) -> tuple[int, str]:
        """(sequence confirmed by every durable, the slowest durable). 0 without the ledger's own: nothing is sure."""
        client = await self._bus.client()
        floors: dict[str, int] = {}
        offset, total = 0, 1
        while offset < total:
            body = orjson.dumps({"offset": offset})
            reply = await client.request(f"$JS.API.CONSUMER.LIST.{stream}", body, timeout=ANSWER_TIMEOUT_S)
            answer: dict[str, Any] = orjson.loads(reply.data)
            if "error" in answer:
                raise ArchiveError(f"consumers of {stream}: {answer['error'].get('description', 'refused')}")
            consumers = answer.get("consumers") or []
            for consumer in consumers:
                durable = consumer["config"].get("durable_name")
                if durable:
                    floors[durable] = int(consumer["ack_floor"].get("stream_seq", 0))
            total = int(answer.get("total", 0))
            offset += len(consumers) or total
        if LANES[stream] not in floors:
            return 0, LANES[stream]
        slowest = min(floors, key=lambda name: floors[name])
        return floors[slowest], slowest

    async def _purge(self, stream: str, subject: str | None, below: int, reason: str) -> int:
        if below <= 1 or (subject is not None and below <= self._freed_below(stream, subject)):
            return 0
        request: dict[str, Any] = {"seq": below} | ({"filter": subject} if subject else {})
        client = await self._bus.client()
        before = await stream_state(self._bus, stream)
        reply = await client.request(f"$JS.API.STREAM.PURGE.{stream}", orjson.dumps(request), timeout=60)
        answer = orjson.loads(reply.data)
        if "error" in answer:
            raise ArchiveError(f"{stream} can't be purged: {answer['error'].get('description', 'refused')}")
        messages = int(answer.get("purged", 0))
        size = round(before.bytes / max(1, before.messages) * messages)
        self._record(stream, subject, below, messages, size, reason)
        if messages:
            log.info(
                "freed %d messages (about %s) of %s: %s",
                messages,
                bytes_text(size),
                subject or stream,
                reason,
            )
        return messages

    def _record(
        self, stream: str, subject: str | None, below: int, messages: int, size: int, reason: str
    ) -> None:
        now_ns = time.time_ns()
        with self._registry.transaction() as db:
            if messages:
                db.execute(
                    """INSERT INTO purges(at_ns, stream, subject, below_sequence, messages, bytes, reason)
                       VALUES(?, ?, ?, ?, ?, ?, ?)""",
                    (now_ns, stream, subject or "", below, messages, size, reason),
                )
                db.execute(
                    "DELETE FROM purges WHERE id <= (SELECT max(id) FROM purges) - ?", (MAX_PURGE_ROWS,)
                )
                self._registry.count("purged_messages", messages)
                self._registry.count("purged_bytes_estimated", size)
            subjects = [subject] if subject else self._subjects_below(stream, below)
            for one in subjects:
                (freed_bytes,) = db.execute(
                    """SELECT coalesce(max(bytes_before), 0) FROM archive_marks
                       WHERE stream = ? AND subject = ? AND sequence <= ?""",
                    (stream, one, below),
                ).fetchone()
                db.execute(
                    """INSERT INTO freed VALUES(?, ?, ?, ?) ON CONFLICT(stream, subject) DO UPDATE SET
                       below_sequence = max(below_sequence, excluded.below_sequence),
                       bytes = max(bytes, excluded.bytes)""",
                    (stream, one, below, freed_bytes),
                )
                # The last mark below stays: it says how much lies before what is left.
                db.execute(
                    """DELETE FROM archive_marks WHERE stream = ?1 AND subject = ?2 AND sequence <
                       (SELECT max(sequence) FROM archive_marks WHERE stream = ?1 AND subject = ?2
                        AND sequence <= ?3)""",
                    (stream, one, below),
                )

    def _freed_below(self, stream: str, subject: str) -> int:
        row = self._registry.connection.execute(
            "SELECT below_sequence FROM freed WHERE stream = ? AND subject = ?", (stream, subject)
        ).fetchone()
        return int(row["below_sequence"]) if row else 0

    def _subjects_below(self, stream: str, below: int) -> list[str]:
        rows = self._registry.connection.execute(
            "SELECT DISTINCT subject FROM archive_marks WHERE stream = ? AND sequence < ?", (stream, below)
        )
        return [row["subject"] for row in rows]

    def _mark_beyond(self, stream: str, agent: str, session: str, lane: str, keep_bytes: int) -> int | None:
        """The first sequence to keep so that about `keep_bytes` stay; None while there is no more than that."""
        db = self._registry.connection
        (stored,) = db.execute(
            "SELECT coalesce(sum(message_bytes), 0) FROM chains WHERE agent = ? AND session = ? AND lane = ?",
            (agent, session, lane),
        ).fetchone()
        row = db.execute(
            """SELECT max(sequence) AS sequence FROM archive_marks
               WHERE stream = ? AND subject = ? AND bytes_before <= ?""",
            (stream, batch_subject(agent, session, lane), stored - keep_bytes),
        ).fetchone()
        return None if stored <= keep_bytes or row["sequence"] is None else int(row["sequence"])

    def _sessions_with_retention(self) -> list[tuple[str, str, int | None, int | None, bool]]:
        found: list[tuple[str, str, int | None, int | None, bool]] = []
        for record in self._registry.sessions.all(limit=100_000):
            spec = record.spec
            if record.id in self._empty:
                continue
            if spec is not None and (spec.retention_s is not None or spec.retention_bytes is not None):
                ended = record.ended_ns is not None
                found.append((record.id, record.agent, spec.retention_s, spec.retention_bytes, ended))
        return found
