"""The correlation at work: hears the batches that are pooled, gives conversations and clock offsets to the store.

Batches come in the ingest's thread and wait as rows, a bounded number of them. A thread of its own evaluates what is
new about once a second, less often when that takes long, so that it never takes more than a fifth of a processor. A
store that is away keeps results waiting, the newest of each conversation, also bounded. What goes over a bound is
counted.

A conversation's id here is the correlator's and the time it began at: the same flow may come again tomorrow.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import orjson

from hub.correlate.clock_constraints import NONE
from hub.correlate.clock_estimate import UNKNOWN, Offsets
from hub.correlate.clock_reports import Claim, best_anchor
from hub.correlate.conversations import Conversations
from hub.correlate.correlator import Correlator, Update
from hub.correlate.described import Described, described
from hub.correlate.flows import address_text, find
from hub.pool.correlated_batches import CorrelatedBatches, Heard
from hub.pool.observed import ClockOffset, ObservedBatch
from hub.pool.recall import Recall, last_anchor, named, parted, stored_conversations
from hub.pool.store import ConversationRow, OffsetRow, Store, StoreAway, StoreRefused

log = logging.getLogger(__name__)

EVERY_S = 1.0
SHARE = 5
"""Evaluations take at most one part in so many of the time."""
CLOCKS_EVERY_S = 3.0
RESUME_WITHIN_S = 60.0
"""To go on where the hub ended, with a store that is still starting; else all begins anew."""
MOST_WAITING_ROWS = 500_000
"""104 bytes each."""
MOST_UNSTORED = 20_000
MOST_DETAILS = 256 * 1024
AGAIN_NS = 60_000_000_000
"""Windows of the clocks that are written again, since later packets make them better known."""


@dataclass(slots=True)
class CorrelationCounts:
    """Since the start of this process."""

    packets: int = 0
    recalled: int = 0
    """Packets that were read again at the start, to go on with what was in hand before."""
    passed_over: int = 0
    """Packets that came faster than they were worked off: pooled, in no conversation."""
    conversations: int = 0
    """Evaluations of one, however often."""
    unstored: int = 0
    """Results that the store was away for too long to take, or refused."""
    begun_anew: int = 0
    """Times that an error of ours made it forget all and begin anew."""
    last_update_s: float = 0.0


class Correlation:
    """`hear` and `clock_of` belong to the ingest's thread, all else to the event loop."""

    def __init__(
        self,
        store: Store,
        recall: Recall | None = None,
        *,
        correlator: Callable[[], Correlator] = Correlator,
    ) -> None:
        """recall: what was in hand before; None: begin with nothing.

        correlator: makes one, at the beginning and when it begins anew.
        """
        self._store, self._recall = store, recall
        self._new_correlator = correlator
        self.recalled = asyncio.Event()
        """Set once `run` has gone on with what was in hand before, or couldn't."""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="correlation")
        self._lock = threading.Lock()
        self._waiting: list[Heard] = []
        self._waiting_rows = 0
        self._batches = CorrelatedBatches()
        self._begin()
        self._unstored: OrderedDict[str, ConversationRow] = OrderedDict()
        self._unstored_offsets: list[OffsetRow] = []
        self._forget: list[str] = []
        self.counts = CorrelationCounts()

    # The ingest's thread

    def hear(self, batch: ObservedBatch) -> None:
        """Take a batch; never waits."""
        with self._lock:
            if self._waiting_rows + len(batch) > MOST_WAITING_ROWS:
                self.counts.passed_over += len(batch)
                return
            self._waiting_rows += len(batch)
        heard = self._batches.hear(batch)
        with self._lock:
            self._waiting.append(heard)

    def clock_of(self, agent: str, raw_ns: int) -> ClockOffset | None:
        """What is known of an agent's clock; None: unknown, on one side at least."""
        offsets, clock = self._offsets, self._clock_of_agent.get(agent)
        if offsets is None or clock is None or clock >= len(offsets.rough_ns):
            return None
        low, high, estimate = (int(part[0]) for part in offsets.at(clock, np.array([raw_ns])))
        if estimate == UNKNOWN or low <= -NONE or high >= NONE:
            return None
        return ClockOffset(estimate, low, high)

    # The event loop

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        clocks_at_s = 0.0
        try:
            if self._recall is not None:
                await self._resume(self._recall)
            self.recalled.set()
            while True:
                begun_s = time.monotonic()
                with_clocks = begun_s - clocks_at_s >= CLOCKS_EVERY_S
                worked = await loop.run_in_executor(
                    self._worker, self._evaluate_or_forget, with_clocks, False
                )
                if worked and with_clocks:
                    clocks_at_s = begun_s
                took_s = self.counts.last_update_s = time.monotonic() - begun_s
                try:
                    await self.give_out()
                except StoreAway:
                    self._bound()  # they are given out with the next ones
                await asyncio.sleep(max(EVERY_S, (SHARE - 1) * took_s))
        finally:
            self._worker.shutdown(wait=True, cancel_futures=True)

    async def _resume(self, recall: Recall) -> None:
        """Go on where the hub ended; a mistake in here, or a store that is away, must cost no more than that."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESUME_WITHIN_S):
                heard = await recall.read(self._batches.hear)
                if not heard:
                    return
                agents = sorted({one.key.agent for one in heard})
                begin = min(int(one.rows["timestamp_ns"].min()) for one in heard)
                end = max(int(one.rows["timestamp_ns"].max()) for one in heard) + AGAIN_NS
                anchor = await last_anchor(self._store, agents, begin, end)
                update = await loop.run_in_executor(self._worker, self._take_up, heard, anchor)
                numbers = {flow for found in update.conversations for flow in found.flow.tolist()}
                stored = await stored_conversations(self._store, numbers, begin - AGAIN_NS, end)
                await loop.run_in_executor(self._worker, self._go_on, update, stored)
        except Exception:
            log.exception("what the correlation had in hand can't be read again: it begins anew")
            await loop.run_in_executor(self._worker, self._begin)
            return
        cut = " (not all that goes on: a bound was reached)" if recall.cut else ""
        log.info("the correlation goes on with %d packets in hand%s", self.counts.recalled, cut)

    @property
    def waiting_packets(self) -> int:
        """Heard and not evaluated yet."""
        return self._waiting_rows

    async def evaluate(self, *, final: bool) -> None:
        """Work off what was heard, once: where `run` isn't used. final: all that is kept, however little is new."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._worker, self._evaluate_or_forget, True, final)
        if len(self._clocks) < 2:  # one clock by itself tells nothing, and others may have told something
            self._unstored_offsets = []

    def close(self) -> None:
        """End its thread; what was heard and not given out is gone."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def give_out(self) -> None:
        """Give the store what was found since the last time. StoreAway: all of it is kept, for the next call."""
        rows, offsets, forget = list(self._unstored.values()), self._unstored_offsets, self._forget
        try:
            if rows:
                await self._store.put_conversations(rows)
            if forget:
                await self._store.forget_conversations(forget)
            if offsets:
                await self._store.put_offsets(offsets)
        except StoreRefused as error:
            self.counts.unstored += len(rows)
            log.error("the store refuses what the correlation found: %s", error)
        self._unstored.clear()
        self._unstored_offsets, self._forget = [], []

    def _bound(self) -> None:
        held = (self._unstored, self._unstored_offsets, self._forget)
        self.counts.unstored += sum(max(0, len(results) - MOST_UNSTORED) for results in held)
        while len(self._unstored) > MOST_UNSTORED:
            self._unstored.popitem(last=False)
        self._unstored_offsets = self._unstored_offsets[-MOST_UNSTORED:]
        self._forget = self._forget[-MOST_UNSTORED:]

    # The correlation's thread

    def _evaluate_or_forget(self, with_clocks: bool, final: bool) -> bool:
        """What packets hold is foreign: a mistake in here must cost conversations, not the hub."""
        try:
            return self._evaluate(with_clocks, final)
        except Exception:
            log.exception("the correlation failed and begins anew with the next packets")
            self.counts.begun_anew += 1
            self._begin()
            return True

    def _begin(self) -> None:
        self._correlator = self._new_correlator()
        self._clocks: dict[tuple[str, bytes], int] = {}
        """(agent, boot) → its clock: a host that was started anew may have set it."""
        self._clock_of_agent: dict[str, int] = {}
        self._claims: dict[int, Claim] = {}
        self._anchor: int | None = None
        self._offsets: Offsets | None = None
        self._offsets_to_ns = -(2**62)
        self._began: dict[int, int] = {}
        """Conversation → when it began, by its first evaluation: part of its name."""

    def _evaluate(self, with_clocks: bool, final: bool) -> bool:
        with self._lock:
            waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        if not waiting and not final:
            return False
        for heard in waiting:
            self._add(heard)
            self.counts.packets += heard.packets
        update = self._correlator.update(final=final)
        if with_clocks or self._offsets is None:
            self._look_at_clocks()
        assert self._offsets is not None
        for found in update.conversations:
            for row in self._rows_of(found, self._offsets):
                self.counts.conversations += 1
                self._unstored[row.id] = row
                self._unstored.move_to_end(row.id)
        self._let_go(update)
        return True

    def _take_up(self, heard: list[Heard], anchor: OffsetRow | None) -> Update:
        """The state as if these had just been evaluated."""
        for one in heard:
            self._add(one)
            self.counts.recalled += len(one.rows)
        if anchor is not None:
            self._anchor, self._offsets_to_ns = self._clock_of_agent[anchor.anchor], anchor.at_ns
        update = self._correlator.update()
        self._look_at_clocks()
        return update

    def _go_on(self, update: Update, stored: Mapping[int, ConversationRow]) -> None:
        """Take up the names of those that are whole again, and give out what the hub had no time to.

        Whole is what shows no fewer sightings than its row in the store. Another one is a new conversation when
        more of it comes; its row stays as it is.
        """
        assert self._offsets is not None
        revision = time.time_ns() // 1_000_000
        for found in update.conversations:
            sessions = self._batches.sessions_of(found)
            for index in range(len(found)):
                number, seen = int(found.id[index]), int(found.sightings[index])
                row = stored.get(number)
                if row is not None and seen < row.observations:
                    continue
                name = None if row is None else parted(row.id)
                if name is not None:
                    self._began[number] = name[1]
                for flow in found.flow[found.conversation == index].tolist():
                    if (
                        flow != number and flow in stored
                    ):  # it was found to be a part of this one, and not told yet
                        self._forget.append(stored[flow].id)
                if row is None or seen > row.observations:
                    told = described(found, index, self._offsets, self._correlator.vantages)
                    given = self._row(told, number, sessions[index], revision)
                    self._unstored[given.id] = given
        self._let_go(update)

    def _add(self, heard: Heard) -> None:
        key = heard.key
        clock = self._clocks.setdefault((key.agent, key.boot), len(self._clocks))
        self._clock_of_agent[key.agent] = clock
        vantage = self._correlator.vantage(key.agent, key.interface, clock)
        if vantage is None:
            self.counts.passed_over += heard.packets
            return
        self._claims[clock] = Claim(clock, *key.claim)
        heard.rows["vantage"] = vantage
        self._correlator.add(heard.rows, heard.flows)

    def _look_at_clocks(self) -> None:
        anchor = best_anchor(list(self._claims.values())) if self._anchor is None else self._anchor
        self._offsets = offsets = self._correlator.offsets(anchor)
        if offsets.anchor >= 0:
            self._anchor = offsets.anchor  # the pool's time must not jump to another host's
            self._unstored_offsets += list(self._offset_rows(offsets))

    def _offset_rows(self, offsets: Offsets) -> Iterator[OffsetRow]:
        agents = {clock: agent for (agent, _), clock in self._clocks.items()}
        fresh = np.flatnonzero(offsets.middle_ns > self._offsets_to_ns - AGAIN_NS)
        steps = {(step.clock, step.window): step.amount_ns for step in offsets.steps}
        for clock in range(len(offsets.rough_ns)):
            drift = offsets.drift.get(clock)
            for window in fresh.tolist():
                low, high, estimate = (
                    int(part[clock][window])
                    for part in (offsets.low_ns, offsets.high_ns, offsets.estimate_ns)
                )
                known = estimate != UNKNOWN
                step = steps.get((clock, window))
                yield OffsetRow(
                    agents[clock],
                    int(offsets.middle_ns[window]),
                    agents[offsets.anchor],
                    estimate if known else None,
                    None if low <= -NONE else low,
                    None if high >= NONE else high,
                    None if drift is None else drift.estimate * 1e9,
                    "anchor" if clock == offsets.anchor else "traffic" if known else "unknown",
                    "" if step is None else f"the clock was set by {step / 1e6:+.3f} ms",
                )
        if len(offsets.middle_ns):
            self._offsets_to_ns = int(offsets.middle_ns[-1])

    def _rows_of(self, found: Conversations, offsets: Offsets) -> Iterator[ConversationRow]:
        sessions = self._batches.sessions_of(found)
        revision = time.time_ns() // 1_000_000
        for index in range(len(found)):
            told = described(found, index, offsets, self._correlator.vantages)
            yield self._row(told, int(found.id[index]), sessions[index], revision)

    def _row(self, told: Described, number: int, sessions: Sequence[str], revision: int) -> ConversationRow:
        flows = self._correlator.flows
        at = find(flows, np.array([told.near_flow, *told.flows], np.uint64))
        near, others = flows[at[0]], flows[at[1:]]
        ends = [("first_address", "first_port"), ("second_address", "second_port")]
        source, destination = reversed(ends) if told.near_reversed else ends
        community_id = near["community_id"].decode("ascii")
        details = orjson.dumps(asdict(told))
        return ConversationRow(
            id=self._id_of(number, told.first_ns),
            revision=revision,
            community_id=community_id,
            first_ns=told.first_ns,
            last_ns=told.last_ns,
            source=address_text(near[source[0]]),
            destination=address_text(near[destination[0]]),
            source_port=int(near[source[1]]) if near["has_ports"] else None,
            destination_port=int(near[destination[1]]) if near["has_ports"] else None,
            protocol=int(near["protocol"]),
            packets=told.packets,
            bytes=told.bytes,
            observations=told.sightings,
            agents=sorted({stop.agent for stop in (*told.there, *told.back)}),
            sessions=sessions,
            aliases=sorted({one["community_id"].decode("ascii") for one in others} - {community_id}),
            names=self._batches.names_of(told.flows),
            lost_packets=told.lost,
            retransmissions=told.sent_again,
            details=details if len(details) <= MOST_DETAILS else b"",
        )

    def _id_of(self, number: int, first_ns: int) -> str:
        return named(number, self._began.setdefault(number, first_ns))

    def _let_go(self, update: Update) -> None:
        for number in update.absorbed:
            if number in self._began:
                gone = self._id_of(number, 0)
                self._unstored.pop(gone, None)
                self._forget.append(gone)
                del self._began[number]
        for number in update.sealed:
            self._began.pop(number, None)
