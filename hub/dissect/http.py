"""The head of an HTTP/1 message of the tree (RFC 9112), and what speaks like it."""

from hub.decode.packet_line import latin
from hub.dissect.tree import Tree, byte_count

_MAX_LINES = 100
_MAX_LINE_BYTES = 8192


def http(tree: Tree, offset: int, name: str) -> None:
    """Start line and fields up to the blank line, or as far as this packet goes; the rest is the body."""
    layer = tree.layer(name, offset, tree.end - offset)
    at = offset
    for number in range(_MAX_LINES):
        end = tree.data.find(b"\n", at, min(tree.end, at + _MAX_LINE_BYTES))
        behind = tree.end if end < 0 else end + 1
        line = tree.data[at:behind].rstrip(b"\r\n")
        if number == 0:
            layer.value = latin(line, 160)
            tree.add(layer.parts, "Start line", latin(line, 240), at, behind - at)
        elif line:
            field, colon, value = line.partition(b":")
            if colon:
                tree.add(layer.parts, latin(field, 60), latin(value.strip(), 240), at, behind - at)
            else:
                tree.add(layer.parts, "Line", latin(line, 240), at, behind - at)
        else:
            tree.add(layer.parts, "End of the head", "", at, behind - at)
            at = behind
            break
        at = behind
        if at >= tree.end:
            break
    tree.rest(layer, "Body", at, tree.end)
    layer.length = tree.end - offset
    if tree.end > at:
        layer.value += f" · body {byte_count(tree.end - at)}"
