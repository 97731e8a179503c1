"""What is suggested while a query is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.pool.query.complete import MOST, complete
from hub.pool.query.parse import parse
from hub.pool.query.vocabulary import What

VALUES = {"agent_id": ["web1", "db1", "with blank"]}


def texts(text: str, at: int | None = None, what: What = What.PACKETS) -> list[str]:
    return [one.text for one in complete(text, len(text) if at is None else at, what, VALUES)]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("", "ip"),
        ("inter", "interface"),
        ("agent ", "=="),
        ("agent == ", "web1"),
        ("agent:", "web1"),
        ("agent:d", "db1"),
        ("agent:with", '"with blank"'),
        ("agent in {web1, d", "db1"),
        ("protocol:ud", "udp"),
        ("tcp.syn == f", "false"),
        ("tcp ", "and"),
        ("tcp and vl", "vlan"),
        ("(ht", "http"),
        ('agent == "w', "web1"),
        ("not pro", "proto"),
    ],
)
def test_the_first_suggestion(text: str, first: str) -> None:
    assert texts(text)[0] == first


def test_nothing_is_suggested_where_all_is_there() -> None:
    assert texts("agent:db1") == []


def test_it_looks_at_the_place_only() -> None:
    one = complete("ag and tcp", 2)[0]
    assert (one.text, one.start, one.end) == ("agent", 0, 2)


def test_conversations_have_their_own() -> None:
    assert texts("los", what=What.CONVERSATIONS) == ["lost", "wirepool.lost_packets"]
    assert "ttl" not in texts("tt", what=What.CONVERSATIONS)


def test_order_is_offered_only_where_there_is_one() -> None:
    assert "<" in texts("bytes ")
    assert "<" not in texts("agent ")
    assert "contains" in texts("agent ")


@given(st.text(max_size=60), st.integers(0, 60))
def test_whatever_is_typed_suggestions_replace_what_is_there(text: str, at: int) -> None:
    at = min(at, len(text))
    found = complete(text, at, values=VALUES)
    assert len(found) <= MOST
    assert all(0 <= one.start <= one.end <= len(text) for one in found)


@pytest.mark.parametrize("begun", ["agent:", "protocol == ", "tcp.syn == ", "tcp and dir:"])
def test_what_is_taken_is_a_query(begun: str) -> None:
    for one in complete(begun, len(begun), values=VALUES):
        parse(begun[: one.start] + one.text + begun[one.end :])
