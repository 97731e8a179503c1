"""The system call bpf(2), as far as the agent needs it: loading a socket filter, reading and writing maps.

Python has no call of its own for it. Layouts: union bpf_attr in linux/bpf.h; each command passes no more of it than
the oldest kernel that runs our programs (4.10) knows, because a kernel refuses set bits that it doesn't know.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from agent.ebpf.contract import MapShape

_NUMBERS = {
    "x86_64": 321,
    "aarch64": 280,
    "armv7l": 386,
    "i686": 357,
    "ppc64le": 361,
    "riscv64": 280,
    "loongarch64": 280,
}
"""Of the system call, by machine (asm/unistd.h)."""
_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _INFO_BY_FD = 1, 2, 3, 5, 15
_SOCKET_FILTER = 1  # BPF_PROG_TYPE_SOCKET_FILTER
_INSTRUCTION_BYTES = 8
_LOG_BYTES = 1 << 20
_INFO_BYTES = 24

_libc = ctypes.CDLL(None, use_errno=True)


class KernelRefused(OSError):
    """bpf(2) failed; `log` is the end of what the verifier said, if anything."""

    def __init__(self, code: int, doing: str, log: str = "") -> None:
        super().__init__(code, f"{doing}: {os.strerror(code)}{f' ({log})' if log else ''}")
        self.log = log


def load_socket_filter(instructions: bytes) -> int:
    """A descriptor of the program; KernelRefused with the verifier's last words otherwise."""
    try:
        return _load(instructions, None)
    except KernelRefused as error:
        refusal = error
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return _load(instructions, log)
    except KernelRefused:
        said = [line for line in log.value.decode(errors="replace").splitlines() if line.strip()]
        raise KernelRefused(refusal.errno or 0, "loading a filter", "; ".join(said[-2:])[:300]) from None


def _load(instructions: bytes, log: ctypes.Array[ctypes.c_char] | None) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQI4x",
        _SOCKET_FILTER,
        len(instructions) // _INSTRUCTION_BYTES,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        0 if log is None else 1,
        0 if log is None else len(log),
        0 if log is None else ctypes.addressof(log),
        0,
    )
    return _call(_PROG_LOAD, attributes, "loading a filter")


def write(map_descriptor: int, key: int | bytes, value: bytes) -> None:
    """Set the value under a u32 key, or one of other layout. Atomic for the packets that come by."""
    packed = struct.pack("=I", key) if isinstance(key, int) else key
    place, room = (
        ctypes.create_string_buffer(packed, len(packed)),
        ctypes.create_string_buffer(value, len(value)),
    )
    attributes = struct.pack("=I4xQQQ", map_descriptor, ctypes.addressof(place), ctypes.addressof(room), 0)
    _call(_MAP_UPDATE, attributes, "writing to a map")


def delete(map_descriptor: int, key: bytes) -> None:
    """Take an entry out; KernelRefused (ENOENT) when there is none."""
    place = ctypes.create_string_buffer(key, len(key))
    _call(_MAP_DELETE, struct.pack("=I4xQ", map_descriptor, ctypes.addressof(place)), "deleting from a map")


def read(map_descriptor: int, key: int, value_bytes: int) -> bytes:
    """The value under a u32 key; of a per-CPU map the values of all possible CPUs, each of a multiple of 8 bytes."""
    place = ctypes.create_string_buffer(struct.pack("=I", key), 4)
    room = ctypes.create_string_buffer(value_bytes)
    attributes = struct.pack("=I4xQQQ", map_descriptor, ctypes.addressof(place), ctypes.addressof(room), 0)
    _call(_MAP_LOOKUP, attributes, "reading a map")
    return room.raw


def shape_of(map_descriptor: int) -> MapShape:
    """What the kernel says a map is; KernelRefused (EINVAL) for what is no map."""
    room = ctypes.create_string_buffer(_INFO_BYTES)
    _call(
        _INFO_BY_FD,
        struct.pack("=IIQ", map_descriptor, _INFO_BYTES, ctypes.addressof(room)),
        "asking for a map",
    )
    kind, _number, key_bytes, value_bytes, entries, _flags = struct.unpack("=6I", room.raw)
    return MapShape(kind, key_bytes, value_bytes, entries)


def possible_cpus() -> int:
    """How many values a per-CPU map holds (Documentation/admin-guide/cputopology.rst)."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        ranges = [part.split("-") for part in file.read().strip().split(",")]
    return max(int(numbers[-1]) for numbers in ranges) + 1


def _call(command: int, attributes: bytes, doing: str) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise KernelRefused(38, doing, f"no number of bpf(2) known for {platform.machine()}")
    room = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), ctypes.byref(room), ctypes.c_uint(len(attributes))
    )
    if result < 0:
        raise KernelRefused(ctypes.get_errno(), doing)
    return result
