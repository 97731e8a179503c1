"""What capturing alone costs, beside the programs people use today: `python -m perf.capture`.

On the same load, in rounds in which each takes its turn: the agent's capture stage (ring → columns,
`perf.capture_stage`), tcpdump writing to a file in memory as people use it and to /dev/null, dumpcap and netsniff-ng
writing to /dev/null, and nobody. Two figures, CPU seconds per million packets:

(a) the process: its own user and system time. On a veth the kernel's receive path, filter and copy into the ring run on
    the sender's processor and are not in it.
(b) the machine: all processors' busy time (/proc/stat) minus the same load's with no socket open. Everything is in it,
    and so is whatever else runs: measure on a quiet machine.

Ratios are taken within a round and the median of the rounds is shown. The load comes from `perf.xdp_generator`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from perf import results
from perf.contestants import PEER, TURNED_AWAY, WIREPOOL, Contestant, contestants
from tests.support import netns
from tests.support.lab import stop_process
from tests.support.netns import Namespace, wait_for
from tests.support.processes import cpu_seconds

LOADS = {"60": 800_000, "imix": 330_000, "1514": 80_000}
"""Size → packets per second; 1514 B at 80,000 is a full gigabit."""


@dataclass(slots=True)
class Turn:
    """One program's turn in one round."""

    sent: int
    captured: int
    process_seconds: float
    machine_seconds: float
    resident_peak_bytes: int
    words: str = ""
    """The last it said."""


@dataclass(slots=True)
class Column:
    """All turns of one program at one load."""

    turns: list[Turn] = field(default_factory=list)


def machine_seconds() -> float:
    """Busy time of all processors: what was neither idle nor waiting.

    Taken from the idle time, which the kernel measures (get_idle_time in fs/proc/stat.c); the busy columns are sampled
    by the timer tick, and a load that comes in ticks of its own falls between.
    """
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    idle = (int(fields[3]) + int(fields[4])) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() * (os.cpu_count() or 1) - idle


def peak_bytes(pid: int) -> int:
    """The most a process had resident."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


class Field:
    """Two namespaces and the load between them."""

    def __init__(self, sender: Namespace, receiver: Namespace, directory: Path) -> None:
        self._sender, self._receiver = sender, receiver
        self._directory = directory
        receiver.run("ethtool", "-K", receiver.interface, "gro", "on")

    def send(self, size: str, pps: float, seconds: float) -> int:
        """The load; packets that really arrived."""
        before = self._received()
        argv = ["-m", "perf.xdp_generator", "--interface", self._sender.interface]
        argv += ["--size", size, "--pps", str(pps), "--seconds", str(seconds)]
        self._sender.run(sys.executable, "-P", *argv, timeout_s=seconds + 60)
        return self._received() - before

    def _received(self) -> int:
        return int(
            self._receiver.run(
                "cat", f"/sys/class/net/{self._receiver.interface}/statistics/rx_packets"
            ).stdout
        )

    def turn(self, one: Contestant | None, size: str, pps: float, seconds: float, ready: Path) -> Turn:
        """Let one program (None: nobody) take the load."""
        if one is None:
            busy = machine_seconds()
            sent = self.send(size, pps, seconds)
            return Turn(sent, 0, 0.0, machine_seconds() - busy, 0)
        ready.unlink(missing_ok=True)
        log = self._directory / "words"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                self._receiver.command(*one.argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(lambda: self._listening(process, log), f"{one.name} listens")
            if one.name in WIREPOOL:
                wait_for(ready.exists, "the capture stage is ready")
            _settle(process.pid)
            spent, busy = cpu_seconds(process.pid), machine_seconds()
            sent = self.send(size, pps, seconds)
            _settle(process.pid)
            spent, busy = cpu_seconds(process.pid) - spent, machine_seconds() - busy
            peak = peak_bytes(process.pid)
        finally:
            stop_process(process, how=signal.SIGINT)
        words = log.read_text(errors="replace")
        captured = one.captured(words)
        if captured < 0:
            raise RuntimeError(f"{one.name} didn't say what it captured: {words[-500:]}")
        return Turn(sent, captured, spent, busy, peak, words)

    def _listening(self, process: subprocess.Popen[bytes], log: Path) -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"it ended: {log.read_text(errors='replace')[-500:]}")
        return len(self._receiver.run("cat", "/proc/net/packet").stdout.splitlines()) > 1


def _settle(pid: int) -> None:
    """Until a process has rested for a while: what stood in its ring is worked off."""
    before, quiet_since = cpu_seconds(pid), time.monotonic()
    while time.monotonic() - quiet_since < 0.15:
        time.sleep(0.03)
        now = cpu_seconds(pid)
        if now != before:
            before, quiet_since = now, time.monotonic()


def measure(
    field_: Field,
    size: str,
    pps: float,
    seconds: float,
    rounds: int,
    everybody: Sequence[Contestant],
    ready: Path,
) -> dict[str, Column]:
    """Rounds at one load; name → turns, "" for nobody's."""
    all_: Sequence[Contestant | None] = [None, *everybody]
    columns = {"" if one is None else one.name: Column() for one in all_}
    for number in range(rounds):
        for place in range(len(all_)):
            one = all_[(place + number) % len(all_)]
            turn = field_.turn(one, size, pps, seconds, ready)
            columns["" if one is None else one.name].turns.append(turn)
            print(".", end="", flush=True)
    print()
    return columns


def programs_of(
    field_: Field, size: str, pps: float, seconds: float, everybody: Sequence[Contestant], ready: Path
) -> dict[str, dict[str, float]]:
    """What the eBPF programs count of their own time, in a turn of its own (counting costs), and the most that the
    process had resident which compiled and loaded them."""
    found = {}
    for one in everybody:
        if one.name in WIREPOOL and "bcc" in one.argv:
            counting = replace(one, argv=(*one.argv, "--run-time"))
            told = json.loads(field_.turn(counting, size, pps, seconds, ready).words.splitlines()[-1])
            found[one.name] = {
                "run_time_ns": round(told["run_time_ns"] / max(1, told["runs"]), 1),
                "loader_peak_bytes": told["loader_peak_bytes"],
            }
    return found


def summary(columns: dict[str, Column]) -> tuple[list[list[str]], dict[str, dict[str, float | None]]]:
    """Rows for the table and figures for the record."""
    nobody = columns[""].turns
    idle = [turn.machine_seconds / turn.sent for turn in nobody]

    def process(name: str) -> list[float]:
        return [turn.process_seconds / turn.sent * 1e6 for turn in columns[name].turns]

    def machine(name: str) -> list[float]:
        turns = columns[name].turns
        return [
            (turn.machine_seconds / turn.sent - rest) * 1e6 for turn, rest in zip(turns, idle, strict=True)
        ]

    def ratio(values: list[float], peers: list[float]) -> float:
        pairs = [value / peer for value, peer in zip(values, peers, strict=True) if peer > 0]
        return statistics.median(pairs) if pairs else float("nan")

    rows: list[list[str]] = []
    figures: dict[str, dict[str, float | None]] = {}
    for name, column in columns.items():
        if not name:
            continue
        a, b = process(name), machine(name)
        ratio_a, ratio_b = ratio(a, process(PEER)), ratio(b, machine(PEER))
        lost = sum(turn.sent - turn.captured for turn in column.turns)
        peak = max(turn.resident_peak_bytes for turn in column.turns)
        rows.append(
            [
                name,
                f"{statistics.median(a):.3f}",
                f"{ratio_a:.2f}",
                f"{statistics.median(b):.3f}",
                f"{ratio_b:.2f}",
                f"{lost:,}",
                f"{peak / 1e6:.0f}",
            ]
        )
        figures[name] = {
            "process_s_per_million": round(statistics.median(a), 4),
            "process_ratio": None if math.isnan(ratio_a) else round(ratio_a, 3),
            "machine_s_per_million": round(statistics.median(b), 4),
            "machine_ratio": None if math.isnan(ratio_b) else round(ratio_b, 3),
            "not_captured": lost,
            "peak_bytes": peak,
        }
    return rows, figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load per turn (default %(default)s)")
    parser.add_argument("--sizes", default="60,imix,1514", help="(default %(default)s)")
    parser.add_argument("--pps", type=float, help="instead of what suits each size")
    parser.add_argument(
        "--filter", default="", help=f"in tcpdump's syntax, e.g. '{TURNED_AWAY}', which 1 %% passes"
    )
    parser.add_argument(
        "--only", default="", metavar="WORD,…", help="contestants whose names contain one of these"
    )
    arguments = parser.parse_args()
    if shutil.which(PEER) is None:
        raise SystemExit(f"{PEER} is the peer and is missing: apt-get install {PEER}")
    figures: dict[str, object] = {"filter": arguments.filter, "rounds": arguments.rounds}
    with (
        tempfile.TemporaryDirectory(prefix="wirepool-perf-", dir="/dev/shm") as name,
        netns.pair() as (sender, receiver),
    ):
        directory = Path(name)
        ready = directory / "ready"
        words = [word for word in arguments.only.split(",") if word]
        everybody = [
            one
            for one in contestants(receiver.interface, arguments.filter, ready)
            if one.name == PEER or not words or any(word in one.name for word in words)
        ]
        ground = Field(sender, receiver, directory)
        for size in arguments.sizes.split(","):
            pps = arguments.pps or LOADS.get(size, 100_000)
            columns = measure(
                ground,
                *(size, pps, arguments.seconds, arguments.rounds, everybody, ready),
            )
            rows, found = summary(columns)
            programs = programs_of(ground, size, pps, min(2.0, arguments.seconds), everybody, ready)
            for one, told in programs.items():
                found[one] |= told
            figures[f"{size}_at_{pps:.0f}_pps"] = found
            sent = statistics.median(turn.sent for turn in columns[""].turns)
            print(
                f"\n{size} B, {sent / arguments.seconds:,.0f} packets a second, CPU seconds per million packets\n"
            )
            head = ["", "(a) process", "ratio", "(b) machine", "ratio", "not captured", "peak MB"]
            print(results.table(head, rows), "\n")
            for one, told in programs.items():
                print(
                    f"{one}: its programs run {told['run_time_ns']:.0f} ns per packet; "
                    f"their loader had {told['loader_peak_bytes'] / 1e6:.0f} MB for a moment"
                )
    print(
        f"ratios to {PEER}, medians of {arguments.rounds} rounds; added to {results.append('capture', figures)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
