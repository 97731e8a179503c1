"""What is kept between batches: sightings, until their conversations have been quiet for long enough.

Nothing is worked out in advance: conversations that got new sightings are evaluated anew, as a whole, by a function of
the set of their rows. So the order in which batches come makes no difference, a batch that comes twice is one, and the
state is the rows: it is written out as they are and built again from stored observations by adding them again.

An update costs what it is about, not what is held: rows are found by flow (held), joins are judged where new packets
can change them (pairing), pairs of sightings are kept by conversation (kept_samples). A conversation is evaluated when
it has grown by half; and of those that have grown by less, an update evaluates as many rows as came new, those that
waited longest first. So all evaluations together cost a small multiple of the last one.

Rows are bounded: what is idle longest goes first (its last evaluation is given out as `sealed`). All rows are looked
through for that each time the clocks have gone on by an eighth of what counts as idle, or an eighth of all rows is new.
Sightings that come for a sealed conversation open it again; `reopened` names it, and adding its stored observations
makes it whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hub.correlate.clock_estimate import Offsets, estimate_offsets
from hub.correlate.clock_samples import Samples
from hub.correlate.conversations import Conversations, evaluate
from hub.correlate.flows import FLOW, Flows, find, united
from hub.correlate.held import FRAGMENTS_SHARE, Held
from hub.correlate.kept_samples import KeptSamples
from hub.correlate.pairing import Pairing
from hub.correlate.sightings import MAX_VANTAGES, Rows, Vantage, in_order, joined
from hub.correlate.translation import Joins, conversation_of

IDLE_NS = 120_000_000_000
MOST_ROWS = 1_000_000
"""150 bytes each, with what finds them."""
MOST_SEALED = 100_000
"""Ids of sealed conversations that are remembered."""
MOST_SAMPLES = 2_000_000
GROWTH = 2
"""A conversation is evaluated when it has grown by one in so many."""
LEAST = 2_000
"""Rows of conversations that have grown by less, for which there is always time."""
SLACK = 8
"""Rows are looked through for what is idle when one part in so many is new; then as much is made free."""


@dataclass(frozen=True, slots=True)
class Update:
    """What came of `update`."""

    conversations: list[Conversations]
    """Evaluated anew, one per partition that had any."""
    sealed: list[int]
    """Ids of conversations, among the above, that were evaluated for the last time and forgotten."""
    absorbed: dict[int, int]
    """Ids that are no conversations any more → the conversation that they turned out to be a part of."""
    reopened: list[int]
    """Flows that got sightings after they were sealed."""
    joins: Joins
    """All that are known."""


@dataclass(slots=True)
class _Known:
    """Of a conversation since its last evaluation."""

    rows: int
    """At that time."""
    waited: int = 0
    """Updates since it got something new."""


@dataclass(slots=True)
class _Work:
    """Of one update."""

    done: list[Conversations] = field(default_factory=list)
    absorbed: dict[int, int] = field(default_factory=dict)


class Correlator:
    """Takes sightings in any order. Not thread-safe: one thread calls it."""

    def __init__(self, *, partitions: int = 1, idle_ns: int = IDLE_NS, most_rows: int = MOST_ROWS) -> None:
        """partitions: conversations are evaluated in so many independent parts, with the same result."""
        self.vantages: list[Vantage] = []
        self._partitions, self._idle_ns, self._most_rows = partitions, idle_ns, most_rows
        self._held = Held()
        self._pairing = Pairing()
        self._new: list[Rows] = []
        self._flows: Flows = np.zeros(0, FLOW)
        self._new_flows: list[Flows] = []
        self._fresh_rows = 0
        self._known: dict[int, _Known] = {}  # by id
        self._of_flow: dict[int, int] = {}  # flow → id at its last evaluation
        self._touched: dict[int, int] = {}  # flow → rows since then
        self._samples = KeptSamples(MOST_SAMPLES)
        self._sealed: OrderedDict[int, None] = OrderedDict()
        self._watching: NDArray[np.int64] = np.zeros((0, 2), np.int64)
        self._looked: NDArray[np.int64] = np.zeros(
            0, np.int64
        )  # latest stamps when idle ones were looked for
        self.dropped_vantages = 0
        """Vantage points beyond what rows can name."""
        self.dropped_fragments = 0
        """Of datagrams whose first fragment nobody saw."""

    # What comes in

    def vantage(self, agent: str, interface: str, clock: int) -> int | None:
        """The number of a vantage point, a new one if need be; None: there are too many. clock: see Vantage."""
        wanted = Vantage(clock, agent, interface)
        if wanted in self.vantages:
            return self.vantages.index(wanted)
        if len(self.vantages) >= MAX_VANTAGES:
            self.dropped_vantages += 1
            return None
        self.vantages.append(wanted)
        nobody = np.array([[2**62, -(2**62)]])
        self._watching = np.concatenate([self._watching, nobody])
        self._looked = np.append(self._looked, -(2**62))
        return len(self.vantages) - 1

    def add(self, rows: Rows, flows: Flows) -> None:
        """Sightings of vantage points that `vantage` named, and the flows they are of."""
        if not len(rows):
            return
        self._new.append(rows)
        self._new_flows.append(flows)
        np.minimum.at(self._watching[:, 0], rows["vantage"], rows["timestamp_ns"])
        np.maximum.at(self._watching[:, 1], rows["vantage"], rows["timestamp_ns"])

    # What comes out

    @property
    def flows(self) -> Flows:
        """All flows that are kept."""
        return self._flows

    @property
    def held_rows(self) -> int:
        """How many sightings are kept."""
        return len(self._held)

    @property
    def dropped_samples(self) -> int:
        """Pairs beyond what is kept of sealed conversations, the oldest."""
        return self._samples.dropped

    def update(self, *, final: bool = False) -> Update:
        """Evaluate what is new, and seal what is idle. final: everything, however little has changed."""
        reopened = self._take_in()
        ready = self._ready(final)
        changed = self._pairing.judge(self._held, self._flows, lambda flow: self._id(flow) in ready)
        due = [flow for flow in self._touched if self._id(flow) in ready]
        work = _Work()
        self._evaluate([*due, *changed.tolist(), *(self._of_flow if final else ())], work)
        idle = self._idle(final)
        if idle and not final:
            self._evaluate([flow for flow, id_ in self._of_flow.items() if id_ in idle], work)
        self._seal(idle)
        return Update(work.done, sorted(idle), work.absorbed, reopened, self._pairing.joins)

    def offsets(self, anchor: int | None = None, measured: Samples | None = None) -> Offsets:
        """The clocks, by all pairs so far. anchor: a clock; None: the one that shares most.

        measured: what else bounds them (clock_reports.round_trips).
        """
        samples = self._samples.everything()
        if measured is not None:
            samples = Samples.joined([samples, measured])
        clocks = [one.clock for one in self.vantages]
        if len(samples):
            clocks += [int(samples.before.max()), int(samples.after.max())]
        return estimate_offsets(samples, 1 + max(clocks, default=-1), anchor)

    # Within

    def _id(self, flow: int) -> int:
        return self._of_flow.get(flow, flow)

    def _take_in(self) -> list[int]:
        """What is new into what is held; flows that were sealed."""
        self._fresh_rows = 0
        if not self._new:
            return []
        fresh = self._held.unknown(in_order(joined(self._new)))
        new = united(*self._new_flows)
        new = new[np.isin(new["flow_hash"], fresh["flow_hash"]) & (find(self._flows, new["flow_hash"]) < 0)]
        if len(new):
            self._flows = united(self._flows, new)
        self._new, self._new_flows = [], []
        self._fresh_rows = len(fresh)
        self._pairing.note(fresh, self._held)
        self._held.add(fresh)
        flows, counts = np.unique(fresh["flow_hash"], return_counts=True)
        for flow, count in zip(flows.tolist(), counts.tolist(), strict=True):
            if flow:
                self._touched[flow] = self._touched.get(flow, 0) + count
        for flow in self._held.flows_of_fragments(fresh).tolist():
            self._touched[flow] = self._touched.get(flow, 0) + 1
        reopened = [flow for flow in flows.tolist() if flow in self._sealed]
        for flow in reopened:
            del self._sealed[flow]
        return reopened

    def _ready(self, final: bool) -> set[int]:
        """Ids that got enough new, or have waited long enough for it, to be evaluated."""
        new: dict[int, int] = {}
        for flow, count in self._touched.items():
            id_ = self._id(flow)
            new[id_] = new.get(id_, 0) + count
        ready, waiting = set(), []
        room = left = max(self._fresh_rows, LEAST)
        for id_, count in new.items():
            known = self._known.get(id_)
            if known is None or final or count * GROWTH >= known.rows:
                ready.add(id_)
                continue
            known.waited += 1
            if known.rows <= room:
                waiting.append((-known.waited, id_, known.rows))
            elif known.waited * room >= known.rows:
                ready.add(id_)  # there was never room for it as a whole, but by now for its share
        for _, id_, rows in sorted(waiting):
            left -= rows
            if left < 0:
                break
            ready.add(id_)
        return ready

    def _evaluate(self, flows: Iterable[int], work: _Work) -> None:
        """The conversations that these flows are part of."""
        wanted = np.fromiter(set(flows), np.uint64)
        if not len(wanted):
            return
        whole = self._pairing.component(wanted)
        joins = self._pairing.within(whole)
        rows = in_order(self._held.of(whole))
        lowest, _ = conversation_of(whole, joins)
        at = np.searchsorted(whole, rows["flow_hash"])
        part = (lowest % np.uint64(self._partitions))[at]
        clock_of = np.array([one.clock for one in self.vantages], np.intp)
        done = []
        for number in range(self._partitions):
            mine = rows[part == number]
            if len(mine):
                done.append(evaluate(mine, joins, clock_of, self._watching))
        self._note_evaluated(done, work)

    def _note_evaluated(self, done: list[Conversations], work: _Work) -> None:
        sizes = {
            id_: size
            for found in done
            for id_, size in zip(found.id.tolist(), found.sightings.tolist(), strict=True)
        }
        absorbed: dict[int, int] = {}
        for found in done:
            ids = found.id[found.conversation].tolist()
            for flow, id_ in zip(found.flow.tolist(), ids, strict=True):
                before = self._of_flow.get(flow)
                if before is not None and before not in sizes and before in self._known:
                    absorbed[before] = id_
                self._of_flow[flow] = id_
                self._touched.pop(flow, None)
        for id_ in absorbed:
            del self._known[id_]
        self._known.update((id_, _Known(size)) for id_, size in sizes.items())
        owners = np.fromiter((*sizes, *absorbed), np.uint64)
        self._samples.replace(owners, [one.samples for one in done], [one.sample_of for one in done])
        work.done += done
        work.absorbed |= absorbed

    def _idle(self, final: bool) -> set[int]:
        """Conversations that all clocks have left behind by `idle_ns`, and the quietest while rows are too many.

        Nothing, if it isn't time to look.
        """
        latest = self._watching[:, 1]
        full = len(self._held) > self._most_rows
        if not (final or full or (latest - self._looked > self._idle_ns // SLACK).any()):
            return set()
        self._looked = latest.copy()
        self.dropped_fragments += self._held.settle_fragments(
            latest, self._idle_ns, self._most_rows // FRAGMENTS_SHARE
        )
        quiet = self._held.quiet(latest)
        if not len(quiet.key):
            return set()
        of = np.array([self._id(flow) for flow in quiet.key.tolist()], np.uint64)
        ids, number = np.unique(of, return_inverse=True)
        behind = np.full(len(ids), 2**62)
        np.minimum.at(behind, number, quiet.behind_ns)
        size = np.bincount(number, weights=quiet.rows).astype(np.int64)
        idle = behind > self._idle_ns
        if full:
            order = np.argsort(-behind, kind="stable")
            order = order[~idle[order]]
            over = len(self._held) - int(size[idle].sum()) - (self._most_rows - self._most_rows // SLACK)
            if over > 0:
                idle[order[: int(np.searchsorted(np.cumsum(size[order]), over)) + 1]] = True
        return set(ids[idle].tolist())

    def _seal(self, idle: set[int]) -> None:
        if not idle:
            return
        flows = [flow for flow, id_ in self._of_flow.items() if id_ in idle]
        for flow in flows:
            self._sealed[flow] = None
            del self._of_flow[flow]
        while len(self._sealed) > MOST_SEALED:
            self._sealed.popitem(last=False)
        for id_ in idle:
            self._known.pop(id_, None)
        leaving = np.array(sorted(flows), np.uint64)
        self._held.remove(leaving)
        self._pairing.forget(leaving)
        self._samples.settle(np.array(sorted(idle), np.uint64))
        self._flows = self._flows[~np.isin(self._flows["flow_hash"], leaving)]
