"""An opened packet as the page shows it: what is known of it, its protocol tree as lines, its bytes as rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hub.decode.summary import flag_words
from hub.dissect.packet import dissect
from hub.dissect.tree import Field
from hub.live.lookup import FoundPacket

ROW_BYTES = 16
MAX_SHOWN_BYTES = 4096
"""As hexadecimal; all of a packet is in the export."""


@dataclass(frozen=True, slots=True)
class TreeLine:
    """A field as a line of the tree; text is NOT escaped for HTML."""

    level: int
    """1 is a layer."""
    name: str
    value: str
    offset: int
    length: int
    wrong: bool
    expanded: bool | None
    """None: it has no parts."""
    hidden: bool
    """Below something that isn't expanded."""


@dataclass(frozen=True, slots=True)
class ByteRow:
    """ROW_BYTES bytes, or what is left of them."""

    offset: int
    hexadecimal: str
    text: str


@dataclass(frozen=True, slots=True)
class PacketView:
    """See the module."""

    found: FoundPacket
    flags: tuple[str, ...]
    lines: list[TreeLine]
    rows: list[ByteRow]
    not_shown_bytes: int
    """Captured, but beyond MAX_SHOWN_BYTES."""
    not_captured_bytes: int


def packet_view(found: FoundPacket) -> PacketView:
    """Read the packet. The uppermost layer that was understood is open, those below it are closed."""
    dissection = dissect(found.data, found.header.link_type, found.original_bytes)
    shown = found.data[:MAX_SHOWN_BYTES]
    rows = [_row(shown, offset) for offset in range(0, len(shown), ROW_BYTES)]
    return PacketView(
        found,
        flag_words(found.flags),
        tree_lines(dissection.layers),
        rows,
        len(found.data) - len(shown),
        dissection.not_captured_bytes,
    )


def tree_lines(layers: list[Field]) -> list[TreeLine]:
    """Layers as lines of a tree, of which the uppermost that was understood is open."""
    understood = [layer for layer in layers if layer.parts]
    opened = understood[-1] if understood else None
    return [line for layer in layers for line in _lines(layer, 1, layer is opened, hidden=False)]


def _lines(one: Field, level: int, expanded: bool, *, hidden: bool) -> Iterator[TreeLine]:
    yield TreeLine(
        level,
        one.name,
        one.value,
        one.offset,
        one.length,
        one.wrong,
        expanded if one.parts else None,
        hidden,
    )
    for part in one.parts:
        # A group without a value of its own (the answers of a name server) says nothing while it is closed.
        yield from _lines(part, level + 1, not part.value, hidden=hidden or not expanded)


def _row(data: bytes, offset: int) -> ByteRow:
    piece = data[offset : offset + ROW_BYTES]
    half = ROW_BYTES // 2
    hexadecimal = piece[:half].hex(" ") + ("  " + piece[half:].hex(" ") if len(piece) > half else "")
    text = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in piece)
    return ByteRow(offset, hexadecimal, text)
