"""Text to tree. The grammar, from the loosest binding to the tightest (docs/explore.md has it for people):

    either   = all ("or" all)*
    all      = one (["and"] one)*
    one      = "not" one | "(" either ")" | term
    term     = field operator value | field ["not"] "in" "{" value ("," value)* "}" | field ":" value | word | string

Errors name the place in the text. A query is bounded in length (tokens), depth and number of comparisons, so that
what a store makes of it is bounded, too.
"""

from __future__ import annotations

from collections.abc import Callable

from hub.pool.fields import Field
from hub.pool.query.ast import And, Not, Or, Query, QueryError
from hub.pool.query.terms import bare, compared, exists, listed
from hub.pool.query.tokens import Kind, Token, tokenize
from hub.pool.query.vocabulary import VOCABULARIES, WIRESHARK, Vocabulary, What, suggestion

MAX_DEPTH = 40
MAX_TERMS = 256
"""Comparisons, each value of a list counted."""

_VALUES = (Kind.WORD, Kind.STRING)


def parse(text: str, what: What = What.PACKETS) -> Query:
    """The query; an empty one asks for everything. QueryError with its place."""
    return _Parser(text, VOCABULARIES[what]).query()


class _Parser:
    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self._tokens = tokenize(text)
        self._end = len(text)
        self._vocabulary = vocabulary
        self._at = 0
        self._depth = 0
        self._terms = 0

    def query(self) -> Query:
        if not self._tokens:
            return And(())
        found = self._either()
        if (token := self._peek()) is not None:
            text = (
                "there is nothing that this closes"
                if token.kind in (Kind.CLOSE, Kind.CLOSE_LIST)
                else "not expected here"
            )
            raise QueryError(f"{token.text}: {text}", token.start, token.end)
        return found

    def _peek(self, *kinds: Kind) -> Token | None:
        """The next token, if it is one of these."""
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        return token if token is not None and (not kinds or token.kind in kinds) else None

    def _take(self, *kinds: Kind) -> Token | None:
        token = self._peek(*kinds)
        self._at += token is not None
        return token

    def _need(self, text: str, *kinds: Kind) -> Token:
        token = self._take(*kinds)
        if token is None:
            other = self._peek()
            start, end = (other.start, other.end) if other else (self._end, self._end)
            raise QueryError(text + (f", not {other.text[:40]}" if other else ""), start, end)
        return token

    def _either(self) -> Query:
        parts = [self._all()]
        while self._take(Kind.OR):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Query:
        parts = [self._one()]
        while self._take(Kind.AND) or self._peek(*_VALUES, Kind.NOT, Kind.OPEN):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Query:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            token = self._peek()
            raise QueryError(f"nested more than {MAX_DEPTH} deep", token.start if token else self._end)
        try:
            if self._take(Kind.NOT):
                return Not(self._one())
            if self._take(Kind.OPEN):
                inner = self._either()
                self._need("a closing ) is missing", Kind.CLOSE)
                return inner
            return self._term()
        finally:
            self._depth -= 1

    def _term(self) -> Query:
        token = self._need("something to look for is missing", *_VALUES)
        self._count(token)
        if token.kind is Kind.STRING:
            return bare(self._vocabulary, token)
        if operator := self._take(Kind.OPERATOR):
            return self._compared(self._fields(token), operator)
        if self._peek(Kind.IN) or (self._peek(Kind.NOT) and self._is_in_next()):
            negated = self._take(Kind.NOT) is not None
            keyword = self._need("in", Kind.IN)
            fields = self._fields(token)
            found = self._each(fields, self._list(keyword))
            return Not(found) if negated else found
        return self._word(token)

    def _is_in_next(self) -> bool:
        following = self._tokens[self._at + 1 : self._at + 2]
        return bool(following) and following[0].kind is Kind.IN

    def _word(self, token: Token) -> Query:
        """A word alone, or `field:value` in one."""
        simple = bare(self._vocabulary, token, only_certain=True)
        if simple is not None:
            return simple
        name, colon, rest = token.text.partition(":")
        if not colon:
            return bare(self._vocabulary, token)
        fields = self._fields(Token(Kind.WORD, name, token.start, token.start + len(name)))
        if rest == "*":
            return self._each(fields, lambda field: exists(field))
        if rest:
            value = Token(Kind.WORD, rest, token.start + len(name) + 1, token.end)
            return self._each(fields, lambda field: compared(field, "==", value))
        return self._compared(fields, Token(Kind.OPERATOR, "==", token.end - 1, token.end))

    def _compared(self, fields: tuple[Field, ...], operator: Token) -> Query:
        sign = operator.text
        if self._peek(Kind.OPEN_LIST, Kind.OPEN) and sign in ("=", "==", "!="):
            found = self._each(fields, self._list(operator))
        else:
            value = self._need(f"a value behind {sign} is missing", *_VALUES)
            plain = {"!=": "==", "=": "==", "!~": "~"}.get(sign, sign)
            found = self._each(fields, lambda field: compared(field, plain, value))
        return Not(found) if sign in ("!=", "!~") else found

    def _list(self, before: Token) -> Callable[[Field], Query]:
        opened = self._need("a list {…} is missing", Kind.OPEN_LIST, Kind.OPEN, *_VALUES)
        values = [opened] if opened.kind in _VALUES else []
        if not values:
            closing = Kind.CLOSE_LIST if opened.kind is Kind.OPEN_LIST else Kind.CLOSE
            while True:
                value = self._need("a value is missing in the list", *_VALUES)
                self._count(value)
                values.append(value)
                if self._take(closing):
                    break
                self._need(
                    f"the list isn't closed: {'}' if closing is Kind.CLOSE_LIST else ')'} is missing",
                    Kind.COMMA,
                    Kind.OR,
                )
        return lambda field: listed(field, values)

    def _each(self, fields: tuple[Field, ...], make: Callable[[Field], Query]) -> Query:
        made = tuple(make(field) for field in fields)
        return made[0] if len(made) == 1 else Or(made)

    def _fields(self, token: Token) -> tuple[Field, ...]:
        found = self._vocabulary.find(token.text)
        if found:
            return found
        other = next(one for one in VOCABULARIES.values() if one is not self._vocabulary)
        if other.find(token.text):
            text = f"{self._vocabulary.what} have no {token.text}: look for {other.what} instead"
        else:
            same = WIRESHARK.get(token.text.lower(), "")
            found_same = bool(same and self._vocabulary.find(same))
            near = (
                f"; did you mean {same}?"
                if found_same
                else suggestion(token.text, self._vocabulary.all_names)
            )
            text = f'there is no field "{token.text[:40]}"' + (near or "; quote it to look for it as text")
        raise QueryError(text, token.start, token.end)

    def _count(self, token: Token) -> None:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise QueryError(f"a query has at most {MAX_TERMS} comparisons", token.start, token.end)
