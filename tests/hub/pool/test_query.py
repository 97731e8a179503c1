"""The query language: what texts mean, what wrong ones are told, and that a written query is read as the same."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.pool.fields import CONVERSATION_FIELDS, EITHER, PACKET_FIELDS, Field, Type
from hub.pool.query import (
    And,
    Cidr,
    Compare,
    Exists,
    In,
    Matches,
    Not,
    Or,
    Query,
    QueryError,
    Range,
    Text,
)
from hub.pool.query.operands import MAX_INTEGER
from hub.pool.query.parse import MAX_DEPTH, MAX_TERMS, parse
from hub.pool.query.text import to_text
from hub.pool.query.tokens import MAX_LENGTH
from hub.pool.query.vocabulary import CHOICES, What

FLOW = "1:LQU9qZlK+B5F3KDmev6m5PMibrg="


def ip(make: type[Compare], value: str) -> Or:
    return Or(tuple(make(name, "=", ip_address(value)) for name in EITHER["ip"]))


def port(number: int) -> Or:
    return Or(tuple(Compare(name, "=", number) for name in EITHER["port"]))


TEN = Or(tuple(Cidr(name, IPv4Network("10.0.0.0/8")) for name in EITHER["ip"]))
TCP = Compare("network.transport", "=", "tcp")

MEANINGS: list[tuple[str, Query]] = [
    ("", And(())),
    ("*", And(())),
    ("10.0.0.7", ip(Compare, "10.0.0.7")),
    ("fe80::1", ip(Compare, "fe80::1")),
    ("10.0.0.0/8", TEN),
    ("ip == 10.1.2.3/8", TEN),
    ("443", port(443)),
    ("tcp", TCP),
    ("TCP and 443", And((TCP, port(443)))),
    ("tcp 443", And((TCP, port(443)))),
    ("tcp or 443 and agent:web1", Or((TCP, And((port(443), Compare("agent_id", "=", "web1")))))),
    ("(tcp || 443) && !agent:web1", And((Or((TCP, port(443))), Not(Compare("agent_id", "=", "web1"))))),
    ("icmp", In("network.transport", ("icmp", "ipv6-icmp"))),
    ("dns", Exists("dns.question.name")),
    (FLOW, Compare("network.community_id", "=", FLOW)),
    (f"flow:{FLOW}", Compare("network.community_id", "=", FLOW)),
    (f"flow == {FLOW}", Compare("network.community_id", "=", FLOW)),
    ("example", Text("example")),
    ('"tcp"', Text("tcp")),
    ("port in {80, 443}", Or((In("source.port", (80, 443)), In("destination.port", (80, 443))))),
    ("dport:1000-2000", Range("destination.port", 1000, 2000)),
    ("dport:..1023", Range("destination.port", None, 1023)),
    ("bytes >= 0x100", Compare("network.bytes", ">=", 256)),
    ("port != 22", Not(port(22))),
    ("agent not in {web1, db1}", Not(In("agent_id", ("web1", "db1")))),
    ("agent:(web1 or db1)", In("agent_id", ("web1", "db1"))),
    ("src in {10.0.0.1, ::1}", In("source.ip", (IPv4Address("10.0.0.1"), IPv6Address("::1")))),
    ("sni:*.example.com", Matches("tls.client.server_name", "*.example.com")),
    ('sni == "*.example.com"', Compare("tls.client.server_name", "=", "*.example.com")),
    ("host contains b*", Matches("agent_hostname", "*b\\**")),
    ("src >= 10.0.0.9", Compare("source.ip", ">=", IPv4Address("10.0.0.9"))),
    ("tcp.syn !tcp.ack", And((Compare("tcp.syn", "=", True), Not(Compare("tcp.ack", "=", True))))),
    ("tcp.syn:false", Compare("tcp.syn", "=", False)),
    ("vlan", Exists("network.vlan.id")),
    ("protocol == 6", Compare("network.iana_number", "=", 6)),
    ("source.mac:02:00:00:00:00:01", Compare("source.mac", "=", 0x020000000001)),
    ("time < 1970-01-01T00:00:01.5Z", Compare("@timestamp", "<", 1_500_000_000)),
    ("@timestamp < 1970-01-01T01:00:01+01:00", Compare("@timestamp", "<", 1_000_000_000)),
    ("hop_hash:00000000000000ff", Compare("wirepool.hop_hash", "=", 255)),
]


@pytest.mark.parametrize(("text", "query"), MEANINGS, ids=[text for text, _ in MEANINGS])
def test_meanings(text: str, query: Query) -> None:
    assert parse(text) == query
    assert parse(to_text(query)) == query


ERRORS = [
    ("prot == tcp", "did you mean proto", 0, 4),
    ("ip.addr == 10.0.0.1", "did you mean ip?", 0, 7),
    ("tcp.dstport == 443", "did you mean dport?", 0, 11),
    ("ip == 10.0.0", 'takes an address, not "10.0.0"', 6, 12),
    ("tcp and protocol:tpc", "did you mean tcp?", 17, 20),
    ("port in {80 443}", "isn't closed: } is missing, not 443", 12, 15),
    ("port in", "a list {…} is missing", 7, 7),
    ("(tcp", "closing ) is missing", 4, 4),
    ("tcp)", "nothing that this closes", 3, 4),
    ("tcp and", "something to look for is missing", 7, 7),
    ('agent == "web1', "quote isn't closed", 9, 14),
    ("agent < web1", "has no order", 8, 12),
    ("dport:90..80", "the smaller one comes first", 6, 12),
    ("src:10.0.0.1..::1", "both ends", 4, 17),
    ("bytes:99999999999999999999", "whole number", 6, 26),
    ("http://x", "quote it to look for it as text", 0, 4),
    ("wirepool.payload:x", "can't be asked for", 17, 18),
    ("a & b", "write && or quote it", 2, 3),
    ("packets > 3", "look for conversations instead", 0, 7),
]


@pytest.mark.parametrize(("text", "words", "start", "end"), ERRORS, ids=[one[0] for one in ERRORS])
def test_errors_say_what_and_where(text: str, words: str, start: int, end: int) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert (caught.value.position, caught.value.end) == (start, end)


def test_conversations_have_fields_of_their_own() -> None:
    assert parse("packets > 3 and lost", What.CONVERSATIONS) == And(
        (Compare("network.packets", ">", 3), Exists("wirepool.lost_packets"))
    )
    assert parse("10.0.0.0/8", What.CONVERSATIONS) == TEN
    for text in ("ttl < 5", "http"):
        with pytest.raises(QueryError, match="look for packets"):
            parse(text, What.CONVERSATIONS)


@pytest.mark.parametrize(
    "text",
    [
        "x" * (MAX_LENGTH + 1),
        "(" * (MAX_DEPTH + 1),
        "!" * (MAX_DEPTH + 1) + "tcp",
        "a " * (MAX_TERMS + 1),
        "port in {" + ",".join(map(str, range(MAX_TERMS + 1))) + "}",
        "," * MAX_LENGTH,
    ],
)
def test_a_query_is_bounded(text: str) -> None:
    with pytest.raises(QueryError):
        parse(text)


@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            [
                *"(){},!:=<>\"'\\*?.-/",
                " ",
                "in",
                "not",
                "ip",
                "port",
                "agent",
                "or",
                "10.0.0.1",
                "::",
                "..",
                "5",
            ]
        )
    ).map("".join)
)
def test_whatever_is_typed_is_read_or_refused_with_its_place(text: str) -> None:
    place, query = None, None
    try:
        query = parse(text)
    except QueryError as error:
        place = (error.position, error.end)
    if query is not None:
        assert parse(to_text(query)) == query
    else:
        assert place is not None
        assert 0 <= place[0] <= place[1] <= max(len(text), 1)


ADDRESSES = st.ip_addresses()
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def operands(field: Field) -> st.SearchStrategy[object]:
    match field.type:
        case Type.KEYWORD:
            return st.sampled_from(CHOICES[field.name]) if field.name in CHOICES else WORDS
        case Type.IP:
            return ADDRESSES.filter(lambda address: not getattr(address, "scope_id", None))
        case Type.MAC:
            return st.integers(0, 2**48 - 1)
        case Type.HASH:
            return st.integers(0, 2**64 - 1)
        case Type.BOOLEAN:
            return st.booleans()
        case Type.TIME:
            return st.integers(0, MAX_INTEGER)
    return st.integers(-MAX_INTEGER, MAX_INTEGER)


def comparisons(field: Field) -> st.SearchStrategy[Query]:
    one = operands(field)
    kinds: list[st.SearchStrategy[Query]] = [
        st.builds(Compare, st.just(field.name), st.just("="), one),
        st.builds(Exists, st.just(field.name)),
        st.builds(lambda values: In(field.name, tuple(values)), st.lists(one, min_size=2, max_size=4)),
    ]
    if field.type in (Type.INTEGER, Type.TIME, Type.IP):
        signs = st.sampled_from(["<", "<=", ">", ">="])
        kinds += [
            st.builds(Compare, st.just(field.name), signs, one),
            one.map(lambda value: Range(field.name, value, None)),  # type: ignore[arg-type]
            one.map(lambda value: Range(field.name, value, value)),  # type: ignore[arg-type]
        ]
    if field.type is Type.IP:
        networks = st.tuples(ADDRESSES, st.integers(0, 32)).map(
            lambda pair: ip_network(f"{pair[0]}/{pair[1]}", strict=False)
        )
        kinds.append(networks.map(lambda network: Cidr(field.name, network)))
    if field.type is Type.KEYWORD:
        kinds.append(WORDS.map(lambda word: Matches(field.name, word)))
    return st.one_of(kinds)


def queries(fields: list[Field]) -> st.SearchStrategy[Query]:
    asked = [field for field in fields if field.type is not Type.BYTES]
    leaves = st.sampled_from(asked).flatmap(comparisons) | WORDS.map(Text)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            inner.map(Not),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: And(tuple(parts))),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: Or(tuple(parts))),
        ),
        max_leaves=6,
    )


@pytest.mark.slow
@given(queries(list(PACKET_FIELDS)))
def test_a_query_of_packets_is_read_as_it_was_written(query: Query) -> None:
    assert parse(to_text(query)) == query


@pytest.mark.slow
@given(queries(list(CONVERSATION_FIELDS)))
def test_a_query_of_conversations_is_read_as_it_was_written(query: Query) -> None:
    assert parse(to_text(query, What.CONVERSATIONS), What.CONVERSATIONS) == query
