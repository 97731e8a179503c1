"""Who takes part in perf/capture.py: how each is started, and how to read from its last words what it captured."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GOPACKET = Path(__file__).resolve().parent / "gopacket"
BINARIES = GOPACKET.parents[1] / ".cache" / "bin"
PEER = "tcpdump"
WIREPOOL = {
    "wirepool (eBPF)": ("--path", "bcc"),
    "wirepool (eBPF, late stamps)": ("--path", "bcc", "--timestamps", "late"),
    "wirepool (classic BPF)": ("--path", "classic"),
    "wirepool (eBPF, cut-off)": ("--path", "bcc", "--cutoff", str(1 << 40)),
    "wirepool (eBPF, flow counters)": ("--path", "bcc", "--count-flows"),
}
"""The fourth follows every flow and cuts none off; the last counts them all and makes their records each second."""
TURNED_AWAY = "udp src portrange 16384-16393"
"""A filter that turns 99 % of the load away: ten of the generator's 1,024 flows pass."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program that captures: how to start it and how to read from its last words what it captured."""

    name: str
    argv: tuple[str, ...]
    captured: Callable[[str], int]


def _number(pattern: str) -> Callable[[str], int]:
    def find(text: str) -> int:
        found = re.search(pattern, text)
        return int(found.group(1)) if found else -1

    return find


def _captured_by_wirepool(words: str) -> int:
    return int(json.loads(words.strip().splitlines()[-1])["captured"])


def contestants(interface: str, filter_text: str, ready: Path) -> list[Contestant]:
    """Everybody who is installed; each captures everything that passes the filter, whole, and keeps nothing."""
    expression = (filter_text,) if filter_text else ()
    stage = [
        sys.executable,
        "-P",
        "-m",
        "perf.capture_stage",
        "--interface",
        interface,
        "--ready",
        str(ready),
    ]
    tcpdump = (PEER, "-i", interface, "-n", "-B", "65536", "-Z", "root")
    count = _number(r"(\d+) packets? captured")
    found = [
        *(
            Contestant(name, (*stage, "--filter", filter_text, *options), _captured_by_wirepool)
            for name, options in WIREPOOL.items()
        ),
        Contestant(PEER, (*tcpdump, "-w", str(ready.with_name("peer.pcap")), *expression), count),
        Contestant(f"{PEER} (/dev/null)", (*tcpdump, "-w", "/dev/null", *expression), count),
        Contestant(
            "dumpcap",
            (
                "dumpcap",
                "-i",
                interface,
                "-q",
                "-B",
                "64",
                "-w",
                "/dev/null",
                *(("-f", filter_text) if filter_text else ()),
            ),
            _number(r"Packets received/dropped on interface[^:]*: (\d+)/"),
        ),
        Contestant(
            "netsniff-ng",
            (
                *("netsniff-ng", "--in", interface, "--out", "/dev/null", "--silent", "--ring-size", "64MiB"),
                *(("--filter", filter_text) if filter_text else ()),
            ),
            _number(r"(\d+)\s+packets incoming"),
        ),
    ]
    gopacket = build_gopacket()
    if gopacket is not None:
        classic = classic_bpf(filter_text) if filter_text else ""
        found.append(Contestant("gopacket afpacket", (str(gopacket), interface, classic), count))
    return [one for one in found if shutil.which(one.argv[0])]


def build_gopacket() -> Path | None:
    """The peer written in Go; None, with a word, where it can't be built."""
    binary = BINARIES / "perf-gopacket"
    if shutil.which("go") is None:
        print("without gopacket: there is no Go compiler here")
        return None
    done = subprocess.run(
        ["go", "build", "-o", str(binary), "."],
        cwd=GOPACKET,
        env={**os.environ, "CGO_ENABLED": "1", "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"without gopacket, which doesn't build here: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return binary


def classic_bpf(filter_text: str) -> str:
    """A filter as classic BPF in numbers, as `tcpdump -ddd` prints it, on one line."""
    argv = [PEER, "-y", "EN10MB", "-ddd", *filter_text.split()]
    return ",".join(
        subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")
    ).strip(",")
