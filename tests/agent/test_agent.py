"""The agent's own program between a real interface and a real server: orders in, packets and reports out."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from tests.agent.home import Home
from tests.support.nats_backbone import backbone, until
from tests.support.need import need
from tests.support.netns import Namespace, pair
from wire.batch import Kind, OpenBatch, decode_columns, decode_tombstone
from wire.books import Books
from wire.chain import ChainKey, ChainResult, ChainVerifier, Verdict
from wire.control import Domain, unseal
from wire.report import Heartbeat, Report, SessionReport
from wire.session import SessionSpec

pytestmark = pytest.mark.root
PORT = 40001
OTHER_PORT = 40002


@dataclass
class Lab:
    """An agent on the left with its server, a sender on the right; what the agent says is heard."""

    home: Home
    hub: Client
    left: Namespace
    sender: socket.socket
    reports: list[Report]
    heartbeats: list[Heartbeat]

    def send(self, count: int, port: int = PORT, size: int = 60) -> None:
        """So many UDP packets from right to left."""
        for number in range(count):
            self.sender.sendto(number.to_bytes(4, "big").ljust(size, b"."), (self.left.address, port))

    def session(self, name: str) -> SessionReport | None:
        """What the last report says of it."""
        found = [one for one in self.reports[-1].sessions if one.id == name] if self.reports else []
        return found[0] if found else None

    async def state(self, name: str, state: str, *, timeout_s: float = 15) -> SessionReport:
        """Wait until the agent reports this state."""

        def reached() -> bool:
            session = self.session(name)
            return session is not None and session.state == state

        try:
            await until(reached, timeout_s)
        except TimeoutError:
            raise AssertionError(f"never {state}: {self.session(name)}\n{self.home.log()}") from None
        session = self.session(name)
        assert session is not None
        return session

    def books(self, name: str) -> Books:
        """What the last heartbeat says of it."""
        beat = self.heartbeats[-1].sessions.get(name) if self.heartbeats else None
        return beat.books if beat is not None else Books()

    async def packets(self, name: str, kinds: tuple[Kind, ...] = (Kind.PACKETS,)) -> int:
        return sum(b.header.packets for b in await self.batches(name) if b.header.kind in kinds)

    async def batches(self, name: str) -> list[OpenBatch]:
        return [batch for batch in await self.home.stored(self.hub) if batch.header.session == name]

    async def stored(self, name: str, count: int) -> None:
        """Wait until so many packets of the session are in the archive."""

        async def there() -> bool:
            return await self.packets(name) >= count

        await until(there, 15)
        assert await self.packets(name) == count

    async def verdicts(self, name: str) -> list[ChainResult]:
        """One per boot, in the order of the archive."""
        chains: dict[ChainKey, ChainVerifier] = {}
        for batch in await self.batches(name):
            replaced = decode_tombstone(batch) if batch.header.kind is Kind.TOMBSTONE else None
            chains.setdefault(ChainKey.of(batch.header), ChainVerifier()).add(batch, replaced)
        return [chain.result() for chain in chains.values()]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    with pair() as (left, right):
        with right.inside():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with left.inside(), sender:
            async with backbone(tmp_path) as bus:
                home = Home.new(bus, tmp_path / "web1")
                hub = await bus.connect_hub()
                found = Lab(home, hub, left, sender, [], [])
                await hub.subscribe(
                    "rep.web1", cb=_heard(home, Domain.REPORT, Report.from_map, found.reports)
                )
                await hub.subscribe(
                    "hb.web1", cb=_heard(home, Domain.HEARTBEAT, Heartbeat.from_map, found.heartbeats)
                )
                try:
                    yield found
                finally:
                    if home.process is not None and home.process.poll() is None:
                        home.kill()


def _heard(home: Home, domain: Domain, parse: Callable, into: list):  # type: ignore[type-arg,no-untyped-def]
    async def heard(message) -> None:  # type: ignore[no-untyped-def]
        public = home.keys.signing.public
        into.append(parse(unseal(message.data, domain, public=public, agent="web1", now_ns=None).body))

    return heard


def spec(letter: str = "a", **changes: Any) -> SessionSpec:
    return SessionSpec(id=letter * 26, interface="veth0", filter=f"udp port {PORT}", **changes)


@pytest.mark.parametrize(
    ("path", "name", "why"),
    [("classic", "af_packet+cbpf", "configuration says"), ("pcap", "libpcap+cbpf", "libpcap version")],
)
async def test_a_session_from_start_to_stop(lab: Lab, path: str, name: str, why: str) -> None:
    one = spec()
    await lab.home.declare(lab.hub, 1, one)
    config = lab.home.directory / "agent.yaml"
    config.write_text(f"capture: {{path: {path}}}\n")
    lab.home.start("run", "--config", str(config))
    await lab.state(one.id, "running")
    assert lab.reports[-1].capture_path == name
    assert why in lab.reports[-1].capture_path_reason
    assert lab.reports[-1].best_interface == "veth0"
    assert "only interface that is up" in lab.reports[-1].best_interface_reason
    assert {one.name: one.driver for one in lab.reports[-1].interfaces}["veth0"] == "veth"
    lab.send(100)
    lab.send(10, OTHER_PORT)
    await lab.stored(one.id, 100)

    await lab.home.declare(lab.hub, 2, dataclasses.replace(one, state="paused"))
    await tell_changed(lab)
    await lab.state(one.id, "paused")
    lab.send(50)
    await lab.home.declare(lab.hub, 3, one)
    await tell_changed(lab)
    await lab.state(one.id, "running")
    lab.send(30)
    await lab.stored(one.id, 130)

    changed = dataclasses.replace(one, filter=f"udp port {OTHER_PORT}", filter_revision=2)
    await lab.home.declare(lab.hub, 4, changed)
    await tell_changed(lab)
    await until(lambda: (s := lab.session(one.id)) is not None and s.filter_revision == 2)
    lab.send(20)
    lab.send(7, OTHER_PORT)
    await lab.stored(one.id, 137)

    await lab.home.declare(lab.hub, 5, dataclasses.replace(changed, state="stopped"))
    await tell_changed(lab)
    report = await lab.state(one.id, "stopped")
    assert report.lanes["bulk"].next_sequence > 0
    (verdict,) = await lab.verdicts(one.id)
    assert verdict.verdict is Verdict.INTACT
    assert verdict.packets == 137
    assert verdict.head_hash == report.lanes["bulk"].head_hash
    revisions = [b.header.filter_revision for b in await lab.batches(one.id)]
    assert revisions == sorted(revisions)
    assert set(revisions) == {1, 2}
    last = (await lab.batches(one.id))[-1].header
    assert last.kind is Kind.CLOSING
    assert last.books.received_difference() == last.books.captured_difference() == 0
    assert last.books.captured == 137
    await until(lambda: lab.books(one.id).acknowledged == 137)
    assert lab.books(one.id).balanced()

    await lab.home.declare(lab.hub, 6)
    await tell_changed(lab)
    await until(lambda: not lab.reports[-1].sessions)
    assert lab.home.stop() == 0
    assert list((lab.home.directory / "spool").iterdir()) == []
    assert list((lab.home.directory / "sessions").iterdir()) == []


async def tell_changed(lab: Lab) -> None:
    """The notice as the hub sends it."""
    import os
    import time

    from wire.control import seal

    now_ns = time.time_ns()
    message = seal(
        Domain.CONTROL,
        agent="web1",
        body={},
        key=lab.home.hub_key(),
        issued_ns=now_ns,
        expires_ns=now_ns + 10**10,
        nonce=os.urandom(16),
    )
    await lab.hub.publish("ctl.web1.changed", message)


@pytest.mark.slow
async def test_killed_in_a_session_it_goes_on(lab: Lab) -> None:
    one = spec()
    await lab.home.declare(lab.hub, 1, one)
    lab.home.start()
    await lab.state(one.id, "running")
    lab.send(40)
    await lab.stored(one.id, 40)
    boot = lab.reports[-1].boot
    lab.home.kill()
    lab.reports.clear()
    lab.home.bus.kill()  # and it starts without a server: from its last copy of the orders
    lab.home.start()
    await until(lambda: ": running" in lab.home.log(), 15)
    lab.send(25)
    await lab.home.bus.start()
    await lab.stored(one.id, 65)
    await lab.home.declare(lab.hub, 2, dataclasses.replace(one, state="stopped"))
    await tell_changed(lab)
    await lab.state(one.id, "stopped", timeout_s=30)
    first, second = await lab.verdicts(one.id)
    assert first.verdict is Verdict.OPEN_TAIL
    assert second.verdict is Verdict.INTACT
    assert second.previous_boot == boot
    assert second.previous_hash == first.head_hash
    assert lab.home.stop() == 0


async def test_a_restart_in_good_order_continues_the_chain(lab: Lab) -> None:
    one = spec()
    await lab.home.declare(lab.hub, 1, one)
    for count in (30, 60):
        lab.home.start()
        await until(lambda: ": running" in lab.home.log(), 15)
        lab.send(30)
        assert lab.home.stop() == 0
        assert (
            await lab.packets(one.id) == count
        )  # what was accepted before the signal is stored when it has ended
    first, second = await lab.verdicts(one.id)
    assert (first.verdict, second.verdict) == (Verdict.INTACT, Verdict.INTACT)
    assert (first.goes_on, second.goes_on) == (True, True)
    assert second.previous_hash == first.head_hash
    assert list((lab.home.directory / "spool").iterdir()) == []


@pytest.mark.slow
async def test_refused_and_failed_sessions_leave_the_others_alone(lab: Lab) -> None:
    good, bad = spec("a"), dataclasses.replace(spec("b"), filter="udp prot 1")
    missing = dataclasses.replace(spec("c"), interface="wan7")
    await lab.home.declare(lab.hub, 1, good, bad, missing)
    lab.home.start()
    await lab.state(good.id, "running")
    assert "syntax error" in (await lab.state(bad.id, "refused")).reason
    await until(lambda: (s := lab.session(missing.id)) is not None and "no interface wan7 yet" in s.reason)
    assert lab.session(missing.id).state == "starting"  # type: ignore[union-attr]
    lab.left.run("ip", "link", "add", "wan7", "type", "veth", "peer", "name", "wan8")
    await lab.state(missing.id, "running")
    await lab.home.declare(
        lab.hub, 2, good, dataclasses.replace(bad, filter="udp", filter_revision=2), missing
    )
    await tell_changed(lab)
    await lab.state(bad.id, "running")
    refused = dataclasses.replace(good, filter="icmp and and", filter_revision=2)
    await lab.home.declare(lab.hub, 3, refused, bad, missing)
    await tell_changed(lab)
    await until(lambda: (s := lab.session(good.id)) is not None and "revision 2 refused" in s.reason)
    assert lab.session(good.id).filter_revision == 1  # type: ignore[union-attr]
    lab.send(10)
    await lab.stored(good.id, 10)
    assert lab.home.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_packets": 50}, "50 packets"),
        ({"max_bytes": 4000}, "4000 bytes"),
        ({"max_duration_s": 1.0}, "1 s"),
    ],
)
async def test_limits_end_a_session(lab: Lab, limit: dict[str, Any], reason: str) -> None:
    one = spec(**limit)
    await lab.home.declare(lab.hub, 1, one)
    lab.home.start()
    await lab.state(one.id, "running")
    lab.send(60)
    report = await lab.state(one.id, "stopped")
    assert reason in report.reason
    closing = [b.header for b in await lab.batches(one.id) if b.header.kind is Kind.CLOSING]
    assert [header.reason for header in closing] == [report.reason]
    assert lab.home.stop() == 0
    lab.reports.clear()
    lab.home.start()  # an ended session isn't begun again
    assert (await lab.state(one.id, "stopped")).reason == report.reason
    assert await lab.packets(one.id) == 60
    assert lab.home.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "stop"])
async def test_a_full_spool_and_books_that_add_up(lab: Lab, overflow: Any) -> None:
    """The server is away until the spool is full; afterwards every packet is in exactly one column."""
    one = spec(overflow=overflow)
    await lab.home.declare(lab.hub, 1, one)
    config = lab.home.directory / "agent.yaml"
    config.write_text("spool: {max_bytes: 1 MiB}\nbatch: {compression: none, linger_ms: 20}\n")
    lab.home.start("run", "--config", str(config))
    await lab.state(one.id, "running")
    assert lab.home.bus.process is not None
    lab.home.bus.kill()
    sent = 0
    for _ in range(30):
        lab.send(100, size=1200)
        sent += 100
        await asyncio.sleep(0.02)
    lab.reports.clear()
    await lab.home.bus.start()
    # The agent may be back at the server before this test is: then the next report counts, 30 s later.
    if overflow != "stop":
        await until(lambda: lab.session(one.id) is not None, 45)
        await lab.home.declare(lab.hub, 2, dataclasses.replace(one, state="stopped"))
        await tell_changed(lab)
    report = await lab.state(one.id, "stopped", timeout_s=45)
    await until(lambda: lab.books(one.id).pending == 0 and lab.books(one.id).acknowledged > 0, 20)
    books = lab.books(one.id)
    assert books.balanced()
    if overflow == "stop":
        assert "spool is full" in report.reason
        assert books.received <= sent
    else:
        assert books.received == sent
    assert books.dropped_ring == 0
    dropped = books.dropped_oldest if overflow == "drop_oldest" else books.dropped_newest
    assert dropped > 0
    assert books.dropped_oldest + books.dropped_newest == dropped
    assert await lab.packets(one.id) == books.acknowledged == books.received - dropped
    (verdict,) = await lab.verdicts(one.id)
    assert verdict.verdict is Verdict.DECLARED_DROP
    assert (verdict.packets, verdict.dropped_packets) == (books.acknowledged, dropped)
    assert lab.home.stop() == 0
    assert list((lab.home.directory / "spool").iterdir()) == []


@pytest.mark.slow
async def test_own_traffic_is_left_out_and_counted(lab: Lab) -> None:
    everything = dataclasses.replace(spec(), interface="lo", filter="")
    await lab.home.declare(lab.hub, 1, everything)
    lab.home.start()
    await lab.state(everything.id, "running")
    await until(lambda: lab.books(everything.id).own_traffic > 0, 20)
    await lab.home.declare(lab.hub, 2, dataclasses.replace(everything, state="stopped"))
    await tell_changed(lab)
    await lab.state(everything.id, "stopped")
    for batch in await lab.batches(everything.id):
        if batch.header.kind is Kind.PACKETS:
            data = bytes(decode_columns(batch).data)
            assert lab.home.bus.port.to_bytes(2, "big") not in data[34:38]
    assert lab.home.stop() == 0


@pytest.mark.slow
async def test_orders_that_are_not_the_hubs_are_ignored(lab: Lab) -> None:
    from wire.control import seal
    from wire.keys import SigningKey
    from wire.session import Desired

    await lab.home.declare(lab.hub, 5, spec("a"))
    lab.home.start()
    await lab.state("a" * 26, "running")
    body = Desired(revision=9, sessions=(spec("b"),)).to_map()
    forged = seal(Domain.DESIRED, agent="web1", body=body, key=SigningKey.generate(), issued_ns=1)
    elsewhere = seal(Domain.DESIRED, agent="web2", body=body, key=lab.home.hub_key(), issued_ns=1)
    for message in (forged, elsewhere, b"", b"\xff" * 100):
        await lab.hub.jetstream().publish("$KV.desired.web1", message)
        await tell_changed(lab)
    await lab.home.declare(lab.hub, 4, spec("c"))  # signed, and older
    await tell_changed(lab)
    await lab.hub.publish("ctl.web1.changed", b"unsigned")
    await lab.hub.flush()
    count = len(lab.heartbeats)
    await until(lambda: len(lab.heartbeats) > count, 15)
    assert [one.id for one in lab.reports[-1].sessions] == ["a" * 26]
    assert lab.reports[-1].desired_revision == 5
    assert lab.home.stop() == 0


@pytest.mark.slow
async def test_a_second_signal_ends_at_once_and_loses_nothing(lab: Lab) -> None:
    one = spec()
    await lab.home.declare(lab.hub, 1, one)
    config = lab.home.directory / "agent.yaml"
    config.write_text("shutdown: {wait_s: 60}\n")
    lab.home.start("run", "--config", str(config))
    await lab.state(one.id, "running")
    lab.home.bus.process.send_signal(19)  # type: ignore[union-attr] # SIGSTOP: connected, and silent
    lab.send(30)
    await until(lambda: any((lab.home.directory / "spool").rglob("*.seg")))
    assert lab.home.process is not None
    lab.home.process.terminate()
    await until(lambda: "stopping" in lab.home.log())
    lab.home.process.terminate()
    assert await asyncio.to_thread(lab.home.process.wait, 10) == 130
    lab.home.bus.process.send_signal(18)  # type: ignore[union-attr] # SIGCONT
    lab.home.start()
    await until(lambda: ": running" in lab.home.log(), 15)
    await lab.stored(one.id, 30)
    assert lab.home.stop() == 0


async def test_without_the_right_to_capture_it_says_so(lab: Lab) -> None:
    need("setpriv")
    await lab.home.declare(lab.hub, 1, spec())
    drop = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    lab.home.start("run", prefix=drop)
    report = await lab.state("a" * 26, "failed")
    assert "CAP_NET_RAW" in report.reason
    assert lab.home.stop() == 0
