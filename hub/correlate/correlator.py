"""What is kept between batches: sightings, until their conversations have been quiet for long enough.

Nothing is worked out in advance: conversations that got new sightings are evaluated anew, as a whole, by a function of
the set of their rows. So the order in which batches come makes no difference, a batch that comes twice is one, and the
state is the rows: it is written out as they are and built again from stored observations by adding them again.

A large conversation is evaluated when it has grown by a quarter, so that all evaluations together cost a small multiple
of the last one. Rows are bounded: what is idle longest goes first (its last evaluation is given out as `sealed`).
Sightings that come for a sealed conversation open it again; `reopened` names it, and adding its stored observations
makes it whole.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.correlate.clock_estimate import Offsets, estimate_offsets
from hub.correlate.clock_samples import Samples
from hub.correlate.conversations import Conversations, evaluate
from hub.correlate.flows import FLOW, Flows, united, with_fragments
from hub.correlate.sightings import MAX_VANTAGES, SIGHTING, Rows, Vantage, in_order, joined, mix
from hub.correlate.translation import Joins, conversation_of, find_joins
from hub.observe.observations import Layers

IDLE_NS = 120_000_000_000
MOST_ROWS = 1_000_000
"""104 bytes each."""
MOST_SEALED = 100_000
"""Ids of sealed conversations that are remembered."""
MOST_SAMPLES = 2_000_000
GROWTH = 4
"""A conversation of more than SMALL rows is evaluated when it has grown by one in so many."""
SMALL = 2_000


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


class Correlator:
    """Takes sightings in any order. Not thread-safe: one thread calls it."""

    def __init__(self, *, partitions: int = 1, idle_ns: int = IDLE_NS, most_rows: int = MOST_ROWS) -> None:
        """partitions: conversations are evaluated in so many independent parts, with the same result."""
        self.vantages: list[Vantage] = []
        self._partitions, self._idle_ns, self._most_rows = partitions, idle_ns, most_rows
        self._rows: Rows = np.zeros(0, SIGHTING)
        self._keys: NDArray[np.uint64] = np.zeros(0, np.uint64)  # of the observations among them, sorted
        self._new: list[Rows] = []
        self._flows: Flows = np.zeros(0, FLOW)
        self._new_flows: list[Flows] = []
        self._evaluated: dict[int, int] = {}  # id → rows at its last evaluation
        self._of_flow: dict[int, int] = {}  # flow → id at its last evaluation
        self._samples = Samples.joined([])
        self._sample_of: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._sealed: OrderedDict[int, None] = OrderedDict()
        self._watching: NDArray[np.int64] = np.zeros((0, 2), np.int64)
        self.dropped_vantages = 0
        """Vantage points beyond what rows can name."""
        self.dropped_samples = 0
        """Pairs beyond MOST_SAMPLES, the oldest."""

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

    def update(self, *, final: bool = False) -> Update:
        """Evaluate what is new, and seal what is idle. final: everything, however little has changed."""
        fresh = self._not_known(in_order(joined(self._new)))
        self._new = []
        if self._new_flows:
            self._flows = united(self._flows, *self._new_flows)
            self._new_flows = []
        reopened = self._note_reopened(fresh)
        self._rows = rows = with_fragments(joined([self._rows, fresh]) if len(fresh) else self._rows)
        joins = find_joins(rows, self._flows)
        flows, of_row, counts = np.unique(rows["flow_hash"], return_inverse=True, return_counts=True)
        if len(flows) and flows[0] == 0:  # fragments whose flow isn't known yet
            flows, of_row, counts = flows[1:], of_row - 1, counts[1:]
        lowest, _ = conversation_of(flows, joins)
        sizes: dict[int, int] = {}
        for id_, count in zip(lowest.tolist(), counts.tolist(), strict=True):
            sizes[id_] = sizes.get(id_, 0) + count
        due = {id_ for id_, size in sizes.items() if self._is_due(id_, size, final)}
        idle = self._idle(rows, of_row, lowest)
        done = self._evaluate(rows, of_row, lowest, due | idle, joins)
        absorbed = self._absorb(flows, lowest, due | idle)
        for id_ in due | idle:
            self._evaluated[id_] = sizes[id_]
        sealed = self._seal(flows, lowest, idle)
        return Update(done, sealed, absorbed, reopened, joins)

    def offsets(self, anchor: int | None = None, measured: Samples | None = None) -> Offsets:
        """The clocks, by all pairs so far. anchor: a clock; None: the one that shares most.

        measured: what else bounds them (clock_reports.round_trips).
        """
        samples = self._samples if measured is None else Samples.joined([self._samples, measured])
        clocks = [one.clock for one in self.vantages]
        if len(samples):
            clocks += [int(samples.before.max()), int(samples.after.max())]
        return estimate_offsets(samples, 1 + max(clocks, default=-1), anchor)

    # Within

    def _not_known(self, fresh: Rows) -> Rows:
        """Those that aren't here already: a batch is delivered again, or read out of the store."""
        key = mix(fresh["batch"], fresh["index"].astype(np.uint64))
        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
            new = self._keys[at] != key
            fresh, key = fresh[new], key[new]
        self._keys = np.sort(np.concatenate([self._keys, key]), kind="stable")
        return fresh

    def _is_due(self, id_: int, size: int, final: bool) -> bool:
        before = self._evaluated.get(id_)
        if before is None or final:
            return True
        return size != before and (size <= SMALL or size * GROWTH >= before * (GROWTH + 1))

    def _evaluate(
        self,
        rows: Rows,
        of_row: NDArray[np.intp],
        lowest: NDArray[np.uint64],
        wanted: set[int],
        joins: Joins,
    ) -> list[Conversations]:
        if not wanted:
            return []
        ids = np.array(sorted(wanted), np.uint64)
        chosen = np.isin(lowest, ids)
        part = np.where(chosen, (lowest % np.uint64(self._partitions)).astype(np.intp), -1)
        part = np.append(part, -1)[of_row]
        clock_of = np.array([one.clock for one in self.vantages], np.intp)
        done = []
        for number in range(self._partitions):
            mine = in_order(rows[part == number])
            if len(mine):
                done.append(evaluate(mine, joins, clock_of, self._watching))
        self._replace_samples(ids, done)
        return done

    def _replace_samples(self, ids: NDArray[np.uint64], done: list[Conversations]) -> None:
        kept = ~np.isin(self._sample_of, ids)
        samples = Samples.joined([self._samples.taken(kept), *[one.samples for one in done]])
        owner = np.concatenate([self._sample_of[kept], *[one.sample_of for one in done]])
        if len(samples) > MOST_SAMPLES:
            latest = np.argsort(samples.time_ns, kind="stable")[-MOST_SAMPLES:]
            self.dropped_samples += len(samples) - MOST_SAMPLES
            samples, owner = samples.taken(latest), owner[latest]
        self._samples, self._sample_of = samples, owner

    def _absorb(
        self, flows: NDArray[np.uint64], lowest: NDArray[np.uint64], done: set[int]
    ) -> dict[int, int]:
        absorbed = {}
        for flow, id_ in zip(flows.tolist(), lowest.tolist(), strict=True):
            if id_ not in done:
                continue
            before = self._of_flow.get(flow)
            if before is not None and before != id_ and before in self._evaluated:
                absorbed[before] = id_
                del self._evaluated[before]
            self._of_flow[flow] = id_
        gone = np.array(sorted(absorbed), np.uint64)
        if len(gone):
            kept = ~np.isin(self._sample_of, gone)
            self._samples, self._sample_of = self._samples.taken(kept), self._sample_of[kept]
        return absorbed

    def _idle(self, rows: Rows, of_row: NDArray[np.intp], lowest: NDArray[np.uint64]) -> set[int]:
        """Conversations that all clocks have left behind by `idle_ns`, and the quietest while rows are too many."""
        if not len(lowest):
            return set()
        behind = self._watching[:, 1][rows["vantage"]] - rows["timestamp_ns"]
        flowing = of_row >= 0
        of_flow, behind = of_row[flowing], behind[flowing]
        ids, number = np.unique(lowest, return_inverse=True)
        quiet = np.full(len(ids), 2**62)
        np.minimum.at(quiet, number[of_flow], behind)
        idle = quiet > self._idle_ns
        size = np.bincount(number[of_flow], minlength=len(ids))
        over = int(size[~idle].sum()) - self._most_rows
        if over > 0:
            order = np.argsort(-quiet, kind="stable")
            order = order[~idle[order]]
            idle[order[: int(np.searchsorted(np.cumsum(size[order]), over)) + 1]] = True
        return set(ids[idle].tolist())

    def _seal(self, flows: NDArray[np.uint64], lowest: NDArray[np.uint64], idle: set[int]) -> list[int]:
        lost = (self._rows["flow_hash"] == 0) & ~self._awaited(self._rows)
        if lost.any():
            self._keep(~lost)
        if not idle:
            return []
        leaving = flows[np.isin(lowest, np.array(sorted(idle), np.uint64))]
        for flow in leaving.tolist():
            self._sealed[flow] = None
            self._of_flow.pop(flow, None)
        while len(self._sealed) > MOST_SEALED:
            self._sealed.popitem(last=False)
        for id_ in idle:
            self._evaluated.pop(id_, None)
        self._keep(~np.isin(self._rows["flow_hash"], leaving))
        self._flows = self._flows[~np.isin(self._flows["flow_hash"], leaving)]
        return sorted(idle)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self._rows = self._rows[kept]
        self._keys = np.sort(mix(self._rows["batch"], self._rows["index"].astype(np.uint64)))

    def _awaited(self, rows: Rows) -> NDArray[np.bool_]:
        """Later fragments whose first may still come."""
        recent = self._watching[:, 1][rows["vantage"]] - rows["timestamp_ns"] < self._idle_ns
        return np.asarray(((rows["layers"] & Layers.FRAGMENT) != 0) & (rows["datagram"] != 0) & recent)

    def _note_reopened(self, fresh: Rows) -> list[int]:
        if not self._sealed or not len(fresh):
            return []
        found = [flow for flow in np.unique(fresh["flow_hash"]).tolist() if flow in self._sealed]
        for flow in found:
            del self._sealed[flow]
        return found
