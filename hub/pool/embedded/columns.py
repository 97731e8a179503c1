"""Which columns an observation has in DuckDB, and how they are filled: arrays in, no Python object per packet.

A column holds the number as it was decoded, 0 where its header isn't there: whether there is a value follows from
`layers` and a few others (hub/pool/embedded/asked.py), so that no array of presence is made or stored. What a batch
shares stands in `sources` and `batches`. Addresses are two u64, high half first: they compare with a network as ranges,
and DuckDB's compression leaves four bytes of an IPv4 address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.observe.observations import DTYPES
from hub.pool.fields import BY_NAME, Type
from hub.pool.observed import ObservedBatch, Pooling

Array = NDArray[Any]

SEEN = (
    "layers",
    "ethertype",
    "vlan_tags",
    "vlan_outer",
    "vlan_inner",
    "arp_operation",
    "ip_version",
    "protocol",
    "ttl",
    "dscp",
    "ecn",
    "ip_id",
    "ip_total_bytes",
    "fragment_offset_bytes",
    "more_fragments",
    "source_port",
    "destination_port",
    "tcp_flags",
    "tcp_sequence",
    "tcp_acknowledgement",
    "tcp_window",
    "icmp_type",
    "icmp_code",
    "payload_bytes",
    "flow_hash",
    "hop_hash",
    "nat_hash",
    "tunnel_kind",
    "tunnel_id",
    "outer_version",
    "problem",
)
"""Columns of hub.observe, as they are."""
OWN = {"original_bytes": "UINTEGER", "captured_bytes": "UINTEGER", "flags": "USMALLINT"}
"""Columns of the batch itself."""
ADDRESSES = ("source_address", "destination_address", "outer_source_address", "outer_destination_address")
MACS = ("source_mac", "destination_mac")
SPOKEN: Mapping[str, str] = {
    "dns_name": "dns.question.name",
    "dns_type": "dns.type",
    "dns_question_type": "dns.question.type",
    "dns_id": "dns.id",
    "dns_response_code": "dns.response_code",
    "server_name": "tls.client.server_name",
    "alpn": "tls.client.alpn",
    "http_method": "http.request.method",
    "http_host": "url.domain",
    "http_target": "url.original",
}
"""Column → field, of what few packets have. In a table of its own: among the others, columns of text that are nearly
always empty would cost as much to write as all the rest."""

_SQL_TYPES = {
    "|u1": "UTINYINT",
    "<u2": "USMALLINT",
    "<u4": "UINTEGER",
    "<u8": "UBIGINT",
    "|b1": "BOOLEAN",
}
_U64_BE = np.dtype(">u8")
_PLACE = {"batch": "UINTEGER", "idx": "UINTEGER", "time_ns": "BIGINT"}


def _types() -> dict[str, str]:
    found: dict[str, str] = _PLACE | {"source": "UINTEGER", "offset_ns": "BIGINT"} | OWN
    found |= {name: _SQL_TYPES[DTYPES[name].str] for name in SEEN}
    found |= {f"{name}_{half}": "UBIGINT" for name in ADDRESSES for half in ("high", "low")}
    return found | dict.fromkeys(MACS, "UBIGINT")


TYPES: Mapping[str, str] = _types()
"""The table `packets`: column → its type, in the table's order."""
SPOKEN_TYPES: Mapping[str, str] = _PLACE | {
    name: "INTEGER" if BY_NAME[field].type is Type.INTEGER else "VARCHAR" for name, field in SPOKEN.items()
}
"""The table `spoken`."""
PAYLOAD_TYPES: Mapping[str, str] = _PLACE | {"payload": "BLOB"}
"""The table `payloads`."""


def gather(batches: Sequence[ObservedBatch], ids: Sequence[int], sources: Sequence[int]) -> dict[str, Array]:
    """The rows of several batches for `packets`, an array per column; columns that hold nothing but 0 have none.

    ids, sources: of each batch, its row in `batches` and in `sources`.
    """
    counts = [len(batch) for batch in batches]
    offsets = [batch.clock.estimate_ns if batch.clock else 0 for batch in batches]
    found: dict[str, Array] = {
        "batch": np.repeat(np.array(ids, np.uint32), counts),
        "idx": np.concatenate([np.arange(count, dtype=np.uint32) for count in counts]),
        "time_ns": np.concatenate([batch.corrected_ns() for batch in batches]),
        "source": np.repeat(np.array(sources, np.uint32), counts),
        "offset_ns": np.repeat(np.array(offsets, np.int64), counts),
    }
    for name in OWN:
        found[name] = np.concatenate([getattr(batch, name) for batch in batches])
    for name in SEEN:
        found[name] = np.concatenate([getattr(batch.seen, name) for batch in batches])
    for name in ADDRESSES:
        halves = np.concatenate([getattr(batch.seen, name) for batch in batches]).view(_U64_BE)
        found[f"{name}_high"] = halves[:, 0].astype(np.uint64)
        found[f"{name}_low"] = halves[:, 1].astype(np.uint64)
    for name in MACS:
        octets = np.zeros((sum(counts), 8), np.uint8)
        octets[:, 2:] = np.concatenate([getattr(batch.seen, name) for batch in batches])
        found[name] = octets.view(_U64_BE)[:, 0].astype(np.uint64)
    return {name: array for name, array in found.items() if name in _PLACE or array.any()}


def spoken(batches: Sequence[ObservedBatch], ids: Sequence[int]) -> dict[str, Array]:
    """The rows for `spoken`; empty when no packet has one."""
    parts: list[dict[str, Array]] = []
    for batch, id_ in zip(batches, ids, strict=True):
        if not (batch.applications.dns or batch.applications.tls or batch.applications.http):
            continue
        said = {name: BY_NAME[field].read(batch) for name, field in SPOKEN.items()}
        some = np.zeros(len(batch), np.bool_)
        for values in said.values():
            assert values.present is not None
            some |= values.present
        packets = np.flatnonzero(some)
        part = _places(batch, id_, packets)
        for name, values in said.items():
            assert values.present is not None
            absent = ~values.present[packets]
            picked = values.array[packets]
            if values.words or SPOKEN_TYPES[name] == "VARCHAR":
                words = np.array([*values.words, None], object)
                part[name] = words[np.where(absent, len(values.words), picked)]
            else:
                part[name] = np.ma.masked_array(picked, absent)
        parts.append(part)
    return _joined(parts)


def payloads(batches: Sequence[ObservedBatch], ids: Sequence[int]) -> dict[str, Array]:
    """The rows for `payloads`, the one table that takes an object per packet: its bytes."""
    parts = []
    for batch, id_ in zip(batches, ids, strict=True):
        if batch.level is not Pooling.PAYLOAD:
            continue
        values = BY_NAME["wirepool.payload"].read(batch)
        assert values.present is not None
        packets = np.flatnonzero(values.present)
        data = memoryview(batch.columns.data)
        found = np.empty(len(packets), object)
        found[:] = [bytes(data[begin:end]) for begin, end in values.array[packets].tolist()]
        parts.append(_places(batch, id_, packets) | {"payload": found})
    return _joined(parts)


def _places(batch: ObservedBatch, id_: int, packets: Array) -> dict[str, Array]:
    return {
        "batch": np.full(len(packets), id_, np.uint32),
        "idx": packets.astype(np.uint32),
        "time_ns": batch.corrected_ns()[packets],
    }


def _joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    if not parts:
        return {}
    return {
        name: np.ma.concatenate(  # type: ignore[no-untyped-call]
            [part[name] for part in parts]
        )
        if isinstance(parts[0][name], np.ma.MaskedArray)
        else np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }
