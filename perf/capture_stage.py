"""The agent's capture stage alone, as `perf.capture` runs it beside other programs: ring → columns, again and again
into one buffer, until SIGINT; then its books as JSON. Not a measurement of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import threading
from pathlib import Path

from agent.ebpf.loading import CHOICES, CapturePath
from agent.sources.ring import RingSource
from agent.sources.source import BatchBuffer, FlowRules


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--filter", default="")
    parser.add_argument("--ready", type=Path, required=True, help="a file to make when the socket is open")
    parser.add_argument("--path", choices=CHOICES, default="auto", help="how packets are judged")
    parser.add_argument("--cutoff", type=int, help="bytes kept of each flow (needs eBPF)")
    arguments = parser.parse_args()
    source = RingSource(
        *(arguments.interface, arguments.filter, 262144, True),
        programs=CapturePath(arguments.path).open(),
        flows=FlowRules(arguments.cutoff, 1),
    )
    stop = threading.Event()

    def on_signal(*_: object) -> None:
        stop.set()
        source.wake()

    signal.signal(signal.SIGINT, on_signal)
    buffer = BatchBuffer()
    arguments.ready.touch()
    while not stop.is_set():
        source.read_batch(buffer, linger_ns=60_000_000, wait_ms=1000)
    source.pause()
    while source.statistics().in_ring:
        source.read_batch(buffer, linger_ns=0, wait_ms=20)
    statistics = source.statistics()
    source.close()
    print(json.dumps(dataclasses.asdict(statistics)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
