"""What the agent itself takes from its host, for the heartbeat, and how its allocator is tuned."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# man 3 mallopt
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def cpu_seconds() -> float:
    """User and system time of all threads since the start."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    """Memory in use now, the mapped rings included (/proc/self/statm, second field); 0 without /proc."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def keep_large_blocks() -> None:
    """Let glibc reuse blocks of batch size instead of mapping and unmapping half a megabyte for each of them.

    A batch passes through four such blocks; with glibc's default threshold each costs a map, 128 page faults and an
    unmap. Does nothing with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 16 << 20)
