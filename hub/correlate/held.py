"""The sightings in hand: found by their flow, by their name and by their content.

Later fragments name no flow. They are kept apart, by their datagram, and beside them a copy of each first one; whose
they are is worked out anew whenever it is asked for, so that it doesn't depend on which came first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.correlate.flows import with_fragments
from hub.correlate.sightings import SIGHTING, Rows, joined, mix, runs
from hub.correlate.sorted_runs import SortedRuns
from hub.observe.observations import Layers

MOST_ALIKE = 1_024
"""Times that one content is looked for; shown more often it says nothing of any flow (see translation)."""
FRAGMENTS_SHARE = 8
"""Fragments may be one in so many of all rows."""

_NAMED = np.dtype([("name", "<u8"), ("flow_hash", "<u8")])


@dataclass(frozen=True, slots=True)
class Quiet:
    """How long ago something was seen last. Arrays with an entry per key."""

    key: NDArray[np.uint64]
    """A flow, or a datagram."""
    behind_ns: NDArray[np.int64]
    """The vantage point's latest stamp minus the last of this key, of whichever vantage point is least ahead."""
    rows: NDArray[np.int64]


class Held:
    """Each observation once. Flow 0 is no flow; of what has none, only fragments are kept."""

    def __init__(self) -> None:
        self._rows = SortedRuns(SIGHTING, "flow_hash")
        self._fragments = SortedRuns(SIGHTING, "datagram")
        self._observations = SortedRuns(_NAMED, "name")
        self._contents = SortedRuns(_NAMED, "name")

    def __len__(self) -> int:
        return len(self._observations)

    def unknown(self, rows: Rows) -> Rows:
        """Those that aren't here already and can be of use: a batch is delivered again, or read out of the store."""
        useful = (rows["flow_hash"] != 0) | _is_later(rows)
        rows = rows[useful]
        return rows[~self._observations.holds(_observation(rows))] if len(rows) else rows

    def add(self, rows: Rows) -> None:
        """Take in what `unknown` gave."""
        whole = rows["flow_hash"] != 0
        self._rows.add(rows[whole])
        self._fragments.add(rows[_is_fragment(rows)])
        self._observations.add(_named(_observation(rows), rows))
        self._contents.add(contents_of(rows))

    def of(self, flows: NDArray[np.uint64]) -> Rows:
        """All rows of these flows (each once), later fragments among them given their flow; in no order."""
        rows = self._rows.of(flows)
        cut = rows["datagram"][_is_fragment(rows)]
        if not len(cut):
            return rows
        fragments = self._fragments.of(np.unique(cut))
        assigned = with_fragments(fragments)
        theirs = (fragments["flow_hash"] == 0) & np.isin(assigned["flow_hash"], flows)
        return joined([rows, assigned[theirs]])

    def flows_of_fragments(self, rows: Rows) -> NDArray[np.uint64]:
        """Flows to which these rows' datagrams may belong."""
        datagrams = np.unique(rows["datagram"][_is_fragment(rows)])
        if not len(datagrams):
            return datagrams
        found = np.unique(self._fragments.of(datagrams)["flow_hash"])
        return np.asarray(found[found != 0])

    def alike(self, hashes: NDArray[np.uint64]) -> NDArray[np.void]:
        """(name, flow_hash): in which flows each of these contents is, sorted, each once.

        What was shown more than MOST_ALIKE times is left out.
        """
        few = self._contents.counts(hashes) <= MOST_ALIKE
        return distinct(self._contents.of(hashes[few]))

    def remove(self, flows: NDArray[np.uint64]) -> None:
        """Let go of these flows (each once)."""
        rows = self._rows.of(flows)
        self._rows.remove(flows)
        self._observations.remove(_observation(rows))
        contents = np.unique(rows["nat_hash"])
        self._contents.remove(contents, lambda named: np.isin(named["flow_hash"], flows))

    def quiet(self, latest_ns: NDArray[np.int64]) -> Quiet:
        """Of each flow. latest_ns: of each vantage point."""
        return _quiet(self._rows, "flow_hash", latest_ns)

    def settle_fragments(self, latest_ns: NDArray[np.int64], idle_ns: int, most: int) -> int:
        """Give fragments that nothing more is expected for to their flows for good, or let them go: how many are gone.

        An identification comes round after 65,536 datagrams: one that was idle is another datagram's next time.
        most: fragments that may stay, the latest of them.
        """
        if not len(self._fragments):
            return 0
        quiet = _quiet(self._fragments, "datagram", latest_ns)
        leaving = quiet.behind_ns > idle_ns
        if len(self._fragments) > most:
            order = np.argsort(quiet.behind_ns, kind="stable")
            leaving[order[np.cumsum(quiet.rows[order]) > most - most // 8]] = True
        datagrams = quiet.key[leaving]
        fragments = self._fragments.of(datagrams)
        assigned = with_fragments(fragments)
        self._fragments.remove(datagrams)
        later = fragments["flow_hash"] == 0
        settled = assigned[later & (assigned["flow_hash"] != 0)]
        kept = settled[self._rows.holds(settled["flow_hash"])]
        self._rows.add(kept)
        gone = later & ~np.isin(_observation(fragments), _observation(kept))
        self._observations.remove(_observation(fragments[gone]))
        return int(gone.sum())


def contents_of(rows: Rows) -> NDArray[np.void]:
    """(name, flow_hash) of what these rows carry, sorted, each once."""
    speaking = (rows["nat_hash"] != 0) & (rows["flow_hash"] != 0)
    return distinct(_named(rows["nat_hash"], rows)[speaking])


def distinct(named: NDArray[np.void]) -> NDArray[np.void]:
    """Sorted by name and flow, each once."""
    named = named[np.lexsort((named["flow_hash"], named["name"]))]
    only: NDArray[np.void] = named[runs(named["name"], named["flow_hash"])]
    return only


def _named(names: NDArray[np.uint64], rows: Rows) -> NDArray[np.void]:
    named = np.zeros(len(rows), _NAMED)
    named["name"], named["flow_hash"] = names, rows["flow_hash"]
    return named


def _observation(rows: Rows) -> NDArray[np.uint64]:
    return mix(rows["batch"], rows["index"].astype(np.uint64))


def _is_fragment(rows: Rows) -> NDArray[np.bool_]:
    return np.asarray(((rows["layers"] & Layers.FRAGMENT) != 0) & (rows["datagram"] != 0))


def _is_later(rows: Rows) -> NDArray[np.bool_]:
    return np.asarray(_is_fragment(rows) & (rows["flow_hash"] == 0))


def _quiet(held: SortedRuns, key: str, latest_ns: NDArray[np.int64]) -> Quiet:
    parts = []
    for rows in held.parts():
        if not len(rows):
            continue
        keys = rows[key]
        begins = runs(keys)
        behind = latest_ns[rows["vantage"]] - rows["timestamp_ns"]
        count = np.diff(np.append(begins, len(rows)))
        parts.append((keys[begins], np.minimum.reduceat(behind, begins), count))
    if not parts:
        none = np.zeros(0, np.int64)
        return Quiet(none.astype(np.uint64), none, none)
    found, nearest, size = (np.concatenate(column) for column in zip(*parts, strict=True))
    key_of, number = np.unique(found, return_inverse=True)
    behind_ns = np.full(len(key_of), 2**62)
    np.minimum.at(behind_ns, number, nearest)
    return Quiet(key_of, behind_ns, np.bincount(number, weights=size).astype(np.int64))
