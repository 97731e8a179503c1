"""Make a filter that judges whole frames judge what an AF_PACKET socket sees.

The kernel takes the outer VLAN tag out of a received frame and keeps it beside the packet (skb_vlan_untag in
net/core/dev.c); the ring gives it back and the export has it in place again. A filter compiled for the export reads the
tag at bytes 12–15 and everything behind it four bytes later than a socket has it. So the program for the socket is:

    is a tag beside the frame?   no → the program as compiled (a tag still inside the frame is where it belongs)
                                 yes → the same program with every load translated:
        bytes 0–11          as they are
        bytes 12–13, 14–15  the kernel's ancillary words VLAN_TPID and VLAN_TAG (Linux 4.1, linux/filter.h)
        bytes 16 and up     four bytes earlier
        the length          four bytes more

Loads whose offset is only known at run time (`ldh [x + 14]`) are translated with a case distinction. Most of that code
can't be reached: behind a tag the type at byte 12 is a tag's, so every comparison of it with another type is decided
here, and what hangs on it left out. A test compares translated programs on stripped frames with libpcap's verdict on
whole ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent.bpf_filter import MAX_INSTRUCTIONS, FilterError, Program

LINKTYPE_ETHERNET = 1
KEEP_AT_LEAST = 128
"""The kernel copies at least this much of a packet that passed, the walk cuts it to the snaplen: a tag can be put back,
and own traffic recognised by its ports, whatever the snaplen."""

_INSTRUCTION = struct.Struct("=HBBI")
_TAG_AT, _TAG_END, _TAG_BYTES = 12, 16, 4
_TAG_TYPES = (0x8100, 0x88A8)  # eth_type_vlan() in linux/if_vlan.h: the only tags that the kernel takes out

# Opcodes (linux/bpf_common.h)
_LD_ABS, _LD_IND, _LD_LEN, _LDX_LEN, _LDX_MSH = 0x20, 0x40, 0x80, 0x81, 0xB1
_LD_MEM, _LDX_MEM, _ST, _STX = 0x60, 0x61, 0x02, 0x03
_ADD, _SUB, _AND, _OR_X, _LSH, _RSH = 0x04, 0x14, 0x54, 0x4C, 0x64, 0x74
_JA, _JEQ, _JGE, _JGT = 0x05, 0x15, 0x35, 0x25
_RET, _TAX, _TXA = 0x06, 0x07, 0x87
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_SIZE_BITS = {4: 0x00, 2: 0x08, 1: 0x10}
_ANCILLARY = 0x100000000 - 0x1000  # SKF_AD_OFF
_NEGATIVE = 0x80000000  # offsets from here on are the kernel's special ones, none of the frame's bytes
_PKTTYPE, _VLAN_TAG, _VLAN_PRESENT, _VLAN_TPID = (_ANCILLARY + n for n in (4, 44, 48, 60))
_PACKET_OUTGOING = 4

REJECT_ALL = _INSTRUCTION.pack(_RET, 0, 0, 0)


@dataclass(slots=True)
class _Op:
    """An instruction whose jump targets are labels (any integer); labels of instructions stand beside the list."""

    code: int
    k: int = 0
    if_true: int | None = None
    if_false: int | None = None


def for_socket(program: Program, *, loopback: bool, tags_beside: bool = True) -> bytes:
    """The program to attach to a socket; FilterError when it grows beyond what the kernel takes.

    `loopback`: turn away what leaves, for every packet passes a loopback interface twice (as libpcap does).
    `tags_beside`: the socket sees frames without their outer tag, as Linux' do; elsewhere a frame comes whole.
    """
    source = [_INSTRUCTION.unpack_from(program.code, at) for at in range(0, len(program.code), 8)]
    prologue: list[tuple[int, int, int, int]] = []
    if loopback:
        prologue += [(_LD_ABS, 0, 0, _PKTTYPE), (_JEQ, 0, 1, _PACKET_OUTGOING), (_RET, 0, 0, 0)]
    plain = [(code, jt, jf, _kept(code, k)) for code, jt, jf, k in source]
    tagged: list[tuple[int, int, int, int]] = []
    if (
        program.link_type == LINKTYPE_ETHERNET
        and not loopback
        and tags_beside
        and any(map(_depends_on_tag, source))
    ):
        tagged = _translate(source)
        prologue += [(_LD_ABS, 0, 0, _VLAN_PRESENT), (_JEQ, 1, 0, 0), (_JA, 0, 0, len(plain))]
    whole = prologue + plain + tagged
    if len(whole) > MAX_INSTRUCTIONS:
        raise FilterError(
            f"the filter needs {len(whole)} instructions (tagged and untagged frames together); the kernel takes "
            f"{MAX_INSTRUCTIONS}. Use networks instead of lists of hosts, port ranges instead of lists of ports"
        )
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in whole)


def _kept(code: int, k: int) -> int:
    return max(k, KEEP_AT_LEAST) if code == _RET and k else k


def _depends_on_tag(instruction: tuple[int, int, int, int]) -> bool:
    code, _, _, k = instruction
    if code & 0xE7 == _LD_ABS:
        return k < _NEGATIVE and k + _SIZES[code & 0x18] > _TAG_AT
    return code & 0xE7 == _LD_IND or code in (_LD_LEN, _LDX_LEN, _LDX_MSH)


def _translate(source: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """The program for a frame whose tag is beside it."""
    used = {k for code, _, _, k in source if code in (_LD_MEM, _LDX_MEM, _ST, _STX)}
    free = [slot for slot in range(16) if slot not in used]
    if len(free) < 2:
        raise FilterError("the filter is too complex: write its arithmetic in simpler terms")
    decided = _decided_by_type(source)
    ops: list[_Op] = []
    labels: dict[int, int] = {}  # label (index in the source; negative: inside a translation) → index in ops
    for at in _reachable(source, decided):
        code, jt, jf, k = source[at]
        labels[at] = len(ops)
        if at in decided:
            ops.append(_Op(_JA, if_true=decided[at]))
        elif code == _JA:
            ops.append(_Op(_JA, if_true=at + 1 + k))
        elif code & 7 == 5:
            ops.append(_Op(code, k, at + 1 + jt, at + 1 + jf))
        else:
            for op in _translate_one(code, k, free[0], free[1]):
                if isinstance(op, int):
                    labels[-1 - at * 64 - op] = len(ops)
                else:
                    if op.if_true is not None:  # labels of one translation become unique in the program
                        op.if_true = -1 - at * 64 - op.if_true
                    if op.if_false is not None:
                        op.if_false = -1 - at * 64 - op.if_false
                    ops.append(op)
    return _assemble(ops, labels)


def _decided_by_type(source: list[tuple[int, int, int, int]]) -> dict[int, int]:
    """Comparisons of the type at byte 12 that a tagged frame can only fail: index → where it goes on.

    A is known to hold the type where every way to an instruction loaded it; jumps only go forward, so one pass does.
    """
    holds_type: dict[int, bool] = {0: False}
    decided: dict[int, int] = {}

    def flow(target: int, value: bool) -> None:
        holds_type[target] = holds_type.get(target, True) and value

    for at, (code, jt, jf, k) in enumerate(source):
        if at not in holds_type:
            continue  # unreachable
        value = holds_type[at]
        if code == _JA:
            flow(at + 1 + k, value)
        elif code & 7 == 5:
            if code == _JEQ and value and k not in _TAG_TYPES:
                decided[at] = at + 1 + jf
            else:
                flow(at + 1 + jt, value)
            flow(at + 1 + jf, value)
        elif code & 7 != 6:
            if code & 7 in (0, 4) or code == _TXA:  # A is loaded, computed or taken from X
                value = (code, k) == (_LD_ABS | _SIZE_BITS[2], _TAG_AT)
            flow(at + 1, value)
    return decided


def _reachable(source: list[tuple[int, int, int, int]], decided: dict[int, int]) -> list[int]:
    seen: set[int] = set()
    waiting = [0]
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        code, jt, jf, k = source[at]
        if at in decided:
            waiting.append(decided[at])
        elif code == _JA:
            waiting.append(at + 1 + k)
        elif code & 7 == 5:
            waiting += [at + 1 + jt, at + 1 + jf]
        elif code & 7 != 6:
            waiting.append(at + 1)
    return sorted(seen)


def _translate_one(code: int, k: int, keep_a: int, keep_x: int) -> Iterator[_Op | int]:
    """The instructions that do the same for a frame without its tag; an integer is a label before what follows."""
    if code & 0xE7 == _LD_ABS and k < _NEGATIVE:
        yield from _load(k, _SIZES[code & 0x18], keep_a, keep_x)
    elif code & 0xE7 == _LD_IND:
        yield from _load_indirect(code, k, keep_a, keep_x)
    elif code == _LDX_MSH and k >= _TAG_END:
        yield _Op(code, k - _TAG_BYTES)
    elif code == _LDX_MSH and k >= _TAG_AT:
        yield _Op(_ST, keep_a)
        yield from _load(k, 1, keep_a, keep_x)
        yield from (_Op(_AND, 15), _Op(_LSH, 2), _Op(_TAX), _Op(_LD_MEM, keep_a))
    elif code == _LD_LEN:
        yield from (_Op(code), _Op(_ADD, _TAG_BYTES))
    elif code == _LDX_LEN:
        yield from (_Op(_ST, keep_a), _Op(_LD_LEN), _Op(_ADD, _TAG_BYTES), _Op(_TAX), _Op(_LD_MEM, keep_a))
    else:
        yield _Op(code, _kept(code, k))


def _load(offset: int, size: int, keep_a: int, keep_x: int) -> Iterator[_Op]:
    """A = the `size` bytes at `offset` of the whole frame. X survives, M[keep_a] and M[keep_x] don't."""
    if offset + size <= _TAG_AT:
        yield _Op(_LD_ABS | _SIZE_BITS[size], offset)
        return
    if offset >= _TAG_END:
        yield _Op(_LD_ABS | _SIZE_BITS[size], offset - _TAG_BYTES)
        return
    parts: list[tuple[list[_Op], int]] = []  # how to load it, bytes
    at, end = offset, offset + size
    while at < end:
        if at < _TAG_AT or at >= _TAG_END:
            parts.append(([_Op(_LD_ABS | _SIZE_BITS[1], at if at < _TAG_AT else at - _TAG_BYTES)], 1))
            at += 1
            continue
        word = [_Op(_LD_ABS, _VLAN_TPID if at < 14 else _VLAN_TAG)]
        if at % 2:
            parts.append(([*word, _Op(_AND, 0xFF)], 1))
            at += 1
        elif at + 1 == end:
            parts.append(([*word, _Op(_RSH, 8)], 1))
            at += 1
        else:
            parts.append((word, 2))
            at += 2
    if len(parts) > 1:
        yield _Op(_STX, keep_x)
    left = size
    for number, (ops, count) in enumerate(parts):
        left -= count
        yield from ops
        if left:
            yield _Op(_LSH, 8 * left)
        if number:
            yield from (_Op(_TAX), _Op(_LD_MEM, keep_a), _Op(_OR_X))
        if left:
            yield _Op(_ST, keep_a)
    if len(parts) > 1:
        yield _Op(_LDX_MEM, keep_x)


def _load_indirect(code: int, k: int, keep_a: int, keep_x: int) -> Iterator[_Op | int]:
    """A = the bytes at X + k, wherever that is. An offset that wraps around below zero is not looked after."""
    size = _SIZES[code & 0x18]
    if k >= _TAG_END:
        yield _Op(code, k - _TAG_BYTES)
        return
    behind, inside, done = 0, 1, 2
    yield from (_Op(_TXA), _Op(_ADD, k))
    yield _Op(_JGE, _TAG_END, behind, 3)
    yield 3
    yield _Op(_JGT, _TAG_AT - size, inside, 4)
    yield 4
    yield _Op(code, k)
    yield _Op(_JA, if_true=done)
    yield behind
    yield from (_Op(_STX, keep_x), _Op(_SUB, _TAG_BYTES), _Op(_TAX), _Op(_LD_IND | _SIZE_BITS[size], 0))
    yield _Op(_LDX_MEM, keep_x)
    yield _Op(_JA, if_true=done)
    yield inside
    for offset in range(_TAG_AT - size + 1, _TAG_END):
        this, following = 10 + 2 * (offset - 8), 11 + 2 * (offset - 8)
        yield _Op(_JEQ, offset, this, following)
        yield this
        yield from _load(offset, size, keep_a, keep_x)
        yield _Op(_JA, if_true=done)
        yield following
    yield _Op(_RET, 0)  # every offset has been tried
    yield done


def _assemble(ops: list[_Op], labels: dict[int, int]) -> list[tuple[int, int, int, int]]:
    """Instructions with real offsets; a conditional jump over more than 255 instructions goes by way of two JA."""
    far: set[int] = set()
    while True:
        places: list[int] = []
        size = 0
        for number in range(len(ops)):
            places.append(size)
            size += 3 if number in far else 1
        places.append(size)
        result: list[tuple[int, int, int, int]] = []
        grown = False
        for number, op in enumerate(ops):
            here = places[number]
            if op.if_true is None:
                result.append((op.code, 0, 0, op.k))
                continue
            true = places[labels[op.if_true]]
            if op.if_false is None:
                result.append((_JA, 0, 0, true - here - 1))
                continue
            false = places[labels[op.if_false]]
            if number in far:
                result += [(op.code, 0, 1, op.k), (_JA, 0, 0, true - here - 2), (_JA, 0, 0, false - here - 3)]
            elif max(true, false) - here - 1 > 255:
                far.add(number)
                grown = True
            else:
                result.append((op.code, true - here - 1, false - here - 1, op.k))
        if not grown:
            return result
