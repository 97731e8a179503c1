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
import ctypes
import itertools
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.wire_like_veth import forget_departure_time

CLONE_NEWNET = 0x40000000
SO_TIMESTAMPNS = 35
HUB_ADDRESS = "198.18.0.1"

_serial = itertools.count()


class LabError(RuntimeError):
    """The laboratory could not be built, or something in it did not become ready."""


def wait_until(
    condition: Callable[[], object], what: str, *, timeout_s: float = 30.0, every_s: float = 0.02
) -> None:
    """Return once `condition()` is true; LabError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)


def sh(*argv: str, check: bool = True, timeout_s: float = 60.0) -> str:
    """Run a command, return its standard output; LabError with its standard error when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s)
    if check and done.returncode != 0:
        raise LabError(
            f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


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

    def __init__(self, name: str, namespace: str, number: int, directory: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.address = f"10.77.0.{number}"
        self.address6 = f"fd77::{number:x}"
        self.mac = f"02:77:00:00:00:{number:02x}"
        self.management_address = f"198.18.0.{number}"
        self.directory = directory
        self._children: list[subprocess.Popen[bytes]] = []

    def prefix(self) -> list[str]:
        """argv in front of a command that shall run in this namespace, with this host's names for the LAN.

        `ip netns exec` mounts a /sys of the namespace, which is where interfaces are listed.
        """
        return ["ip", "netns", "exec", self.namespace]

    def run(self, *argv: str, check: bool = True, timeout_s: float = 60.0) -> str:
        return sh(*self.prefix(), *argv, check=check, timeout_s=timeout_s)

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
                [*self.prefix(), *argv],
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
                raise LabError(f"the server for port {port} on {self.name} ended with {process.returncode}")
            return bool(self.run("ss", "-Hltn", f"sport = :{port}").strip())

        wait_until(listening, f"a server on port {port} of {self.name}")

    def stop_children(self) -> None:
        for process in reversed(self._children):
            stop_process(process)
        self._children.clear()


class Tcpdump:
    """tcpdump writing nanosecond pcap beside an agent; used as a context manager, `.path` holds the capture
    after it."""

    def __init__(
        self, host: Host, interface: str, filter_text: str, path: Path, *, snaplen: int = 262144
    ) -> None:
        self.host, self.interface, self.filter_text, self.path, self.snaplen = (
            host,
            interface,
            filter_text,
            path,
            snaplen,
        )
        self.captured = self.received = self.dropped = -1
        self._log = f"tcpdump-{next(_serial)}.log"

    def __enter__(self) -> Tcpdump:
        argv = ["tcpdump", "-i", self.interface, "-n", "-p", "-U", "-B", "65536", "-Z", "root"]
        argv += ["--time-stamp-precision=nano", "-s", str(self.snaplen), "-w", str(self.path)]
        if self.filter_text:
            argv.append(self.filter_text)
        self._process = self.host.start(*argv, log=self._log)
        wait_until(self._listening, "tcpdump: " + self.host.log(self._log))
        return self

    def _listening(self) -> bool:
        if self._process.poll() is not None:
            raise LabError("tcpdump ended: " + self.host.log(self._log))
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

    def wait_for(self, needle: bytes, *, timeout_s: float = 30.0) -> None:
        """Until bytes that were sent last are in the file."""
        wait_until(
            lambda: needle in self.path.read_bytes(), f"{needle!r} in {self.path.name}", timeout_s=timeout_s
        )


class Lab:
    """Builds the namespaces on entry, removes them (and what runs in them) on exit."""

    def __init__(self, hosts: Sequence[str], directory: Path) -> None:
        self.directory = directory
        self._tag = f"wp{os.getpid()}n{next(_serial)}"
        self.hub = self._host("hub", 1)
        self.hosts = {name: self._host(name, 10 + i) for i, name in enumerate(hosts)}
        self._stamping: socket.socket | None = None
        self._created: list[str] = []
        self._links: list[int] = []

    def _host(self, name: str, number: int) -> Host:
        directory = self.directory / f"host-{name}"
        directory.mkdir(parents=True, exist_ok=True)
        return Host(name, f"{self._tag}-{name}", number, directory)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Lab:
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _add_namespace(self, host: Host) -> None:
        sh("ip", "netns", "add", host.namespace)
        self._created.append(host.namespace)
        # No duplicate-address detection, no router solicitations: the LAN carries what the test sends and
        # nothing else.
        for key in ("all", "default"):
            host.run(
                "sysctl",
                "-qw",
                f"net.ipv6.conf.{key}.accept_dad=0",
                f"net.ipv6.conf.{key}.router_solicitations=0",
            )
        sh("ip", "-n", host.namespace, "link", "set", "lo", "up")

    def _build(self) -> None:
        self._stamping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stamping.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        hub = self.hub
        self._add_namespace(hub)
        for bridge in ("mgmt0", "lan0"):
            hub.run(
                "ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"
            )
        hub.run("sysctl", "-qw", "net.ipv6.conf.lan0.disable_ipv6=1")
        hub.run("ip", "addr", "add", f"{HUB_ADDRESS}/15", "dev", "mgmt0")
        for bridge in ("mgmt0", "lan0"):
            hub.run("ip", "link", "set", bridge, "up")
        for host in self.hosts.values():
            self._add_namespace(host)
            for interface, bridge in (("mgmt", "mgmt0"), ("eth0", "lan0")):
                port = f"{bridge[0]}{host.management_address.rsplit('.', 1)[1]}"
                sh(
                    "ip",
                    "-n",
                    hub.namespace,
                    "link",
                    "add",
                    port,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    interface,
                    "netns",
                    host.namespace,
                )
                hub.run("sysctl", "-qw", f"net.ipv6.conf.{port}.disable_ipv6=1")
                hub.run("ip", "link", "set", port, "master", bridge, "up")
            host.run("ip", "link", "set", "eth0", "address", host.mac)
            host.run("ip", "addr", "add", f"{host.management_address}/15", "dev", "mgmt")
            host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "mgmt", "up")
            host.run("ip", "link", "set", "eth0", "up")
            host.run("ip", "-6", "addr", "add", f"{host.address6}/64", "dev", "eth0", "nodad")
        for host in self.hosts.values():
            with self.inside(host):
                self._links.append(forget_departure_time("eth0"))
        for a in self.hosts.values():
            for b in self.hosts.values():
                if a is not b:
                    a.run("ping", "-q", "-c", "1", "-W", "5", b.address)
                    a.run("ping", "-q", "-c", "1", "-W", "5", b.address6)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in (*self.hosts.values(), self.hub):
            host.stop_children()
        for namespace in reversed(self._created):
            # What a test left behind in a namespace of ours would keep it alive: these processes are ours
            # too.
            for pid in sh("ip", "netns", "pids", namespace, check=False).split():
                if int(pid) != os.getpid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            sh("ip", "netns", "del", namespace, check=False)
        self._created.clear()
        for link in self._links:
            os.close(link)
        self._links.clear()
        if self._stamping is not None:
            self._stamping.close()
            self._stamping = None

    @contextlib.contextmanager
    def inside(self, host: Host) -> Iterator[None]:
        """The calling thread, and every thread and process it starts from here on, is in the host's
        namespace."""
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(fd: int) -> None:
            if libc.setns(fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns into {host.namespace}")

        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(f"/run/netns/{host.namespace}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                enter(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                enter(home)
        finally:
            os.close(home)
