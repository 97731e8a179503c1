"""A query's tree as a condition in SQL, with its values as parameters: nothing of a query becomes part of the text.

Packets are asked of DuckDB, conversations of SQLite; what differs is how addresses and lists are kept.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hub.pool.embedded.asked import ASKED, Asked
from hub.pool.embedded.derived import octets_of
from hub.pool.fields import (
    CONVERSATION_BY_ANY_NAME,
    CONVERSATION_FIELDS,
    PACKET_FIELDS,
    ConversationField,
    Type,
)
from hub.pool.query import (
    And,
    Cidr,
    Compare,
    Exists,
    In,
    Matches,
    Not,
    Operand,
    Operator,
    Or,
    Query,
    QueryError,
    Range,
    Text,
)
from hub.pool.values import TRANSPORTS

MAX_CONDITIONS = 1_000
"""Leaves of a tree."""
_HALF = 2**64


@dataclass(slots=True)
class Condition:
    """SQL of a condition, and the values of its question marks in order."""

    sql: str
    values: list[Any] = field(default_factory=list)


def compile_packets(query: Query | None) -> Condition:
    """For DuckDB, over the tables of hub.pool.embedded.asked. QueryError when it can't be asked."""
    return _Packets().condition(query)


def compile_conversations(query: Query | None) -> Condition:
    """For SQLite, over `conversations`. QueryError when it can't be asked."""
    return _Conversations().condition(query)


class _Compiler:
    """What both have in common."""

    def __init__(self) -> None:
        self._leaves = 0

    def condition(self, query: Query | None) -> Condition:
        return Condition("TRUE") if query is None else self._node(query)

    def _node(self, node: Query) -> Condition:
        match node:
            case And(parts):
                return _all("AND", "TRUE", [self._node(part) for part in parts])
            case Or(parts):
                return _all("OR", "FALSE", [self._node(part) for part in parts])
            case Not(part):
                inner = self._node(part)
                return Condition(f"NOT {inner.sql}", inner.values)
        self._leaves += 1
        if self._leaves > MAX_CONDITIONS:
            raise QueryError(f"more than {MAX_CONDITIONS} conditions")
        match node:
            case Text(word):
                return self._text(word)
            case Compare(name, operator, value):
                return self._compare(name, operator, value)
            case In(name, values):
                return _all("OR", "FALSE", [self._compare(name, "=", value) for value in values])
            case Range(name, low, high):
                bounds = [self._exists(name)]
                bounds += [self._compare(name, ">=", low)] if low is not None else []
                bounds += [self._compare(name, "<=", high)] if high is not None else []
                return _all("AND", "TRUE", bounds)
            case Cidr(name, network):
                low, high = network.network_address, network.broadcast_address
                return self._node(Range(name, low, high))
            case Matches(name, pattern):
                return self._matches(name, pattern)
            case Exists(name):
                return self._exists(name)
        raise QueryError(f"the embedded store can't ask for {type(node).__name__}")

    def _compare(self, name: str, operator: Operator, value: Operand) -> Condition:
        raise NotImplementedError

    def _matches(self, name: str, pattern: str) -> Condition:
        raise NotImplementedError

    def _exists(self, name: str) -> Condition:
        raise NotImplementedError

    def _text(self, word: str) -> Condition:
        raise NotImplementedError


class _Packets(_Compiler):
    def _compare(self, name: str, operator: Operator, value: Operand) -> Condition:
        asked = _asked(name)
        if asked.type is Type.IP:
            return _given(asked, _address_compare(asked, operator, value))
        if name == "network.community_id":
            flow = flow_of(str(value))
            found = Condition("FALSE") if flow is None else Condition(f"{asked.value} = ?", [flow])
        elif asked.words is not None:
            found = _number_in(asked, [n for word, n in asked.words.items() if word == value])
        elif asked.type is Type.BYTES:
            raise QueryError(f"{name} can be shown, but not asked for")
        else:
            _check(asked.type, operator, name)
            found = Condition(f"{asked.value} {operator} ?", [value])
        return _given(asked, found)

    def _matches(self, name: str, pattern: str) -> Condition:
        asked = _asked(name)
        if asked.type is not Type.KEYWORD:
            raise QueryError(f"{name} is no text: a pattern with * makes no sense there")
        like = like_of(pattern)
        if name == "network.community_id":
            condition = (
                f"{asked.value} IN (SELECT flow_hash FROM flows WHERE community_id ILIKE ? ESCAPE '\\')"
            )
            return _given(asked, Condition(condition, [like]))
        if asked.words is not None:
            numbers = [n for word, n in asked.words.items() if _fits(word, pattern)]
            return _given(asked, _number_in(asked, numbers))
        return _given(asked, Condition(f"{asked.value} ILIKE ? ESCAPE '\\'", [like]))

    def _exists(self, name: str) -> Condition:
        asked = _asked(name)
        return Condition(f"({asked.present})" if asked.present else "TRUE")

    def _text(self, word: str) -> Condition:
        pattern = f"*{_literal(word)}*"
        return _all("OR", "FALSE", [self._matches(one.name, pattern) for one in PACKET_FIELDS if one.text])


class _Conversations(_Compiler):
    def _compare(self, name: str, operator: Operator, value: Operand) -> Condition:
        one = _conversation_field(name)
        _check(one.type, operator, name)
        match one.attribute:
            case "agents" | "sessions" | "names":
                return Condition(f"(instr({one.attribute}, ?) > 0)", [f"\n{value}\n"])
            case "community_ids":
                return Condition("(community_id = ? OR instr(aliases, ?) > 0)", [value, f"\n{value}\n"])
            case "transport":
                return _numbers([n for n, word in TRANSPORTS.items() if word == value])
        if one.type is Type.IP:
            column = one.attribute
            return Condition(f"({column} <> x'' AND {column} {operator} ?)", [octets_of(str(value))])
        return Condition(f"({one.attribute} IS NOT NULL AND {one.attribute} {operator} ?)", [value])

    def _matches(self, name: str, pattern: str) -> Condition:
        one = _conversation_field(name)
        if one.type is not Type.KEYWORD:
            raise QueryError(f"{name} is no text: a pattern with * makes no sense there")
        like = like_of(pattern)
        match one.attribute:
            case "transport":
                return _numbers([n for n, word in TRANSPORTS.items() if _fits(word, pattern)])
            case "community_ids":
                return Condition(
                    "(community_id LIKE ? ESCAPE '\\' OR fits(aliases, ?))", [like, pattern.lower()]
                )
        return Condition(f"fits({one.attribute}, ?)", [pattern.lower()])

    def _exists(self, name: str) -> Condition:
        one = _conversation_field(name)
        match one.attribute:
            case "community_ids":
                return Condition("(community_id <> '')")
            case "transport":
                return _numbers(list(TRANSPORTS))
            case "agents" | "sessions" | "names":
                return Condition(f"({one.attribute} <> '')")
        if one.type is Type.IP:
            return Condition(f"({one.attribute} <> x'')")
        return Condition(f"({one.attribute} IS NOT NULL)")

    def _text(self, word: str) -> Condition:
        pattern = f"*{_literal(word)}*"
        return _all(
            "OR", "FALSE", [self._matches(one.name, pattern) for one in CONVERSATION_FIELDS if one.text]
        )


def fits(entries: str, pattern: str) -> bool:
    """Whether an entry of a list (a newline around each) fits a pattern in small letters; SQLite calls it."""
    return any(_fits(entry, pattern) for entry in entries.split("\n")[1:-1])


def flow_of(community_id: str) -> int | None:
    """The number that stands for a Community ID; None when it is none."""
    version, _, digest = community_id.partition(":")
    try:
        octets = base64.b64decode(digest, validate=True) if version == "1" else b""
    except (ValueError, binascii.Error):
        return None
    return int.from_bytes(octets[:8], "big") if len(octets) == 20 else None


def like_of(pattern: str) -> str:
    """A pattern of `*`, `?` and literal characters (`\\*`, `\\?`, `\\\\`) as SQL's, to be used with ESCAPE '\\'."""
    found, escaped = [], False
    for letter in pattern:
        if escaped or letter not in "*?\\":
            found.append(f"\\{letter}" if letter in "%_\\" else letter)
            escaped = False
        elif letter == "\\":
            escaped = True
        else:
            found.append("%" if letter == "*" else "_")
    return "".join(found)


def _literal(word: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?\\" else letter for letter in word)


def _fits(word: str, pattern: str) -> bool:
    shell, escaped = [], False
    for letter in pattern.lower():
        if escaped or letter not in "*?\\":
            shell.append(f"[{letter}]" if letter in "*?[" else letter)
            escaped = False
        elif letter == "\\":
            escaped = True
        else:
            shell.append(letter)
    return fnmatch.fnmatchcase(word.lower(), "".join(shell))


def _asked(name: str) -> Asked:
    asked = ASKED.get(name)
    if asked is None:
        raise QueryError(f"packets have no field {name!r}")
    return asked


def _conversation_field(name: str) -> ConversationField:
    found = CONVERSATION_BY_ANY_NAME.get(name)
    if found is None:
        raise QueryError(f"conversations have no field {name!r}")
    return found


def _check(type_: Type, operator: Operator, name: str) -> None:
    if operator != "=" and type_ not in (Type.INTEGER, Type.TIME, Type.IP):
        raise QueryError(f"{name} has no order: only = can be asked")


def _all(word: str, of_none: str, parts: Sequence[Condition]) -> Condition:
    if not parts:
        return Condition(of_none)
    return Condition(
        f"({f' {word} '.join(part.sql for part in parts)})", [v for part in parts for v in part.values]
    )


def _given(asked: Asked, condition: Condition) -> Condition:
    """Where the field has no value it compares false, never NULL: its negation holds."""
    if not asked.present:
        return Condition(f"({condition.sql})", condition.values)
    return Condition(f"(({asked.present}) AND {condition.sql})", condition.values)


def _number_in(asked: Asked, numbers: Iterable[int]) -> Condition:
    text = ", ".join(map(str, numbers))
    return Condition(f"{asked.value} IN ({text})" if text else "FALSE")


def _numbers(protocols: Sequence[int]) -> Condition:
    text = ", ".join(map(str, protocols))
    return Condition(f"(protocol IN ({text}))" if text else "FALSE")


def _address_compare(asked: Asked, operator: Operator, value: Operand) -> Condition:
    octets = octets_of(str(value))
    if not octets:
        raise QueryError(f"{value!r} is no address")
    high, low = divmod(int.from_bytes(octets, "big"), _HALF)
    if operator == "=":  # the lower half first: it tells IPv4 addresses apart
        return Condition(f"{asked.low} = ? AND {asked.value} = ?", [low, high])
    return Condition(
        f"({asked.value} {operator[0]} ? OR ({asked.value} = ? AND {asked.low} {operator} ?))",
        [high, high, low],
    )


FUNCTIONS: Mapping[str, Any] = {"fits": fits}
"""That SQLite must know."""
