"""A laboratory of network namespaces: hosts on one LAN, a management network beside it, ordinary clients and
servers.

    ┌ hub ──────────────┐        ┌ web1 ───────────┐   ┌ db1 ────────────┐
    │ mgmt0 198.18.0.1  ├────────┤ mgmt 198.18.0.10│   │ mgmt 198.18.0.11│   to the server
    └───────────────────┘        │ eth0 10.77.0.10 ├───┤ eth0 10.77.0.11 │   what is captured
                                 └─────────────────┘   └─────────────────┘

The hub's namespace carries both bridges. The LAN's bridge has no address there, so nothing but the hosts' own
traffic is on it; and since the server's traffic runs over `mgmt`, a capture on `eth0` never sees wirepool's
own packets.

The laboratory holds one socket with SO_TIMESTAMPNS open. While any such socket exists the kernel stamps each
packet once, where it enters the stack (net/core/dev.c, netstamp_needed_key), and every capture socket reads
that same stamp. Without it `tpacket_rcv` takes the time per socket, and two captures of one packet differ by
the microseconds between them (`wire_like_veth` says what else is needed for that on a veth pair).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support import netns
from tests.support.captures import read_capture
from tests.support.netns import wait_for
from tests.support.wire_like_veth import forget_departure_time

SO_TIMESTAMPNS = 35
HUB_ADDRESS = "198.18.0.1"

_serial = itertools.count()


def stop_process(
    process: subprocess.Popen[bytes], *, how: int = signal.SIGTERM, timeout_s: float = 15.0
) -> int:
    """Ask a process of ours to end, wait, and kill it when it doesn't; its exit status."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout_s)
    assert process.returncode is not None
    return process.returncode


class Host:
    """One namespace: `eth0` on the LAN, `mgmt` towards the hub."""

    def __init__(self, name: str, namespace: netns.Namespace, number: int, directory: Path) -> None:
        self.name = name
        self.net = namespace
        self.address = f"10.77.0.{number}"
        self.address6 = f"fd77::{number:x}"
        self.mac = f"02:77:00:00:00:{number:02x}"
        self.management_address = f"198.18.0.{number}"
        self.directory = directory
        self._children: list[subprocess.Popen[bytes]] = []

    def run(self, *argv: str, check: bool = True, timeout_s: float = 60.0) -> str:
        """Run a command in this namespace to its end; its standard output."""
        return self.net.run(*argv, check=check, timeout_s=timeout_s).stdout

    def start(
        self,
        *argv: str,
        log: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a long-running command; its output goes to `<directory>/<log>`; it ends with the
        laboratory."""
        with open(self.directory / log, "ab") as output:
            process = subprocess.Popen(
                self.net.command(*argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else {**os.environ, **env},
                cwd=cwd,
            )
        self._children.append(process)
        return process

    def log(self, name: str) -> str:
        path = self.directory / name
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for_port(
        self, port: int, *, address: str | None = None, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        """Until a TCP server listens on `port` in this namespace."""

        def listening() -> bool:
            if process is not None and process.poll() is not None:
                raise AssertionError(
                    f"the server for port {port} on {self.name} ended with {process.returncode}"
                )
            return bool(self.run("ss", "-Hltn", f"sport = :{port}").strip())

        wait_for(listening, f"a server on port {port} of {self.name}")

    def capture_sockets(self) -> int:
        """How many packet sockets are open in this namespace."""
        return len(self.run("cat", "/proc/net/packet").splitlines()) - 1

    def stop_children(self) -> None:
        for process in reversed(self._children):
            stop_process(process)
        self._children.clear()


class Tcpdump:
    """tcpdump writing nanosecond pcap beside an agent; used as a context manager, `.path` holds the capture
    after it."""

    def __init__(
        self,
        host: Host,
        interface: str,
        filter_text: str,
        path: Path,
        *,
        snaplen: int = 262144,
        unbuffered: bool = True,
    ) -> None:
        """unbuffered: each packet is in the file at once, for `wait_for`, instead of with the next full
        buffer."""
        self.host, self.path = host, path
        self.captured = self.received = self.dropped = -1
        self._log = f"tcpdump-{next(_serial)}.log"
        self._argv = ["tcpdump", "-i", interface, "-n", "-p", "-B", "65536", "-Z", "root"]
        self._argv += ["--time-stamp-precision=nano", "-s", str(snaplen), "-w", str(path)]
        self._argv += (["-U"] if unbuffered else []) + ([filter_text] if filter_text else [])

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Tcpdump:
        self._process = self.host.start(*self._argv, log=self._log)
        wait_for(self._listening, "tcpdump listens")
        return self

    def _listening(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError("tcpdump ended: " + self.host.log(self._log))
        return "listening on" in self.host.log(self._log)

    def __exit__(self, *_: object) -> None:
        # tcpdump counts what its socket received only after draining its ring, so the caller first sees to it
        # that the last packet of interest is in the file (`wait_for`), then SIGINT prints the counters.
        stop_process(self._process, how=signal.SIGINT)
        text = self.host.log(self._log)

        def number(words: str) -> int:
            found = re.search(rf"(\d+) packets? {words}", text)
            return int(found.group(1)) if found else -1

        self.captured, self.received = number("captured"), number("received by filter")
        self.dropped = number("dropped by kernel")

    def wait_for(self, mark: bytes, *, packets: int, timeout_s: float = 30.0) -> None:
        """Until all packets with a mark that were sent last are in the file: of those that stand in its ring when it is
        told to stop, tcpdump writes no more."""

        def written() -> bool:
            return sum(mark in packet.data for packet in read_capture(self.path).packets) >= packets

        wait_for(written, f"{packets} packets with {mark!r} in {self.path.name}", timeout_s=timeout_s)


class Lab:
    """Builds the namespaces on entry, removes them (and what runs in them) on exit."""

    def __init__(self, hosts: Sequence[str], directory: Path) -> None:
        self._names = ["hub", *hosts]
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._all: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        return self._all[name]

    @property
    def hub(self) -> Host:
        return self._all["hub"]

    @property
    def hosts(self) -> list[Host]:
        """The hosts on the LAN."""
        return [host for host in self._all.values() if host.name != "hub"]

    def __enter__(self) -> Lab:
        with contextlib.ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _build(self, stack: contextlib.ExitStack) -> None:
        stamping = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        stamping.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        for name in self._names:
            number = 1 if name == "hub" else 9 + len(self._all)
            directory = self._directory / f"host-{name}"
            directory.mkdir(parents=True, exist_ok=True)
            host = Host(name, stack.enter_context(netns.namespace(name)), number, directory)
            stack.callback(host.stop_children)
            self._all[name] = host
        for bridge in ("mgmt0", "lan0"):
            self.hub.run(
                "ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"
            )
            self.hub.run("ip", "link", "set", bridge, "up")
        self.hub.run("ip", "addr", "add", f"{HUB_ADDRESS}/15", "dev", "mgmt0")
        for host in self.hosts:
            self._connect(host)
            with host.net.inside():
                stack.callback(os.close, forget_departure_time("eth0"))
        for a in self.hosts:  # neighbours known before a capture begins
            for b in self.hosts:
                if a is not b:
                    a.run("ping", "-q", "-c", "1", "-W", "5", b.address)
                    a.run("ping", "-q", "-c", "1", "-W", "5", b.address6)

    def _connect(self, host: Host) -> None:
        for interface, bridge in (("mgmt", "mgmt0"), ("eth0", "lan0")):
            port = f"{bridge[0]}{host.management_address.rsplit('.', 1)[1]}"
            peer = ("peer", "name", interface, "netns", host.net.name)
            self.hub.run("ip", "link", "add", port, "type", "veth", *peer)
            self.hub.run("ip", "link", "set", port, "master", bridge, "up")
        host.run("ip", "link", "set", "eth0", "address", host.mac)
        host.run("ip", "addr", "add", f"{host.management_address}/15", "dev", "mgmt")
        host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
        host.run(
            "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0", "net.ipv6.conf.eth0.router_solicitations=0"
        )
        host.run("ip", "link", "set", "mgmt", "up")
        host.run("ip", "link", "set", "eth0", "up")
        host.run("ip", "-6", "addr", "add", f"{host.address6}/64", "dev", "eth0", "nodad")

    def wire(self, a: Host, b: Host, interface: str = "load0") -> None:
        """A veth pair straight from host to host, for traffic of foreign addresses, which a bridge would not
        pass on.

        It has no address, so neither end's stack answers what arrives.
        """
        peer = ("peer", "name", interface, "netns", b.net.name)
        a.run("ip", "link", "add", interface, "type", "veth", *peer)
        for host in (a, b):
            host.run("ip", "link", "set", interface, "up")
