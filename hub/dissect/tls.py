"""TLS records of the tree (RFC 8446): the hellos field by field, what is encrypted as bytes."""

from hub.decode.application import TLS_HANDSHAKES, TLS_RECORDS, TLS_VERSIONS, is_tls
from hub.decode.packet_line import Cut, latin, need, u8, u16
from hub.dissect.tree import Field, Tree, byte_count, named

_MAX_RECORDS = 16
_MAX_HANDSHAKES = 16
_MAX_LISTED = 128
_EXTENSIONS = {0: "Server name", 5: "Status request", 10: "Supported groups", 11: "Point formats",
               13: "Signature algorithms", 16: "Application protocols", 18: "Certificate timestamps", 21: "Padding",
               22: "Encrypt then MAC", 23: "Extended master secret", 27: "Compressed certificate",
               35: "Session ticket", 41: "Pre-shared key", 42: "Early data", 43: "Supported versions", 44: "Cookie",
               45: "Key exchange modes", 49: "Post-handshake authentication", 50: "Certificate signatures",
               51: "Key share", 65037: "Encrypted client hello", 65281: "Renegotiation"}  # fmt: skip
_SUITES = {0x1301: "TLS_AES_128_GCM_SHA256", 0x1302: "TLS_AES_256_GCM_SHA384", 0x1303: "TLS_CHACHA20_POLY1305_SHA256",
           0xC02B: "ECDHE_ECDSA_AES_128_GCM_SHA256", 0xC02C: "ECDHE_ECDSA_AES_256_GCM_SHA384",
           0xC02F: "ECDHE_RSA_AES_128_GCM_SHA256", 0xC030: "ECDHE_RSA_AES_256_GCM_SHA384",
           0xCCA8: "ECDHE_RSA_CHACHA20_POLY1305", 0xCCA9: "ECDHE_ECDSA_CHACHA20_POLY1305",
           0x00FF: "EMPTY_RENEGOTIATION_INFO"}  # fmt: skip
_GROUPS = {0x0017: "secp256r1", 0x0018: "secp384r1", 0x0019: "secp521r1", 0x001D: "x25519", 0x001E: "x448",
           0x11EC: "X25519MLKEM768"}  # fmt: skip
_LEVELS = {1: "warning", 2: "fatal"}


def tls(tree: Tree, offset: int) -> None:
    """Record after record, as long as what follows looks like one."""
    for _ in range(_MAX_RECORDS):
        if not is_tls(tree.data[offset : tree.end]):
            return
        offset = _record(tree, offset)


def _record(tree: Tree, offset: int) -> int:
    data = tree.data[: tree.end]
    kind, size = data[offset], u16(data, offset + 3, "tls")
    layer = tree.layer("Transport Layer Security", offset, 5 + size, TLS_RECORDS[kind])
    tree.add(layer.parts, "Content type", named(TLS_RECORDS, kind), offset, 1)
    tree.add(
        layer.parts, "Record version", named(TLS_VERSIONS, u16(data, offset + 1, "tls"), 4), offset + 1, 2
    )
    tree.add(layer.parts, "Length", size, offset + 3, 2)
    at, end = offset + 5, min(offset + 5 + size, len(data))
    if kind == 22 and _is_plain(data[:end], at, size):
        layer.value = TLS_HANDSHAKES[data[at]]
        for _ in range(_MAX_HANDSHAKES):
            if end - at < 4 or data[at] not in TLS_HANDSHAKES:
                break
            at = _handshake(tree, layer, data[:end], at)
        tree.rest(layer, "Content", at, end)
    elif kind == 21 and size == 2 and end - at == 2:
        tree.add(layer.parts, "Level", named(_LEVELS, data[at]), at, 1)
        tree.add(layer.parts, "Description", data[at + 1], at + 1, 1)
    else:
        if kind == 22:
            layer.value = "Handshake, encrypted or continued"
        tree.rest(layer, "Content", at, end)
    if offset + 5 + size > len(data):
        tree.add(layer.parts, "Goes on", "in a later segment", at, end - at)
    return offset + 5 + size


def _is_plain(data: bytes, at: int, record_bytes: int) -> bool:
    """Whether a handshake record can be read. Once keys are agreed its bytes are anything; of what may be longer than a
    record only hellos and certificates are believed."""
    if len(data) - at < 4 or data[at] not in TLS_HANDSHAKES:
        return False
    size = 4 + (data[at + 1] << 16 | u16(data, at + 2, "tls"))
    if data[at] == 0:
        return record_bytes == 4
    return size <= record_bytes or data[at] in (1, 2, 11)


def _handshake(tree: Tree, layer: Field, data: bytes, at: int) -> int:
    """One message of a record; where the next one begins."""
    kind, size = data[at], u16(data, at + 2, "tls") | data[at + 1] << 16
    made = tree.add(layer.parts, "Handshake", named(TLS_HANDSHAKES, kind), at, 4 + size)
    tree.add(made.parts, "Length", size, at + 1, 3)
    if kind not in (1, 2):
        tree.rest(made, "Content", at + 4, min(at + 4 + size, len(data)))
        return min(at + 4 + size, len(data))
    try:
        _hello(tree, layer, made, data, at + 4, client=kind == 1)
    except Cut:
        tree.add(made.parts, "Goes on", "in a later segment, or is cut", at, 0)
    return min(at + 4 + size, len(data))


def _hello(tree: Tree, layer: Field, to: Field, data: bytes, at: int, *, client: bool) -> None:
    """Client Hello and Server Hello (4.1.2, 4.1.3)."""
    tree.add(to.parts, "Version", named(TLS_VERSIONS, u16(data, at, "tls"), 4), at, 2)
    need(data, at + 2, 32, "tls")
    tree.add(to.parts, "Random", data[at + 2 : at + 34].hex(), at + 2, 32)
    size = u8(data, at + 34, "tls")
    need(data, at + 35, size, "tls")
    tree.add(to.parts, "Session id", data[at + 35 : at + 35 + size].hex() or "none", at + 34, 1 + size)
    at += 35 + size
    if client:
        at = _suites(tree, to, data, at)
        size = u8(data, at, "tls")
        tree.add(to.parts, "Compression methods", byte_count(size), at, 1 + size)
        at += 1 + size
    else:
        tree.add(to.parts, "Cipher suite", named(_SUITES, u16(data, at, "tls"), 4), at, 2)
        tree.add(to.parts, "Compression method", u8(data, at + 2, "tls"), at + 2, 1)
        at += 3
    size = u16(data, at, "tls")
    all_ = tree.add(to.parts, "Extensions", byte_count(size), at, 2 + size)
    end, at = at + 2 + size, at + 2
    while at + 4 <= end:
        kind, size = u16(data, at, "tls"), u16(data, at + 2, "tls")
        need(data, at + 4, size, "tls")
        content = data[at + 4 : at + 4 + size]
        value = _extension(kind, content, client=client)
        tree.add(all_.parts, f"{_EXTENSIONS.get(kind, 'Extension')} ({kind})", value, at, 4 + size)
        if kind == 0 and client and value:
            layer.value += f", {value}"[:120]
        at += 4 + size


def _suites(tree: Tree, to: Field, data: bytes, at: int) -> int:
    size = u16(data, at, "tls")
    made = tree.add(to.parts, "Cipher suites", f"{size // 2}", at, 2 + size)
    for place in range(at + 2, at + 2 + min(size, 2 * _MAX_LISTED) - 1, 2):
        tree.add(made.parts, "Cipher suite", named(_SUITES, u16(data, place, "tls"), 4), place, 2)
    return at + 2 + size


def _extension(kind: int, content: bytes, *, client: bool) -> str:
    """An extension's content in words, or how long it is."""
    try:
        if kind == 0 and len(content) > 5:
            return latin(content[5 : 5 + u16(content, 3, "tls")])
        if kind == 16 and len(content) > 2:
            return ", ".join(_names(content))
        if kind == 43:
            numbers = content[1:] if client else content
            return ", ".join(TLS_VERSIONS.get(number, f"0x{number:04x}") for number in _numbers(numbers))
        if kind == 10:
            return ", ".join(_GROUPS.get(number, f"0x{number:04x}") for number in _numbers(content[2:]))
        if kind == 51 and not client and len(content) >= 2:
            return named(_GROUPS, u16(content, 0, "tls"), 4)
    except Cut:
        pass
    return byte_count(len(content))


def _numbers(content: bytes) -> list[int]:
    return [u16(content, i, "tls") for i in range(0, min(len(content), 64) - 1, 2)]


def _names(content: bytes) -> list[str]:
    """The protocol names of ALPN (RFC 7301)."""
    names, at = [], 2
    for _ in range(16):
        if at >= len(content):
            break
        size = u8(content, at, "alpn")
        names.append(latin(content[at + 1 : at + 1 + size], 40))
        at += 1 + size
    return names
