"""What a captured packet costs the agent's host: CPU seconds per million packets, `python -m perf.pipeline`.

The whole agent, as a user runs it: kernel ring → columns → zstd −1 → signed batch → spool file → TLS 1.3 →
JetStream, until the last packet is acknowledged. tcpdump writing the same traffic to a file stands beside it,
so that a figure from another machine can be compared by its ratio.

CPU seconds are the process's own, user and system (/proc/PID/stat). On a veth pair the kernel runs the
receive path, the filter and the copy into the ring on the *sender's* core, for tcpdump and agent alike, so
that part is in neither figure.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from perf import results
from perf.breakdown import Profile
from perf.stand import INTERFACE, Bench, bench
from perf.traffic import write_capture
from tests.support.lab import Tcpdump
from tests.support.netns import wait_for
from tests.support.processes import cpu_seconds, resident_bytes

GOAL_TLS = 2.4
GOAL = 2.0


@dataclass(frozen=True, slots=True)
class Run:
    """One replay, captured to its end."""

    packets: int
    sent_pps: float
    dropped: int
    seconds: float
    """Of CPU, user and system."""
    resident_bytes: int = 0
    message_bytes: int = 0
    archived_bytes: int = 0

    @property
    def per_million(self) -> float:
        return self.seconds / self.packets * 1e6 if self.packets else float("nan")


def run_agent(here: Bench, capture: Path, rate: float, profile: Profile | None = None) -> Run:
    """A session of its own, from its start to its last acknowledgement."""
    session = here.curl.start("capturer", INTERFACE, promiscuous=True)
    before = cpu_seconds(here.agent_pid)
    if profile is not None:
        profile.__enter__()
    sent, took_s = here.replay(capture, rate)

    def delivered() -> bool:
        books = here.curl.session(session)["books"]
        return bool(books["received"] >= sent and books["acknowledged"] == books["captured"])

    wait_for(delivered, f"{sent} packets acknowledged", timeout_s=120)
    if profile is not None:
        profile.__exit__()
    spent = cpu_seconds(here.agent_pid) - before
    resident = resident_bytes(here.agent_pid)
    here.curl.order(session, "stop", "stopped")
    told = here.curl.wait_balanced(session)
    books = told["books"]
    return Run(
        packets=books["acknowledged"],
        sent_pps=sent / took_s,
        dropped=books["dropped_ring"] + books["dropped_oldest"] + books["dropped_newest"],
        seconds=spent,
        resident_bytes=resident,
        message_bytes=told["message_bytes"],
        archived_bytes=told["archived_bytes"],
    )


def run_tcpdump(here: Bench, capture: Path, rate: float) -> Run:
    """The peer: the same traffic into a file."""
    dump = Tcpdump(here.capturer, INTERFACE, "", here.directory / "peer.pcap", unbuffered=False)
    with dump:
        sent, took_s = here.replay(capture, rate)
        wait_for(
            lambda: dump.path.stat().st_size > 0.99 * capture.stat().st_size, "tcpdump's file", timeout_s=60
        )
        spent = cpu_seconds(dump.pid)
    dump.path.unlink()
    return Run(packets=dump.captured, sent_pps=sent / took_s, dropped=dump.dropped, seconds=spent)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packets", type=int, default=1_000_003, metavar="N", help="packets per run (default %(default)s)"
    )
    parser.add_argument(
        "--pps", type=float, default=100_000, help="rate (default %(default)s; 0: as fast as tcpreplay can)"
    )
    parser.add_argument("--mix", default="imix", choices=("imix", "tls", "text"))
    arguments = parser.parse_args()
    with bench() as here:
        capture = here.directory / "load.pcap"
        with open(capture, "wb") as output:
            size = write_capture(output, arguments.packets, mix=arguments.mix)
        warm = here.directory / "warm.pcap"
        with open(warm, "wb") as output:
            write_capture(output, 50_000, mix=arguments.mix)
        run_agent(here, warm, arguments.pps)
        agent = run_agent(here, capture, arguments.pps)
        peer = run_tcpdump(here, capture, arguments.pps)
        profile = Profile(here.agent_pid, here.directory)
        profiled = run_agent(here, capture, arguments.pps, profile)
        stages = {name: share * profiled.per_million for name, share in profile.stages().items()}
    encryption = stages.get("encrypt (TLS)", 0.0) / profiled.per_million * agent.per_million
    rows = [
        [
            "agent, over TLS 1.3",
            f"{agent.per_million:.2f}",
            f"{agent.sent_pps:,.0f}",
            f"{agent.packets:,}",
            f"{agent.dropped:,}",
        ],
        ["agent, without encrypting", f"{agent.per_million - encryption:.2f}", "", "", ""],
        [
            "tcpdump -w",
            f"{peer.per_million:.2f}",
            f"{peer.sent_pps:,.0f}",
            f"{peer.packets:,}",
            f"{peer.dropped:,}",
        ],
        ["ratio", f"{agent.per_million / peer.per_million:.1f}", "", "", ""],
    ]
    print(f"{arguments.packets:,} packets of {size / arguments.packets:.0f} B, mix {arguments.mix}\n")
    print(results.table(["CPU seconds per million packets", "s/M", "sent pps", "packets", "dropped"], rows))
    print(
        f"\ngoals: {GOAL} without encrypting, {GOAL_TLS} over TLS; resident {agent.resident_bytes / 1e6:.0f} MB; ",
        end="",
    )
    print(f"messages are {agent.message_bytes / max(1, agent.archived_bytes):.0%} of the packets' bytes\n")
    if stages:
        print(
            results.table(
                ["stage of the agent", "s/M"], [[name, f"{value:.3f}"] for name, value in stages.items()]
            )
        )
    else:
        print("no breakdown: `perf` (Debian: linux-perf) is not here")
    path = results.append(
        "pipeline",
        {
            "mix": arguments.mix,
            "packets": arguments.packets,
            "pps": round(agent.sent_pps),
            "dropped": agent.dropped,
            "agent_tls_s_per_million": round(agent.per_million, 3),
            "agent_s_per_million": round(agent.per_million - encryption, 3),
            "tcpdump_s_per_million": round(peer.per_million, 3),
            "resident_bytes": agent.resident_bytes,
            "stages_s_per_million": {name: round(value, 3) for name, value in stages.items()},
        },
    )
    print(f"\nadded to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
