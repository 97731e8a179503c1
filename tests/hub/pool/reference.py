"""A packet as the table of fields has it: what any store must give back."""

from __future__ import annotations

import ipaddress

from hub.pool.fields import PACKET_FIELDS, Type
from hub.pool.observed import ObservedBatch, Pooling
from hub.pool.store import Value


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
