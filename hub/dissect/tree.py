"""What a protocol tree is made of: named values with the bytes they stand in, bounded as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hub.decode.packet_line import printable

MAX_FIELDS = 1500
"""Of one packet; a DNS answer or a TLS hello can be made of as many fields as it has bytes."""
MAX_VALUE = 240
MAX_NAME = 64


class TooManyFields(Exception):
    """MAX_FIELDS are in the tree already."""


@dataclass(slots=True)
class Field:
    """A layer, a field of one, or a part of a field. Once settled, text is bounded and printable, but NOT escaped for
    HTML, and the bytes are all there."""

    name: str
    value: str
    offset: int
    """Of its first byte in the captured data."""
    length: int
    """In bytes; 0 for what stands nowhere."""
    wrong: bool = False
    """It can't be as it is: a bogus length, a checksum that doesn't fit, bytes that are missing."""
    parts: list[Field] = field(default_factory=list)


class Tree:
    """The layers of a packet while it is read, lowest first.

    data: what was captured, bounded by who reads it. `end` is where the packet ends by the word of the layers read so
    far: what lies behind is padding.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.end = len(data)
        self.layers: list[Field] = []
        self._left = MAX_FIELDS

    def layer(self, name: str, offset: int, length: int = 0, value: str = "") -> Field:
        """Begin a layer; its length may be set later."""
        return self.add(self.layers, name, value, offset, length)

    def add(
        self, to: list[Field], name: str, value: object, offset: int, length: int, *, wrong: bool = False
    ) -> Field:
        """Append a field to a list of fields; TooManyFields beyond the bound."""
        if self._left <= 0:
            raise TooManyFields
        self._left -= 1
        made = Field(name, str(value), offset, length, wrong=wrong)
        to.append(made)
        return made

    def settle(self) -> list[Field]:
        """The layers, every text printable and within its bound, and every field within the data."""
        waiting = list(self.layers)
        while waiting:
            one = waiting.pop()
            one.name, one.value = printable(one.name, MAX_NAME), printable(one.value, MAX_VALUE)
            one.offset = max(0, min(one.offset, len(self.data)))
            one.length = max(0, min(one.length, len(self.data) - one.offset))
            waiting += one.parts
        return self.layers

    def bits(self, to: Field, value: int, names: Iterable[tuple[int, str]]) -> None:
        """Single bits of a field, each with its name, `set` or `not set`."""
        for mask, name in names:
            self.add(to.parts, name, "set" if value & mask else "not set", to.offset, to.length)

    def rest(self, to: Field, name: str, offset: int, end: int) -> None:
        """Bytes that nobody here knows more of, if there are any."""
        if end > offset:
            self.add(to.parts, name, byte_count(end - offset), offset, end - offset)


def byte_count(number: int) -> str:
    """`1 byte`, `7 bytes`."""
    return f"{number} byte" if number == 1 else f"{number} bytes"


def named(names: dict[int, str], number: int, digits: int = 0) -> str:
    """A number with the name it has: `TCP (6)`; digits > 0: `IPv4 (0x0800)`."""
    shown = f"0x{number:0{digits}x}" if digits else str(number)
    return f"{names[number]} ({shown})" if number in names else shown
