"""The smallest network of the tests: it carries packets, and it leaves nothing behind."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import netns

pytestmark = pytest.mark.root


def test_a_pair_carries_packets_and_is_gone_afterwards() -> None:
    with netns.pair(ipv6=True) as (left, right):
        assert " 3 received" in right.run("ping", "-c", "3", "-i", "0.01", left.address).stdout
        with left.inside():
            names = {name for _, name in socket.if_nameindex()}
        assert names == {"lo", "veth0"}
        assert "veth0" not in {name for _, name in socket.if_nameindex()}
        with right.start("sleep", "1000") as sleeper:
            assert (
                str(sleeper.pid)
                in subprocess.run(
                    ["ip", "netns", "pids", right.name], capture_output=True, text=True, check=True
                ).stdout.split()
            )
        assert sleeper.poll() is not None
    assert not list(Path("/run/netns").glob(f"wp-{os.getpid()}-*"))


def test_a_failure_inside_still_cleans_up() -> None:
    with pytest.raises(AssertionError, match="exit 1"), netns.namespace() as host:
        subprocess.Popen(host.command("sleep", "1000"))
        host.run("false")
    assert not list(Path("/run/netns").glob(f"wp-{os.getpid()}-*"))
