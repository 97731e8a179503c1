"""Classic BPF into eBPF: the user's filter as the middle one of the three programs of bpf/capture.c, or as the first.

The same work that the kernel does for classic filters (bpf_convert_filter in net/core/filter.c), done here because a
socket takes one program: with ours attached, the filter has to be one of ours. What differs from the kernel's:

- A verdict to keep the packet jumps on to `keep`, whatever number of bytes it names; 0 returns 0.
- An index that wraps around (`ip[0-2]`), and a shift by more than 31, mean what they mean in libpcap and in
  agent/_cbpf.h, so that ring and file agree.
- Instructions that nothing reaches are left out: the verifier refuses them, the classic checker doesn't.

A is R7, X is R8, M[] lies on the stack; all are 32 bits wide and zero-extended, as 32-bit instructions leave them.
Loads from the packet are eBPF's own LD_ABS and LD_IND, which need the context in R6 and end the program with 0 beyond
the packet's end. No instruction is newer than Linux 4.10.

The first, which a socket runs itself, does what `entry` does where nobody asks for more: it counts the packet as seen.

A filter for the packet inside a tunnel finds where that begins in the context (bpf/contract.h, INNER_AT), keeps it on
the stack and adds it to every offset.
"""

from __future__ import annotations

import struct

from agent.bpf_filter import FilterError
from agent.ebpf.contract import INNER_AT, SEEN_AT, SLOT_KEEP

# linux/bpf_common.h, linux/bpf.h
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_ALU64 = 7
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_W, _B, _DOUBLE = 0x00, 0x10, 0x18
_K, _X = 0x00, 0x08
_ADD, _SUB, _DIV, _AND, _LSH, _RSH, _NEG, _MOD, _MOV, _END = (
    0x00,
    0x10,
    0x30,
    0x50,
    0x60,
    0x70,
    0x80,
    0x90,
    0xB0,
    0xD0,
)
_JA, _JEQ, _JGT, _JGE, _JNE, _CALL, _EXIT = 0x00, 0x10, 0x20, 0x30, 0x50, 0x80, 0x90
_TO_BIG_ENDIAN = 0x08
_MAP_LOOKUP, _TAIL_CALL = 1, 12  # enum bpf_func_id
_MAP_DESCRIPTOR = 1  # BPF_PSEUDO_MAP_FD

_RESULT, _A, _INDEX, _SPARE, _FRAME, _CONTEXT = 0, 7, 8, 9, 10, 6
_NEGATIVE = 0x80000000
_ANCILLARY = 0x100000000 - 0x1000  # SKF_AD_OFF
_LENGTH_AT = 0
_PACKET_TYPE_AT = 4
_PACKET_OUTGOING = 4  # linux/if_packet.h
_CONTEXT_AT = {4: _PACKET_TYPE_AT, 44: 24, 48: 20, 60: 28}
"""SKF_AD_PKTTYPE, _VLAN_TAG, _VLAN_TAG_PRESENT, _VLAN_TPID → offset in struct __sk_buff."""
_VLAN_TPID = 60

_CB_AT = 48
"""Of the array cb in struct __sk_buff."""
_BASE_AT = -4 * 17
"""On the stack, behind M[]."""
_KEY_AT = -4 * 18
"""Behind that: the key 0 of a map with one entry."""
_BASE = 1
"""A register for it where it is added; a load from the packet leaves nothing in it."""
_MAX_BASE = 0x10000
"""More than the headers before an inner packet can be."""
_BEYOND = 0x7FFFFFFF
"""An offset that no packet reaches and that isn't one of the kernel's special ones: a load there ends the program."""

_CLASSIC = struct.Struct("=HBBI")
_EXTENDED = struct.Struct("=BBhI")
_FARTHEST = 32767

_ACCEPT, _REJECT = -1, -2


class NotAsEbpf(FilterError):
    """A filter that is right, but can't be an eBPF program here; as classic BPF it can."""


class _Program:
    """eBPF instructions with jumps to labels: an index of the classic program, _ACCEPT or _REJECT."""

    def __init__(self, *, inner: bool = False) -> None:
        self.inner = inner
        self.code: list[tuple[int, int, int, int, int]] = []  # opcode, destination, source, offset, immediate
        self.labels: dict[int, int] = {}
        self.jumps: dict[int, int] = {}  # index of an instruction → label

    def add(self, opcode: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> None:
        self.code.append((opcode, to, source, offset, immediate & 0xFFFFFFFF))

    def jump(self, opcode: int, label: int, to: int = 0, source: int = 0, immediate: int = 0) -> None:
        self.jumps[len(self.code)] = label
        self.add(opcode, to, source, 0, immediate)

    def move(self, to: int, source: int) -> None:
        self.add(_ALU | _MOV | _X, to, source)

    def load_base(self, to: int) -> None:
        self.add(_LDX | _MEM | _W, to, _FRAME, _BASE_AT)

    def load_map(self, to: int, descriptor: int) -> None:
        self.add(_LD | _IMM | _DOUBLE, to, _MAP_DESCRIPTOR, 0, descriptor)
        self.add(0)  # the upper half of the 64-bit constant

    def assemble(self) -> bytes:
        packed = []
        for at, (opcode, to, source, fixed, immediate) in enumerate(self.code):
            offset = self.labels[self.jumps[at]] - at - 1 if at in self.jumps else fixed
            assert offset <= _FARTHEST  # 4096 classic instructions, none of which becomes more than 8
            packed.append(_EXTENDED.pack(opcode, to | source << 4, offset, immediate))
        return b"".join(packed)


def translate(
    classic: bytes,
    jumps: int,
    *,
    inner: bool = False,
    counters: int | None = None,
    once_outgoing: bool = False,
) -> bytes:
    """The program to load; NotAsEbpf where there is none.

    classic: as agent.tag_filter.for_socket made it; jumps: descriptor of the map of programs; inner: it judges the
    packet inside a tunnel. counters: descriptor of the map of counters, for a program that stands first and counts what
    is seen; once_outgoing: what leaves it neither counts nor keeps, as in struct settings.
    """
    source = [_CLASSIC.unpack_from(classic, at) for at in range(0, len(classic), _CLASSIC.size)]
    program = _Program(inner=inner)
    program.add(_ALU64 | _MOV | _X, _CONTEXT, 1)
    if inner:
        program.add(_LDX | _MEM | _W, _SPARE, _CONTEXT, _CB_AT + 4 * INNER_AT)
        program.add(_STX | _MEM | _W, _FRAME, _SPARE, _BASE_AT)
    if counters is not None:
        _count_as_seen(program, counters, once_outgoing)
    for register in (_A, _INDEX):
        program.add(_ALU | _MOV | _K, register)
    stores = (_LD | _MEM, _LDX | _MEM, _ST, _STX)
    for slot in sorted({k for code, _, _, k in source if code in stores}):
        program.add(_ST | _MEM | _W, _FRAME, 0, _memory(slot))  # M[] begins as zeros
    reachable = _reachable(source)
    following = dict(zip(reachable, [*reachable[1:], len(source)], strict=True))
    for at in reachable:
        program.labels[at] = len(program.code)
        code, jt, jf, k = source[at]
        if code & 7 == _JMP:
            _branch(program, code, k, at + 1 + jt, at + 1 + jf, at + 1 + k, following[at])
        elif code & 7 == _RET:
            _verdict(program, code, k)
        elif code & 7 == _ALU:
            _compute(program, code, k)
        else:
            _load_or_store(program, code, k)
    if _ACCEPT in program.jumps.values():
        program.labels[_ACCEPT] = len(program.code)
        program.add(_ALU64 | _MOV | _X, 1, _CONTEXT)
        program.load_map(2, jumps)
        program.add(_ALU | _MOV | _K, 3, immediate=SLOT_KEEP)
        program.add(_JMP | _CALL, immediate=_TAIL_CALL)
    program.labels[_REJECT] = len(program.code)
    program.add(_ALU | _MOV | _K, _RESULT)
    program.add(_JMP | _EXIT)
    return program.assemble()


def _count_as_seen(program: _Program, counters: int, once_outgoing: bool) -> None:
    if once_outgoing:
        program.add(_LDX | _MEM | _W, _RESULT, _CONTEXT, _PACKET_TYPE_AT)
        program.jump(_JMP | _JEQ | _K, _REJECT, _RESULT, immediate=_PACKET_OUTGOING)
    program.add(_ST | _MEM | _W, _FRAME, 0, _KEY_AT)
    program.add(_ALU64 | _MOV | _X, 2, _FRAME)
    program.add(_ALU64 | _ADD | _K, 2, immediate=_KEY_AT)
    program.load_map(1, counters)
    program.add(_JMP | _CALL, immediate=_MAP_LOOKUP)
    program.jump(_JMP | _JEQ | _K, _REJECT, _RESULT)  # can't be: the map has its one entry for good
    program.add(_LDX | _MEM | _DOUBLE, 1, _RESULT, SEEN_AT)
    program.add(_ALU64 | _ADD | _K, 1, immediate=1)
    program.add(_STX | _MEM | _DOUBLE, _RESULT, 1, SEEN_AT)


def _memory(slot: int) -> int:
    return -4 * (slot + 1)


def _reachable(source: list[tuple[int, int, int, int]]) -> list[int]:
    seen = {0}
    for at, (code, jt, jf, k) in enumerate(source):  # jumps only go forward
        if at not in seen or code & 7 == _RET:
            continue
        if code & 7 != _JMP:
            seen.add(at + 1)
        elif code & 0xF0 == _JA:
            seen.add(at + 1 + k)
        else:
            seen |= {at + 1 + jt, at + 1 + jf}
    return sorted(seen)


def _branch(program: _Program, code: int, k: int, true: int, false: int, always: int, following: int) -> None:
    if code & 0xF0 == _JA:
        if always != following:
            program.jump(_JMP | _JA, always)
        return
    if code & _X:
        program.jump(code, true, _A, _INDEX)
    elif k >= _NEGATIVE:  # an immediate is sign-extended to 64 bits, A is not
        program.add(_ALU | _MOV | _K, _SPARE, immediate=k)
        program.jump(code | _X, true, _A, _SPARE)
    else:
        program.jump(code, true, _A, immediate=k)
    if false != following:
        program.jump(_JMP | _JA, false)


def _verdict(program: _Program, code: int, k: int) -> None:
    if code & 0x18 == 0x10:  # RET A
        program.jump(_JMP | _JEQ | _K, _REJECT, _A)
        program.jump(_JMP | _JA, _ACCEPT)
    else:
        program.jump(_JMP | _JA, _ACCEPT if k else _REJECT)


def _compute(program: _Program, code: int, k: int) -> None:
    operation = code & 0xF0
    if operation == _NEG:
        program.add(_ALU | _NEG, _A)
    elif not code & _X:
        program.add(code, _A, immediate=k)
    elif operation in (_DIV, _MOD):
        program.jump(_JMP | _JEQ | _K, _REJECT, _INDEX)
        program.add(code, _A, _INDEX)
    elif operation in (_LSH, _RSH):  # beyond 31 nothing is left
        program.add(_JMP | _JGT | _K, _INDEX, 0, 2, 31)
        program.add(code, _A, _INDEX)
        program.add(_JMP | _JA, 0, 0, 1)
        program.add(_ALU | _MOV | _K, _A)
    else:
        program.add(code, _A, _INDEX)


def _load_or_store(program: _Program, code: int, k: int) -> None:
    size, mode = code & 0x18, code & 0xE0
    if code in (_LD | _IMM, _LDX | _IMM):
        program.add(_ALU | _MOV | _K, _A if code == _LD else _INDEX, immediate=k)
    elif code in (_LD | _MEM, _LDX | _MEM):
        program.add(_LDX | _MEM | _W, _INDEX if code & 7 else _A, _FRAME, _memory(k))
    elif code in (_ST, _STX):
        program.add(_STX | _MEM | _W, _FRAME, _A if code == _ST else _INDEX, _memory(k))
    elif code in (_LD | _LEN, _LDX | _LEN):
        to = _INDEX if code & 7 else _A
        program.add(_LDX | _MEM | _W, to, _CONTEXT, _LENGTH_AT)
        if program.inner:
            program.load_base(_BASE)
            program.add(_ALU | _SUB | _X, to, _BASE)
    elif code & 7 == _MISC:
        to_index = code & 0x80 == 0
        program.move(_INDEX if to_index else _A, _A if to_index else _INDEX)
    elif code == _LDX | _MSH | _B:
        _load_absolute(program, _B, k)
        program.move(_INDEX, _RESULT)
        program.add(_ALU | _AND | _K, _INDEX, immediate=15)
        program.add(_ALU | _LSH | _K, _INDEX, immediate=2)
    elif code & 7 == _LD and mode == _ABS and k >= _ANCILLARY:
        _load_ancillary(program, k - _ANCILLARY)
    elif code & 7 == _LD and mode == _ABS:
        _load_absolute(program, size, k)
        program.move(_A, _RESULT)
    elif code & 7 == _LD and mode == _IND:
        _load_indirect(program, size, k)
    else:
        raise NotAsEbpf(f"the filter has an instruction that can't be translated (code {code:#x})")


def _load_absolute(program: _Program, size: int, k: int) -> None:
    if not program.inner:
        program.add(_LD | _ABS | size, immediate=k)
        return
    program.load_base(_SPARE)
    if k >= _BEYOND - _MAX_BASE:
        program.add(_ALU | _MOV | _K, _SPARE)
        k = _BEYOND
    program.add(_LD | _IND | size, 0, _SPARE, immediate=k)


def _load_ancillary(program: _Program, which: int) -> None:
    if which not in _CONTEXT_AT:
        raise NotAsEbpf(
            f"the filter asks the kernel for something that can't be translated (SKF_AD_ {which})"
        )
    program.add(_LDX | _MEM | _W, _A, _CONTEXT, _CONTEXT_AT[which])
    if which == _VLAN_TPID:  # there in the order of the network
        program.add(_ALU | _END | _TO_BIG_ENDIAN, _A, immediate=16)


def _load_indirect(program: _Program, size: int, k: int) -> None:
    program.move(_SPARE, _INDEX)
    if k:
        program.add(_ALU | _ADD | _K, _SPARE, immediate=k)
        program.jump(_JMP | _JGT | _X, _REJECT, _INDEX, _SPARE)  # wrapped around
    program.add(_ALU64 | _MOV | _X, _RESULT, _SPARE)
    program.add(_ALU64 | _RSH | _K, _RESULT, immediate=31)
    program.jump(_JMP | _JNE | _K, _REJECT, _RESULT)  # the kernel takes it for one of its special offsets
    if program.inner:
        program.load_base(_BASE)
        program.add(_ALU | _ADD | _X, _SPARE, _BASE)
        program.jump(_JMP | _JGE | _K, _REJECT, _SPARE, immediate=_BEYOND)
    program.add(_LD | _IND | size, 0, _SPARE)
    program.move(_A, _RESULT)
