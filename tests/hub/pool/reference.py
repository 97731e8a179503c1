"""Queries answered by looking at every packet: what any store must answer, too."""

from __future__ import annotations

import fnmatch
import ipaddress
import operator
from collections.abc import Mapping

from hub.pool.fields import BY_NAME, PACKET_FIELDS, Type
from hub.pool.observed import ObservedBatch, Pooling
from hub.pool.query import And, Cidr, Compare, Exists, In, Matches, Not, Or, Query, Range, Text
from hub.pool.store import Value

_OPERATORS = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def told(batch: ObservedBatch, index: int) -> dict[str, Value]:
    """What the table of fields says that a packet holds."""
    found: dict[str, Value] = {}
    for one in PACKET_FIELDS:
        values = one.read(batch)
        if values.present is not None and not values.present[index]:
            continue
        value = values.array[index]
        match one.type:
            case Type.IP:
                address = ipaddress.IPv6Address(value.tobytes())
                found[one.name] = str(address.ipv4_mapped or address)
            case Type.MAC:
                found[one.name] = value.tobytes().hex(":")
            case Type.HASH:
                found[one.name] = f"{int(value):016x}"
            case Type.BOOLEAN:
                found[one.name] = bool(value)
            case Type.BYTES:
                if batch.level is Pooling.PAYLOAD:
                    found[one.name] = bytes(batch.columns.data[int(value[0]) : int(value[1])])
            case Type.KEYWORD:
                found[one.name] = values.words[value] if values.words else value.decode()
            case _:
                found[one.name] = int(value)
    return found


def fits(query: Query, packet: Mapping[str, Value]) -> bool:
    """Whether a packet fits."""
    match query:
        case And(parts):
            return all(fits(part, packet) for part in parts)
        case Or(parts):
            return any(fits(part, packet) for part in parts)
        case Not(part):
            return not fits(part, packet)
        case Compare(name, word, value):
            return name in packet and _OPERATORS[word](
                _comparable(name, packet[name]), _comparable(name, value)
            )
        case In(name, values):
            return any(fits(Compare(name, "=", value), packet) for value in values)
        case Range(name, low, high):
            return (
                name in packet
                and (low is None or fits(Compare(name, ">=", low), packet))
                and (high is None or fits(Compare(name, "<=", high), packet))
            )
        case Cidr(name, network):
            address = ipaddress.ip_address(str(packet[name])) if name in packet else None
            return address is not None and address.version == network.version and address in network
        case Matches(name, pattern):
            return name in packet and fnmatch.fnmatchcase(str(packet[name]).lower(), pattern.lower())
        case Exists(name):
            return name in packet
        case Text(word):
            return any(
                one.text and one.name in packet and word.lower() in str(packet[one.name]).lower()
                for one in PACKET_FIELDS
            )


def _comparable(name: str, value: object) -> object:
    match BY_NAME[name].type:
        case Type.IP:
            address = ipaddress.ip_address(str(value))
            return int(address) if address.version == 6 else (0xFFFF << 32) + int(address)
        case Type.MAC:
            return int(str(value).replace(":", ""), 16) if isinstance(value, str) else value
        case Type.HASH:
            return int(value, 16) if isinstance(value, str) else value
    return value
