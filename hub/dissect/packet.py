"""One packet's bytes → its protocol tree.

Input is hostile: nothing raises, loops end by constants or by the data, the number of fields and the length of every
text are bounded. What isn't known is there as bytes with their length, so that every captured byte is in some layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from hub.decode.packet_line import Cut
from hub.dissect.link import link_layer
from hub.dissect.tree import Field, TooManyFields, Tree, byte_count

MAX_BYTES = 65_536
"""Of a packet this much is read; what follows is data."""


@dataclass(frozen=True, slots=True)
class Dissection:
    """The layers of a packet, lowest first."""

    layers: list[Field]
    not_captured_bytes: int
    """On the wire, but not in the capture: a snap length or a payload policy left them out."""


def dissect(data: bytes, link_type: int, original_bytes: int) -> Dissection:
    """Never raises. link_type: a LINKTYPE_ value (tcpdump.org/linktypes.html)."""
    tree = Tree(data[:MAX_BYTES])
    missing = max(0, original_bytes - len(data))
    trouble = ""
    try:
        link_layer(tree, link_type)
    except Cut:
        why = "the capture was cut here" if missing else "the packet ends before this layer does"
        trouble = f"[{why}]"
    except TooManyFields:
        trouble = "[more fields than are shown]"
    except Exception as error:  # a fault of ours must not keep anybody from the bytes
        trouble = f"[not understood: {type(error).__name__}]"
    if trouble and tree.layers:
        last = tree.layers[-1]
        last.length = max(last.length, tree.end - last.offset)
        last.parts.append(Field(trouble, "", last.offset, last.length, wrong=True))
    layers = tree.settle()
    covered = max((layer.offset + layer.length for layer in layers), default=0)
    if covered < tree.end:
        layers.append(Field("Data", byte_count(tree.end - covered), covered, tree.end - covered))
        covered = tree.end
    if covered < len(tree.data):
        rest = len(tree.data) - covered
        layers.append(Field("Padding or trailer", byte_count(rest), covered, rest))
    if len(data) > MAX_BYTES:
        rest = len(data) - MAX_BYTES
        layers.append(Field("Data", f"{byte_count(rest)} more", MAX_BYTES, rest))
    return Dissection(layers, missing)
