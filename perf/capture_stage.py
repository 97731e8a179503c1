"""The agent's capture stage alone, as `perf.capture` runs it beside other programs: ring → columns, again and again
into one buffer, until SIGINT; then its books as JSON. Not a measurement of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import platform
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from agent.batcher import Origin, Packed
from agent.books import SessionBooks
from agent.ebpf.loading import CHOICES, CapturePath
from agent.flow_records import FlowRecords
from agent.sources.card_stamps import LATE, SOFTWARE
from agent.sources.ring import RingSource
from agent.sources.source import BatchBuffer, FlowRules
from agent.spool import Admission

_BPF_ENABLE_STATS = 32
"""Command of bpf(2), Linux 5.8: programs count their own time while the descriptor is open."""
_SYSCALL = {"x86_64": 321, "aarch64": 280}


def count_run_time() -> int:
    """From now on; the descriptor to keep open."""
    attributes = ctypes.create_string_buffer(128)
    fd: int = ctypes.CDLL(None).syscall(_SYSCALL[platform.machine()], _BPF_ENABLE_STATS, attributes, 128)
    return fd


def run_time_ns(program: int) -> tuple[int, int]:
    """(nanoseconds, runs) of a program and all it jumped on to."""
    text = Path(f"/proc/self/fdinfo/{program}").read_text()
    found = [re.search(rf"{name}:\s*(\d+)", text) for name in ("run_time_ns", "run_cnt")]
    return tuple(int(one.group(1)) if one else 0 for one in found)[:2]  # type: ignore[return-value]


class Nowhere:
    """Stands for a lane with room: records are made and dropped."""

    def write(self, packed: Packed, origin: Origin) -> Admission:
        return Admission.ACCEPTED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--filter", default="")
    parser.add_argument("--ready", type=Path, required=True, help="a file to make when the socket is open")
    parser.add_argument("--path", choices=CHOICES, default="auto", help="how packets are judged")
    parser.add_argument(
        "--timestamps", choices=(SOFTWARE, LATE), default=SOFTWARE, help="when packets get theirs"
    )
    parser.add_argument("--cutoff", type=int, help="bytes kept of each flow (needs eBPF)")
    parser.add_argument(
        "--count-flows", action="store_true", help="count flows, and make their records each second"
    )
    parser.add_argument(
        "--run-time", action="store_true", help="let the programs count their own time (eBPF)"
    )
    arguments = parser.parse_args()
    counting = count_run_time() if arguments.run_time else -1
    programs = CapturePath(arguments.path).open()
    loader_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    source = RingSource(
        *(arguments.interface, arguments.filter, 262144, True),
        programs=programs,
        timestamps=arguments.timestamps,
        flows=FlowRules(arguments.cutoff, 1, counted=arguments.count_flows),
    )
    stop = threading.Event()

    def on_signal(*_: object) -> None:
        stop.set()
        source.wake()

    signal.signal(signal.SIGINT, on_signal)
    buffer = BatchBuffer()
    flows = FlowRecords(SessionBooks(), Nowhere(), "zstd")  # type: ignore[arg-type]
    origin, looked_s = Origin(arguments.interface, 1, 262144, 1), 0.0
    arguments.ready.touch()
    while not stop.is_set():
        source.read_batch(buffer, linger_ns=60_000_000, wait_ms=1000)
        if arguments.count_flows and time.monotonic() - looked_s >= 1.0:
            looked_s = time.monotonic()
            flows.look(source, origin, wanted=True)
    source.pause()
    while source.statistics().in_ring:
        source.read_batch(buffer, linger_ns=0, wait_ms=20)
    told = dataclasses.asdict(source.statistics()) | {"loader_peak_bytes": loader_bytes}
    if counting >= 0 and programs is not None:
        told["run_time_ns"], told["runs"] = run_time_ns(programs.attached or programs.entry)
        os.close(counting)
    source.close()
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
