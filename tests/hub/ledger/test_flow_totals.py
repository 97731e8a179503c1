"""What flow records add up to: exactly once, the largest flows, and the sum of all others, in bounded room."""

from __future__ import annotations

import contextlib
import csv
import io
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hub.explore.tables import cell
from hub.ledger.flow_totals import KEPT_FLOWS, FlowTotals, delete_flows, flow_table
from hub.ledger.ledger import Ledger
from hub.ledger.session_books import session_books
from hub.registry import Registry, RegistryError
from hub.web.flow_csv import HEAD, csv_of
from tests.hub.agent_side import FakeAgent, Message
from tests.hub.ledger.test_ledger import booked, joined, some
from tests.hub.parts import parts, running
from tests.support.nats_backbone import until
from tests.wire import make
from wire.batch import Body, Kind
from wire.flows import MAX_FLOW_COUNT, FlowColumns, FlowRecord, encode_flows, records_of
from wire.names import Lane

SESSION = "a" * 26
V4 = FlowRecord(4, 17, bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1]), 53, 4000, 1, 2, 10, 200, 1000, 2000)


def flows_message(agent: FakeAgent, columns: FlowColumns) -> Message:
    return agent._seal(Lane.BULK, Body.of(encode_flows(columns)), {"kind": Kind.FLOWS})


async def test_batches_are_added_up_once_and_count_no_packets(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        columns = [make.flow_columns(50, seed) for seed in range(3)]
        async with running(bus.run(), ledger.run()):
            messages = [flows_message(web1, one) for one in columns]
            await web1.publish(*messages)
            twice = [replace(message, id=f"{message.id}.again") for message in messages]
            await web1.publish(*twice)
            await web1.publish(web1.packets(some(10)), web1.closing())
            await booked(hub, web1, 5)
            await until(lambda: session_books(hub.registry, web1.session).duplicates == 3)
        books = session_books(hub.registry, web1.session)
        assert (books.archived_packets, books.missing_batches, books.broken_links) == (10, 0, 0)
        assert books.quarantined == 0
        table = flow_table(hub.registry, web1.session)
        records = [one for each in columns for one in records_of(each)]
        assert table.bytes == sum(one.bytes_a + one.bytes_b for one in records)
        assert table.packets == sum(one.packets_a + one.packets_b for one in records)
        assert table.rest.flows == 0


async def test_a_body_that_lies_is_quarantined_and_adds_nothing(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await joined(hub, "web1")
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            wrong = replace(make.flow_columns(2), version=b"\x04\x09")
            await web1.publish(flows_message(web1, wrong))
            await until(lambda: session_books(hub.registry, web1.session).quarantined == 1)
        assert flow_table(hub.registry, web1.session).rows == ()
        (entry,) = hub.registry.quarantine.all(session=web1.session)
        assert "neither 4 nor 6" in entry.reason


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with contextlib.closing(Registry(tmp_path / "hub.db")) as opened:
        yield opened


def added(totals: FlowTotals, registry: Registry, *records: FlowRecord, session: str = SESSION) -> None:
    with registry.transaction():
        totals.add(session, records)
        totals.write()


def test_both_directions_meet_whichever_end_is_named_first(registry: Registry) -> None:
    turned = V4._replace(
        address_a=V4.address_b,
        address_b=V4.address_a,
        port_a=V4.port_b,
        port_b=V4.port_a,
        first_timestamp_ns=500,
    )
    totals = FlowTotals(registry)
    added(totals, registry, V4, turned)
    (row,) = flow_table(registry, SESSION).rows
    assert (row.protocol_name, row.end_a, row.end_b) == ("udp", "10.0.0.1:4000", "10.0.0.2:53")
    assert (row.sum.packets_a, row.sum.packets_b, row.sum.bytes_a, row.sum.bytes_b) == (3, 3, 210, 210)
    assert (row.sum.first_timestamp_ns, row.sum.last_timestamp_ns) == (500, 2000)
    assert flow_table(registry, "b" * 26).rows == ()


def test_the_table_is_bounded_and_the_sum_of_all_exact(registry: Registry) -> None:
    dice, totals, bytes_, packets = random.Random(1), FlowTotals(registry), 0, 0
    heavy = V4._replace(bytes_a=10**9)
    for turn in range(8):
        records = [
            V4._replace(address_a=dice.randbytes(4), bytes_a=dice.randrange(1000), packets_a=turn)
            for _ in range(KEPT_FLOWS)
        ]
        added(totals, registry, *records, heavy)
        bytes_ += sum(one.bytes_a + one.bytes_b for one in [*records, heavy])
        packets += sum(one.packets_a + one.packets_b for one in [*records, heavy])
        if turn == 4:
            totals = FlowTotals(registry)  # as after a restart of the hub
    table = flow_table(registry, SESSION, 100)
    assert (table.bytes, table.packets) == (bytes_, packets)
    assert len(table.rows) == 100
    assert (table.rows[0].sum.bytes_b, table.rows[0].sum.bytes_a) == (8 * 10**9, 8 * 200)
    assert [row.sum.bytes for row in table.rows] == sorted((r.sum.bytes for r in table.rows), reverse=True)
    (kept,) = registry.connection.execute("SELECT count(*) FROM session_flows").fetchone()
    assert kept == KEPT_FLOWS
    with registry.transaction():
        delete_flows(registry, SESSION)
    assert flow_table(registry, SESSION).bytes == 0


def test_sums_stop_where_the_columns_end(registry: Registry) -> None:
    totals = FlowTotals(registry)
    most = V4._replace(packets_a=MAX_FLOW_COUNT, bytes_a=MAX_FLOW_COUNT, bytes_b=MAX_FLOW_COUNT)
    added(totals, registry, *[most] * 3000)
    (row,) = flow_table(registry, SESSION).rows
    assert row.sum.bytes_a == 2**63 - 1
    assert row.sum.packets_a == 6000


def fails(totals: FlowTotals, registry: Registry) -> None:
    """As when a later batch of the same round is beyond the registry."""
    with registry.transaction():
        totals.add(SESSION, [V4])
        totals.write()
        raise RegistryError


def test_what_was_rolled_back_did_not_happen(registry: Registry) -> None:
    totals = FlowTotals(registry)
    added(totals, registry, V4)
    with pytest.raises(RegistryError):
        fails(totals, registry)
    totals.forget()
    added(totals, registry, V4)
    assert flow_table(registry, SESSION).packets == 2 * 3


def test_a_spreadsheet_computes_nothing_in_the_csv(registry: Registry) -> None:
    totals = FlowTotals(registry)
    v6 = FlowRecord(
        6, 6, bytes(15) + b"\1", b"\x20\x01\x0d\xb8" + bytes(12), 443, 9, 1, 0, 60, 0, 10**18, 10**18 + 1
    )
    added(totals, registry, V4, v6)
    text = csv_of(flow_table(registry, SESSION, 1))
    head, first, others = csv.reader(io.StringIO(text))
    assert tuple(head) == HEAD
    assert first == ["udp", "10.0.0.1", "4000", "10.0.0.2", "53", "2", "1", "200", "10", *first[9:]]
    assert first[9] == "1970-01-01T00:00:00.000001000Z"
    assert others[:1] + others[5:9] == ["others", "1", "0", "60", "0"]
    (_, _, second) = csv.reader(io.StringIO(csv_of(flow_table(registry, SESSION))))
    assert second[1:5] == ["::1", "443", "2001:db8::", "9"]
    assert second[9] == "2001-09-09T01:46:40.000000000Z"
    for start in ("=", "+", "-", "@", "\t", "\r"):
        assert cell(f"{start}1+1") == f"'{start}1+1"
    assert not any(
        field.startswith(("=", "+", "-", "@")) for row in csv.reader(io.StringIO(text)) for field in row
    )
