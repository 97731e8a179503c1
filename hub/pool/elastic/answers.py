"""What Elasticsearch holds, as rows; and rows that Python writes, as documents."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from hub.observation import BatchName, Observation
from hub.pool.elastic.questions import instant
from hub.pool.fields import BY_NAME, CONVERSATION_FIELDS, Type
from hub.pool.query.operands import time_of
from hub.pool.store import ConversationRow, OffsetRow, PacketRow, StoreRefused, Value
from wire.names import Lane

Source = Mapping[str, Any]


def packet_row(source: Source) -> PacketRow:
    """A document of an observation."""
    values: dict[str, Value] = {}
    for name, value in source.items():
        field = BY_NAME.get(name)
        if field is None:
            continue
        if field.type is Type.TIME:
            value = time_ns(value)
        elif field.type is Type.BYTES:
            value = base64.b64decode(value)
        values[name] = value
    try:
        batch = BatchName(
            source["agent_id"],
            bytes.fromhex(source["wirepool.boot"]),
            source["wirepool.session"],
            Lane(source["wirepool.lane"]),
            source["event.sequence"],
        )
        return PacketRow(Observation(batch, source["wirepool.index"]), time_ns(source["@timestamp"]), values)
    except (KeyError, ValueError, TypeError) as error:
        raise StoreRefused(
            f"a document in Elasticsearch isn't one of wirepool's observations: {error!r}"
        ) from None


def time_ns(text: str) -> int:
    """A time as it stands in a document."""
    found = time_of(text)
    if found is None:
        raise StoreRefused(f"a document in Elasticsearch has no time that wirepool wrote: {text[:40]!r}")
    return found


_ATTRIBUTES = {field.name: field for field in CONVERSATION_FIELDS}


def conversation_document(row: ConversationRow) -> dict[str, Any]:
    """As it is written; what is empty isn't."""
    document: dict[str, Any] = {}
    for name, field in _ATTRIBUTES.items():
        value = getattr(row, field.attribute)
        if value is None or (isinstance(value, str | tuple | list) and not value):
            continue
        document[name] = instant(value) if field.type is Type.TIME else value
    document |= {
        "wirepool.conversation": row.id,
        "wirepool.revision": row.revision,
        "wirepool.observations": row.observations,
    }
    if row.details:
        document["wirepool.details"] = row.details.decode()
    return document


def conversation_row(source: Source) -> ConversationRow:
    """A document of a conversation."""
    ids = source.get("network.community_id") or [""]
    return ConversationRow(
        id=source["wirepool.conversation"],
        revision=source["wirepool.revision"],
        community_id=ids[0],
        first_ns=time_ns(source["@timestamp"]),
        last_ns=time_ns(source["event.end"]),
        source=source.get("source.ip", ""),
        destination=source.get("destination.ip", ""),
        source_port=source.get("source.port"),
        destination_port=source.get("destination.port"),
        protocol=source["network.iana_number"],
        packets=source["network.packets"],
        bytes=source["network.bytes"],
        observations=source["wirepool.observations"],
        agents=tuple(source.get("agent_id", ())),
        sessions=tuple(source.get("wirepool.session", ())),
        aliases=tuple(ids[1:]),
        names=tuple(source.get("wirepool.names", ())),
        lost_packets=source.get("wirepool.lost_packets"),
        retransmissions=source.get("wirepool.retransmissions"),
        details=source.get("wirepool.details", "").encode(),
    )


def offset_id(row: OffsetRow) -> str:
    """One per agent and time."""
    return hashlib.blake2b(f"{row.agent}/{row.at_ns}".encode(), digest_size=18).hexdigest()


def offset_document(row: OffsetRow) -> dict[str, Any]:
    """As it is written."""
    document = {
        "@timestamp": instant(row.at_ns),
        "agent_id": row.agent,
        "clock.anchor": row.anchor,
        "clock.estimate_ns": row.estimate_ns,
        "clock.low_ns": row.low_ns,
        "clock.high_ns": row.high_ns,
        "clock.drift_ppb": row.drift_ppb,
        "clock.origin": row.origin,
        "clock.note": row.note,
    }
    return {name: value for name, value in document.items() if value is not None and value != ""}


def offset_row(source: Source) -> OffsetRow:
    """A document of a clock offset."""
    return OffsetRow(
        agent=source["agent_id"],
        at_ns=time_ns(source["@timestamp"]),
        anchor=source.get("clock.anchor", ""),
        estimate_ns=source.get("clock.estimate_ns"),
        low_ns=source.get("clock.low_ns"),
        high_ns=source.get("clock.high_ns"),
        drift_ppb=source.get("clock.drift_ppb"),
        origin=source.get("clock.origin", ""),
        note=source.get("clock.note", ""),
    )
