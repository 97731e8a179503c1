"""The query language's tree as Elasticsearch's query.

What a field lacks is nothing that a clause could match, and `must_not` matches it: just what the tree means.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from hub.pool.fields import CONVERSATION_FIELDS, PACKET_FIELDS, Field, Type
from hub.pool.query import (
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
    QueryError,
    Range,
    Text,
)
from hub.pool.query.operands import time_text

Clause = dict[str, Any]
PACKETS: Mapping[str, Field] = {field.name: field for field in PACKET_FIELDS}
CONVERSATIONS: Mapping[str, Field] = {field.name: field for field in CONVERSATION_FIELDS}
MAX_CLAUSES = 1000
"""Elasticsearch's own bound is 1,024 on small nodes."""
_ORDERS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_ORDERED = (Type.INTEGER, Type.TIME, Type.IP)


def compiled(query: Query | None, fields: Mapping[str, Field]) -> Clause:
    """The whole query. QueryError for what can't be asked."""
    if query is None:
        return {"match_all": {}}
    if (count := _clauses(query, fields)) > MAX_CLAUSES:
        raise QueryError(f"the query has {count} parts; Elasticsearch takes {MAX_CLAUSES}")
    return _clause(query, fields)


def between(since_ns: int, until_ns: int, field: str = "@timestamp") -> Clause:
    """since_ns ≤ time < until_ns."""
    if until_ns <= max(since_ns, 0):
        return {"match_none": {}}
    bounds = {"gte": instant(since_ns)}
    if until_ns < 2**63:
        bounds["lt"] = instant(until_ns)
    return {"range": {field: bounds}}


def instant(time_ns: int) -> str:
    """A time as Elasticsearch reads it; beyond what date_nanos has, its first or last one."""
    return time_text(min(max(time_ns, 0), 2**63 - 1))


def _clauses(query: Query, fields: Mapping[str, Field]) -> int:
    match query:
        case And(parts=parts) | Or(parts=parts):
            return 1 + sum(_clauses(one, fields) for one in parts)
        case Not(part=part):
            return 1 + _clauses(part, fields)
        case Text():
            return sum(field.text for field in fields.values())
    return 1


def _clause(query: Query, fields: Mapping[str, Field]) -> Clause:
    match query:
        case And(parts=parts):
            return (
                {"bool": {"filter": [_clause(one, fields) for one in parts]}} if parts else {"match_all": {}}
            )
        case Or(parts=parts):
            return _any([_clause(one, fields) for one in parts])
        case Not(part=part):
            return {"bool": {"must_not": [_clause(part, fields)]}}
        case Text(word=word):
            pattern = f"*{_literal(word)}*"
            return _any([_pattern(field.name, pattern) for field in fields.values() if field.text])
    return _about(query, _field(query.field, fields))


def _about(query: Compare | In | Range | Cidr | Matches | Exists, field: Field) -> Clause:
    match query:
        case Exists():
            return {"exists": {"field": field.name}}
        case Compare(operator="=", value=value):
            return _same(field, value)
        case Compare(operator=sign, value=value):
            return _ordered(field, {_ORDERS[sign]: value})
        case In(values=values):
            if field.type is Type.TIME:
                return _any([_same(field, value) for value in values])
            return {"terms": {field.name: [_operand(field, value) for value in values]}}
        case Range(low=low, high=high):
            bounds = {name: value for name, value in (("gte", low), ("lte", high)) if value is not None}
            return _ordered(field, bounds) if bounds else {"exists": {"field": field.name}}
        case Cidr(network=network):
            return {"term": {field.name: str(network)}}
        case Matches(pattern=pattern):
            return _pattern(field.name, pattern)


def _field(name: str, fields: Mapping[str, Field]) -> Field:
    field = fields.get(name)
    if field is None:
        raise QueryError(f"there is no field {name}")
    if field.type is Type.BYTES:
        raise QueryError(f"{name} is shown, and can't be asked for")
    return field


def _any(clauses: list[Clause]) -> Clause:
    if not clauses:
        return {"match_none": {}}
    return {"bool": {"should": clauses, "minimum_should_match": 1}}


def _same(field: Field, value: Operand) -> Clause:
    if field.type is Type.TIME:
        return _ordered(field, {"gte": value, "lte": value})
    return {"term": {field.name: {"value": _operand(field, value)}}}


def _ordered(field: Field, bounds: Mapping[str, Operand]) -> Clause:
    if field.type not in _ORDERED:
        raise QueryError(f"{field.name} has no order")
    return {"range": {field.name: {name: _operand(field, value) for name, value in bounds.items()}}}


def _operand(field: Field, value: Operand) -> str | int | bool:
    if isinstance(value, IPv4Address | IPv6Address):
        return str(value)
    if isinstance(value, bool | str):
        return value
    match field.type:
        case Type.TIME:
            return instant(value)
        case Type.HASH:
            return f"{value:016x}"
        case Type.MAC:
            return value.to_bytes(6, "big").hex(":")
    return value


def _pattern(name: str, pattern: str) -> Clause:
    return {"wildcard": {name: {"value": pattern, "case_insensitive": True}}}


def _literal(word: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?\\" else letter for letter in word)
