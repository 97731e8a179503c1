"""Tree to text: what `parse` reads as the same tree. The short names are used where there are any."""

from __future__ import annotations

from collections.abc import Sequence

from hub.pool.fields import Field
from hub.pool.query.ast import (
    And,
    Cidr,
    Compare,
    Exists,
    In,
    Matches,
    Not,
    Operand,
    Or,
    Query,
    Range,
    Text,
)
from hub.pool.query.operands import operand_text
from hub.pool.query.tokens import quoted
from hub.pool.query.vocabulary import VOCABULARIES, Vocabulary, What


def to_text(query: Query, what: What = What.PACKETS) -> str:
    """The query as text; KeyError for a field that isn't one of `what`."""
    return _Writer(VOCABULARIES[what]).whole(query)


class _Writer:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self._names = vocabulary.names
        self._either = {(a.name, b.name): name for name, (a, b) in vocabulary.either.items()}

    def whole(self, query: Query) -> str:
        """Without brackets around it."""
        if isinstance(query, And | Or) and len(query.parts) > 1 and not self._pair(query):
            return (" and " if isinstance(query, And) else " or ").join(map(self._part, query.parts))
        return self._part(query)

    def _part(self, query: Query) -> str:
        match query:
            case And(parts=()):
                return "*"
            case Or(parts=()):
                return "not *"
            case And(parts=(only,)) | Or(parts=(only,)):
                return self._part(only)
            case Or() if pair := self._pair(query):
                return pair
            case And() | Or():
                return f"({self.whole(query)})"
            case Not(part=part):
                return f"not {self._part(part)}"
            case Text(word=word):
                return quoted(word)
        return self._compared(query)

    def _pair(self, query: Query) -> str | None:
        """`ip`, `port`, `mac`: the same of either of two fields."""
        if not isinstance(query, Or) or len(query.parts) != 2:
            return None
        first, second = query.parts
        fields = (getattr(first, "field", ""), getattr(second, "field", ""))
        name = self._either.get(fields)
        if name is None:
            return None
        one, other = (self._compared(part, name) for part in query.parts)
        return one if one == other else None

    def _compared(self, query: Query, name: str | None = None) -> str:
        assert isinstance(query, Compare | In | Range | Cidr | Matches | Exists)
        field = self._names[query.field]
        name = name or _shortest(field)
        match query:
            case Compare(operator=operator, value=value):
                return f"{name} {'==' if operator == '=' else operator} {_value(field, value)}"
            case In(values=values):
                return f"{name} in {{{_values(field, values)}}}"
            case Range(low=low, high=high):
                return f"{name}:{_bound(field, low)}..{_bound(field, high)}"
            case Cidr(network=network):
                return f"{name} == {network}"
            case Matches(pattern=pattern):
                return f"{name} ~ {quoted(pattern)}"
            case Exists():
                return f"{name}:*"


def _shortest(field: Field) -> str:
    return field.aliases[0] if field.aliases else field.name


def _value(field: Field, value: Operand) -> str:
    return operand_text(field.type, value, quoted(str(value)))


def _bound(field: Field, value: Operand | None) -> str:
    return "" if value is None else _value(field, value)


def _values(field: Field, values: Sequence[Operand]) -> str:
    return ", ".join(_value(field, value) for value in values)
