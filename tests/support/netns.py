"""Network namespaces joined by veth pairs: the smallest real network a capture can be tested on.

    with netns.pair() as (left, right):
        with left.inside():                     # this thread's sockets are opened in `left`
            ring = RingSource(left.interface, …)
        right.run("ping", "-c", "3", left.address)

Names carry the process id, so that two test runs never meet and `sweep()` can tell what a killed run left.
Everything is removed on exit, the processes inside included.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.need import need

NETNS_DIRECTORY = Path("/run/netns")  # where iproute2 mounts named namespaces
CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h; os.setns() exists from Python 3.12 on only

_number = itertools.count(1)


class Namespace:
    """One network namespace; `interface` and `address` are set when it is an end of a veth pair."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.interface = ""
        self.address = ""
        self.mac = ""

    def command(self, *arguments: str) -> list[str]:
        """The argument list that runs `arguments` inside (with a /sys of the namespace)."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(
        self, *arguments: str, check: bool = True, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end; what it said is part of the failure (curl has the answer on its output)."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(arguments)}: exit {done.returncode}: {done.stderr}{done.stdout}")
        return done

    @contextlib.contextmanager
    def start(
        self, *arguments: str, stop_signal: int = signal.SIGTERM, stop_s: float = 10.0
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A command that runs inside while the block does; then `stop_signal`, and SIGKILL after `stop_s`."""
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(stop_signal)
            try:
                process.communicate(timeout=stop_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread into the namespace: sockets opened in the block belong to it for good."""
        with (
            open("/proc/thread-self/ns/net", "rb") as home,
            open(NETNS_DIRECTORY / self.name, "rb") as there,
        ):
            _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(home.fileno())


@contextlib.contextmanager
def namespace(label: str = "host") -> Iterator[Namespace]:
    """A namespace with nothing but a running loopback."""
    need("root", "ip")
    inner = Namespace(f"wp-{os.getpid()}-{next(_number)}-{label}")
    _ip("netns", "add", inner.name)
    try:
        # What the kernel sends by itself (router solicitations, address probes) would disturb counts.
        for key in ("all", "default"):
            inner.run("sysctl", "-qw", f"net.ipv6.conf.{key}.disable_ipv6=1", check=False)
        _ip("-n", inner.name, "link", "set", "lo", "up")
        yield inner
    finally:
        _remove(inner.name)


@contextlib.contextmanager
def pair(*, mtu: int = 1500, ipv6: bool = False) -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces joined by a veth pair that is up: 10.99.0.1/24, 10.99.0.2/24 (and fd99::1, fd99::2)."""
    with namespace("left") as left, namespace("right") as right:
        left.interface, right.interface = "veth0", "veth0"
        _ip(
            *("-n", left.name, "link", "add", "veth0", "mtu", str(mtu), "type", "veth"),
            *("peer", "name", "veth0", "mtu", str(mtu), "netns", right.name),
        )
        for host, number in ((left, 1), (right, 2)):
            host.address = f"10.99.0.{number}"
            host.mac = f"02:00:00:00:99:{number:02x}"
            _ip("-n", host.name, "link", "set", "veth0", "address", host.mac)
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "veth0")
            if ipv6:
                host.run("sysctl", "-qw", "net.ipv6.conf.veth0.disable_ipv6=0")
                _ip("-n", host.name, "address", "add", f"fd99::{number}/64", "dev", "veth0", "nodad")
            _ip("-n", host.name, "link", "set", "veth0", "up")
        for host in (left, right):
            wait_for(lambda host=host: _operational(host), f"the veth of {host.name} is up")  # type: ignore[misc]
        yield left, right


def wait_for(condition: Callable[[], object], what: str, *, timeout_s: float = 20.0) -> None:
    """Until `condition` returns something true; fails naming `what`. No test sleeps for a guessed time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.01)


def sweep() -> list[str]:
    """Remove namespaces whose test run is dead (SIGKILL leaves no chance to clean up); their names."""
    removed = []
    for path in NETNS_DIRECTORY.glob("wp-*"):
        match = re.fullmatch(r"wp-(\d+)-\d+-[a-z0-9]+", path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            _remove(path.name)
            removed.append(path.name)
    return removed


def _operational(host: Namespace) -> bool:
    return "LOWER_UP" in host.run("ip", "link", "show", "veth0").stdout


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _remove(name: str) -> None:
    pids = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, timeout=30, check=False
    )
    for pid in map(int, pids.stdout.split()):
        if pid != os.getpid():  # a thread of ours may still be inside
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=30, check=False)


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")
