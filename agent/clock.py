"""The state of this host's clock: who disciplines it, how far off it says it is, and whether it was stepped.

Asked in this order: chrony (its own client, when there is one), then the kernel's `adjtimex(2)`, which every NTP
daemon keeps (man 2 adjtimex; `struct timex` of include/uapi/linux/timex.h).  The answer is what the host believes of
itself; wirepool measures clocks by the traffic they share and never trusts this.
"""

from __future__ import annotations

import asyncio
import ctypes
import re
import shutil
import time
from dataclasses import replace

from wire.clock import Clock

STEP_BOUND_NS = 1_000_000
"""A jump between CLOCK_REALTIME and CLOCK_MONOTONIC from here on is a step: both are slewed alike, so nothing else
moves their difference; reading the two takes microseconds."""

CARD_CLOCK_BOUND_NS = 1_000_000
"""How far a network card's clock may be from the host's for the card's time stamps to be used."""

_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000
_TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """struct timex on 64-bit Linux."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time_sec", ctypes.c_long),
        ("time_usec", ctypes.c_long),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


def kernel_clock() -> Clock:
    """What adjtimex(2) says; "unknown" where the kernel doesn't answer (some containers)."""
    timex = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        return Clock()
    if state == _TIME_ERROR or timex.status & _STA_UNSYNC:
        return Clock("none", "unsynchronized", None, None)
    offset_ns = timex.offset if timex.status & _STA_NANO else timex.offset * 1000
    # The kernel's offset is what is still to be added to the clock; ours is how far the clock is ahead.
    return Clock("ntp", "synchronized", -offset_ns, timex.maxerror * 1000)


_SYSTEM_TIME = re.compile(r"^System time\s*: ([0-9.]+) seconds (slow|fast) of NTP time$", re.M)
_SECONDS = r"\s*: (-?[0-9.]+) seconds$"
_ROOT_DELAY = re.compile("^Root delay" + _SECONDS, re.M)
_ROOT_DISPERSION = re.compile("^Root dispersion" + _SECONDS, re.M)
_LOCAL = re.compile(r"^Reference ID\s*: 7F7F01", re.M)
"""127.127.1.x: chrony serves its own clock as a reference (`local stratum`), which is nobody's time."""
_LEAP = re.compile(r"^Leap status\s*: (.+)$", re.M)


def parse_chrony_tracking(text: str) -> Clock | None:
    """`chronyc -n tracking` as text (its CSV leaves the sign of the offset to be guessed). None: not understood.

    The error bound is chrony's own: root dispersion + half the root delay + the remaining offset (chrony.conf(5)).
    """
    leap, system = _LEAP.search(text), _SYSTEM_TIME.search(text)
    delay, dispersion = _ROOT_DELAY.search(text), _ROOT_DISPERSION.search(text)
    if leap is None or system is None or delay is None or dispersion is None:
        return None
    if leap[1].strip() == "Not synchronised" or _LOCAL.search(text):
        return Clock("chrony", "unsynchronized", None, None)
    offset_s = float(system[1]) if system[2] == "fast" else -float(system[1])
    error_s = float(dispersion[1]) + abs(float(delay[1])) / 2 + abs(offset_s)
    return Clock("chrony", "synchronized", round(offset_s * 1e9), round(error_s * 1e9))


async def read_clock() -> Clock:
    """chrony when it answers within two seconds, else the kernel."""
    program = shutil.which("chronyc")
    if program is not None:
        process = await asyncio.create_subprocess_exec(
            program,
            "-n",
            "tracking",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(2.0):
                out, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
        else:
            clock = parse_chrony_tracking(out.decode(errors="replace"))
            if clock is not None:
                return clock
    return kernel_clock()


def card_clock(host: Clock) -> Clock:
    """What a network card's clock is that was seen to agree with the host's."""
    error_ns = None if host.error_ns is None else host.error_ns + CARD_CLOCK_BOUND_NS
    return replace(host, source=f"phc-{host.source}", error_ns=error_ns)


def realtime_minus_monotonic_ns() -> int:
    """The difference of the two clocks, from the tightest of three readings."""
    best_width, best = 1 << 62, 0
    for _ in range(3):
        before = time.monotonic_ns()
        realtime = time.time_ns()
        after = time.monotonic_ns()
        if after - before < best_width:
            best_width, best = after - before, realtime - (before + after) // 2
    return best


class StepWatch:
    """Notices steps of the wall clock between two looks. One per chain of batches."""

    def __init__(self) -> None:
        self._difference_ns = realtime_minus_monotonic_ns()

    def look(self) -> int | None:
        """The step since the last look in ns with its sign (positive: the clock was put forward), or None."""
        difference_ns = realtime_minus_monotonic_ns()
        step_ns = difference_ns - self._difference_ns
        if abs(step_ns) < STEP_BOUND_NS:
            return None
        self._difference_ns = difference_ns
        return step_ns
