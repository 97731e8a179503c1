"""A query's words: what stands between blanks, brackets and operators, each with its place in the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from hub.pool.query.ast import QueryError

MAX_LENGTH = 4_000
"""Characters of a query."""
MAX_TOKENS = 2_000


class Kind(Enum):
    """What a token is."""

    WORD = auto()
    STRING = auto()
    OPERATOR = auto()
    OPEN = auto()
    CLOSE = auto()
    OPEN_LIST = auto()
    CLOSE_LIST = auto()
    COMMA = auto()
    AND = auto()
    OR = auto()
    NOT = auto()
    IN = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """Characters `start` to behind `end`; `text` is what they mean."""

    kind: Kind
    text: str
    start: int
    end: int

    @property
    def closed(self) -> bool:
        """A string that has its second quote."""
        return self.kind is not Kind.STRING or self.end - self.start > len(self.text) + 1


COMMUNITY_ID = r"1:[A-Za-z0-9+/]{27}="
_WORD = re.compile(rf"(?:[A-Za-z@_][\w.@-]*:)?{COMMUNITY_ID}|[^\s(){{}},\"'=<>!&|~]+")
_OPERATOR = re.compile(r"==|!=|<=|>=|=|<|>|!~|~")
_SIGNS = {"(": Kind.OPEN, ")": Kind.CLOSE, "{": Kind.OPEN_LIST, "}": Kind.CLOSE_LIST, ",": Kind.COMMA}
_PAIRS = {"&&": Kind.AND, "||": Kind.OR}
_KEYWORDS = {"and": Kind.AND, "or": Kind.OR, "not": Kind.NOT, "in": Kind.IN}
_WORD_OPERATORS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "matches": "~",
    "contains": "contains",
}


def tokenize(text: str, *, lenient: bool = False) -> list[Token]:
    """The tokens of a query; QueryError where one can't be read. lenient: an open string ends with the text."""
    if len(text) > MAX_LENGTH:
        raise QueryError(f"a query has at most {MAX_LENGTH} characters", MAX_LENGTH, len(text))
    found: list[Token] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        token = _next(text, at, lenient)
        found.append(token)
        if len(found) > MAX_TOKENS:
            raise QueryError(f"a query has at most {MAX_TOKENS} words and signs", at)
        at = token.end
    return found


def _next(text: str, at: int, lenient: bool) -> Token:
    sign, pair = text[at], text[at : at + 2]
    if sign in "\"'":
        return _string(text, at, lenient)
    if sign in _SIGNS:
        return Token(_SIGNS[sign], sign, at, at + 1)
    if pair in _PAIRS:
        return Token(_PAIRS[pair], pair, at, at + 2)
    if operator := _OPERATOR.match(text, at):
        return Token(Kind.OPERATOR, operator[0], at, operator.end())
    if sign == "!":
        return Token(Kind.NOT, sign, at, at + 1)
    word = _WORD.match(text, at)
    if word is None:
        raise QueryError(f"{sign} alone means nothing; write {sign * 2} or quote it", at, at + 1)
    lower = word[0].lower()
    if lower in _KEYWORDS:
        return Token(_KEYWORDS[lower], lower, at, word.end())
    if lower in _WORD_OPERATORS:
        return Token(Kind.OPERATOR, _WORD_OPERATORS[lower], at, word.end())
    return Token(Kind.WORD, word[0], at, word.end())


def _string(text: str, at: int, lenient: bool) -> Token:
    letters: list[str] = []
    quote, place = text[at], at + 1
    while place < len(text):
        letter = text[place]
        if letter == quote:
            return Token(Kind.STRING, "".join(letters), at, place + 1)
        if letter == "\\" and text[place + 1 : place + 2] in ("\\", '"', "'"):
            place += 1
            letter = text[place]
        letters.append(letter)
        place += 1
    if lenient:
        return Token(Kind.STRING, "".join(letters), at, len(text))
    raise QueryError("the quote isn't closed", at, len(text))


def quoted(text: str) -> str:
    """The text as a string of a query."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
