"""Records that are found by a key without looking at the others, while new ones come all the time.

Additions are sorted runs, and runs of about one size are merged into one, as in a log-structured merge tree (P. O'Neil,
E. Cheng, D. Gawlick, E. O'Neil: The Log-Structured Merge-Tree, Acta Informatica 33, 1996). So a record is copied a few
times in its life, however many are held, and a question is a binary search in each of a few runs. What is let go is
marked, and left out when its run is merged or is more than half empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.correlate.sightings import runs, spans

Records = NDArray[np.void]
"""A structured array."""

FAN = 4
"""Runs of one size that are merged."""


class SortedRuns:
    """Records of one structured type, by one of its fields, an unsigned number of 64 bits."""

    def __init__(self, kind: np.dtype[Any], key: str) -> None:
        self._kind, self._key = kind, key
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.records) - run.gone for run in self._runs)

    def add(self, records: Records) -> None:
        """Take these; nothing is found to be there already."""
        if not len(records):
            return
        self._runs.append(_Run(records, self._key))
        while True:
            size = self._runs[-1].tier
            first = len(self._runs)
            while first and self._runs[first - 1].tier <= size:
                first -= 1
            if len(self._runs) - first < FAN:
                return
            merged = np.concatenate([run.present() for run in self._runs[first:]])
            self._runs[first:] = [_Run(merged, self._key)] if len(merged) else []
            if not len(merged):
                return

    def of(self, keys: NDArray[np.uint64]) -> Records:
        """All records with one of these keys (each key once)."""
        found = [run.records[run.at(keys)] for run in self._runs]
        return np.concatenate(found) if found else np.zeros(0, self._kind)

    def counts(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """How many records each key has at most: some that were let go may be among them."""
        total = np.zeros(len(keys), np.int64)
        for run in self._runs:
            begin, end = run.spans_of(keys)
            total += end - begin
        return total

    def holds(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether there is any record with each of these keys. Only where records are removed by their keys alone."""
        held = np.zeros(len(keys), np.bool_)
        for run in self._runs:
            begin, end = run.spans_of(keys)
            held |= (end > begin) & run.kept[np.minimum(begin, len(run.kept) - 1)]
        return held

    def remove(
        self, keys: NDArray[np.uint64], only: Callable[[Records], NDArray[np.bool_]] | None = None
    ) -> None:
        """Let go of all records with these keys, or of those among them that `only` picks."""
        for number, run in enumerate(self._runs):
            at = run.at(keys)
            if only is not None:
                at = at[only(run.records[at])]
            run.kept[at] = False
            run.gone += len(at)
            if run.gone * 2 > len(run.records):
                self._runs[number] = _Run(run.present(), self._key)
        self._runs = [run for run in self._runs if len(run.records)]

    def parts(self) -> Iterator[Records]:
        """All records, in parts that are sorted by their keys."""
        for run in self._runs:
            yield run.present()

    def everything(self) -> Records:
        """All records, in no order."""
        found = list(self.parts())
        return np.concatenate(found) if found else np.zeros(0, self._kind)


class _Run:
    def __init__(self, records: Records, key: str) -> None:
        column = np.ascontiguousarray(records[key])
        order = np.argsort(column, kind="stable")
        self.records: Records = records[order]
        column = column[order]
        begins = runs(column)
        self.keys = column[begins]
        self.begins = np.append(begins, len(records))
        self.kept = np.ones(len(records), np.bool_)
        self.gone = 0
        self.tier = max(1, len(records)).bit_length() // 2

    def present(self) -> Records:
        kept: Records = self.records[self.kept] if self.gone else self.records
        return kept

    def spans_of(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where each key's records begin and end."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        there = self.keys[at] == keys
        begin = np.where(there, self.begins[at], 0)
        return begin, np.where(there, self.begins[at + 1], 0)

    def at(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Indices of what is there."""
        index = spans(*self.spans_of(keys))
        return index[self.kept[index]] if self.gone else index
