"""An agent of our own making, so that the page can be tested without capturing: real keys, real bus, real signatures.

It obeys `desired`, answers questions, and publishes packets that the test hands it. What a real agent does besides
(rings, spool, clocks) is tested where it is built.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from nats.aio.client import Client
from nats.aio.msg import Msg

from agent.bpf_filter import FilterError, compile_filter
from hub.registry import Registry
from tests.support.nats_backbone import AgentKeys, Backbone
from wire.batch import Body, Kind, seal_batch
from wire.body import Buffer, Columns, encode_body, sums_of
from wire.books import Books
from wire.clock import Clock
from wire.control import Domain, seal, unseal
from wire.flows import FlowColumns, encode_flows
from wire.names import (
    Lane,
    batch_subject,
    control_subject,
    desired_get_subject,
    heartbeat_subject,
    message_id,
    report_subject,
)
from wire.report import Heartbeat, InterfaceReport, LaneHead, Report, SessionBeat, SessionReport
from wire.session import Desired, SessionSpec

CLOCK = Clock(source="chrony", state="synchronized", offset_ns=-12_345, error_ns=80_000)
INTERFACES = (
    InterfaceReport(name="lo", index=1, state="up", mtu=65536, addresses=("127.0.0.1/8",)),
    InterfaceReport(name="docker0", index=2, state="down", mtu=1500),
    InterfaceReport(
        name="eth0",
        index=3,
        state="up",
        mtu=1500,
        speed_mbps=1000,
        addresses=("10.0.0.7/24",),
        mac="02:00:00:00:00:07",
        driver="igb",
    ),
)


@dataclass(slots=True)
class Chain:
    """One session's bulk lane."""

    sequence: int = 0
    head: bytes = bytes(32)
    books: Books = field(default_factory=Books)
    closed: bool = False


@dataclass(slots=True)
class FakeAgent:
    """See the module."""

    keys: AgentKeys
    connection: Client
    hostname: str = "web1.example"
    boot: bytes = field(default_factory=lambda: os.urandom(16))
    desired: Desired = field(default_factory=lambda: Desired(revision=0, sessions=()))
    chains: dict[str, Chain] = field(default_factory=dict)
    refuse: dict[str, str] = field(default_factory=dict)
    """Interface → reason."""
    answers: bool = True
    capabilities: tuple[str, ...] = ()
    beats: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.keys.name

    async def start(self) -> None:
        """Listen, report, beat once."""
        for verb in ("ping", "check-filter", "changed", "interfaces"):
            await self.connection.subscribe(control_subject(self.name, verb), cb=self._asked)
        await self.reconcile()

    async def _asked(self, message: Msg) -> None:
        public = self.keys.enrolment.hub_public
        request = unseal(message.data, Domain.CONTROL, public=public, agent=self.name, now_ns=time.time_ns())
        verb = message.subject.rpartition(".")[2]
        if verb == "changed":
            await self.reconcile()
            return
        if not self.answers:
            return
        if verb == "ping":
            body = {"time_ns": time.time_ns(), "version": "0.1.0"}
        elif verb == "interfaces":
            body = {"interfaces": [one.to_map() for one in INTERFACES]}
        else:
            try:
                program = compile_filter(request.body["filter"], 1, request.body["snaplen"])
                body = {"ok": True, "instructions": program.instructions}
            except FilterError as error:
                body = {"ok": False, "error": str(error)}
        answer = seal(
            Domain.REPLY,
            agent=self.name,
            body=body,
            key=self.keys.signing,
            issued_ns=time.time_ns(),
            nonce=request.nonce,
        )
        await message.respond(answer)

    async def reconcile(self) -> None:
        """Read `desired`, make it so, report."""
        reply = await self.connection.request(desired_get_subject(self.name), b"", timeout=5)
        if not (reply.headers and reply.headers.get("Status")):
            public = self.keys.enrolment.hub_public
            envelope = unseal(reply.data, Domain.DESIRED, public=public, agent=self.name, now_ns=None)
            desired = Desired.from_map(envelope.body)
            if desired.revision >= self.desired.revision:
                self.desired = desired
        for spec in self.desired.sessions:
            chain = self.chains.setdefault(spec.id, Chain())
            if spec.state == "stopped" and not chain.closed:
                await self.close(spec)
        await self.report()
        await self.beat()
        self.changed.set()
        self.changed.clear()

    def session_report(self, spec: SessionSpec) -> SessionReport:
        """What the agent says of one session."""
        chain = self.chains[spec.id]
        refused = self.refuse.get(spec.interface)
        return SessionReport(
            id=spec.id,
            state="refused" if refused else spec.state,
            reason=refused or "",
            filter_revision=spec.filter_revision,
            interface=spec.interface,
            boot=self.boot,
            started_ns=spec.created_ns,
            lanes={"bulk": LaneHead(chain.sequence, chain.head)},
        )

    async def report(self) -> None:
        """Publish the state."""
        report = Report(
            agent=self.name,
            version="0.1.0",
            wire_version=1,
            hostname=self.hostname,
            os="Debian GNU/Linux 13 (trixie)",
            kernel="6.12.48-amd64",
            machine="x86_64",
            boot=self.boot,
            started_ns=time.time_ns(),
            desired_revision=self.desired.revision,
            capture_path="af_packet+cbpf",
            capture_path_reason="no BCC on this host",
            capabilities=self.capabilities,
            interfaces=INTERFACES,
            best_interface="eth0",
            best_interface_reason="it carries the default route by way of 10.0.0.1",
            clock=CLOCK,
            sessions=tuple(self.session_report(spec) for spec in self.desired.sessions),
        )
        await self._publish(report_subject(self.name), Domain.REPORT, report.to_map())

    async def keep_beating(self) -> None:
        """A heartbeat and a report each second, until cancelled."""
        while True:
            await asyncio.sleep(1)
            if self.connection.is_closed:
                return
            await self.report()
            await self.beat()

    async def beat(self, **changes: object) -> None:
        """Publish a heartbeat."""
        self.beats += 1
        fields: dict[str, object] = {
            "agent": self.name,
            "boot": self.boot,
            "sequence": self.beats,
            "sent_ns": time.time_ns(),
            "uptime_s": 12.0,
            "cpu_seconds": 0.4,
            "resident_bytes": 42_000_000,
            "spool_bytes": 1_200_000,
            "spool_limit_bytes": 1_000_000_000,
            "clock": CLOCK,
            "sessions": {
                name: SessionBeat(
                    books=chain.books, packets_per_second=1234.0, bits_per_second=8.1e6, in_flight=0
                )
                for name, chain in self.chains.items()
            },
        }
        heartbeat = Heartbeat(**(fields | changes))  # type: ignore[arg-type]
        await self._publish(heartbeat_subject(self.name), Domain.HEARTBEAT, heartbeat.to_map())

    async def _publish(self, subject: str, domain: Domain, body: dict[str, object]) -> None:
        message = seal(domain, agent=self.name, body=body, key=self.keys.signing, issued_ns=time.time_ns())
        await self.connection.publish(subject, message)
        await self.connection.flush()

    async def send(
        self,
        session: str,
        packets: Sequence[bytes],
        *,
        timestamps_ns: Sequence[int] | None = None,
        flags: int = 0,
    ) -> None:
        """Capture these packets, now unless `timestamps_ns` says when: one signed batch into the archive.

        flags: of each, see wire.body.FLAGS.
        """
        if timestamps_ns is None:
            now_ns = time.time_ns()
            timestamps_ns = [now_ns + number for number in range(len(packets))]
        lengths = [len(packet) for packet in packets]
        columns = Columns(
            timestamp_ns=struct.pack(f"<{len(packets)}Q", *timestamps_ns),
            captured_bytes=struct.pack(f"<{len(packets)}I", *lengths),
            original_bytes=struct.pack(f"<{len(packets)}I", *lengths),
            flags=struct.pack(f"<{len(packets)}H", *[flags] * len(packets)),
            data=b"".join(packets),
        )
        sums = sums_of(columns)
        books = self.chains[session].books
        books.received += sums.packets
        books.captured += sums.packets
        books.spooled += sums.packets
        await self._seal(
            session,
            Body.of(encode_body(columns)),
            kind=Kind.PACKETS,
            packets=sums.packets,
            captured_bytes=sums.captured_bytes,
            original_bytes=sums.original_bytes,
            first_timestamp_ns=sums.first_timestamp_ns,
            last_timestamp_ns=sums.last_timestamp_ns,
        )
        books.acknowledged += sums.packets

    async def send_flows(self, session: str, records: FlowColumns) -> None:
        """Ship flow records: one signed batch, and books that say so."""
        counts = (*unpacked(records.packets_a), *unpacked(records.packets_b))
        books = self.chains[session].books
        books.flows_counted = books.flows_shipped = sum(counts)
        books.flows_own, books.flows_unattributed = 0, 12
        await self._seal(session, Body.of(encode_flows(records)), kind=Kind.FLOWS)

    async def close(self, spec: SessionSpec) -> None:
        """Write the closing batch."""
        self.chains[spec.id].closed = True
        await self._seal(spec.id, Body.empty(), kind=Kind.CLOSING, reason="stopped by the user")

    async def _seal(self, session: str, body: Body, **header: object) -> None:
        chain = self.chains[session]
        spec = next((one for one in self.desired.sessions if one.id == session), None)
        fields: dict[str, object] = {
            "agent": self.name,
            "session": session,
            "lane": Lane.BULK,
            "boot": self.boot,
            "sequence": chain.sequence,
            "previous": chain.head,
            "first_timestamp_ns": 0,
            "last_timestamp_ns": 0,
            "packets": 0,
            "captured_bytes": 0,
            "original_bytes": 0,
            "link_type": 1,
            "interface": spec.interface if spec else "eth0",
            "filter_revision": spec.filter_revision if spec else 1,
            "snaplen": spec.snaplen if spec else 262144,
            "clock": CLOCK,
            "books": chain.books,
        }
        message, head = seal_batch(fields | header, body, self.keys.signing)
        identity = message_id(self.boot, session, Lane.BULK, chain.sequence)
        subject = batch_subject(self.name, session, Lane.BULK)
        await self.connection.jetstream().publish(subject, message, headers={"Nats-Msg-Id": identity})
        chain.sequence += 1
        chain.head = head


def unpacked(column: Buffer) -> tuple[int, ...]:
    """A u64 column's numbers."""
    return struct.unpack(f"<{memoryview(column).nbytes // 8}Q", column)


@asynccontextmanager
async def fake_agent(
    bus: Backbone,
    registry: Registry,
    name: str,
    *,
    hostname: str = "web1.example",
    kind: type[FakeAgent] = FakeAgent,
) -> AsyncIterator[FakeAgent]:
    """Enrol an agent, connect it, let it run for the time of the block."""
    keys = bus.agent(name)
    jwt = keys.jwt
    registry.agents.add(
        name,
        user_public=keys.request.user_public,
        signing_public=keys.signing.public,
        label=hostname,
        user_jwt=jwt.token,
        jwt_issued_ns=jwt.issued_s * 10**9,
        jwt_expires_ns=jwt.expires_s * 10**9,
        certificate=keys.enrolment.certificate,
    )
    connection = await bus.connect_agent(keys)
    agent = kind(keys, connection, hostname)
    try:
        await agent.start()
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(agent.keep_beating())
            yield agent
            beating.cancel()
    finally:
        await connection.close()


def udp_packet(number: int, payload: bytes = b"") -> bytes:
    """An Ethernet frame with IPv4 and UDP, 10.0.0.7 → 10.0.0.9, whose ports tell its number."""
    data = payload or b"packet %d" % number
    udp = struct.pack("!HHHH", 40000 + number % 20000, 9, 8 + len(data), 0) + data
    ip = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(udp),
        number & 0xFFFF,
        0,
        64,
        17,
        0,
        bytes([10, 0, 0, 7]),
        bytes([10, 0, 0, 9]),
    )
    return bytes.fromhex("02000000000902000000000708 00".replace(" ", "")) + ip + udp
