"""Make a veth forget when its sender meant to send, as a real wire does.

TCP writes the intended departure time into `skb->tstamp` (net/ipv4/tcp_output.c), and a veth pair hands that
very skb to the other end. The receiving side then takes the stamp for set and doesn't make its own, and since
a departure time is no arrival time, `tpacket_rcv` asks the clock once per capture socket: two captures of one
segment differ by some hundred nanoseconds. No network card does that, so the laboratory clears the field
where a packet leaves a host, by a program of five instructions on the interface's egress (TCX, Linux 6.6 and
later).
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct

_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD, _BPF_LINK_CREATE = 5, 28
_BPF_PROG_TYPE_SCHED_CLS, _BPF_TCX_EGRESS = 3, 47
_SKB_SET_TSTAMP = 192
_TCX_NEXT = -1

# struct bpf_insn: opcode, registers (destination | source << 4), offset, immediate
# (include/uapi/linux/bpf.h).
_PROGRAM = b"".join(
    struct.pack("<BBhi", *instruction)
    for instruction in (
        (0xB7, 2, 0, 0),  # r2 = 0: no time
        (0xB7, 3, 0, 0),  # r3 = BPF_SKB_TSTAMP_UNSPEC
        (
            0x85,
            0,
            0,
            _SKB_SET_TSTAMP,
        ),  # bpf_skb_set_tstamp(r1 = skb, r2, r3); refuses what isn't IP, which has none
        (0xB7, 0, 0, _TCX_NEXT),
        (0x95, 0, 0, 0),
    )
)


def _bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(_BPF_SYSCALL[platform.machine()], command, attributes, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf command {command}: {os.strerror(code)}")
    return result


def forget_departure_time(interface: str) -> int:
    """Attach the program to an interface of the calling thread's namespace; it works until the returned fd is
    closed.

    Raises OSError where the kernel has no TCX (before 6.6) or the caller lacks CAP_BPF and CAP_NET_ADMIN.
    """
    instructions = ctypes.create_string_buffer(_PROGRAM, len(_PROGRAM))
    licence = ctypes.create_string_buffer(b"GPL")
    load = struct.pack(
        "<IIQQIIQ",
        _BPF_PROG_TYPE_SCHED_CLS,
        len(_PROGRAM) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0,
        0,
        0,
    )
    program = _bpf(_BPF_PROG_LOAD, load.ljust(128, b"\0"))
    try:
        create = struct.pack("<IIII", program, socket.if_nametoindex(interface), _BPF_TCX_EGRESS, 0)
        return _bpf(_BPF_LINK_CREATE, create.ljust(64, b"\0"))
    finally:
        os.close(program)
