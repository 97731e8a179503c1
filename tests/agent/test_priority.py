"""The priority lane of a session: in it what a rule names, in bulk the rest, nothing in both, while rules change."""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.intake import flagged
from agent.settings import Config
from tests.agent.batches import SESSION, columns
from tests.agent.live_session import live_session, shipped, until, until_captured
from tests.agent.sources.live import Sender
from tests.agent.sources.test_rings import udp
from tests.support.netns import Namespace, pair, wait_for
from wire.batch import PRIORITY, Kind
from wire.names import Lane
from wire.priority import NO_PRIORITY, parse
from wire.session import SessionSpec

Pair = tuple[Namespace, Namespace]
SPEC = SessionSpec(id=SESSION, interface="veth0", filter="udp", promiscuous=True, priority=parse("port 53"))


@pytest.fixture
def hosts() -> Iterator[Pair]:
    with pair() as joined:
        yield joined


def test_priority_packets_have_a_lane_of_their_own(hosts: Pair, tmp_path: Path) -> None:
    bulk = [udp(number, flow) for flow in range(40) for number in range(50)]
    prior = [udp(number, 77, port=53) for number in range(20)]
    config = Config(capture_rings=2)
    with live_session(hosts[0], tmp_path, SPEC, way="object", config=config) as (session, spool):
        until(session, "running")
        with Sender(hosts[1]) as sender:
            sender.send(*bulk[:1000], *prior, *bulk[1000:])
        until_captured(session, len(bulk) + len(prior))
        assert set(session.report().lanes) == {"bulk", "prio"}
        session.declare(replace(SPEC, state="stopped"))
        wait_for(lambda: session.ended and not session.alive, "it has ended")
    found = shipped(spool)
    by_lane = {lane: [one for one in found.packets if one[0].lane is lane] for lane in Lane}
    assert Counter(data for *_, data in by_lane[Lane.PRIO]) == Counter(prior)
    assert Counter(data for *_, data in by_lane[Lane.BULK]) == Counter(bulk)
    assert {flags & PRIORITY for _, _, flags, _ in by_lane[Lane.PRIO]} == {PRIORITY}
    assert {flags & PRIORITY for _, _, flags, _ in by_lane[Lane.BULK]} == {0}
    closing = [header for header in found.headers if header.kind is Kind.CLOSING]
    assert [header.lane for header in closing] == [Lane.BULK, Lane.PRIO]
    books = closing[-1].books
    assert (books.received, books.spooled) == (len(bulk) + len(prior), len(bulk) + len(prior))
    assert (books.received_difference(), books.captured_difference(), books.filtered) == (0, 0, 0)
    for header in found.headers:
        assert header.books.captured_difference() == 0


@pytest.mark.parametrize("rings", [1, 3])
def test_rules_that_change_under_load_lose_and_double_nothing(
    hosts: Pair, tmp_path: Path, rings: int
) -> None:
    texts = ["", "port 53", "10.9.1.0/28", "10.9.1.0/28, port 53, 2001:db8::/32", "port 1-1000", ""]
    spec, sent = replace(SPEC, priority=NO_PRIORITY), []
    config = Config(capture_rings=rings)
    with live_session(hosts[0], tmp_path, spec, way="object", config=config) as (session, spool):
        until(session, "running")
        with Sender(hosts[1]) as sender:
            for change, text in enumerate(texts):
                spec = replace(spec, priority=parse(text))
                session.declare(spec)
                for number in range(100):
                    some = [
                        udp(change * 100 + number, flow, port=53 if flow % 2 else 7777) for flow in range(20)
                    ]
                    sender.send(*some)
                    sent += some
                wait_for(lambda wanted=spec: session.spec == wanted, "the rules are in force")  # type: ignore[misc]
        until_captured(session, len(sent))
        assert session.filter_revision == 1
    found = shipped(spool)
    assert Counter(data for *_, data in found.packets) == Counter(sent)
    assert {header.lane for header, *_ in found.packets} == set(Lane)
    books = session.read_books()
    assert (books.received_difference(), books.captured_difference(), books.filtered) == (0, 0, 0)


@pytest.mark.slow
def test_all_rings_come_back_with_an_interface_that_was_taken_away(tmp_path: Path) -> None:
    """Both ends of the veth are deleted and made again: three rings and the priority lane's, with their rules."""
    config = Config(capture_rings=3)
    with contextlib.ExitStack() as stack:
        left, right = stack.enter_context(pair())
        session, spool = stack.enter_context(live_session(left, tmp_path, SPEC, way="object", config=config))
        until(session, "running")
        sent: list[bytes] = []
        for life in range(3):
            if life:
                left.run("ip", "link", "delete", "veth0")
                wait_for(lambda: "veth0" in session.reason, "the session says what is missing")
                again = ("type", "veth", "peer", "name", "veth0", "netns", right.name)
                left.run("ip", "link", "add", "veth0", *again)
                for host in (left, right):
                    host.run("ip", "link", "set", "veth0", "up")
                until(session, "running")
                wait_for(lambda: not session.reason, "nothing is missing")
            frames = [
                udp(number, 100 * life + flow, port=port)
                for flow in range(30)
                for number, port in ((0, 53), (1, 7))
            ]
            with Sender(right) as sender:
                sender.send(*frames)
            sent += frames
            until_captured(session, len(sent))
    found = shipped(spool)
    assert Counter(data for *_, data in found.packets) == Counter(sent)
    prior = [data for header, _, _, data in found.packets if header.lane is Lane.PRIO]
    assert Counter(prior) == Counter(sent[::2])
    books = session.read_books()
    assert (books.received, books.received_difference(), books.captured_difference()) == (len(sent), 0, 0)


def test_without_ebpf_it_runs_in_one_lane_and_says_so(hosts: Pair, tmp_path: Path) -> None:
    with live_session(hosts[0], tmp_path, SPEC, way="classic") as (session, spool):
        until(session, "running", "without the priority lane: it needs eBPF")
        with Sender(hosts[1]) as sender:
            sender.send(*(udp(number, 1, port=53) for number in range(10)))
        until_captured(session, 10)
        session.declare(replace(SPEC, priority=NO_PRIORITY))
        wait_for(lambda: not session.reason, "nothing is amiss any more")
    assert {header.lane for header, *_ in shipped(spool).packets} == {Lane.BULK}


def test_the_flag_is_added_to_each_packet() -> None:
    some = replace(columns(3, 10), flags=struct.pack("<3H", 0, 5, 0xFF))
    assert struct.unpack("<3H", flagged(some).flags) == (PRIORITY, PRIORITY | 5, PRIORITY | 0xFF)
