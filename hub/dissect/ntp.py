"""NTP of the tree (RFC 5905)."""

from datetime import UTC, datetime, timedelta

from hub.decode.packet_line import ipv4, latin, need, u8, u32
from hub.dissect.tree import Tree, named

_MODES = {1: "symmetric active", 2: "symmetric passive", 3: "client", 4: "server", 5: "broadcast", 6: "control",
          7: "private"}  # fmt: skip
_LEAPS = {
    0: "no warning",
    1: "last minute has 61 seconds",
    2: "last minute has 59 seconds",
    3: "not synchronized",
}
_EPOCH = datetime(1900, 1, 1, tzinfo=UTC)
_STAMPS = ((16, "Reference time"), (24, "Origin time"), (32, "Receive time"), (40, "Transmit time"))


def ntp(tree: Tree, offset: int) -> None:
    """The 48 bytes that every time message has; what follows is bytes, and so is a control message."""
    data = tree.data[: tree.end]
    layer = tree.layer("Network Time Protocol", offset, min(48, len(data) - offset))
    first = u8(data, offset, "ntp")
    layer.value = f"version {first >> 3 & 7}, {_MODES.get(first & 7, 'reserved')}"
    head = tree.add(layer.parts, "Flags", f"0x{first:02x}", offset, 1)
    tree.add(head.parts, "Leap indicator", named(_LEAPS, first >> 6), offset, 1)
    tree.add(head.parts, "Version", first >> 3 & 7, offset, 1)
    tree.add(head.parts, "Mode", named(_MODES, first & 7), offset, 1)
    if first & 7 not in (1, 2, 3, 4, 5):
        tree.rest(layer, "Content", offset + 1, tree.end)
        layer.length = tree.end - offset
        return
    stratum = u8(data, offset + 1, "ntp")
    tree.add(layer.parts, "Stratum", stratum, offset + 1, 1)
    tree.add(layer.parts, "Poll interval", _power(u8(data, offset + 2, "ntp")), offset + 2, 1)
    tree.add(layer.parts, "Precision", _power(u8(data, offset + 3, "ntp")), offset + 3, 1)
    for place, name in ((4, "Root delay"), (8, "Root dispersion")):
        value = u32(data, offset + place, "ntp") / 65536
        tree.add(layer.parts, name, f"{value:.6f} s", offset + place, 4)
    need(data, offset + 12, 4, "ntp")
    reference = data[offset + 12 : offset + 16]
    text = latin(reference.rstrip(b"\0")) if stratum < 2 else ipv4(reference, 0, "ntp")
    tree.add(layer.parts, "Reference", text, offset + 12, 4)
    for place, name in _STAMPS:
        seconds, fraction = u32(data, offset + place, "ntp"), u32(data, offset + place + 4, "ntp")
        tree.add(layer.parts, name, _time(seconds, fraction), offset + place, 8)


def _power(exponent: int) -> str:
    """Seconds as a signed power of two."""
    signed = exponent - 256 if exponent > 127 else exponent
    return f"2^{signed} s"


def _time(seconds: int, fraction: int) -> str:
    if not seconds and not fraction:
        return "not set"
    # Era 0 ends in February 2036; what was stamped before 1968 belongs to era 1 (RFC 4330, 3).
    era = 0 if seconds & 0x80000000 else 1 << 32
    when = _EPOCH + timedelta(seconds=seconds + era, microseconds=fraction * 10**6 >> 32)
    return when.strftime("%Y-%m-%d %H:%M:%S.%f UTC")
