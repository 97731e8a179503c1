"""A stream of messages end to end: split the same whatever the chunks, and never without a bound."""

import tracemalloc
from typing import Any

import pytest

from tests.wire import make
from wire import batch
from wire.batch import (
    WireError,
)

PUBLIC = make.AGENT_KEY.public


def test_messages_split_the_same_whole_and_byte_by_byte() -> None:
    messages = make.chain(3)
    for separator in (b"", b"\n", b"\n\n"):
        stream = separator.join(messages) + separator
        assert list(batch.split_messages([stream])) == messages
        assert list(batch.split_messages(bytes([byte]) for byte in stream)) == messages
        led = separator + stream
        assert list(batch.split_messages(led[at : at + 7] for at in range(0, len(led), 7))) == messages


def test_a_damaged_stream_stops_or_goes_on_behind_the_damage() -> None:
    messages = make.chain(4)
    ruined = bytearray(messages[1])
    ruined[8:12] = b"\xff\xff\xff\xff"
    stream = messages[0] + bytes(ruined) + messages[2] + b"\nrubbish\n" + messages[3] + messages[4][:50]
    with pytest.raises(WireError, match=f"byte {len(messages[0])}"):
        list(batch.split_messages([stream]))
    for chunk in (1, 13, len(stream)):
        skipped: list[tuple[int, int, str]] = []
        found = list(
            batch.split_messages(
                (stream[at : at + chunk] for at in range(0, len(stream), chunk)),
                resynchronise=lambda *what, said=skipped: said.append(what),
            )
        )
        assert found == [messages[0], messages[2], messages[3]]
        assert sum(count for _, count, _ in skipped) == len(stream) - sum(map(len, found)) - 1
        assert skipped[0][:2] == (len(messages[0]), len(ruined))


def test_endless_rubbish_does_not_fill_the_memory() -> None:
    def rubbish() -> Any:
        for _ in range(64):
            yield bytes(1 << 20)

    tracemalloc.start()
    counts: list[int] = []
    assert (
        list(batch.split_messages(rubbish(), resynchronise=lambda at, count, why: counts.append(count))) == []
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(counts) == 64 << 20
    assert peak < 8 << 20
