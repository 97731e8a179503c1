"""Gives up what root could do and the agent doesn't need, before it opens anything and starts any thread.

Kept: opening packet sockets and promiscuous mode (CAP_NET_RAW, CAP_NET_ADMIN), loading eBPF programs (CAP_BPF,
CAP_PERFMON; before Linux 5.8 CAP_SYS_ADMIN; CAP_SYS_RESOURCE for their memory before 5.11), and, only where the
agent's own folders can't be used otherwise, access to others' files (CAP_DAC_OVERRIDE). The rest leaves the effective,
permitted, inheritable and bounding sets and can't come back, also not in a program that the agent starts.
Layouts: capabilities(7), capset(2), linux/capability.h.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from agent.settings import Config

log = logging.getLogger(__name__)

CAP_DAC_OVERRIDE, CAP_SETPCAP, CAP_NET_ADMIN, CAP_NET_RAW = 1, 8, 12, 13
CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_PERFMON, CAP_BPF = 21, 24, 38, 39
_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_ULONG = ctypes.c_ulong


def drop_privileges(config: Config) -> None:
    """Once, while there is one thread: each has capabilities of its own. What can't be given up is logged."""
    held = _effective()
    kept = {CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_SYS_RESOURCE}
    if _last_capability() < CAP_BPF:
        kept.add(CAP_SYS_ADMIN)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _set(libc, held & ~(1 << CAP_DAC_OVERRIDE), permitted=held)
        locked = _locked(_paths(config))
        if locked is not None and held >> CAP_DAC_OVERRIDE & 1:
            log.info("CAP_DAC_OVERRIDE is kept: %s can't be used without it", locked)
            kept.add(CAP_DAC_OVERRIDE)
        mask = sum(1 << one for one in kept)
        if held >> CAP_SETPCAP & 1:
            for one in range(_last_capability() + 1):
                if one not in kept:
                    _checked(libc.prctl(_PR_CAPBSET_DROP, _ULONG(one), _ULONG(0), _ULONG(0), _ULONG(0)))
        _set(libc, held & mask, permitted=held & mask)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, _ULONG(1), _ULONG(0), _ULONG(0), _ULONG(0)))
    except OSError as error:
        log.warning("privileges that aren't needed can't be given up: %s", error.strerror)


def _paths(config: Config) -> list[tuple[Path, int]]:
    """(what the agent uses while it runs, how), its own modules included: some are imported late."""
    written = [config.state_dir, config.spool_path]
    if config.log_file is not None:
        written.append(config.log_file.parent)
    read = [path for path in (config.replay_file, config.replay_directory) if path is not None]
    read += [Path(entry) for entry in (*sys.path, sys.prefix) if entry]
    return [*((path, os.R_OK | os.W_OK) for path in written), *((path, os.R_OK) for path in read)]


def _locked(paths: Iterable[tuple[Path, int]]) -> Path | None:
    """The first that can't be used with the rights in effect. One that isn't there yet counts by its parent."""
    for path, mode in paths:
        there = path
        try:
            while not there.exists() and there != there.parent:
                there = there.parent
        except PermissionError:
            return path
        if not os.access(there, mode, effective_ids=True):
            return path
    return None


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _last_capability() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def _set(libc: ctypes.CDLL, effective: int, *, permitted: int) -> None:
    low, high = 0xFFFFFFFF, 32
    header = struct.pack("=Ii", _VERSION_3, 0)
    data = struct.pack("=6I", effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    _checked(libc.capset(header, data))


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
