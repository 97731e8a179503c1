"""The list of interfaces against what iproute2 says, and the choice among them in networks made for it."""

from __future__ import annotations

import json
import socket
import subprocess

import pytest

from agent.interfaces import InterfaceError, best_interface, list_interfaces
from tests.support import netns
from tests.support.need import need


def test_the_same_as_iproute2_says() -> None:
    need("ip")
    done = subprocess.run(["ip", "-j", "address", "show"], capture_output=True, text=True, check=True)
    ours = {interface.name: interface for interface in list_interfaces()}
    theirs = json.loads(done.stdout)
    assert list(ours) == [each["ifname"] for each in theirs]
    for each in theirs:
        interface = ours[each["ifname"]]
        assert interface.index == each["ifindex"] == socket.if_nametoindex(interface.name)
        assert interface.mtu == each["mtu"]
        assert interface.mac in (each.get("address"), "")
        assert sorted(interface.addresses) == sorted(
            f"{a['local']}/{a['prefixlen']}" for a in each["addr_info"]
        )
        assert (interface.state == "down") == ("UP" not in each["flags"])
        assert interface.loopback == ("LOOPBACK" in each["flags"])


@pytest.mark.root
def test_the_default_route_is_best() -> None:
    with netns.pair() as (left, _):
        for number in range(2):
            left.run("ip", "link", "add", f"side{number}", "type", "veth", "peer", "name", f"other{number}")
            left.run("ip", "link", "set", f"side{number}", "up")
            left.run("ip", "link", "set", f"other{number}", "up")
            left.run("ip", "address", "add", f"10.50.{number}.1/24", "dev", f"side{number}")
        with left.inside():
            assert best_interface()[0] != "lo"
            left.run("ip", "route", "add", "default", "via", "10.50.0.2", "metric", "200")
            assert best_interface() == ("side0", "it carries the default route")
            left.run("ip", "route", "add", "default", "via", "10.50.1.2", "metric", "100")
            name, why = best_interface()
            assert (name, "lowest metric of 2" in why) == ("side1", True)
            left.run("ip", "link", "set", "side1", "down")
            assert best_interface()[0] == "side0"


@pytest.mark.root
def test_without_a_route_the_busiest_is_best() -> None:
    with netns.pair() as (left, right):
        right.run("ping", "-c", "3", "-i", "0.01", left.address)
        with left.inside():
            assert best_interface() == (
                "veth0",
                "it is the only interface that is up (there is no default route)",
            )
            left.run("ip", "link", "add", "side0", "type", "veth", "peer", "name", "side1")
            left.run("ip", "link", "set", "side0", "up")
            left.run("ip", "link", "set", "side1", "up")
            name, why = best_interface()
            assert name == "veth0"
            assert "most packets of 3" in why


@pytest.mark.root
def test_loopback_is_the_last_resort_and_nothing_an_error() -> None:
    with netns.namespace() as host, host.inside():
        assert best_interface() == ("lo", "no other interface is up")
        host.run("ip", "link", "set", "lo", "down")
        with pytest.raises(InterfaceError, match="no network interface"):
            best_interface()


@pytest.mark.root
def test_what_cannot_be_captured_says_so() -> None:
    with netns.namespace() as host, host.inside():
        host.run("ip", "tuntap", "add", "tun0", "mode", "tun")
        host.run("ip", "link", "set", "lo", "up")
        found = {interface.name: interface for interface in list_interfaces()}
        assert (found["tun0"].link_type, found["tun0"].mac, found["tun0"].state) == (101, "", "down")
        assert found["lo"].link_type == 1


@pytest.mark.root
def test_many_addresses_come_in_several_messages() -> None:
    with netns.pair() as (left, _), left.inside():
        batch = "".join(f"address add 10.60.{n // 250}.{n % 250 + 1}/16 dev veth0\n" for n in range(1000))
        done = subprocess.run(["ip", "-batch", "-"], input=batch, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(next(each for each in list_interfaces() if each.name == "veth0").addresses) == 1001
