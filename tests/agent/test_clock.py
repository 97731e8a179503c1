"""What the host says of its clock, and whether it was stepped."""

import ctypes
import subprocess
import time
from pathlib import Path

import pytest

from agent import clock, resources
from agent.clock import StepWatch, kernel_clock, parse_chrony_tracking, read_clock
from tests.support.need import need

TRACKING = """\
Reference ID    : C0000201 (192.0.2.1)
Stratum         : 3
Ref time (UTC)  : Mon Nov 23 11:59:01 2026
System time     : 0.000123456 seconds {sign} of NTP time
Last offset     : -0.000001000 seconds
RMS offset      : 0.000020000 seconds
Frequency       : 14.226 ppm fast
Residual freq   : -0.001 ppm
Skew            : 0.071 ppm
Root delay      : 0.002000000 seconds
Root dispersion : 0.000700000 seconds
Update interval : 64.2 seconds
Leap status     : {leap}
"""


def test_chrony_says_slow_or_fast() -> None:
    slow = parse_chrony_tracking(TRACKING.format(sign="slow", leap="Normal"))
    fast = parse_chrony_tracking(TRACKING.format(sign="fast", leap="Insert second"))
    assert slow is not None
    assert fast is not None
    assert (slow.source, slow.state, slow.offset_ns) == ("chrony", "synchronized", -123456)
    assert fast.offset_ns == 123456
    assert slow.error_ns == 700_000 + 1_000_000 + 123456


def test_chrony_without_a_source_is_not_synchronized() -> None:
    found = parse_chrony_tracking(TRACKING.format(sign="fast", leap="Not synchronised"))
    assert found is not None
    assert (found.state, found.offset_ns) == ("unsynchronized", None)


def test_chrony_that_follows_itself_is_not_synchronized() -> None:
    text = TRACKING.format(sign="fast", leap="Normal").replace("C0000201 (192.0.2.1)", "7F7F0101 ()")
    found = parse_chrony_tracking(text)
    assert found is not None
    assert found.state == "unsynchronized"


@pytest.mark.parametrize("text", ["", "506 Cannot talk to daemon\n", "Leap status     : Normal\n"])
def test_other_answers_are_none(text: str) -> None:
    assert parse_chrony_tracking(text) is None


async def test_this_hosts_clock_as_the_kernel_has_it() -> None:
    found = kernel_clock()
    assert found.state in ("synchronized", "unsynchronized", "unknown")
    assert (found.error_ns is not None) == (found.state == "synchronized")
    assert (await read_clock()).state in ("synchronized", "unsynchronized", "unknown")


def test_the_structure_is_the_kernels(tmp_path: Path) -> None:
    need("cc")
    program = '#include <sys/timex.h>\n#include <stdio.h>\nint main(){printf("%zu", sizeof(struct timex));}'
    binary = str(tmp_path / "probe")
    subprocess.run(["cc", "-x", "c", "-", "-o", binary], input=program, text=True, check=True)
    printed = subprocess.run([binary], capture_output=True, text=True, check=True).stdout
    assert int(printed) == ctypes.sizeof(clock._Timex)


def test_a_step_is_seen_once_with_its_sign() -> None:
    watch = StepWatch()
    assert watch.look() is None
    watch._difference_ns -= 5_000_000_000  # as if the wall clock had been put forward by 5 s
    step_ns = watch.look()
    assert step_ns is not None
    assert abs(step_ns - 5_000_000_000) < 1_000_000
    assert watch.look() is None


def test_what_we_take_from_the_host() -> None:
    before = resources.cpu_seconds()
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        pass
    assert resources.cpu_seconds() > before
    assert 10 << 20 < resources.resident_bytes() < 4 << 30
