"""What the measurements share: a whole wirepool in namespaces, a host that sends and one that captures."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab import Host, Lab
from tests.support.page import Curl
from tests.support.stand import Stand

INTERFACE = "load0"


@dataclass(slots=True)
class Bench:
    """A running wirepool: `sender` puts packets on INTERFACE, the agent on `capturer` takes them from it."""

    directory: Path
    lab: Lab
    stand: Stand
    curl: Curl
    sender: Host
    capturer: Host

    @property
    def agent_pid(self) -> int:
        """The agent's own process (`ip netns exec` becomes the command it runs)."""
        return self.stand.agents[self.capturer.name].pid

    def replay(self, capture: Path, packets_per_second: float) -> tuple[int, float]:
        """Send a capture once at a rate; (packets sent, seconds it took)."""
        argv = ["tcpreplay", "-q", "-i", INTERFACE, "--preload-pcap"]
        argv += ["--topspeed"] if packets_per_second <= 0 else [f"--pps={packets_per_second:.0f}"]
        said = self.sender.run(*argv, str(capture), timeout_s=600)
        sent = re.search(r"Actual: (\d+) packets.*sent in ([\d.]+) seconds", said)
        if sent is None:
            raise RuntimeError(f"tcpreplay said: {said}")
        return int(sent.group(1)), float(sent.group(2))


@contextlib.contextmanager
def bench(*options: str) -> Iterator[Bench]:
    """Start everything, as a user would (with these options of `wirepool up`), in namespaces; all of it ends with the
    block."""
    if shutil.which("tcpreplay") is None:
        raise SystemExit("tcpreplay sends the packets and is missing: apt-get install tcpreplay")
    with tempfile.TemporaryDirectory(prefix="wirepool-perf-") as name:
        directory = Path(name)
        with Lab(["sender", "capturer"], directory) as lab:
            lab.wire(lab["sender"], lab["capturer"], INTERFACE)
            stand = Stand(lab, directory)
            stand.start(*options)
            stand.enrol(lab["capturer"])
            stand.start_agent(lab["capturer"])
            curl = Curl(stand)
            curl.log_in()
            curl.wait_online("capturer")
            yield Bench(directory, lab, stand, curl, lab["sender"], lab["capturer"])
