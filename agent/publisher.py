"""Spool → JetStream: a window of unacknowledged batches, deadlines, retries, and never a spin.

- Batches of a lane are first sent in order; the priority lane goes before bulk; sessions take turns.
- At most `window` batches (and `PRIORITY_WINDOW` more of the priority lane, which has a stream and a window of its own)
  are on their way. After each new connection, and while the server turns batches away, one batch alone tries the way.
- A batch leaves the spool when the server says it is stored, and only then. What isn't answered or is turned away is
  sent again with jittered exponential backoff under the same message id, so the server drops what it already has.
- `duplicate` in the answer to a batch that was never sent before is no acknowledgement: somebody used its id first, so
  that the server would throw the real one away. It is counted, logged, and the batch sent under a new id.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable

from agent.lane import Spooled, SpoolLane
from agent.link import Link, LinkAway, NoAnswer, NotTaken, backoff_s
from agent.segment import Record
from agent.spool import Spool
from wire.names import STREAM_CAPTURE, STREAM_PRIORITY, Lane, batch_subject, message_id

log = logging.getLogger(__name__)

PRIORITY_WINDOW = 4
NO_ROOM_CODES = (10023, 10077)
"""JetStream: "insufficient resources" and "maximum bytes exceeded" (server/errors.json of nats-server)."""
_STREAMS = {Lane.BULK: STREAM_CAPTURE, Lane.PRIO: STREAM_PRIORITY}
_LOG_EVERY_S = 60.0


class _Way:
    """One stream's window, and whether the way to it is known to be open."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.in_flight = 0
        self.open = False
        self.waiting_reason = ""

    @property
    def has_room(self) -> bool:
        return self.in_flight < (self.window if self.open else 1)


class Publisher:
    """See the module. Everything runs in one event loop; only `wake` may be called from any thread."""

    def __init__(
        self,
        spool: Spool,
        link: Link,
        *,
        agent: str,
        window: int = 8,
        timeout_s: float = 10.0,
        max_backoff_s: float = 15.0,
        on_stored: Callable[[SpoolLane, Record], None] = lambda lane, record: None,
    ) -> None:
        self._spool = spool
        self._link = link
        self._agent = agent
        self._window = window
        self._timeout_s = timeout_s
        self._max_backoff_s = max_backoff_s
        self._on_stored = on_stored
        self._ways = {Lane.BULK: _Way(window), Lane.PRIO: _Way(PRIORITY_WINDOW)}
        self._ready = asyncio.Event()
        self._progress = asyncio.Event()
        self._served: dict[Lane, SpoolLane] = {}  # whose turn it was last
        self._loop = asyncio.get_running_loop()
        self._logged_s: dict[str, float] = {}
        self.counters: Counter[str] = Counter()
        self.sent_bytes = 0
        """Handed to the connection, repetitions included."""
        """stored, duplicate, retried, no_answer, not_taken, link_away, poisoned."""

    def wake(self) -> None:
        """There may be something to send. From any thread; cheap when the loop is about to look anyway."""
        if not self._ready.is_set():
            self._loop.call_soon_threadsafe(self._ready.set)

    @property
    def in_flight(self) -> int:
        return sum(way.in_flight for way in self._ways.values())

    @property
    def waiting_reason(self) -> str:
        """Why batches aren't taken at the moment; "" when they are."""
        return next((way.waiting_reason for way in self._ways.values() if way.waiting_reason), "")

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._link.wait_connected()
                self._ready.clear()
                chosen = self._choose()
                if chosen is None:
                    await self._ready.wait()
                    continue
                lane, spooled = chosen
                self._ways[lane.lane].in_flight += 1
                group.create_task(self._deliver(lane, spooled))

    def _choose(self) -> tuple[SpoolLane, Spooled] | None:
        lanes = list(self._spool.lanes)
        for name in (Lane.PRIO, Lane.BULK):
            if not self._ways[name].has_room:
                continue
            ours = [lane for lane in lanes if lane.lane is name]
            served = self._served.get(name)
            first = ours.index(served) + 1 if served in ours else 0
            for lane in ours[first:] + ours[:first]:
                spooled = self._spool.next_unsent(lane, self._window)
                if spooled is not None:
                    self._served[name] = lane
                    return lane, spooled
        return None

    async def _deliver(self, lane: SpoolLane, spooled: Spooled) -> None:
        """Send one batch until it is stored."""
        way = self._ways[lane.lane]
        subject = batch_subject(self._agent, lane.session, lane.lane)
        stream = _STREAMS[lane.lane]
        sequence = spooled.record.first_sequence
        new_id, tries, failures = 0, 0, 0
        maybe_sent = spooled.maybe_sent
        try:
            while True:
                tries += 1
                self.sent_bytes += len(spooled.message)
                try:
                    stored = await self._link.publish_batch(
                        subject,
                        spooled.message,
                        message_id=message_id(lane.boot, lane.session, lane.lane, sequence, new_id),
                        stream=stream,
                        timeout_s=self._timeout_s,
                    )
                except LinkAway:
                    self.counters["link_away"] += 1
                    way.open = False
                    if self._link.connected:
                        # The client refuses (it is closing) before it tells that the connection is gone. Trying again
                        # at once would never let the event loop come round to that.
                        await asyncio.sleep(backoff_s(0))
                    await self._link.wait_connected()
                    continue
                except NoAnswer:
                    self.counters["no_answer"] += 1
                    self._hold(
                        way, "no_answer", "no acknowledgement in time: is JetStream running, may we publish?"
                    )
                except NotTaken as error:
                    self.counters["not_taken"] += 1
                    self._hold(way, f"not_taken {error.code}", _why_not(error, stream))
                else:
                    if stored.duplicate and tries == 1 and not maybe_sent:
                        self._poisoned(lane, sequence)
                        new_id = 1 if new_id == 0 else secrets.randbelow(1 << 31) + 2
                        tries = 0
                        continue
                    self.counters["duplicate" if stored.duplicate else "stored"] += 1
                    way.open, way.waiting_reason = True, ""
                    self._acknowledged(lane, sequence)
                    return
                self.counters["retried"] += 1
                await asyncio.sleep(backoff_s(failures, self._max_backoff_s))
                failures += 1
        finally:
            way.in_flight -= 1
            self._ready.set()

    def _acknowledged(self, lane: SpoolLane, sequence: int) -> None:
        record = self._spool.acknowledge(lane, sequence)
        if record is not None:
            self._on_stored(lane, record)
        self._progress.set()

    def _hold(self, way: _Way, kind: str, why: str) -> None:
        way.open, way.waiting_reason = False, why
        self._log_once(kind, f"batches wait in the spool: {why}")

    def _poisoned(self, lane: SpoolLane, sequence: int) -> None:
        self.counters["poisoned"] += 1
        self._log_once(
            "poisoned",
            f"batch {sequence} of session {lane.session} was called a duplicate before it was ever sent: somebody used "
            "its message id. It is sent again under a new one; look at who may publish on this server",
        )

    def _log_once(self, kind: str, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s.get(kind, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._logged_s[kind] = now_s
            log.warning("%s", text)

    async def drained(self, timeout_s: float | None) -> bool:
        """Wait until everything spooled is stored; False when `timeout_s` passes first."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._spool.drained:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True


def _why_not(error: NotTaken, stream: str) -> str:
    if error.code in NO_ROOM_CODES:
        return f"the stream {stream} has no room ({error}, {error.code}); the hub makes room or its budget must grow"
    if error.code == 0:
        return f"the server has no stream {stream} ({error}); the hub makes it when it starts"
    return f"the server turned a batch away: {error} ({error.code})"
