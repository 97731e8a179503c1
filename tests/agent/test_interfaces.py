"""The list of interfaces against what iproute2 says, and the choice among them in networks made for it."""

from __future__ import annotations

import json
import socket
import subprocess

import pytest

from agent.interface_choice import Choice, best_interface, why_not
from agent.interfaces import InterfaceError, list_interfaces
from tests.support import netns
from tests.support.need import need
from tests.support.netns import wait_for


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
            assert best_interface().name != "lo"
            left.run("ip", "route", "add", "default", "via", "10.50.0.2", "metric", "200")
            assert best_interface() == Choice("side0", "it carries the default route by way of 10.50.0.2")
            left.run("ip", "route", "add", "default", "via", "10.50.1.2", "metric", "100")
            best = best_interface()
            assert (best.name, "lowest metric of 2" in best.why) == ("side1", True)
            left.run("ip", "link", "set", "side1", "down")
            assert best_interface().name == "side0"


@pytest.mark.root
def test_without_a_route_the_busiest_is_best() -> None:
    with netns.pair() as (left, right):
        right.run("ping", "-c", "3", "-i", "0.01", left.address)
        with left.inside():
            assert best_interface() == Choice(
                "veth0",
                "it is the only interface that is up (there is no default route)",
            )
            left.run("ip", "link", "add", "side0", "type", "veth", "peer", "name", "side1")
            left.run("ip", "link", "set", "side0", "up")
            left.run("ip", "link", "set", "side1", "up")
            best = best_interface()
            assert best.name == "veth0"
            assert "only interface that is up and has an address" in best.why
            for name in ("side0", "side1"):
                left.run("ip", "address", "add", f"10.50.{name[-1]}.1/24", "dev", name)
            best = best_interface()
            assert best.name == "veth0"
            assert "most packets" in best.why
            assert "of 3 that are up" in best.why


@pytest.mark.root
def test_loopback_is_the_last_resort_and_nothing_an_error() -> None:
    with netns.namespace() as host, host.inside():
        assert best_interface() == Choice("lo", "it is loopback, and no other interface is up")
        host.run("ip", "link", "set", "lo", "down")
        with pytest.raises(InterfaceError, match="no network interface"):
            best_interface()


@pytest.mark.root
def test_a_bridge_is_better_than_its_ports_and_than_ends_of_containers() -> None:
    """A container host: eth0 is a port of br0, a container hangs on docker0, nothing has a default route."""
    with netns.pair() as (left, right), netns.namespace("box") as box:
        for command in (
            "link add br0 type bridge",
            "link add docker0 type bridge",
            f"link add vethbox type veth peer name eth0 netns {box.name}",
            f"link add loose type veth peer name eth1 netns {box.name}",
            "link set vethbox master docker0",
            "address flush dev veth0",
            "link set veth0 master br0",
            "address add 10.99.0.1/24 dev br0",
            "address add 172.17.0.1/16 dev docker0",
            *(f"link set {name} up" for name in ("br0", "docker0", "vethbox", "loose")),
        ):
            left.run("ip", *command.split())
        for name in ("eth0", "eth1"):
            box.run("ip", "link", "set", name, "up")
        wait_for(
            lambda: right.run("ping", "-c", "1", "-W", "1", "10.99.0.1", check=False).returncode == 0, "br0"
        )
        right.run("ping", "-c", "20", "-i", "0.002", "10.99.0.1")
        with left.inside():
            found = {one.name: one for one in list_interfaces()}
            assert {name: (one.kind, one.master) for name, one in found.items() if name != "lo"} == {
                "veth0": ("veth", "br0"),
                "br0": ("bridge", ""),
                "docker0": ("bridge", ""),
                "vethbox": ("veth", "docker0"),
                "loose": ("veth", ""),
            }
            assert found["br0"].driver == "bridge"
            assert found["veth0"].driver == "veth"
            assert why_not(found["veth0"]) == "a port of br0"
            assert "another namespace" in why_not(found["loose"])
            assert why_not(found["lo"]) == "loopback"
            best = best_interface()
            assert best.name == "br0"
            assert "of 2 that are up and have an address" in best.why
            for name in ("br0", "docker0"):
                left.run("ip", "link", "set", name, "down")
            best = best_interface()
            assert best.name == "veth0"
            assert best.why == "it is a port of br0, and nothing better is up"
        with (
            box.inside()
        ):  # within a container its end of the pair is the interface, whatever the other end is
            box.run("ip", "address", "add", "172.17.0.2/16", "dev", "eth0")
            box.run("ip", "route", "add", "default", "via", "172.17.0.1")
            assert best_interface() == Choice("eth0", "it carries the default route by way of 172.17.0.1")


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
