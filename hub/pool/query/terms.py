"""One comparison: what a field and a value, or a word alone, mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, cast, overload

from hub.pool.fields import Field, Type
from hub.pool.query.ast import (
    And,
    Cidr,
    Compare,
    Exists,
    In,
    Matches,
    Operator,
    Or,
    Query,
    QueryError,
    Range,
    Text,
)
from hub.pool.query.operands import address_of, integer_of, mac_of, network_of, operand_of
from hub.pool.query.tokens import COMMUNITY_ID, Kind, Token
from hub.pool.query.vocabulary import VOCABULARIES, Vocabulary, What

MAX_TEXT = 256
_ORDERED = (Type.INTEGER, Type.TIME, Type.IP)
_COMMUNITY_ID = re.compile(COMMUNITY_ID)
_DASHED = re.compile(r"(\d+)-(\d+)", re.ASCII)


def exists(field: Field) -> Query:
    """The field has a value."""
    return Exists(field.name)


def compared(field: Field, sign: str, token: Token) -> Query:
    """field sign value. sign: == < <= > >= ~ contains."""
    start, end = token.start, token.end
    if sign == "~":
        return _matches(field, token.text, start, end)
    if sign == "contains":
        return _matches(field, "*" + re.sub(r"([*?\\])", r"\\\1", token.text) + "*", start, end)
    if sign == "==":
        return _equal(field, token)
    if field.type not in _ORDERED:
        raise QueryError(f"{field.name} has no order: use == or !=", start, end)
    return Compare(field.name, cast(Operator, sign), operand_of(field, token.text, start, end))


def listed(field: Field, values: Sequence[Token]) -> Query:
    """One of the values; networks, ranges and patterns may be among them."""
    made = [_equal(field, value) for value in values]
    plain = [one.value for one in made if isinstance(one, Compare)]
    others = [one for one in made if not isinstance(one, Compare)]
    if not others:
        return In(field.name, tuple(plain)) if len(plain) > 1 else made[0]
    return Or(tuple(made)) if len(made) > 1 else made[0]


def _matches(field: Field, pattern: str, start: int, end: int) -> Query:
    if field.type is not Type.KEYWORD:
        raise QueryError(f"{field.name} isn't text: it can't be compared with a pattern", start, end)
    if len(pattern) > MAX_TEXT:
        raise QueryError(f"a pattern has at most {MAX_TEXT} characters", start, end)
    return Matches(field.name, pattern)


def _equal(field: Field, token: Token) -> Query:
    text, start, end = token.text, token.start, token.end
    if len(text) > MAX_TEXT:
        raise QueryError(f"a value has at most {MAX_TEXT} characters", start, end)
    if token.kind is Kind.WORD:
        if field.type is Type.KEYWORD and ("*" in text or "?" in text):
            return Exists(field.name) if text == "*" else _matches(field, text, start, end)
        if field.type in _ORDERED:
            return _ordered(field, token)
        if field.name == "network.transport" and integer_of(text) is not None:
            return Compare("network.iana_number", "=", integer_of(text) or 0)
    return Compare(field.name, "=", operand_of(field, text, start, end))


def _ordered(field: Field, token: Token) -> Query:
    text, start, end = token.text, token.start, token.end
    if text == "*":
        return Exists(field.name)
    if field.type is Type.IP and (network := network_of(text)) is not None:
        return Cidr(field.name, network)
    low, dots, high = text.partition("..")
    if not dots and field.type is Type.INTEGER and (dashed := _DASHED.fullmatch(text)):
        low, dots, high = dashed[1], "-", dashed[2]
    if not dots:
        return Compare(field.name, "=", operand_of(field, text, start, end))
    if not low and not high:
        raise QueryError("a range needs a bound: 1..10, 1.. or ..10", start, end)
    lowest = operand_of(field, low, start, start + len(low)) if low else None
    highest = operand_of(field, high, end - len(high), end) if high else None
    if lowest is not None and highest is not None:
        if getattr(lowest, "version", 0) != getattr(highest, "version", 0):
            raise QueryError("both ends of a range are IPv4, or both IPv6", start, end)
        if lowest > highest:  # type: ignore[operator]  # both are of the field's type
            raise QueryError(f"nothing is from {low} to {high}: the smaller one comes first", start, end)
    return Range(field.name, lowest, highest)


@overload
def bare(vocabulary: Vocabulary, token: Token) -> Query: ...
@overload
def bare(vocabulary: Vocabulary, token: Token, *, only_certain: Literal[True]) -> Query | None: ...
def bare(vocabulary: Vocabulary, token: Token, *, only_certain: bool = False) -> Query | None:
    """A word without a field: address, network, port, hardware address, protocol, community id, a field that has a
    value, or text. only_certain: None where it would be text."""
    text = token.text
    if token.kind is Kind.WORD:
        found = _certain(vocabulary, text) or _named(vocabulary, token)
        if found is not None:
            return found
    if only_certain:
        return None
    if not text or len(text) > MAX_TEXT:
        raise QueryError(f"text to look for has 1 to {MAX_TEXT} characters", token.start, token.end)
    if token.kind is Kind.WORD and ("*" in text or "?" in text):
        return Or(tuple(Matches(field.name, text) for field in vocabulary.fields if field.text))
    return Text(text)


def _certain(vocabulary: Vocabulary, text: str) -> Query | None:
    """What the word's form tells."""
    if text == "*":
        return And(())
    if (address := address_of(text)) is not None:
        return _either(vocabulary, "ip", lambda name: Compare(name, "=", address))
    if (network := network_of(text)) is not None:
        return _either(vocabulary, "ip", lambda name: Cidr(name, network))
    if _COMMUNITY_ID.fullmatch(text):
        return Compare("network.community_id", "=", text)
    if "mac" in vocabulary.either and (mac := mac_of(text)) is not None:
        return _either(vocabulary, "mac", lambda name: Compare(name, "=", mac))
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535:
        port = int(text)
        return _either(vocabulary, "port", lambda name: Compare(name, "=", port))
    return None


def _named(vocabulary: Vocabulary, token: Token) -> Query | None:
    """What the word's name tells."""
    lower = token.text.lower()
    if lower in vocabulary.words:
        return vocabulary.words[lower]
    if fields := vocabulary.find(lower):
        asked = tuple(
            Compare(field.name, "=", True) if field.type is Type.BOOLEAN else Exists(field.name)
            for field in fields
        )
        return asked[0] if len(asked) == 1 else Or(asked)
    if lower in VOCABULARIES[What.PACKETS].words:
        text = f"{vocabulary.what} don't tell whether they are {lower}: look for packets, or quote it as text"
        raise QueryError(text, token.start, token.end)
    return None


def _either(vocabulary: Vocabulary, name: str, make: Callable[[str], Query]) -> Query:
    return Or(tuple(make(field.name) for field in vocabulary.either[name]))
