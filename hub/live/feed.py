"""The live view: packets of many agents in one list, on the way of a core subscription that nothing durable waits for.

A batch is verified, decompressed and cut once, whoever watches. Of each batch only its newest packets, as many as a
viewer may get in one update, are copied out and only those that reach a page are decoded; all others are counted.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import nats.errors
from nats.aio.msg import Msg

from hub.bus import Bus, BusAway
from hub.ledger.session_books import session_books
from hub.live.backlog import Backlog
from hub.live.recent import RecentBatches
from hub.live.viewer import (
    BACKLOG_ROWS,
    MAX_ROWS,
    HeardBatch,
    SessionTotals,
    Update,
    Viewer,
    WatchedSession,
    open_live,
)
from hub.observation import BatchName
from hub.registry import Registry
from wire.batch import Kind
from wire.control import Domain, seal
from wire.errors import WireError
from wire.keys import SigningKey
from wire.names import check_session_id, control_subject
from wire.report import Heartbeat

__all__ = ["BACKLOG_ROWS", "MAX_ROWS", "LiveFeed", "SessionTotals", "TooManyViewers", "Update", "Viewer"]

log = logging.getLogger(__name__)

WATCH_EVERY_S = 2.0
WATCH_LIFE_NS = 6_000_000_000
MAX_VIEWERS = 500
QUEUE_MESSAGES = 256
QUEUE_BYTES = 32 << 20
IN_THREAD_BYTES = 64 * 1024
"""Larger batches are opened in a thread: hashing and decompressing release the interpreter's lock."""


class TooManyViewers(Exception):
    """MAX_VIEWERS pages are watching already."""


class LiveFeed:
    """Core subscriptions to the sessions somebody watches, shared by all viewers."""

    def __init__(self, bus: Bus, registry: Registry, key: SigningKey) -> None:
        """key: the hub's control key; it signs the notices by which agents send sooner while somebody watches."""
        self._bus = bus
        self._registry = registry
        self._key = key
        self._watched: dict[str, WatchedSession] = {}
        self._viewers: set[Viewer] = set()
        self.recent = RecentBatches()
        """What was watched lately, for whoever opens a packet of it."""
        self._backlog = Backlog(bus, self.recent)
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def viewers(self) -> int:
        """How many are watching."""
        return len(self._viewers)

    async def run(self) -> None:
        """Renew the watch notices and read backlogs until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                while True:
                    await asyncio.sleep(WATCH_EVERY_S)
                    for watched in list(self._watched.values()):
                        await self._notify(watched)
            finally:
                self._tasks = None

    def heartbeat(self, heartbeat: Heartbeat, received_ns: int) -> None:
        """Take books and spool of a verified heartbeat (a presence listener)."""
        for watched in self._watched.values():
            if watched.agent != heartbeat.agent:
                continue
            watched.spool_bytes = heartbeat.spool_bytes
            beat = heartbeat.sessions.get(watched.session)
            if beat is not None:
                watched.take_books(heartbeat.boot, beat.books)

    @asynccontextmanager
    async def watch(
        self, sessions: Sequence[str], *, max_rows: int = 40, backlog: int = 0
    ) -> AsyncIterator[Viewer]:
        """Watch sessions for the time of the `async with` block; UnknownError for an unknown session.

        An update also comes about once a second when no packet does (totals, lag). backlog: so many of the newest
        packets that were there before come too, at most BACKLOG_ROWS, in an update's `older`.
        """
        if len(self._viewers) >= MAX_VIEWERS:
            raise TooManyViewers(f"{MAX_VIEWERS} pages are watching already")
        for session in sessions:
            self._registry.sessions.require(session)
        watched = [self._join(check_session_id(session)) for session in dict.fromkeys(sessions)]
        viewer = Viewer(watched, max(1, min(MAX_ROWS, max_rows)))
        if backlog > 0:
            viewer.open_seam()
        self._viewers.add(viewer)
        giving: asyncio.Task[None] | None = None
        try:
            for one in watched:
                one.viewers.add(viewer)
            for one in watched:
                async with one.subscribing:
                    if one.subscription is None:
                        await self._subscribe(one)
                    if not one.in_force:
                        await self._bus.settled()
                        one.in_force = True
                await self._notify(one)
            if self._tasks is not None and backlog > 0:
                giving = self._tasks.create_task(self._give(viewer, watched, min(backlog, BACKLOG_ROWS)))
            elif backlog > 0:  # the hub is ending
                viewer.take_older([], away=True)
            yield viewer
        finally:
            viewer.close()
            if giving is not None:
                giving.cancel()
            self._viewers.discard(viewer)
            for one in watched:
                one.viewers.discard(viewer)
                if one.viewers:
                    continue
                self._watched.pop(one.session, None)
                if one.subscription is not None:
                    await one.subscription.close()

    async def _give(self, viewer: Viewer, watched: Sequence[WatchedSession], wanted: int) -> None:
        try:
            await self._backlog.give(viewer, watched, wanted)
        except Exception:  # a fault of ours must not end anybody's live view
            log.exception("a page's older packets could not be read")
            viewer.take_older([], away=True)
            viewer.close_seam()

    def _join(self, session: str) -> WatchedSession:
        watched = self._watched.get(session)
        if watched is None:
            agent = self._registry.sessions.require(session).agent
            keys = [key.signing_public for key in self._registry.agents.keys(agent)]
            watched = self._watched[session] = WatchedSession(session, agent, keys)
            for boot in session_books(self._registry, session).boots:
                watched.take_books(boot.boot, boot.books)
        return watched

    async def _subscribe(self, watched: WatchedSession) -> None:
        async def on_batch(message: Msg) -> None:
            await self._on_batch(watched, message)

        watched.subscription = await self._bus.subscribe(
            f"cap.{watched.agent}.{watched.session}.*",
            on_batch,
            max_messages=QUEUE_MESSAGES,
            max_bytes=QUEUE_BYTES,
        )

    async def _notify(self, watched: WatchedSession) -> None:
        now_ns = time.time_ns()
        message = seal(
            Domain.WATCH,
            agent=watched.agent,
            body={"session": watched.session, "until_ns": now_ns + WATCH_LIFE_NS},
            key=self._key,
            issued_ns=now_ns,
            expires_ns=now_ns + WATCH_LIFE_NS,
        )
        with suppress(BusAway, nats.errors.Error):  # the next one comes in 2 s
            await self._bus.publish(control_subject(watched.agent, "watch"), message)

    async def _on_batch(self, watched: WatchedSession, message: Msg) -> None:
        rows = max((viewer.max_rows for viewer in watched.viewers), default=0)
        heard_ns = time.time_ns()
        given = (message.subject, message.data, watched.keys, rows, heard_ns)
        try:
            if len(message.data) > IN_THREAD_BYTES:
                opened = await asyncio.to_thread(open_live, *given)
            else:
                opened = open_live(*given)
        except WireError:
            watched.unverified += 1
            return
        header, packets = opened
        watched.take_books(header.boot, header.books)
        if header.kind is not Kind.PACKETS:
            return
        name = BatchName.of(header)
        if not self.recent.keep(name, message.data):
            return  # sent again: its acknowledgement was lost
        now_s = time.monotonic()
        watched.take_batch(header, now_s)
        watched.note_heard(HeardBatch(name, header.packets, heard_ns), self._bus.connections)
        for viewer in watched.viewers:
            viewer.offer(name, packets, header.packets, header.last_timestamp_ns, now_s)
