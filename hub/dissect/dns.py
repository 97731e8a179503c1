"""DNS messages of the tree (RFC 1035), also as mDNS, LLMNR and NetBIOS names speak it."""

from hub.decode.application import DNS_ERRORS, DNS_OPERATIONS, DNS_TYPES, domain, netbios
from hub.decode.packet_line import Cut, ipv4, ipv6, latin, u8, u16, u32
from hub.dissect.tree import Field, Tree, byte_count, named

_FLAGS = ((0x0400, "Authoritative"), (0x0200, "Truncated"), (0x0100, "Recursion desired"),
          (0x0080, "Recursion available"), (0x0020, "Authentic data"), (0x0010, "Checking disabled"))  # fmt: skip
_CLASSES = {1: "IN", 3: "CH", 4: "HS", 255: "ANY"}
_SECTIONS = ("Questions", "Answers", "Authority records", "Additional records")
_MAX_RECORDS = 100
"""Of each section."""


def dns(tree: Tree, offset: int, name: str) -> None:
    """Header, then the four sections as far as their counts and the bytes go."""
    data = tree.data[offset : tree.end]
    layer = tree.layer(name, offset, len(data))
    number, bits = u16(data, 0, "dns"), u16(data, 2, "dns")
    response, operation, error = bits & 0x8000, bits >> 11 & 15, bits & 15
    tree.add(layer.parts, "Transaction id", f"0x{number:04x}", offset, 2)
    layer.value = f"{'response' if response else 'query'} 0x{number:04x}"
    flags = tree.add(layer.parts, "Flags", f"0x{bits:04x}", offset + 2, 2)
    tree.add(flags.parts, "Response", "yes" if response else "no", offset + 2, 1)
    tree.add(flags.parts, "Operation", named(DNS_OPERATIONS, operation), offset + 2, 1)
    tree.bits(flags, bits, _FLAGS)
    tree.add(flags.parts, "Reply code", named({0: "No error", **DNS_ERRORS}, error), offset + 3, 1)
    counts = [u16(data, 4 + 2 * i, "dns") for i in range(4)]
    for i, section in enumerate(_SECTIONS):
        tree.add(layer.parts, f"{section}, number", counts[i], offset + 4 + 2 * i, 2)
    at = 12
    for i, section in enumerate(_SECTIONS):
        if not counts[i]:
            continue
        group = tree.add(layer.parts, section, "", offset + at, 0)
        for _ in range(min(counts[i], _MAX_RECORDS)):
            at = (
                _question(tree, group, data, offset, at) if i == 0 else _record(tree, group, data, offset, at)
            )
            group.length = offset + at - group.offset
        if counts[i] > _MAX_RECORDS:
            tree.add(group.parts, f"{counts[i] - _MAX_RECORDS} more", "not shown", offset + at, 0)
            return  # where the next section begins is not known
    layer.length = at


def _question(tree: Tree, group: Field, data: bytes, base: int, at: int) -> int:
    name, behind = domain(data, at)
    name = netbios(name)
    kind = u16(data, behind, "dns")
    made = tree.add(
        group.parts, name or "<Root>", DNS_TYPES.get(kind, f"type {kind}"), base + at, behind + 4 - at
    )
    tree.add(made.parts, "Name", name or "<Root>", base + at, behind - at)
    tree.add(made.parts, "Type", named(DNS_TYPES, kind), base + behind, 2)
    tree.add(made.parts, "Class", _class(u16(data, behind + 2, "dns")), base + behind + 2, 2)
    return behind + 4


def _record(tree: Tree, group: Field, data: bytes, base: int, at: int) -> int:
    name, behind = domain(data, at)
    name = netbios(name)
    kind, size = u16(data, behind, "dns"), u16(data, behind + 8, "dns")
    content = behind + 10
    made = tree.add(group.parts, name or "<Root>", "", base + at, content + size - at)
    tree.add(made.parts, "Name", name or "<Root>", base + at, behind - at)
    tree.add(made.parts, "Type", named(DNS_TYPES, kind), base + behind, 2)
    if kind == 41:  # RFC 6891: class and time to live mean something else
        tree.add(made.parts, "UDP payload size", u16(data, behind + 2, "dns"), base + behind + 2, 2)
        tree.add(made.parts, "Extended flags", f"0x{u32(data, behind + 4, 'dns'):08x}", base + behind + 4, 4)
    else:
        tree.add(made.parts, "Class", _class(u16(data, behind + 2, "dns")), base + behind + 2, 2)
        tree.add(made.parts, "Time to live", f"{u32(data, behind + 4, 'dns')} s", base + behind + 4, 4)
    tree.add(made.parts, "Data length", size, base + behind + 8, 2)
    if content + size > len(data):
        raise Cut("|dns")
    value = _content(data, content, kind, size)
    made.value = f"{DNS_TYPES.get(kind, f'type {kind}')} {value}"[:200]
    tree.add(made.parts, "Data", value, base + content, size)
    return content + size


def _content(data: bytes, at: int, kind: int, size: int) -> str:
    try:
        if kind == 1 and size == 4:
            return ipv4(data, at, "dns")
        if kind == 28 and size == 16:
            return ipv6(data, at, "dns")
        if kind in (2, 5, 12, 39):
            return domain(data, at)[0]
        if kind == 15 and size > 2:
            return f"{u16(data, at, 'dns')} {domain(data, at + 2)[0]}"
        if kind == 33 and size > 6:
            target = domain(data, at + 6)[0]
            return f"{target}:{u16(data, at + 4, 'dns')}, priority {u16(data, at, 'dns')}"
        if kind == 6:
            primary, behind = domain(data, at)
            mailbox, behind = domain(data, behind)
            return f"{primary} {mailbox}, serial {u32(data, behind, 'dns')}"
        if kind in (16, 99) and size:
            return latin(data[at + 1 : at + 1 + min(u8(data, at, "dns"), size - 1)], 200)
    except Cut:
        pass
    return byte_count(size)


def _class(number: int) -> str:
    # mDNS (RFC 6762) uses the highest bit for "cache flush" and "unicast answer, please".
    shown = named(_CLASSES, number & 0x7FFF)
    return f"{shown}, highest bit set" if number & 0x8000 else shown
