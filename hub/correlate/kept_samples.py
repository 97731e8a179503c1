"""The pairs that bound clocks, kept by conversation: one that is evaluated anew brings all of its pairs anew.

Those of a conversation that is sealed stay without it. Of them only the smallest gaps are kept, of each pair of clocks
and stretch of time, since these alone make bounds (clock_constraints).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hub.correlate.clock_constraints import SUPPORT, WINDOW_NS
from hub.correlate.clock_samples import Samples
from hub.correlate.sightings import run_numbers, runs
from hub.correlate.sorted_runs import SortedRuns

_SAMPLE = np.dtype(
    [
        ("owner", "<u8"),
        ("time_ns", "<i8"),
        ("gap_ns", "<i8"),
        ("before", "<u4"),
        ("after", "<u4"),
        ("ordered", "?"),
    ]
)
_STRETCH_NS = WINDOW_NS // 4
"""Of raw time: windows begin anywhere in it."""
_SMALLEST = 2 * SUPPORT
_LEAST = 65_536


class KeptSamples:
    """Bounded by `most`, beyond which the oldest go."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = SortedRuns(_SAMPLE, "owner")
        self._settled = np.zeros(0, _SAMPLE)
        self._settling: list[NDArray[np.void]] = []
        self._thinned = 0
        self.dropped = 0

    def replace(
        self, owners: NDArray[np.uint64], samples: list[Samples], owner_of: list[NDArray[np.uint64]]
    ) -> None:
        """All that these conversations have, in place of what they had."""
        self._open.remove(owners)
        for some, owner in zip(samples, owner_of, strict=True):
            rows = np.zeros(len(some), _SAMPLE)
            rows["owner"] = owner
            for name in ("time_ns", "gap_ns", "before", "after", "ordered"):
                rows[name] = getattr(some, name)
            self._open.add(rows)

    def settle(self, owners: NDArray[np.uint64]) -> None:
        """These conversations bring no others."""
        self._settling.append(self._open.of(owners))
        self._open.remove(owners)
        if len(self._settled) + sum(map(len, self._settling)) > 2 * self._thinned + _LEAST:
            self._thin()

    def everything(self) -> Samples:
        """All, in no order."""
        rows = np.concatenate([self._settled, *self._settling, self._open.everything()])
        if len(rows) > self._most:
            latest = np.argpartition(rows["time_ns"], len(rows) - self._most)[len(rows) - self._most :]
            rows = rows[latest]
        return Samples(
            rows["before"].astype(np.intp),
            rows["after"].astype(np.intp),
            rows["time_ns"].copy(),
            rows["gap_ns"].copy(),
            rows["ordered"].copy(),
        )

    def _thin(self) -> None:
        rows = np.concatenate([self._settled, *self._settling])
        self._settling = []
        edge = rows["before"].astype(np.uint64) << np.uint64(33) | rows["after"].astype(
            np.uint64
        ) << np.uint64(1)
        edge |= rows["ordered"]
        stretch = rows["time_ns"] // _STRETCH_NS
        order = np.lexsort((rows["gap_ns"], stretch, edge))
        begins = runs(edge[order], stretch[order])
        within = np.arange(len(order)) - begins[run_numbers(len(order), begins)]
        rows = rows[order[within < _SMALLEST]]
        if len(rows) > self._most // 2:
            self.dropped += len(rows) - self._most // 2
            rows = rows[np.argsort(rows["time_ns"], kind="stable")[-(self._most // 2) :]]
        self._settled, self._thinned = rows, len(rows)
