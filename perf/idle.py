"""What an agent costs a host on which nothing happens: `python -m perf.idle`.

Processor time of the agent's process in percent of one core, and its resident memory: without a session, with one on an
interface where no packet comes, and under load for comparison. Hub, server and links are real; heartbeats go
out all the time.
"""

from __future__ import annotations

import argparse
import sys
import time

from perf import results
from perf.stand import INTERFACE, Bench, bench
from perf.traffic import write_capture
from tests.support.netns import wait_for
from tests.support.processes import cpu_seconds, resident_bytes

GOAL_PERCENT = 0.5
GOALS_MB = {"without a session": 60, "one idle session": 100, "one session under load": 250}


def observe(here: Bench, seconds: float) -> tuple[float, float]:
    """(percent of one core, resident MB at the end) over so many seconds."""
    pid = here.agent_pid
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    spent = cpu_seconds(pid) - before
    return spent / (time.monotonic() - began) * 100, resident_bytes(pid) / 1e6


def under_load(here: Bench, packets: int, pps: float, session: str) -> tuple[float, float]:
    """The same while packets come, until all are acknowledged."""
    capture = here.directory / "load.pcap"
    with open(capture, "wb") as output:
        write_capture(output, packets)
    pid = here.agent_pid
    before, began = cpu_seconds(pid), time.monotonic()
    sent, _ = here.replay(capture, pps)

    def delivered() -> bool:
        books = here.curl.session(session)["books"]
        return bool(books["received"] >= sent and books["acknowledged"] == books["captured"])

    wait_for(delivered, f"{sent} packets acknowledged", timeout_s=120)
    spent = cpu_seconds(pid) - before
    return spent / (time.monotonic() - began) * 100, resident_bytes(pid) / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="per state (default %(default)s)")
    parser.add_argument("--pps", type=float, default=100_000, help="of the load (default %(default)s)")
    parser.add_argument("--packets", type=int, default=1_000_003, help="of the load (default %(default)s)")
    arguments = parser.parse_args()
    found: dict[str, tuple[float, float]] = {}
    with bench() as here:
        found["without a session"] = observe(here, arguments.seconds)
        session = here.curl.start("capturer", INTERFACE, promiscuous=True)
        found["one idle session"] = observe(here, arguments.seconds)
        found["one session under load"] = under_load(here, arguments.packets, arguments.pps, session)
        here.curl.order(session, "stop", "stopped")
    rows = [
        [name, f"{percent:.2f}", f"{megabytes:.0f}", str(GOALS_MB[name])]
        for name, (percent, megabytes) in found.items()
    ]
    print(results.table(["", "% of a core", "resident MB", "goal"], rows))
    figures = {
        name: {"percent_of_core": round(percent, 3), "resident_mb": round(megabytes, 1)}
        for name, (percent, megabytes) in found.items()
    }
    print(f"\ngoal at rest: under {GOAL_PERCENT} %; added to {results.append('idle', figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
