"""An enrolled agent that means harm: what it signs is bounded like what anybody sends, and stops nobody else."""

import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from hub.ledger import chains as ledger_chains
from hub.ledger.booking import Booking, Incoming
from hub.ledger.session_books import session_books
from hub.live.viewer import RATE_WINDOW_S, WatchedSession
from hub.registry import Registry
from tests.hub.agent_side import FakeAgent, Message, udp_packet
from tests.support.nats_backbone import AgentKeys
from tests.wire.make import forge_raw
from wire.batch import Body, Kind, Lane, open_batch
from wire.books import Books
from wire.keys import SigningKey
from wire.names import new_session_id
from wire.strict_cbor import dumps_map


@dataclass
class _Keys:
    name: str
    signing: SigningKey


def enrolled_agent(registry: Registry, name: str) -> FakeAgent:
    keys = _Keys(name, SigningKey(secrets.token_bytes(32)))
    registry.agents.add(
        name,
        user_public=f"U{name}",
        signing_public=keys.signing.public,
        label=name,
        user_jwt="",
        jwt_issued_ns=1,
        jwt_expires_ns=2,
        certificate=b"",
    )
    return FakeAgent(cast(AgentKeys, keys))


def stored(messages: list[Message], first: int = 1) -> list[Incoming]:
    return [
        Incoming(one.subject, one.data, "CAPTURE", first + index, 1, time.time_ns())
        for index, one in enumerate(messages)
    ]


def rows(registry: Registry, table: str) -> int:
    (count,) = registry.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def test_invented_sessions_leave_no_record_beyond_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_chains, "MAX_CHAINS_PER_AGENT", 5)
    registry = Registry(tmp_path / "r.sqlite3")
    web1 = enrolled_agent(registry, "web1")
    messages = []
    for _ in range(20):
        other = web1.rebooted()
        other.session = new_session_id()
        messages.append(other.packets([udp_packet(1)]))
    verdicts, _ = Booking(registry, 1 << 20).book(stored(messages))
    assert verdicts == ["ack"] * 5 + ["term"] * 15
    assert rows(registry, "sessions") == 5
    assert rows(registry, "quarantine") == 15
    registry.close()


def test_invented_interfaces_are_bounded_and_each_batch_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_chains, "MAX_INTERFACES_PER_CHAIN", 10)
    registry = Registry(tmp_path / "r.sqlite3")
    web1, web2 = enrolled_agent(registry, "web1"), enrolled_agent(registry, "web2")
    messages = [web1.packets([udp_packet(1)], interface=f"e{number}") for number in range(15)]
    messages += [web1.packets([udp_packet(1)], interface="e3"), web2.packets([udp_packet(1)])]
    booking = Booking(registry, 1 << 20)
    verdicts, _ = booking.book(stored(messages))
    assert verdicts == ["ack"] * 10 + ["term"] * 5 + ["ack"] * 2
    assert rows(registry, "chain_interfaces") == 11
    # A second round adds to what the first has written.
    booking.book(stored([web1.packets([udp_packet(1)] * 4, interface="e3")], 100))
    (packets,) = registry.connection.execute(
        "SELECT packets FROM chain_interfaces WHERE interface = 'e3'"
    ).fetchone()
    assert packets == 6
    registry.close()


def test_invented_boots_in_heartbeats_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_chains, "MAX_BOOTS_PER_SESSION", 10)
    registry = Registry(tmp_path / "r.sqlite3")
    web1 = enrolled_agent(registry, "web1")
    booking = Booking(registry, 1 << 20)
    registry.sessions.observe(web1.session, "web1", "", 1)
    booking.write_books(
        {(web1.session, "web1", secrets.token_bytes(16)): (Books(received=1), 1) for _ in range(50)}
    )
    assert rows(registry, "books") == 10
    # A boot whose batches are in the archive is no invention.
    booking.book(stored([web1.packets([udp_packet(1)])]))
    booking.write_books({(web1.session, "web1", web1.boot): (Books(received=77), 2)})
    (newest,) = registry.connection.execute("SELECT books FROM books WHERE boot = ?", (web1.boot,)).fetchone()
    assert ledger_chains.load_books(newest).received == 77
    registry.close()


def test_a_page_that_stopped_reading_holds_two_seconds_of_rates_and_a_bounded_number_of_boots(
    tmp_path: Path,
) -> None:
    registry = Registry(tmp_path / "r.sqlite3")
    web1 = enrolled_agent(registry, "web1")
    watched = WatchedSession(web1.session, "web1", [web1.keys.signing.public])
    header = open_batch(web1.packets([udp_packet(1)]).data, public=web1.keys.signing.public).header
    for number in range(5000):  # a batch every 10 ms; nobody asks for totals
        watched.take_batch(header, number / 100)
        watched.take_books(secrets.token_bytes(16), Books(received=1))
    assert len(watched.recent) <= 100 * RATE_WINDOW_S + 1
    assert watched.totals(50.0).packets_per_second == pytest.approx(100, abs=1)
    assert len(watched.boots) == ledger_chains.MAX_BOOTS_PER_SESSION
    registry.close()


def test_sums_that_would_overflow_end_at_their_bound_and_cost_nobody_a_batch(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r.sqlite3")
    web1 = enrolled_agent(registry, "web1")
    booking = Booking(registry, 1 << 20)
    assert booking.book(stored([web1.packets([udp_packet(1)])]))[0] == ["ack"]
    # As after very many batches that say all they may: a little below what SQLite can hold.
    near = 2**63 - 1 - 2**31
    sums = "packets", "captured_bytes", "original_bytes"
    for table in ("chains", "chain_interfaces"):
        for name in sums:
            registry.connection.execute(f"UPDATE {table} SET {name} = {near}")
    registry.connection.execute(f"UPDATE chains SET declared_packets = {near}, declared_newest = {near}")
    booking = Booking(registry, 1 << 20)
    messages = [web1.packets([udp_packet(1)], original_bytes=2**32 - 1) for _ in range(3)]
    away = {"kind": Kind.TOMBSTONE, "reason": "spool full", "packets": 2**53 - 1}
    for _ in range(2):
        last_sequence = web1.chains[Lane.BULK].sequence
        messages.append(web1._seal(Lane.BULK, Body.empty(), away | {"last_sequence": last_sequence}))
    assert booking.book(stored(messages, 10))[0] == ["ack"] * 5
    for table in ("chains", "chain_interfaces"):
        (original_bytes,) = registry.connection.execute(f"SELECT original_bytes FROM {table}").fetchone()
        assert original_bytes == 2**63 - 1
    account = session_books(registry, web1.session)
    assert account.declared_newest == 2**63 - 1
    assert account.batches == 6
    # The next process goes on from there.
    booking = Booking(registry, 1 << 20)
    assert booking.book(stored([web1.packets([udp_packet(1)])], 20))[0] == ["ack"]
    assert booking.counts.retried == booking.counts.quarantined == rows(registry, "quarantine") == 0
    registry.close()


def test_a_sum_no_batch_can_have_is_refused_at_once(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r.sqlite3")
    web1 = enrolled_agent(registry, "web1")
    sound = web1.packets([udp_packet(1)])
    header = open_batch(sound.data, public=None).header.to_map()
    booking = Booking(registry, 1 << 20)
    body = bytes(open_batch(sound.data, public=None).body_compressed)
    forged = [
        replace(sound, data=forge_raw(dumps_map(header | {name: 2**63 - 1}), body, key=web1.keys.signing))
        for name in ("packets", "captured_bytes", "original_bytes")
    ]
    assert booking.book(stored([*forged, sound]))[0] == ["term"] * 3 + ["ack"]
    assert booking.counts.retried == 0
    registry.close()
