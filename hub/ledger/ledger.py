"""The ledger reads the archive by its own durables, verifies every batch and keeps the books.

One durable per stream (`ledger-bulk`, `ledger-prio`), so bulk never holds the priority lane up. Per round up to
MAX_FETCH messages are verified and booked in one transaction, and only after its commit acknowledged: what dies in
between is delivered again and recognised by (agent, boot, session, lane, sequence).
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import nats.errors
from nats.aio.msg import Msg

from hub.bus import Bus
from hub.durable import RETRY_S, Durable
from hub.ledger.booking import Booking, Incoming, LedgerCounts
from hub.ledger.chains import MARK_BYTES
from hub.registry import Registry
from wire.books import Books
from wire.names import STREAM_CAPTURE, STREAM_PRIORITY
from wire.report import Heartbeat

log = logging.getLogger(__name__)

MAX_FETCH = 48
"""Messages per transaction; × 1 MiB bounds what one lane holds in memory."""
MAX_ACK_PENDING = 512
NAK_DELAY_S = 1.0
BOOKS_EVERY_S = 1.0
MAX_BOOKS_WAITING = 100_000

LANES: dict[str, str] = {STREAM_CAPTURE: "ledger-bulk", STREAM_PRIORITY: "ledger-prio"}
"""Stream → its durable."""

BatchListener = Callable[[str, float], None]
"""(agent, seconds since the message was stored): called in the event loop for each new batch."""


class Ledger:
    """Two loops, one worker thread, one transaction at a time."""

    def __init__(self, registry: Registry, bus: Bus, *, mark_bytes: int = MARK_BYTES) -> None:
        """mark_bytes: how finely the keeper can cut a session's archive."""
        self._registry = registry
        self._bus = bus
        self._booking = Booking(registry, mark_bytes)
        self._stalled = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._listeners: list[BatchListener] = []
        self._waiting_books: dict[tuple[str, str], tuple[bytes, Books, int]] = {}
        """(session, agent) → its newest (boot, books, received_ns)."""
        self.pending: dict[str, int] = {}
        """Messages of each stream the ledger has yet to read, as of its last fetch."""

    @property
    def counts(self) -> LedgerCounts:
        """Since the start of this process."""
        return replace(self._booking.counts, stalled=self._stalled)

    def on_batch(self, listener: BatchListener) -> None:
        """Have each newly booked batch told (presence takes it as a sign of life)."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for stream, name in LANES.items():
                    durable = Durable(
                        self._bus,
                        stream,
                        name,
                        most_messages=MAX_FETCH,
                        most_unacknowledged=MAX_ACK_PENDING,
                    )
                    tasks.create_task(self._read(durable))
                tasks.create_task(self._keep_books())
        finally:
            self._worker.shutdown(wait=True, cancel_futures=True)

    # Reading

    async def _read(self, durable: Durable) -> None:
        async def on_stream(created: str) -> None:
            booking = self._booking
            await asyncio.get_running_loop().run_in_executor(
                self._worker, booking.stream_is, durable.stream, created
            )

        async for messages in durable.rounds(on_stream):
            self.pending[durable.stream] = durable.pending
            await self._handle(durable.stream, messages)

    async def _handle(self, stream: str, messages: list[Msg]) -> None:
        incoming = []
        for message in messages:
            metadata = message.metadata
            stored_ns = int(metadata.timestamp.timestamp() * 1e9)
            incoming.append(
                Incoming(
                    message.subject,
                    message.data,
                    stream,
                    metadata.sequence.stream,
                    metadata.num_delivered or 1,
                    stored_ns,
                )
            )
        loop = asyncio.get_running_loop()
        try:
            verdicts, booked = await loop.run_in_executor(self._worker, self._booking.book, incoming)
        except sqlite3.Error as error:
            self._stalled += 1
            if self._stalled == 1:
                log.error("the registry can't be written, the archive waits: %s", error)
            verdicts, booked = ["retry"] * len(incoming), []
            await asyncio.sleep(RETRY_S)
        for message, verdict in zip(messages, verdicts, strict=True):
            with suppress(nats.errors.Error):  # a lost acknowledgement is a redelivery
                if verdict == "ack":
                    await message.ack()
                elif verdict == "term":
                    await message.term()
                else:
                    await message.nak(delay=NAK_DELAY_S)
        now_ns = time.time_ns()
        for agent, stored_ns in booked:
            for listener in self._listeners:
                listener(agent, (now_ns - stored_ns) / 1e9)

    # The agents' own totals

    def heartbeat(self, heartbeat: Heartbeat, received_ns: int) -> None:
        """Take the books of a verified heartbeat (a presence listener); written about once a second."""
        for session, beat in heartbeat.sessions.items():
            key = session, heartbeat.agent
            if key in self._waiting_books or len(self._waiting_books) < MAX_BOOKS_WAITING:
                self._waiting_books[key] = (heartbeat.boot, beat.books, received_ns)

    async def _keep_books(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(BOOKS_EVERY_S)
            waiting, self._waiting_books = self._waiting_books, {}
            if waiting:
                books = {(*key, boot): (one, at_ns) for key, (boot, one, at_ns) in waiting.items()}
                with suppress(sqlite3.Error):  # the next heartbeat says it again
                    await loop.run_in_executor(self._worker, self._booking.write_books, books)
