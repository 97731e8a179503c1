"""Which processes come from this one, and how to become the one that orphans are handed to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h


def adopt_orphans() -> None:
    """From now on whatever our descendants leave behind becomes our child, so that nothing can hide from us.

    Who adopts has to bury as well (`wait`): a test that waits for a process to be gone would wait for ever.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> dict[int, str]:
    """Our living children: process id → command line."""
    found: dict[int, str] = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            process = Path(f"/proc/{pid}")
            try:
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # ended meanwhile
            if state != "Z":
                found[pid] = command.strip()
    return found


def wait(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> bool:
    """Wait for `processes` and bury every adopted orphan meanwhile; False when it takes too long."""
    deadline = time.monotonic() + timeout_s
    waiting = {process.pid: process for process in processes}
    while waiting:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in waiting:
            waiting.pop(pid).returncode = os.waitstatus_to_exitcode(status)
        elif pid == 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
    return True


def end_children() -> dict[int, str]:
    """Kill and bury what is left, and what that leaves in turn; what it was."""
    left: dict[int, str] = {}
    while living := children():
        left |= living
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in living:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return left
