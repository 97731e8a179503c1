"""What a query is: a tree that each store compiles to its own language.

Fields are named as in hub.pool.fields; values are of the field's type: str (KEYWORD), int (INTEGER, TIME, HASH, MAC as
48 bits), bool (BOOLEAN), ipaddress.IPv4Address or IPv6Address (IP). A comparison with a field that a packet doesn't
have is false, so that its negation holds. Where a field has several values (of conversations), one that fits is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Operand = str | int | bool | Address
Operator = Literal["=", "<", "<=", ">", ">="]


class QueryError(Exception):
    """A query that can't be understood or asked; the text says why, for people."""

    def __init__(self, text: str, position: int = 0, end: int | None = None) -> None:
        """position: of the first character that is wrong; end: behind the last one (None: unknown)."""
        super().__init__(text)
        self.position = position
        self.end = position if end is None else max(position, end)


@dataclass(frozen=True, slots=True)
class And:
    """All of them; of none: true."""

    parts: Sequence[Query]


@dataclass(frozen=True, slots=True)
class Or:
    """One of them; of none: false."""

    parts: Sequence[Query]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    part: Query


@dataclass(frozen=True, slots=True)
class Compare:
    """The field has a value and it compares so. Order is defined for INTEGER, TIME and IP."""

    field: str
    operator: Operator
    value: Operand


@dataclass(frozen=True, slots=True)
class In:
    """The field's value is one of these."""

    field: str
    values: Sequence[Operand]


@dataclass(frozen=True, slots=True)
class Range:
    """low ≤ value ≤ high; None: no bound."""

    field: str
    low: Operand | None
    high: Operand | None


@dataclass(frozen=True, slots=True)
class Cidr:
    """An address within a network."""

    field: str
    network: Network


@dataclass(frozen=True, slots=True)
class Matches:
    """A KEYWORD that fits a pattern as a whole, whatever its case: `*` any characters, `?` one; a backslash takes what
    follows it literally."""

    field: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Exists:
    """The field has a value."""

    field: str


@dataclass(frozen=True, slots=True)
class Text:
    """Some field that is marked `text` contains this, whatever its case."""

    word: str


Query = And | Or | Not | Compare | In | Range | Cidr | Matches | Exists | Text
