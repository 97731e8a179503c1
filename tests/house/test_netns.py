"""The smallest network of the tests: it carries packets, and it leaves nothing behind."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import netns

pytestmark = pytest.mark.root


def pids(host: netns.Namespace) -> list[str]:
    command = ["ip", "netns", "pids", host.name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_pair_carries_packets_and_is_gone_afterwards() -> None:
    with netns.pair(ipv6=True) as (left, right):
        assert " 3 received" in right.run("ping", "-c", "3", "-i", "0.01", left.address).stdout
        with left.inside():
            names = {name for _, name in socket.if_nameindex()}
        assert names == {"lo", "veth0"}
        assert "veth0" not in {name for _, name in socket.if_nameindex()}
        with right.start("sleep", "1000") as sleeper:
            netns.wait_for(lambda: str(sleeper.pid) in pids(right), "sleep runs inside")
        assert sleeper.poll() is not None
    assert not list(Path("/run/netns").glob(f"wp-{os.getpid()}-*"))


def test_a_failure_inside_still_cleans_up() -> None:
    left: list[subprocess.Popen[bytes]] = []

    def failing() -> None:
        with netns.namespace() as host:
            left.append(subprocess.Popen(host.command("sleep", "1000")))
            netns.wait_for(lambda: pids(host), "sleep runs inside")
            host.run("false")

    with pytest.raises(AssertionError, match="exit 1"):
        failing()
    assert left[0].wait(timeout=10) == -signal.SIGKILL
    assert not list(Path("/run/netns").glob(f"wp-{os.getpid()}-*"))
