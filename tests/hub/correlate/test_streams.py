"""However a stream of bytes is cut at each place, its pieces are the same; sequence numbers wrap as they like."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.correlate import streams
from hub.correlate.sightings import SIGHTING, Rows
from hub.correlate.streams import pieces_of, sequences_of
from hub.observe.observations import Layers

CUTS = st.lists(st.integers(40, 4_000), min_size=1, max_size=12)


def segments(sizes: list[int], begin: int, vantage: int, total: int) -> Rows:
    """`total` bytes from `begin`, cut into these sizes again and again."""
    lengths = np.resize(np.array(sizes), total // min(sizes) + 1)
    ends = np.cumsum(lengths)
    ends = np.append(ends[ends < total], total)
    rows = np.zeros(len(ends), SIGHTING)
    rows["sequence"] = (begin + np.concatenate([[0], ends[:-1]])) % 2**32
    rows["sequence_end"] = (begin + ends) % 2**32
    rows["vantage"], rows["timestamp_ns"], rows["layers"] = (
        vantage,
        np.arange(len(ends)),
        Layers.IP | Layers.TCP,
    )
    rows["hop_hash"] = np.arange(len(ends)) + 1 + 100_000 * vantage
    return rows


@settings(max_examples=40, deadline=None)
@given(CUTS, CUTS, st.integers(0, 2**32 - 1), st.integers(1, 20_000))
def test_pieces_are_alike_at_both_places(one: list[int], other: list[int], begin: int, total: int) -> None:
    rows = np.concatenate([segments(one, begin, 0, total), segments(other, begin, 1, total)])
    stream = np.zeros(len(rows), np.intp)
    sequences = sequences_of(rows, stream)
    pieces = pieces_of(rows, stream, sequences, np.zeros(len(rows), np.bool_))
    assert not pieces.uncut
    seen = rows["vantage"][pieces.row]
    left, right = (np.sort(pieces.packet[seen == vantage]) for vantage in (0, 1))
    assert (left == right).all()
    assert len(left) == len(np.unique(left)), "each once"
    assert (np.bincount(pieces.row, weights=pieces.leading, minlength=len(rows)) == 1).all(), (
        "one leads each sighting"
    )
    assert sequences.end.max() - sequences.begin.min() == total


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2)), max_size=60)
)
def test_whatever_the_numbers_are_nothing_is_lost_and_memory_is_bounded(
    numbers: list[tuple[int, int, int]],
) -> None:
    rows = np.zeros(len(numbers), SIGHTING)
    for row, (begin, end, vantage) in zip(rows, numbers, strict=True):
        row["sequence"], row["sequence_end"], row["vantage"] = begin, end, vantage
        row["layers"], row["hop_hash"] = Layers.IP | Layers.TCP, begin | 1
    stream = np.zeros(len(rows), np.intp)
    pieces = pieces_of(rows, stream, sequences_of(rows, stream), np.zeros(len(rows), np.bool_))
    assert set(pieces.row.tolist()) == set(range(len(rows)))
    assert len(pieces.row) <= max(streams.FEWEST_PIECES, streams.PIECES_PER_ROW * len(rows)) + len(rows)
    assert set(pieces.packet.tolist()) == set(range(int(pieces.packet.max()) + 1 if len(rows) else 0))
