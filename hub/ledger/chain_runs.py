"""The sequences of one chain as a few runs, whatever order batches come in.

A run is a stretch of sequences whose every link was verified: `previous` is what its first header names, `head` the
hash that a successor must name. Two runs of the same kind that touch and link become one, so an intact chain of a
million batches is one run. What is wrong with a chain is read off its runs: a hole is a gap, two runs that touch and
don't link are a broken link.

`kept` runs hold batches that are in the archive; the others stand for batches that a tombstone declared dropped.
A kept batch inside a declared run (it had been stored before the agent gave it up) takes its place.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

MAX_RUNS = 4096
"""Per chain. An honest chain needs a handful; more is an agent that scatters its sequences on purpose."""


class TooScattered(Exception):
    """A chain with more than MAX_RUNS runs."""


@dataclass(slots=True)
class Run:
    """Sequences first … last, all of one kind, linked."""

    first: int
    last: int
    kept: bool
    previous: bytes
    head: bytes


Outcome = Literal["new", "duplicate", "recovered"]


class Runs:
    """The runs of one chain, disjoint and in order."""

    def __init__(self, runs: list[Run] | None = None) -> None:
        self.runs = runs or []
        self._firsts = [run.first for run in self.runs]

    def _at(self, sequence: int) -> int:
        """The index of the run that holds `sequence`, or -1."""
        index = bisect_right(self._firsts, sequence) - 1
        return index if index >= 0 and self.runs[index].last >= sequence else -1

    def holds(self, sequence: int) -> Outcome:
        """What `add_kept` would say, without doing it."""
        index = self._at(sequence)
        if index < 0:
            return "new"
        return "duplicate" if self.runs[index].kept else "recovered"

    def add_kept(self, sequence: int, previous: bytes, head: bytes) -> Outcome:
        """A verified batch of this sequence is in the archive. TooScattered when the bound is reached."""
        index = self._at(sequence)
        if index >= 0:
            run = self.runs[index]
            if run.kept:
                return "duplicate"
            parts = [Run(sequence, sequence, True, previous, head)]
            if run.first < sequence:
                parts.insert(0, Run(run.first, sequence - 1, False, run.previous, previous))
            if run.last > sequence:
                parts.append(Run(sequence + 1, run.last, False, head, run.head))
            self._replace(index, index + 1, parts)
            for boundary in range(index + len(parts), index - 1, -1):
                self._join(boundary)
            return "recovered"
        self._insert(Run(sequence, sequence, True, previous, head))
        return "new"

    def add_declared(self, first: int, last: int, previous: bytes, hashes: list[bytes]) -> list[int]:
        """A tombstone stands for first … last (`hashes`: their headers'). Returns the sequences that are new to us."""
        fresh = [sequence for sequence in range(first, last + 1) if self._at(sequence) < 0]
        stretches: list[tuple[int, int]] = []
        for sequence in fresh:
            if stretches and stretches[-1][1] + 1 == sequence:
                stretches[-1] = (stretches[-1][0], sequence)
            else:
                stretches.append((sequence, sequence))
        if len(self.runs) + len(stretches) > MAX_RUNS:  # before the first change: all of it or nothing
            raise TooScattered(f"the chain is in {len(self.runs)} pieces")
        for low, high in stretches:
            before = previous if low == first else hashes[low - first - 1]
            self._insert(Run(low, high, False, before, hashes[high - first]))
        return fresh

    def _insert(self, run: Run) -> None:
        if len(self.runs) >= MAX_RUNS:
            raise TooScattered(f"the chain is in {len(self.runs)} pieces")
        index = bisect_right(self._firsts, run.first)
        self._replace(index, index, [run])
        self._join(index + 1)
        self._join(index)

    def _join(self, index: int) -> None:
        """Make one of the runs index-1 and index if they touch, link and are of one kind."""
        if not 0 < index < len(self.runs):
            return
        left, right = self.runs[index - 1], self.runs[index]
        if left.last + 1 == right.first and left.kept == right.kept and left.head == right.previous:
            self._replace(
                index - 1, index + 1, [Run(left.first, right.last, left.kept, left.previous, right.head)]
            )

    def _replace(self, start: int, stop: int, runs: list[Run]) -> None:
        self.runs[start:stop] = runs
        self._firsts[start:stop] = [run.first for run in runs]

    def gaps(self) -> list[tuple[int, int]]:
        """(first, last) of each hole, from sequence 0 to the highest known."""
        holes, expected = [], 0
        for run in self.runs:
            if run.first > expected:
                holes.append((expected, run.first - 1))
            expected = run.last + 1
        return holes

    def broken_links(self) -> list[int]:
        """Sequences whose `previous` isn't the hash of the batch before, though both are known."""
        return [
            right.first
            for left, right in zip(self.runs, self.runs[1:], strict=False)
            if left.last + 1 == right.first and left.head != right.previous
        ]

    @property
    def next_sequence(self) -> int:
        """One more than the highest sequence known."""
        return self.runs[-1].last + 1 if self.runs else 0
