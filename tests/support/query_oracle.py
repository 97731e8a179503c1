"""What a query means, packet by packet and slowly: the answer every store must give. Over the columns of a batch."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.pool.fields import BY_NAME, PACKET_FIELDS, Type
from hub.pool.observed import ObservedBatch
from hub.pool.query import And, Cidr, Compare, Exists, In, Matches, Not, Operand, Or, Query, Range, Text

Mask = NDArray[np.bool_]
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def fits(query: Query, batch: ObservedBatch) -> Mask:
    """Which packets of the batch fit."""
    match query:
        case And(parts=parts):
            return _every([fits(one, batch) for one in parts], batch)
        case Or(parts=parts):
            return ~_every([~fits(one, batch) for one in parts], batch)
        case Not(part=part):
            return ~fits(part, batch)
        case Exists(field=field):
            return np.array([value is not None for value in values(field, batch)], np.bool_)
        case Text(word=word):
            columns = [values(field.name, batch) for field in PACKET_FIELDS if field.text]
            lower = word.lower()
            return np.array(
                [
                    any(lower in str(v).lower() for v in row if v is not None)
                    for row in zip(*columns, strict=True)
                ],
                np.bool_,
            )
    test = _test(query)
    return np.array([value is not None and test(value) for value in values(query.field, batch)], np.bool_)


def _every(masks: list[Mask], batch: ObservedBatch) -> Mask:
    found = np.ones(len(batch), np.bool_)
    for mask in masks:
        found &= mask
    return found


def _test(query: Compare | In | Range | Cidr | Matches) -> Callable[[Any], bool]:
    match query:
        case Compare(operator=sign, value=wanted):
            return lambda value: _SIGNS[sign](value, _comparable(wanted))
        case In(values=listed):
            several = [_comparable(one) for one in listed]
            return lambda value: value in several
        case Range(low=low, high=high):
            return lambda value: (
                (low is None or value >= _comparable(low)) and (high is None or value <= _comparable(high))
            )
        case Cidr(network=network):
            first, last = _comparable(network[0]), _comparable(network[-1])
            return lambda value: first <= value <= last
        case Matches(pattern=pattern):
            compiled = re.compile(_regular(pattern), re.IGNORECASE | re.DOTALL)
            return lambda value: compiled.fullmatch(value) is not None


def _comparable(value: Operand) -> Any:
    """Addresses as 128 bits: IPv4 as ::ffff:a.b.c.d."""
    if isinstance(value, str | int):
        return value
    return int(value) if isinstance(value, IPv6Address) else 0xFFFF00000000 | int(value)


def _regular(pattern: str) -> str:
    signs = {"*": ".*", "?": "."}
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join(
        re.escape(part[1]) if len(part) == 2 else signs.get(part, re.escape(part)) for part in parts
    )


def values(name: str, batch: ObservedBatch) -> list[Any]:
    """A field's value of each packet, None where there is none."""
    field = BY_NAME[name]
    read = field.read(batch)
    present = np.ones(len(batch), np.bool_) if read.present is None else read.present
    found: list[Any]
    match field.type:
        case Type.KEYWORD if read.array.dtype.kind == "S":
            found = [value.decode() for value in read.array.tolist()]
        case Type.KEYWORD:
            found = [read.words[code] if code < len(read.words) else None for code in read.array.tolist()]
        case Type.IP | Type.MAC:
            found = [int.from_bytes(bytes(octets), "big") for octets in read.array]
        case _:
            found = read.array.tolist()
    return [value if there else None for value, there in zip(found, present, strict=True)]
