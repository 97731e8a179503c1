"""A batch's observations as the lines of a bulk request, without a Python object per packet."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import orjson
from numpy.typing import NDArray

from hub.observation import BatchName
from hub.observe.observations import U64
from hub.pool.elastic import _bulk
from hub.pool.fields import PACKET_FIELDS, PacketField, Type
from hub.pool.observed import ObservedBatch, Pooling
from hub.pool.values import Values


class Kind(IntEnum):
    """How the kernel writes a value."""

    UNSIGNED = 0
    SIGNED = 1
    TIME = 2
    BOOLEAN = 3
    IP = 4
    MAC = 5
    HASH = 6
    WORD = 7
    TEXT = 8
    BYTES = 9


_KINDS = {
    Type.TIME: Kind.TIME,
    Type.IP: Kind.IP,
    Type.MAC: Kind.MAC,
    Type.BOOLEAN: Kind.BOOLEAN,
    Type.HASH: Kind.HASH,
    Type.BYTES: Kind.BYTES,
}
_WIDTHS = {Kind.IP: 16, Kind.MAC: 6, Kind.BYTES: 16}
_ENTRIES = {Kind.TIME: np.int64, Kind.HASH: np.uint64, Kind.BYTES: np.uint64, Kind.BOOLEAN: np.bool_}


@dataclass(frozen=True, slots=True)
class Lines:
    """Two lines per packet, and where those of each packet end, in bytes."""

    data: bytes
    ends: U64


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch's columns as the kernel takes them."""

    packets: int
    action: bytes
    constant: bytes
    columns: tuple[_bulk.Column, ...]

    def lines(self, first: int, last: int) -> Lines:
        """Those of the packets from `first` to before `last`."""
        ends = np.empty(last - first, np.uint64)
        data = _bulk.lines(self.packets, first, last, self.action, self.constant, self.columns, ends.data)
        return Lines(data, ends)


def document_id(name: BatchName) -> str:
    """What the ids of a batch's documents begin with; `-` and the packet's place follow. 24 characters.

    A digest, since ids are a large part of an index and the name is in the document's fields anyway.
    """
    told = f"{name.agent}/{name.boot.hex()}/{name.session}/{name.lane}/{name.sequence}".encode()
    return base64.urlsafe_b64encode(hashlib.blake2b(told, digest_size=18).digest()).decode()


def prepare(batch: ObservedBatch, index: str) -> Prepared:
    """A batch of the levels HEADERS and PAYLOAD for the index with this name."""
    constant: list[bytes] = []
    columns: list[_bulk.Column] = []
    for field in PACKET_FIELDS:
        if field.type is Type.BYTES and batch.level is not Pooling.PAYLOAD:
            continue
        values = field.read(batch)
        if values.present is not None and not values.present.any():
            continue
        column = _column(batch, field, values)
        if _is_constant(values):
            constant.append(_alone(column))
        else:
            columns.append(column)
    action = b'{"create":{"_index":%s,"_id":"%s-' % (orjson.dumps(index), document_id(batch.name).encode())
    return Prepared(len(batch), action, b",".join(constant), tuple(columns))


def _column(batch: ObservedBatch, field: PacketField, values: Values) -> _bulk.Column:
    kind, array = _as_kept(field, values)
    words: bytes | memoryview | None = None
    ends = None
    if kind is Kind.WORD:
        written = [orjson.dumps(word) for word in values.words]
        words = b"".join(written)
        ends = np.cumsum([len(word) for word in written], dtype=np.uint32).data
    elif kind is Kind.BYTES:
        words = memoryview(batch.columns.data)
    array = np.ascontiguousarray(array)
    width = _WIDTHS.get(kind, array.dtype.itemsize)
    present = None if values.present is None else np.ascontiguousarray(values.present).data
    name = b"," + orjson.dumps(field.name) + b":"
    return int(kind), name, array.data.cast("B"), width, present, words, ends


def _as_kept(field: PacketField, values: Values) -> tuple[Kind, NDArray[np.generic]]:
    array: NDArray[np.generic] = values.array
    if field.type is Type.KEYWORD:
        kind = Kind.WORD if values.words else Kind.TEXT
    elif field.type is Type.INTEGER:
        kind = Kind.SIGNED if array.dtype.kind == "i" else Kind.UNSIGNED
        if array.dtype.kind == "b":
            array = array.view(np.uint8)
    else:
        kind = _KINDS[field.type]
        if kind in _ENTRIES:
            array = array.astype(_ENTRIES[kind], copy=False)
    return kind, array


def _is_constant(values: Values) -> bool:
    """The same for all packets: written once."""
    if values.present is not None and not values.present.all():
        return False
    array = values.array
    return bool((array == array[:1]).all()) and (array.ndim == 1 or array.shape[1] != 2)


def _alone(column: _bulk.Column) -> bytes:
    """The first packet's member, `"name":value`: taken out of the lines of a document that has no other."""
    kind, name, values, width, _, words, ends = column
    first: _bulk.Column = (kind, name[1:], memoryview(values)[:width], width, None, words, ends)
    before, behind = b'{0"}}\n{ ', b"}\n"
    return _bulk.lines(1, 0, 1, b"{", b" ", (first,), bytearray(8))[len(before) : -len(behind)]
