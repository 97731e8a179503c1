"""Which flows are joined by translation, kept up to date: only pairs that new packets can speak for are judged again.

A new packet can change the pairs among the flows that have its content, and no others. For these flows all packets
that share a content with another flow are looked at; so what is known is what `find_joins` would say of all rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hub.correlate.flows import Flows
from hub.correlate.held import Held, contents_of, distinct
from hub.correlate.sightings import Rows, in_order, joined, mix, runs, spans
from hub.correlate.translation import CANDIDATE, MOST_STEPS, Joins, candidates_of, joins_of


class Pairing:
    """`note` what comes, `judge` the pairs, `forget` what goes."""

    def __init__(self) -> None:
        self._candidates = np.zeros(0, CANDIDATE)
        self._asked: set[int] = set()  # flows whose pairs may have changed
        self._gone: set[int] = set()  # flows of candidates that are forgotten: they stay rivals
        self._take(joins_of(self._candidates))

    @property
    def joins(self) -> Joins:
        """All."""
        return self._joins

    def note(self, fresh: Rows, held: Held) -> None:
        """Sightings that are about to be held."""
        new = contents_of(fresh)
        if not len(new):
            return
        old = held.alike(new["name"][runs(new["name"])])
        names, number = np.unique(np.concatenate([old["name"], new["name"]]), return_inverse=True)
        before = np.bincount(number[: len(old)], minlength=len(names))
        both = distinct(np.concatenate([old, new]))
        at = np.searchsorted(names, both["name"])
        after = np.bincount(at, minlength=len(names))
        changed = ((before > 1) & (before <= MOST_STEPS)) | ((after > 1) & (after <= MOST_STEPS))
        flows = np.unique(both["flow_hash"][changed[at]]).tolist()
        self._asked.update(flows)
        self._gone.difference_update(np.unique(new["flow_hash"]).tolist() if self._gone else ())

    def judge(self, held: Held, flows: Flows, ready: Callable[[int], bool]) -> NDArray[np.uint64]:
        """Look at the pairs of flows that are ready; the others wait. Flows whose joins are others now, or surer."""
        asked = [flow for flow in self._asked if ready(flow)]
        none = np.zeros(0, np.uint64)
        if not asked:
            return none
        self._asked.difference_update(asked)
        mine = np.array(sorted(asked), np.uint64)
        found = self._candidates_with(mine, held, flows)
        known = self._candidates
        stale = np.isin(known["low"], mine) | np.isin(known["high"], mine)
        if self._gone:
            gone = np.array(sorted(self._gone), np.uint64)
            stale &= ~(np.isin(known["low"], gone) | np.isin(known["high"], gone))
        if not len(found) and not stale.any():
            return none
        self._candidates = np.concatenate([known[~stale], found])
        before = self._joins
        self._take(joins_of(self._candidates))
        return _differing(before, self._joins)

    def component(self, flows: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """These flows and all that joins lead to, sorted."""
        reached = frontier = np.unique(flows)
        while len(frontier):
            begin = np.searchsorted(self._from, frontier)
            end = np.searchsorted(self._from, frontier, side="right")
            frontier = np.setdiff1d(self._to[spans(begin, end)], reached)
            reached = np.union1d(reached, frontier)
        return reached

    def within(self, flows: NDArray[np.uint64]) -> Joins:
        """The joins of these flows (sorted, with all that joins lead to)."""
        begin = np.searchsorted(self._from, flows)
        end = np.searchsorted(self._from, flows, side="right")
        at = np.unique(self._join[spans(begin, end)])
        known = self._joins
        return Joins(known.near[at], known.far[at], known.turned[at], known.confidence[at], known.votes[at])

    def forget(self, flows: NDArray[np.uint64]) -> None:
        """These are held no more."""
        self._asked.difference_update(flows.tolist())
        known = self._candidates
        paired = np.union1d(known["low"], known["high"])
        self._gone.update(np.intersect1d(paired, flows).tolist())
        if not self._gone:
            return
        gone = np.array(sorted(self._gone), np.uint64)
        over = np.isin(known["low"], gone) & np.isin(known["high"], gone)
        if over.any():
            self._candidates = known[~over]
            left = np.union1d(self._candidates["low"], self._candidates["high"])
            self._gone.intersection_update(left.tolist())
            self._take(joins_of(self._candidates))

    def _candidates_with(self, mine: NDArray[np.uint64], held: Held, flows: Flows) -> NDArray[np.void]:
        """All candidates that one of these flows is part of."""
        rows = held.of(mine)
        contents = np.unique(rows["nat_hash"])
        alike = held.alike(contents[contents != 0])
        begins = runs(alike["name"])
        count = np.diff(np.append(begins, len(alike)))
        telling = (count > 1) & (count <= MOST_STEPS)
        names = alike["name"][begins[telling]]
        others = np.setdiff1d(alike["flow_hash"][np.repeat(telling, count)], mine)
        rows = joined([rows, held.of(others)])
        rows = rows[np.isin(rows["nat_hash"], names)]
        found = candidates_of(in_order(rows), flows)
        whole: NDArray[np.void] = found[np.isin(found["low"], mine) | np.isin(found["high"], mine)]
        return whole

    def _take(self, joins: Joins) -> None:
        self._joins = joins
        ends = np.concatenate([joins.near, joins.far])
        order = np.argsort(ends, kind="stable")
        self._from, self._to = ends[order], np.concatenate([joins.far, joins.near])[order]
        self._join = order % max(1, len(joins))


def _differing(one: Joins, other: Joins) -> NDArray[np.uint64]:
    names = [
        mix(joins.near, joins.far, joins.turned.astype(np.uint64) * np.uint64(4) + joins.confidence)
        for joins in (one, other)
    ]
    changed = [
        ends[~np.isin(name, against)]
        for joins, name, against in ((one, names[0], names[1]), (other, names[1], names[0]))
        for ends in (joins.near, joins.far)
    ]
    return np.unique(np.concatenate(changed))
