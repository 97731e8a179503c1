"""What could stand at a place in a query that is being written: fields, operators, values, and, or.

It reads the tokens before the place and doesn't need them to be a whole query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hub.pool.fields import Field, Type
from hub.pool.query.ast import QueryError
from hub.pool.query.tokens import Kind, Token, quoted, tokenize
from hub.pool.query.vocabulary import CHOICES, VOCABULARIES, Vocabulary, What

MOST = 20
_ORDERED = (Type.INTEGER, Type.TIME, Type.IP)
_OPERATORS = (
    ("==", "is"),
    ("!=", "is not"),
    ("in {", "is one of"),
    ("<", "is less than"),
    ("<=", "is at most"),
    (">", "is more than"),
    (">=", "is at least"),
    ("contains", "has it somewhere in it"),
    ("~", "fits a pattern with * and ?"),
)
_PLAIN = ("==", "!=", "in {")
_FOR_TEXT = ("contains", "~")
_HINTS = {
    Type.IP: (("10.0.0.0/8", "a network"), ("10.0.0.1..10.0.0.9", "a range")),
    Type.TIME: (("2026-11-23T12:00:00Z", "UTC, where nothing else is said"),),
}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Puts `text` in place of the characters `start` to behind `end`."""

    text: str
    start: int
    end: int
    kind: str
    """field, operator, value, word"""
    meaning: str


def complete(
    text: str, at: int, what: What = What.PACKETS, values: Mapping[str, Sequence[str]] | None = None
) -> list[Suggestion]:
    """At most MOST suggestions for the place `at`. values: what is known of fields' values, by their full names."""
    try:
        tokens = tokenize(text[:at], lenient=True)
    except QueryError:
        return []
    vocabulary = VOCABULARIES[what]
    last = tokens[-1] if tokens else None
    partial = None
    if (
        last is not None
        and last.end == at
        and (last.kind is Kind.WORD or not last.closed or last.kind in _WORDLIKE)
    ):
        partial = tokens.pop()
    start = partial.start if partial else at
    typed = partial.text if partial else ""
    field = _asked_for(tokens, vocabulary)
    if field is not None:
        return _of_values(field, typed, start, at, values or {})
    name, colon, rest = typed.partition(":")
    if colon and (found := vocabulary.find(name)):
        return _of_values(found[0], rest, start + len(name) + 1, at, values or {})
    following = _expected(tokens, vocabulary)
    if following == "operator":
        named = vocabulary.find(tokens[-1].text)[0]
        return _pick([*_operators(named), *_JOINING], typed, start, at)
    if following == "join":
        return _pick([*_JOINING, *_terms(vocabulary)] if typed else list(_JOINING), typed, start, at)
    return _pick([*_terms(vocabulary), ("not", "word", "the opposite")], typed, start, at)


_WORDLIKE = (Kind.AND, Kind.OR, Kind.NOT, Kind.IN)
_JOINING = (("and", "word", "both"), ("or", "word", "either"))


def _asked_for(tokens: Sequence[Token], vocabulary: Vocabulary) -> Field | None:
    """The field whose value is written here; None: no value is."""
    end = len(tokens)
    opened = next((n for n in range(end - 1, -1, -1) if tokens[n].kind in _BRACKETS), None)
    if opened is not None and tokens[opened].kind is Kind.OPEN_LIST:
        end = opened  # within {…}: what stands before it says of what
        if tokens[end - 1 : end] and tokens[end - 1].kind is Kind.IN:
            end -= 1
            if tokens[end - 1 : end] and tokens[end - 1].kind is Kind.NOT:
                end -= 1
        elif tokens[end - 1 : end] and tokens[end - 1].kind is Kind.OPERATOR:
            end -= 1
        return _field_at(tokens, end - 1, vocabulary)
    if end and tokens[-1].kind is Kind.OPERATOR:
        return _field_at(tokens, end - 2, vocabulary)
    return None


_BRACKETS = (Kind.OPEN_LIST, Kind.CLOSE_LIST)


def _field_at(tokens: Sequence[Token], place: int, vocabulary: Vocabulary) -> Field | None:
    if place < 0 or tokens[place].kind is not Kind.WORD:
        return None
    found = vocabulary.find(tokens[place].text.rstrip(":"))
    return found[0] if found else None


def _expected(tokens: Sequence[Token], vocabulary: Vocabulary) -> str:
    """term, operator (a field stands before it) or join (something whole does)."""
    if not tokens or tokens[-1].kind in (Kind.AND, Kind.OR, Kind.NOT, Kind.OPEN):
        return "term"
    is_value = len(tokens) > 1 and tokens[-2].kind in (Kind.OPERATOR, Kind.IN)
    if tokens[-1].kind is Kind.WORD and not is_value and vocabulary.find(tokens[-1].text):
        return "operator"
    return "join"


def _terms(vocabulary: Vocabulary) -> Iterable[tuple[str, str, str]]:
    for name in vocabulary.all_names:
        fields = vocabulary.find(name)
        yield (
            name,
            "field",
            fields[0].meaning if len(fields) == 1 else f"{fields[0].name} or {fields[1].name}",
        )
    for word in vocabulary.words:
        yield word, "word", "a protocol"


def _operators(field: Field) -> list[tuple[str, str, str]]:
    usable = [
        *_PLAIN,
        *(("<", "<=", ">", ">=") if field.type in _ORDERED else ()),
        *(_FOR_TEXT if field.type is Type.KEYWORD else ()),
    ]
    return [(sign, "operator", meaning) for sign, meaning in _OPERATORS if sign in usable]


def _of_values(
    field: Field, typed: str, start: int, end: int, values: Mapping[str, Sequence[str]]
) -> list[Suggestion]:
    known = [*CHOICES.get(field.name, ()), *values.get(field.name, ())]
    if field.type is Type.BOOLEAN:
        known += ["true", "false"]
    offered = [(_written(value), "value", field.name) for value in dict.fromkeys(known)]
    offered += [(value, "value", meaning) for value, meaning in _HINTS.get(field.type, ())]
    return _pick(offered, typed, start, end)


def _written(value: str) -> str:
    """A value in quotes, where it would be read as something else."""
    try:
        tokens = tokenize(value)
    except QueryError:
        tokens = []
    plain = len(tokens) == 1 and tokens[0].kind is Kind.WORD and not set("*?") & set(value)
    return value if plain else quoted(value)


def _pick(offered: Iterable[tuple[str, str, str]], typed: str, start: int, end: int) -> list[Suggestion]:
    """What begins like what was typed, then what has it within; nothing when it is already there as a whole."""
    lower = typed.lower()
    found = [one for one in offered if lower in one[0].lower()]
    if typed:
        found.sort(key=lambda one: (not one[0].lower().lstrip('"').startswith(lower), len(one[0])))
    if len(found) == 1 and found[0][0].lower() == lower:
        return []
    return [Suggestion(text, start, end, kind, meaning) for text, kind, meaning in found[:MOST]]
