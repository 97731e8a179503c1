"""Which way packets are taken and judged on this host, and why: on a ring by eBPF that BCC loads, eBPF out of an object
or classic BPF; or through libpcap.

bpf/loader.py does the loading in a process of its own, which ends when it has handed its descriptors over: BCC's
compiler takes 125 MB for a quarter of a second, and not in the agent. Each capture gets programs and maps of its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from agent.ebpf.contract import MAPS, PROGRAMS
from agent.ebpf.programs import ProgramSet, WrongPrograms
from agent.sources.choice import NO_PATH, THROUGH_LIBPCAP, ring_or_libpcap
from wire.report import (
    CAN_COUNT_FILTERED,
    CAN_COUNT_FLOWS,
    CAN_FLOW_RULES,
    CAN_LOOK_INSIDE,
    CAN_PRIORITISE,
)

log = logging.getLogger(__name__)

LOADER = Path(__file__).resolve().parents[2] / "bpf" / "loader.py"
PYTHON_OF_BCC = "/usr/bin/python3"
"""BCC belongs to the distribution's Python, never to the agent's environment (PyPI's `bcc` is something else)."""
WAYS = ("bcc", "object")
CLASSIC = "classic"
CHOICES = ("auto", *WAYS, CLASSIC, "pcap")

GRANT = "the agent needs CAP_BPF (before Linux 5.8 CAP_SYS_ADMIN): run it as root or through its systemd unit"
_NOT_PERMITTED = re.compile("not permitted|permission denied", re.IGNORECASE)

ANSWER_S = 30.0
"""Compiling takes a quarter of a second; on a host that is starting up everything takes longer."""
_END_S = 5.0
"""How long it may take to end after its answer."""
_ANSWER_BYTES = 4096
_SAID_BYTES = 1 << 20
_SAID_CHARACTERS = 300


class CannotLoad(Exception):
    """Why this way isn't open here, in a sentence."""


class CapturePath:
    """How captures of this agent judge packets. `open` is for the sessions' threads; one loads at a time."""

    def __init__(self, choice: str = "auto", *, loader: Path = LOADER) -> None:
        """choice: "auto" tries the ways in the order of WAYS; one of them, CLASSIC or "pcap" allows only that."""
        if choice not in CHOICES:
            raise ValueError(f"{choice!r} is none of {CHOICES}")
        self.name, elsewhere = ring_or_libpcap(choice)
        """As reported: af_packet+ebpf, af_packet+cbpf for classic BPF, libpcap+cbpf, or none."""
        self.reason = (
            "classic BPF, as this agent's configuration says" if choice == CLASSIC else "not tried yet"
        )
        self._on_a_ring = not elsewhere
        if elsewhere:
            self.reason = elsewhere
        self._choice = choice
        self._loader = loader
        self._lock = threading.Lock()

    @property
    def is_ebpf(self) -> bool:
        return self.name == "af_packet+ebpf"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """As the report lists them, with what else the agent can do."""
        if not self._on_a_ring:
            return ("libpcap",) if self.name == THROUGH_LIBPCAP else ()
        ebpf = (CAN_COUNT_FILTERED, CAN_FLOW_RULES, CAN_LOOK_INSIDE, CAN_COUNT_FLOWS, CAN_PRIORITISE)
        return ("ring", *ebpf) if self.is_ebpf else ("ring",)

    def probe(self) -> None:
        """Find out by doing it once, so that `name` and `reason` are true before the first session."""
        try:
            programs = self.open()
        except CannotLoad as error:
            log.warning("%s", error)
            return
        if programs is not None:
            programs.close()
        log.log(
            logging.ERROR if self.name == NO_PATH else logging.INFO,
            "captures by %s: %s",
            self.name,
            self.reason,
        )

    def open(self) -> ProgramSet | None:
        """Programs and maps for one capture; None: classic BPF is the way.

        CannotLoad when the configuration allows only a way that isn't open.
        """
        if self._choice == CLASSIC or not self._on_a_ring:
            return None
        with self._lock:
            refusals = []
            for way in WAYS if self._choice == "auto" else (self._choice,):
                try:
                    programs = load(way, loader=self._loader)
                except (CannotLoad, OSError) as error:  # OSError: no descriptor is left, say
                    refusals.append(f"{way}: {error}")
                    continue
                self.name = "af_packet+ebpf"
                self.reason = "; ".join([f"loaded by {programs.loaded_by}", *refusals])
                return programs
            self.name = "af_packet+cbpf"
            if any(_NOT_PERMITTED.search(refusal) for refusal in refusals):
                refusals.insert(0, GRANT)
            self.reason = "; ".join(["no eBPF, so packets turned away are not counted", *refusals])
            if self._choice != "auto":
                raise CannotLoad(
                    f"capture.path is {self._choice}, and that way isn't open here ({'; '.join(refusals)})"
                )
            return None


def load(
    way: str,
    *,
    loader: Path = LOADER,
    answer_s: float = ANSWER_S,
    enter: Callable[[], None] | None = None,
    plain: bool = False,
) -> ProgramSet:
    """Run the loader once; CannotLoad with the reason. enter: called in the child before it starts (a test takes its
    capabilities away). plain: with maps as a kernel before 4.10 has them, which it finds out by itself."""
    if not loader.exists():
        raise CannotLoad(f"{loader} is missing")
    python = PYTHON_OF_BCC if way == "bcc" else sys.executable
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with (
        ours,
        os.fdopen(os.memfd_create("loader"), "w+b") as said,
    ):  # a verifier may say more than a pipe holds
        with theirs:
            try:
                # A bare environment: what the agent is run with (a sanitizer, a profiler) is not for the loader.
                process = subprocess.Popen(
                    [python, "-I", str(loader), way, str(theirs.fileno()), *(["plain"] if plain else [])],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                    preexec_fn=enter,
                )
            except OSError as error:
                raise CannotLoad(f"{python} can't be run ({error.strerror})") from None
        try:
            ours.settimeout(answer_s)
            message, descriptors, _, _ = socket.recv_fds(
                ours, _ANSWER_BYTES, len(PROGRAMS) + len(MAPS), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:  # TimeoutError is one
            message, descriptors = b"", []
        try:
            process.wait(_END_S if message else 0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        words = os.pread(said.fileno(), _SAID_BYTES, 0).decode(errors="replace")
    try:
        return _programs(_map_of(message), descriptors, words)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _map_of(message: bytes) -> dict[str, object]:
    with contextlib.suppress(ValueError):
        answer = json.loads(message)
        if isinstance(answer, dict):
            return answer
    return {}


def _programs(answer: dict[str, object], descriptors: list[int], said: str) -> ProgramSet:
    names = answer.get("descriptors")
    if "error" in answer:
        raise CannotLoad(f"{answer['error']}{_gist(said)}")
    if not isinstance(names, list) or len(names) != len(descriptors):
        raise CannotLoad(f"the loader gave no answer{_gist(said)}")
    handed = dict(zip(names, descriptors, strict=True))
    descriptors.clear()  # theirs to close, from here on
    try:
        return ProgramSet(handed, str(answer.get("by", "")))
    except (WrongPrograms, OSError) as error:
        raise CannotLoad(str(error)) from None


def _gist(said: str) -> str:
    """What the compiler, libbpf or the verifier had to say: the first line that names an error, or the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "HINT" not in line]
    telling = [line for line in lines if "error" in line.lower() or "not permitted" in line.lower()] or lines[
        -1:
    ]
    return f" ({telling[0][:_SAID_CHARACTERS]})" if telling else ""
