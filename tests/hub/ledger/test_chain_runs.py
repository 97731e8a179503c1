"""Runs of sequences against a plain model, in any order."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.ledger import chain_runs
from hub.ledger.chain_runs import Runs, TooScattered


def head(sequence: int) -> bytes:
    return hashlib.sha256(str(sequence).encode()).digest()


@given(st.lists(st.one_of(st.integers(0, 30), st.tuples(st.integers(0, 30), st.integers(0, 6))), max_size=60))
def test_same_as_a_set(steps: list[int | tuple[int, int]]) -> None:
    runs = Runs()
    kept: set[int] = set()
    declared: set[int] = set()
    for step in steps:
        if isinstance(step, int):
            expected = "duplicate" if step in kept else "recovered" if step in declared else "new"
            assert runs.holds(step) == expected
            assert runs.add_kept(step, head(step - 1), head(step)) == expected
            kept.add(step)
            declared.discard(step)
        else:
            first, last = step[0], step[0] + step[1]
            fresh = runs.add_declared(first, last, head(first - 1), [head(s) for s in range(first, last + 1)])
            new = [s for s in range(first, last + 1) if s not in kept and s not in declared]
            assert fresh == new
            declared.update(new)
    known = kept | declared
    missing = [s for s in range(max(known, default=-1) + 1) if s not in known]
    assert [s for low, high in runs.gaps() for s in range(low, high + 1)] == missing
    assert runs.broken_links() == []
    for left, right in zip(runs.runs, runs.runs[1:], strict=False):
        assert left.last < right.first
        assert left.last + 1 < right.first or left.kept != right.kept, "touching runs of a kind are one"
    assert {s for r in runs.runs if r.kept for s in range(r.first, r.last + 1)} == kept


def test_a_broken_link_is_told() -> None:
    runs = Runs()
    runs.add_kept(0, bytes(32), head(0))
    runs.add_kept(1, b"x" * 32, head(1))
    runs.add_kept(2, head(1), head(2))
    assert runs.broken_links() == [1]
    assert runs.gaps() == []
    assert runs.next_sequence == 3


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_runs, "MAX_RUNS", 10)
    runs = Runs()
    for sequence in range(0, 20, 2):
        runs.add_kept(sequence, bytes(32), head(sequence))
    with pytest.raises(TooScattered):
        runs.add_kept(100, bytes(32), head(100))
    with pytest.raises(TooScattered):
        runs.add_declared(200, 201, bytes(32), [head(200), head(201)])
    assert len(runs.runs) == 10
