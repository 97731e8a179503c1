"""One session on several interfaces, as they come, go and are renamed: real veth pairs, each frame counted."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.batches import SESSION
from tests.agent.live_session import live_session, shipped, until, until_captured
from tests.agent.sources.live import FOREIGN_MAC, Sender, udp_frame
from tests.support.netns import Namespace, pair, wait_for
from wire.errors import WireError
from wire.session import SessionSpec, interface_names

Pair = tuple[Namespace, Namespace]


@pytest.fixture
def hosts() -> Iterator[Pair]:
    """Two namespaces, joined by veth0."""
    with pair() as joined:
        yield joined


def join(hosts: Pair, name: str) -> None:
    """One more veth pair between them."""
    left, right = hosts
    subprocess.run(
        [
            "ip",
            "-n",
            left.name,
            "link",
            "add",
            name,
            "type",
            "veth",
            "peer",
            "name",
            name,
            "netns",
            right.name,
        ],
        check=True,
    )
    for host in hosts:
        host.run("ip", "link", "set", name, "up")
    wait_for(lambda: "LOWER_UP" in left.run("ip", "link", "show", name).stdout, f"{name} is up")


def frames(name: str, packets: int, first: int = 0) -> list[bytes]:
    return [udp_frame(f"{name} {number}".encode()) for number in range(first, first + packets)]


def spec(interface: str) -> SessionSpec:
    return SessionSpec(id=SESSION, interface=interface, filter="udp", promiscuous=True)


def test_each_packet_of_two_interfaces_arrives_once_under_its_name(hosts: Pair, tmp_path: Path) -> None:
    join(hosts, "veth1")
    with live_session(hosts[0], tmp_path, spec("veth0,veth1"), way="object") as (session, spool):
        until(session, "running")
        wait_for(lambda: len(session._taps._taps) == 2, "both are open")
        with Sender(hosts[1], "veth0") as one, Sender(hosts[1], "veth1") as two:
            for number in range(2000):
                one.send(*frames("veth0", 1, number))
                two.send(*frames("veth1", 1, number))
        until_captured(session, 4000)
    found = shipped(spool)
    for name in ("veth0", "veth1"):
        assert Counter(found.of(name)) == Counter(frames(name, 2000))
    total = 0
    for header in found.headers:
        total += header.packets
        assert (header.books.captured_difference(), header.books.spooled) == (0, total)
    books = session.read_books()
    assert (books.received, books.received_difference(), books.captured_difference()) == (4000, 0, 0)
    assert books.filtered == 0


def test_any_follows_what_is_up(hosts: Pair, tmp_path: Path) -> None:
    left, right = hosts
    with live_session(left, tmp_path, spec("any")) as (session, spool):
        until(session, "running")
        wait_for(lambda: len(session._taps._taps) == 2, "loopback and veth0 are open")
        with Sender(right) as sender:
            sender.send(*frames("veth0", 50))
        until_captured(session, 50)
        join(hosts, "veth1")
        wait_for(lambda: len(session._taps._taps) == 3, "the new one is open")
        with Sender(right, "veth1") as sender:
            sender.send(*frames("veth1", 50))
        until_captured(session, 100)
        left.run("ip", "link", "delete", "veth1")
        wait_for(lambda: len(session._taps._taps) == 2, "the removed one is closed")
        left.run("ping", "-c", "1", "127.0.0.1")
        with Sender(right) as sender:
            sender.send(*frames("veth0", 50, 50))
        until_captured(session, 150)
        assert (session.state, session.reason) == ("running", "")
    found = shipped(spool)
    assert Counter(found.of("veth0")) == Counter(frames("veth0", 100))
    assert Counter(found.of("veth1")) == Counter(frames("veth1", 50))
    assert session.read_books().received_difference() == 0


def test_any_leaves_out_what_refuses_the_filter_and_says_so(hosts: Pair, tmp_path: Path) -> None:
    left, right = hosts
    left.run("ip", "tuntap", "add", "tun0", "mode", "tun")
    left.run("ip", "link", "set", "tun0", "up")
    only_ethernet = replace(spec("any"), filter=f"ether dst {FOREIGN_MAC}")
    with live_session(left, tmp_path, only_ethernet) as (session, spool):
        until(session, "running", "tun0 is left out: filter:")
        with Sender(right) as sender:
            sender.send(*frames("veth0", 20))
        until_captured(session, 20)
        session.declare(replace(only_ethernet, filter="udp", filter_revision=2))
        wait_for(lambda: session.filter_revision == 2, "the filter has changed")
        wait_for(lambda: len(session._taps._taps) == 3 and not session.reason, "tun0 is open too")
    assert Counter(shipped(spool).of("veth0")) == Counter(frames("veth0", 20))


def test_one_that_appears_later_is_waited_for(hosts: Pair, tmp_path: Path) -> None:
    with live_session(hosts[0], tmp_path, spec("veth0, late0")) as (session, spool):
        until(session, "running", "there is no interface late0 yet")
        join(hosts, "late0")
        until(session, "running", "")
        wait_for(lambda: not session.reason, "nothing is missing")
        with Sender(hosts[1], "late0") as sender:
            sender.send(*frames("late0", 30))
        until_captured(session, 30)
    assert Counter(shipped(spool).of("late0")) == Counter(frames("late0", 30))


def test_a_renamed_interface_goes_on_under_its_new_name(hosts: Pair, tmp_path: Path) -> None:
    left, right = hosts
    with live_session(left, tmp_path, spec("veth0")) as (session, spool), Sender(right) as sender:
        until(session, "running")
        sender.send(*frames("before", 40))
        until_captured(session, 40)
        left.run("ip", "link", "set", "veth0", "down")
        left.run("ip", "link", "set", "veth0", "name", "lan0")
        left.run("ip", "link", "set", "lan0", "up")
        until(session, "running", "interface veth0 is called lan0 now")
        wait_for(lambda: "LOWER_UP" in left.run("ip", "link", "show", "lan0").stdout, "it is up again")
        sender.send(*frames("after", 40))
        until_captured(session, 80)
    found = shipped(spool)
    assert Counter(found.of("veth0")) == Counter(frames("before", 40))
    assert Counter(found.of("lan0")) == Counter(frames("after", 40))


def test_all_of_several_change_their_filter_together(hosts: Pair, tmp_path: Path) -> None:
    join(hosts, "veth1")
    declared = spec("veth0,veth1")
    with live_session(hosts[0], tmp_path, declared, way="object") as (session, spool):
        wait_for(lambda: len(session._taps._taps) == 2, "both are open")
        session.declare(replace(declared, filter="udp and", filter_revision=2))
        until(session, "running", "revision 2 refused, 1 goes on")
        session.declare(replace(declared, filter="udp port 9", filter_revision=3))
        wait_for(lambda: session.filter_revision == 3, "the filter has changed")
        for name in ("veth0", "veth1"):
            with Sender(hosts[1], name) as sender:
                sender.send(*frames(name, 10), *(udp_frame(name.encode(), port=9) for _ in range(10)))
        until_captured(session, 20)
    found = shipped(spool)
    assert {header.filter_revision for header, *_ in found.packets} == {3}
    assert len(found.of("veth0")) == len(found.of("veth1")) == 10
    assert session.read_books().filtered == 20


@pytest.mark.parametrize("text", ["", "a,", ",", "a,a", "any,a", ",".join(f"e{n}" for n in range(33))])
def test_what_is_no_list_of_interfaces(text: str) -> None:
    with pytest.raises(WireError, match="interface"):
        interface_names(text)
