"""What an address of the page Explore means."""

import pytest

from hub.explore.question import CLOCK_SLACK_NS, Question
from hub.pool.query.vocabulary import What

NOW_NS = 1_790_000_000 * 10**9


def test_a_relative_time_moves_and_a_link_of_it_does_not() -> None:
    asked = Question.read({"q": "tcp", "last": "15m"}, NOW_NS)
    assert (asked.since_ns, asked.until_ns) == (NOW_NS - 900 * 10**9, NOW_NS + CLOCK_SLACK_NS)
    shared = Question.read(asked.parameters(absolute=True), NOW_NS + 10**15)
    assert (shared.since_ns, shared.until_ns, shared.query) == (asked.since_ns, asked.until_ns, asked.query)
    assert asked.parameters() == {"q": "tcp", "what": "packets", "last": "15m"}
    assert "last" not in asked.parameters(since="1", until="2")


def test_an_absolute_time_wins_and_either_end_may_be_open() -> None:
    asked = Question.read({"since": "2026-01-01T00:00:00Z", "last": "1h"}, NOW_NS)
    assert asked.last == ""
    assert asked.until_ns == NOW_NS + CLOCK_SLACK_NS
    assert Question.read({"until": "5"}, NOW_NS).since_ns == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"last": "1y"}, "no time span"),
        ({"last": "99999999d"}, "no time span"),
        ({"since": "yesterday"}, "is no time"),
        ({"since": "5", "until": "5"}, "ends before it begins"),
    ],
)
def test_a_wrong_time_is_said_and_the_last_hour_taken(values: dict[str, str], words: str) -> None:
    asked = Question.read(values, NOW_NS)
    assert words in asked.time_error
    assert asked.since_ns == NOW_NS - 3600 * 10**9


def test_a_wrong_query_keeps_its_text_and_its_place() -> None:
    asked = Question.read({"q": "prot == 5", "what": "conversations"}, NOW_NS)
    assert (asked.query, asked.what, asked.text) == (None, What.CONVERSATIONS, "prot == 5")
    assert asked.error is not None
    assert asked.error.end == 4
