"""Runs of sequences: a set of numbers in little room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.pool import books
from hub.pool.books import Runs, TooScattered


@given(st.lists(st.integers(0, 40), max_size=60))
def test_runs_are_the_set_of_what_was_put_in(numbers: list[int]) -> None:
    runs, there = Runs(), set()
    for number in numbers:
        assert runs.add(number) == (number not in there)
        there.add(number)
    again = Runs(runs.packed())
    assert [n for n in range(42) if n in runs] == [n for n in range(42) if n in again] == sorted(there)
    assert len(runs) == sum(n - 1 not in there for n in there)


def test_too_many_holes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MAX_RUNS", 3)
    runs = Runs()
    for number in (0, 2, 4):
        runs.add(number)
    with pytest.raises(TooScattered):
        runs.add(6)
    assert runs.add(1)  # what closes a hole is welcome
    assert 6 not in runs


@pytest.mark.parametrize("packed", [b"x", bytes(16), bytes(8)])
def test_what_is_no_list_of_runs_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="runs"):
        Runs(packed)
