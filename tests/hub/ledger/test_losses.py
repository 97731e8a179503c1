"""When packets were lost: drops between batches, tombstones, gaps that are filled later, and the bounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hub.ledger.losses import MAX_ROWS, LossTimes, losses_between
from hub.registry import Registry
from tests.hub.pool.made import START_NS, Made
from wire.batch import Header, Kind
from wire.books import Books

S = 10**9
TEMPLATE = Made().frames([bytes(60)]).header
FOREVER_NS = 2**63 - 1


@contextmanager
def ledger(directory: Path) -> Iterator[tuple[Registry, LossTimes]]:
    registry = Registry(directory / "registry.sqlite")
    try:
        with registry.transaction():
            yield registry, LossTimes(registry)
    finally:
        registry.close()


def batch(sequence: int, at_s: int, **books: int) -> Header:
    """A batch of the packets of one second."""
    time_ns = START_NS + at_s * S
    return replace(
        TEMPLATE,
        sequence=sequence,
        first_timestamp_ns=time_ns,
        last_timestamp_ns=time_ns + S - 1,
        books=Books(received=sequence, **books),
    )


def told(registry: Registry) -> list[tuple[str, int, int, int, int]]:
    """(kind, from, to in seconds, packets, batches) in order of time."""
    found = losses_between(registry, 0, FOREVER_NS)
    rows = [
        (one.kind, (one.since_ns - START_NS) // S, (one.until_ns - START_NS) // S, one.packets, one.batches)
        for one in found
    ]
    return sorted(rows, key=lambda row: row[1])


def test_drops_lie_between_the_batches_around_them(tmp_path: Path) -> None:
    with ledger(tmp_path) as (registry, losses):
        losses.saw(batch(0, 0))
        losses.saw(batch(1, 10))
        losses.saw(batch(2, 20, dropped_ring=7))
        losses.saw(batch(3, 21, dropped_ring=9))
        losses.saw(batch(4, 60, dropped_ring=9, dropped_newest=5))
        assert told(registry) == [("ring", 10, 21, 9, 0), ("turned_away", 21, 60, 5, 0)]
        assert losses_between(registry, START_NS + 70 * S, FOREVER_NS) == []
        assert losses_between(registry, 0, FOREVER_NS, agents=["db1"]) == []


def test_what_a_tombstone_declares_lies_where_its_batches_were(tmp_path: Path) -> None:
    with ledger(tmp_path) as (registry, losses):
        losses.saw(batch(0, 0))
        tombstone = replace(
            batch(1, 0),
            kind=Kind.TOMBSTONE,
            last_sequence=4,
            packets=40,
            body_bytes=100,
            first_timestamp_ns=0,
            last_timestamp_ns=0,
        )
        losses.saw(tombstone)
        losses.saw(batch(5, 30))
        assert told(registry) == [("declared", 0, 30, 40, 0)]


def test_a_gap_is_forgotten_as_its_batches_come(tmp_path: Path) -> None:
    with ledger(tmp_path) as (registry, losses):
        losses.saw(batch(0, 0))
        losses.saw(batch(5, 50))
        assert told(registry) == [("missing", 0, 50, 0, 4)]
        losses.saw(batch(2, 20))
        assert sum(row[4] for row in told(registry)) == 3
        for sequence in (1, 3, 4):
            losses.saw(batch(sequence, sequence * 10))
        assert told(registry) == []


def test_rows_are_bounded_and_nothing_is_left_out_of_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.ledger.losses.MAX_ROWS", 5)
    assert MAX_ROWS > 5
    with ledger(tmp_path) as (registry, losses):
        for number in range(20):
            losses.saw(batch(number, number * 10, dropped_ring=number // 2))
        rows = told(registry)
        assert len(rows) == 5
        assert sum(row[3] for row in rows) == 9
        assert rows[-1][2] == 180
