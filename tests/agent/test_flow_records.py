"""Flow records from the wire to the spool: exact sums, whatever filter, limits, switches and a full spool do."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.ebpf.contract import FLOW_COUNTERS
from agent.flow_records import FlowRecords
from agent.session import CaptureSession
from agent.session_memory import SessionMemory
from agent.spool import Spool
from tests.agent.batches import KEY, SESSION, drain, new_spool
from tests.agent.ebpf.test_flow_counters import many_flows
from tests.agent.sources.live import Sender, udp_frame
from tests.agent.surroundings import surroundings
from tests.support import netns
from tests.support.ebpf import programs
from tests.support.flow_model import CountsModel, Key
from tests.support.netns import Namespace, wait_for
from wire.batch import Kind, OpenBatch, decode_flows, open_batch
from wire.books import Books
from wire.chain import ChainVerifier, Verdict
from wire.flows import MAX_FLOWS, FlowRecord, records_of
from wire.session import SessionSpec

pytestmark = pytest.mark.root
Pair = tuple[Namespace, Namespace]
OWN = [("10.9.0.2", 4222)]
"""As udp_frame has it."""


@pytest.fixture
def pair() -> Iterator[Pair]:
    programs("object").close()  # type: ignore[union-attr]
    with netns.pair() as both:
        yield both


class Host:
    """A session's thread on one end of a veth, with a spool and no server."""

    def __init__(self, at: Namespace, directory: Path, spool: Spool, path: str = "object") -> None:
        self.spool = spool
        self.directory = directory
        self.at = at
        self.around = surroundings(spool, way=path, own_traffic=OWN)
        self.sent: list[OpenBatch] = []

    @contextlib.contextmanager
    def session(self, spec: SessionSpec) -> Iterator[CaptureSession]:
        one = CaptureSession(spec, SessionMemory.open(self.directory, SESSION), self.around)
        with self.at.inside():  # threads begin where the one that starts them is
            one.start()
        try:
            wait_for(lambda: one.state != "starting", "the session began")
            yield one
        finally:
            one.leave()
            assert one.join(20)

    def batches(self) -> list[OpenBatch]:
        """All that was spooled so far."""
        for _, message in drain(self.spool):
            self.sent.append(open_batch(message, public=KEY.public))
        return self.sent

    def records(self) -> list[FlowRecord]:
        flows = [batch for batch in self.batches() if batch.header.kind is Kind.FLOWS]
        return [record for batch in flows for record in records_of(decode_flows(batch))]


@pytest.fixture
def host(pair: Pair, tmp_path: Path) -> Host:
    return Host(pair[0], tmp_path / "s", new_spool(tmp_path / "spool"))


def flows_of(session: CaptureSession) -> FlowRecords:
    (tap,) = session._taps._taps
    return tap._flows


def spec(**changes: Any) -> SessionSpec:
    one = SessionSpec(id=SESSION, interface="veth0", filter="udp port 1", flow_records=True)
    return replace(one, **changes)


def sums_of(records: list[FlowRecord]) -> dict[Key, list[int]]:
    """As CountsModel has them."""
    found: dict[Key, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for one in records:
        ports = [int.from_bytes(socket.htons(port).to_bytes(2, "little"), "little") for port in one[4:6]]
        a, b = one.address_a.ljust(16, b"\0"), one.address_b.ljust(16, b"\0")
        counts = found[a, b, ports[0], ports[1], one.protocol, one.version]
        for at, value in enumerate((one.packets_a, one.bytes_a, one.packets_b, one.bytes_b)):
            counts[at] += value
    return dict(found)


def stopped(session: CaptureSession) -> Books:
    session.declare(replace(session.wanted, state="stopped"))
    wait_for(lambda: not session.alive, "the session ended")
    return session.read_books()


def test_the_records_add_up_to_what_was_sent(pair: Pair, host: Host) -> None:
    model, own = CountsModel(), [udp_frame(b"wirepool's own", port=4222)] * 3
    with host.session(spec(flow_sampling=3)) as session, Sender(pair[1]) as sender:
        wait_for(lambda: session.report().flow_records, "flows are counted")
        for turn in range(2):
            frames = [udp_frame(bytes(10 * turn), port=port) for port in range(1, 30)]
            sender.send(*frames, *own)
            model.see(*frames)
            wait_for(lambda: sums_of(host.records()) == model.flows, "all of it is in records")
        before = len(host.batches())
        for _ in range(2):
            looked = flows_of(session)._looked_s
            wait_for(lambda looked=looked: flows_of(session)._looked_s > looked, "it looked again")  # type: ignore[misc]
        assert len(host.batches()) == before, "nothing changed, nothing shipped"
        sender.send(udp_frame(b"last", port=77))
        model.see(udp_frame(b"last", port=77))
        books = stopped(session)
    assert sums_of(host.records()) == model.flows, "the last ones came with the end"
    assert (books.flows_shipped, books.flows_own) == (model.packets, 6)
    assert books.flows_counted == model.packets + 6
    assert books.flows_lost == 0
    assert books.filtered
    assert books.sampled_out is not None
    batches = host.batches()
    assert [batch.header.sequence for batch in batches] == list(range(len(batches)))
    closing = batches[-1].header
    assert closing.kind is Kind.CLOSING
    assert (closing.books.flows_shipped, closing.books.flows_counted) == (model.packets, model.packets + 6)
    now_ns = time.time_ns()
    for record in host.records():
        assert now_ns - 60e9 < record.first_timestamp_ns <= record.last_timestamp_ns <= now_ns
        assert not (record.packets_a == record.packets_b == 0 and record.bytes_a == record.bytes_b == 0)
    for batch in batches:
        if batch.header.kind is Kind.FLOWS:
            assert batch.header.packets == 0
            assert batch.header.first_timestamp_ns < batch.header.last_timestamp_ns <= now_ns
    assert books.captured_difference() == 0
    assert sum(batch.header.packets for batch in batches) == books.spooled


def test_the_chain_with_flow_records_is_intact(pair: Pair, host: Host) -> None:
    with host.session(spec(filter="")) as session, Sender(pair[1]) as sender:
        for turn in range(2):
            sender.send(*[udp_frame(b"x", port=port) for port in range(1, 9)])
            wait_for(
                lambda turn=turn: len(host.records()) >= 8 * (turn + 1),  # type: ignore[misc]
                "records came",
            )
        stopped(session)
    kinds = {batch.header.kind for batch in host.batches()}
    assert kinds == {Kind.PACKETS, Kind.FLOWS, Kind.CLOSING}
    chain = ChainVerifier()
    assert all(chain.add(batch) for batch in host.sent)
    assert chain.result().verdict is Verdict.INTACT


def test_switched_on_and_off_without_a_new_session(pair: Pair, host: Host) -> None:
    model, frame = CountsModel(), udp_frame(b"x", port=9)
    with host.session(spec(flow_records=False)) as session, Sender(pair[1]) as sender:
        revision = 1
        for on in (False, True, False, True):
            revision += 1
            session.declare(replace(session.wanted, flow_records=on, filter_revision=revision))
            wait_for(lambda: session.filter_revision == revision, "in force")  # noqa: B023
            sender.send(*[frame] * 10)
            if on:
                model.see(*[frame] * 10)
            wait_for(lambda: (session.read_books().filtered or 0) % 10 == 0, "judged")
        wait_for(lambda: sums_of(host.records()) == model.flows, "all that was counted is in records")
        books = stopped(session)
    assert (books.flows_counted, books.flows_shipped, books.flows_lost) == (20, 20, 0)


def test_a_spool_without_room_keeps_the_counts_for_later(pair: Pair, tmp_path: Path) -> None:
    host = Host(pair[0], tmp_path / "s", new_spool(tmp_path / "spool", max_bytes=1 << 20))
    model = CountsModel()
    filler = [udp_frame(os.urandom(1400), port=1) for _ in range(100)]
    with host.session(spec(overflow="drop_newest")) as session, Sender(pair[1]) as sender:
        while not session.read_books().dropped_newest:
            sender.send(*filler)
            model.see(*filler)
        frames = [udp_frame(b"x", port=port) for port in range(2, 40)]
        for _ in range(3):
            sender.send(*frames)
            model.see(*frames)
        wait_for(
            lambda: (session.read_books().flows_counted or 0) == model.packets, "the kernel has counted them"
        )
        assert (session.read_books().flows_lost or 0) > 0, "they wait"
        wait_for(lambda: sums_of(host.records()) == model.flows, "they are shipped when there is room")
        books = stopped(session)
    assert (books.flows_shipped, books.flows_lost) == (model.packets, 0)


@pytest.mark.slow
def test_more_flows_than_a_batch_or_the_table_holds(pair: Pair, host: Host) -> None:
    frames = many_flows(3 * MAX_FLOWS)
    with host.session(spec(exclude_own_traffic=False)) as session, Sender(pair[1]) as sender:
        wait_for(lambda: session.report().flow_records, "flows are counted")
        for at in range(0, len(frames), 512):
            sender.send(*frames[at : at + 512])
        books = stopped(session)
    records = host.records()
    assert books.flows_counted == len(frames)
    assert sum(one.packets_a + one.packets_b for one in records) == books.flows_shipped
    assert books.flows_lost == 0
    assert sums_of(records) == _counted(frames)
    sizes = [len(decode_flows(batch)) for batch in host.batches() if batch.header.kind is Kind.FLOWS]
    assert max(sizes) == MAX_FLOWS


@pytest.mark.slow
def test_what_a_full_table_forgets_is_in_the_books(pair: Pair, host: Host) -> None:
    frames = many_flows(2 * FLOW_COUNTERS)
    with host.session(spec(exclude_own_traffic=False)) as session, Sender(pair[1]) as sender:
        wait_for(lambda: session.report().flow_records, "flows are counted")
        flows_of(session)._looked_s = time.monotonic() + 3600  # nobody reads until the end
        sender.send(*frames)
        books = stopped(session)
    records = host.records()
    assert books.flows_counted == len(frames)
    assert books.flows_lost is not None
    assert books.flows_lost >= FLOW_COUNTERS
    assert sum(one.packets_a + one.packets_b for one in records) == books.flows_shipped
    assert len(frames) == (books.flows_shipped or 0) + books.flows_lost
    assert (books.flows_shipped or 0) > FLOW_COUNTERS // 2


def test_two_interfaces_ship_their_own_records_into_one_chain(pair: Pair, host: Host) -> None:
    model = CountsModel()
    with host.session(spec(interface="veth0,lo")) as session, Sender(pair[1]) as sender:
        wait_for(lambda: session.report().flow_records, "flows are counted")
        sender.send(*[udp_frame(b"x", port=port) for port in range(1, 9)])
        model.see(*[udp_frame(b"x", port=port) for port in range(1, 9)])
        pair[0].run("ping", "-c", "3", "-i", "0.2", "127.0.0.1")
        books = stopped(session)
    flows = [batch for batch in host.batches() if batch.header.kind is Kind.FLOWS]
    by_name = {batch.header.interface for batch in flows}
    assert by_name == {"veth0", "lo"}
    of_lo = [r for batch in flows if batch.header.interface == "lo" for r in records_of(decode_flows(batch))]
    assert sum(one.packets_a + one.packets_b for one in of_lo) == 6, (
        "once each, though loopback shows them twice"
    )
    assert {key: v for key, v in sums_of(host.records()).items() if key[4] == 17} == model.flows
    assert (books.flows_shipped, books.flows_lost) == (8 + 6, 0)


def _counted(frames: list[bytes]) -> dict[Key, list[int]]:
    model = CountsModel()
    model.see(*frames)
    return model.flows


def test_where_flows_cannot_be_counted_the_capture_goes_on_and_says_so(pair: Pair, tmp_path: Path) -> None:
    host = Host(pair[0], tmp_path / "s", new_spool(tmp_path / "spool"), "classic")
    with host.session(spec()) as session, Sender(pair[1]) as sender:
        sender.send(*[udp_frame(b"x", port=1)] * 4)
        wait_for(lambda: "flows are not counted: that needs eBPF" in session.reason, "it says so")
        assert session.state == "running"
        assert not session.report().flow_records
        wait_for(lambda: session.read_books().spooled == 4, "packets are taken all the same")
        session.declare(replace(session.wanted, flow_records=False, filter_revision=2))
        wait_for(lambda: session.reason == "", "nothing is missing any more")
        books = stopped(session)
    assert (books.flows_counted, books.flows_shipped) == (None, None)
