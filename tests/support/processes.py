"""Processes of a test, found through /proc by descent: never by name across the machine."""

from __future__ import annotations

import os
from pathlib import Path


def command_line(pid: int) -> list[str]:
    """argv of a process; [] when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`, parents before children."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                children = (task / "children").read_text().split()
            except OSError:
                continue
            for child in map(int, children):
                found.append(child)
                waiting.append(child)
    return found


def find_below(pid: int, *words: str) -> int | None:
    """The first descendant of `pid` whose argv holds each of `words` as an argument or as an argument's file
    name."""
    for candidate in descendants(pid):
        argv = command_line(candidate)
        names = {os.path.basename(argument) for argument in argv} | set(argv)
        if all(word in names for word in words):
            return candidate
    return None


def cpu_seconds(pid: int) -> float:
    """User plus system time of a process, all its threads, in seconds (proc_pid_stat(5), fields 14 and
    15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Resident set size."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
