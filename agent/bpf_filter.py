"""tcpdump's filter language, compiled by libpcap into classic BPF.

The meaning of a filter is defined once: **it judges the frame as it is in the export**, with its VLAN tag in its place.
So `icmp` doesn't match a tagged frame and `vlan and icmp` does, on a ring, through libpcap and on a file alike. libpcap
compiles for exactly that when the handle is a dead one; `agent.tag_filter` makes the same program judge a ring's
frames, from which the kernel has taken the tag.
"""

from __future__ import annotations

import ctypes
import re
import struct
import threading
from dataclasses import dataclass

from agent import libpcap

MAX_FILTER_BYTES = 16 * 1024
MAX_TERMS = 256
"""Alternatives and conditions in a filter. libpcap's optimizer takes time cubic in them: 256 ports
2 s, 700 ports 70 s."""
MAX_SNAPLEN = 262144
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS: what the kernel takes
INSTRUCTION_BYTES = 8  # struct sock_filter = struct bpf_insn: u16 code, u8 jt, u8 jf, u32 k

_RETURN_CONSTANT = 0x06  # BPF_RET | BPF_K
_JUMP_ALWAYS = 0x05  # BPF_JMP | BPF_JA

_JOINT = re.compile(r"\b(?:or|and)\b|\|\||&&")

# Compiling uses global state in libpcap before 1.8, and resolves names with functions that aren't thread-safe.
_lock = threading.Lock()


class FilterError(Exception):
    """The filter can't be used; the text is libpcap's own where libpcap refused it."""


@dataclass(frozen=True, slots=True)
class Program:
    """A classic BPF program; its return value is the number of bytes to keep, 0 = turned away."""

    code: bytes  # array of struct sock_filter in host order
    link_type: int
    snaplen: int

    @property
    def instructions(self) -> int:
        return len(self.code) // INSTRUCTION_BYTES


def compile_filter(text: str, link_type: int, snaplen: int) -> Program:
    """Compile `text` ("" = everything) for frames of `link_type` (LINKTYPE_ number), of which `snaplen` bytes are kept.

    Host names in a filter are looked up while it compiles: call it off the event loop. FilterError otherwise.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_FILTER_BYTES:
        raise FilterError(f"the filter has {len(encoded)} bytes; at most {MAX_FILTER_BYTES} are taken")
    if b"\0" in encoded:
        raise FilterError("the filter contains a NUL character")
    terms = 1 + len(_JOINT.findall(text))
    if terms > MAX_TERMS:
        raise FilterError(
            f"the filter joins {terms} terms; at most {MAX_TERMS} are taken. "
            "Use networks instead of lists of hosts, port ranges instead of lists of ports"
        )
    check_snaplen(snaplen)
    if not text.strip():  # needs no libpcap, and holds for link types that libpcap doesn't know
        return Program(struct.pack("=HBBI", _RETURN_CONSTANT, 0, 0, snaplen), link_type, snaplen)
    try:
        library = libpcap.load()
    except libpcap.LibpcapMissing as error:
        raise FilterError(f"without libpcap no filter compiles: {error}") from None
    with _lock:
        handle = library.pcap_open_dead_with_tstamp_precision(
            libpcap.dlt_of(link_type), snaplen, libpcap.NANOSECONDS
        )
        if not handle:
            raise FilterError(f"libpcap knows no link type {link_type}")
        try:
            program = libpcap.BpfProgram()
            if library.pcap_compile(
                handle, ctypes.byref(program), encoded, libpcap.OPTIMIZE, libpcap.NETMASK_UNKNOWN
            ):
                raise FilterError(library.pcap_geterr(handle).decode(errors="replace"))
            try:
                code = ctypes.string_at(program.bf_insns, program.bf_len * INSTRUCTION_BYTES)
            finally:
                library.pcap_freecode(ctypes.byref(program))
        finally:
            library.pcap_close(handle)
    if len(code) > MAX_INSTRUCTIONS * INSTRUCTION_BYTES:
        raise FilterError(
            f"the filter compiles to {len(code) // INSTRUCTION_BYTES} instructions; the kernel takes "
            f"{MAX_INSTRUCTIONS}. Use networks instead of lists of hosts, port ranges instead of lists of ports"
        )
    if _has_loop(code):
        raise FilterError(
            "the filter compiles to a loop, which no kernel runs. Replace 'protochain' by 'proto'"
        )
    return Program(code, link_type, snaplen)


def check_snaplen(snaplen: int) -> None:
    """FilterError unless that many bytes of a packet can be kept."""
    if not 1 <= snaplen <= MAX_SNAPLEN:
        raise FilterError(f"snaplen {snaplen} is not within 1 to {MAX_SNAPLEN}")


def _has_loop(code: bytes) -> bool:
    """Does anything jump back? Only the long jump can: its distance is signed in libpcap, too large for a kernel."""
    instructions = list(struct.iter_unpack("=HBBI", code))
    return any(
        operation == _JUMP_ALWAYS and at + 1 + distance >= len(instructions)
        for at, (operation, _, _, distance) in enumerate(instructions)
    )
