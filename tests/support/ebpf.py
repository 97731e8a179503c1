"""Captures by each of the ways: classic BPF, eBPF loaded by BCC, eBPF out of the compiled object."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

import pytest

from agent.ebpf import kernel
from agent.ebpf.loading import CLASSIC, WAYS, CannotLoad, load
from agent.ebpf.programs import ProgramSet

ALL_WAYS = (CLASSIC, *WAYS)


def programs(way: str) -> ProgramSet | None:
    """For a RingSource. What is missing here is a skip, and a failure where everything is required."""
    if way == CLASSIC:
        return None
    try:
        return load(way)
    except CannotLoad as reason:
        if os.environ.get("WIREPOOL_REQUIRE_ALL") == "1":
            pytest.fail(f"eBPF by {way}: {reason}")
        pytest.skip(f"eBPF by {way}: {reason}")


_TEST_RUN = 10  # BPF_PROG_TEST_RUN
_UNSEEN_HEADER = bytes(14)
"""The kernel takes an Ethernet header off before a socket filter is tried; a ring's filter sees the frame's own."""


def verdict(program: int, frame: bytes) -> int:
    """What the kernel's run of a loaded socket filter returns for `frame`, as a ring would see it (without a tag)."""
    packet = ctypes.create_string_buffer(_UNSEEN_HEADER + frame, len(_UNSEEN_HEADER) + len(frame))
    attributes = ctypes.create_string_buffer(
        struct.pack("=IIIIQQII", program, 0, len(packet), 0, ctypes.addressof(packet), 0, 1, 0)
    )
    number = kernel._NUMBERS[platform.machine()]
    if kernel._libc.syscall(ctypes.c_long(number), _TEST_RUN, attributes, ctypes.c_uint(len(attributes) - 1)):
        raise OSError(ctypes.get_errno(), "BPF_PROG_TEST_RUN")
    (returned,) = struct.unpack_from("=I", attributes, 4)
    return int(returned)
