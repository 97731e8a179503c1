"""The agent's side of the bus for the hub's tests: real keys and credentials, batches sealed by wire, no capturing.

Only what an agent sends is made here; the server, its permissions and the hub's parts are the real ones.
"""

from __future__ import annotations

import secrets
import struct
import time
from dataclasses import dataclass, field, replace
from typing import Any

from nats.aio.client import Client

from hub.registry import Registry
from tests.support.nats_backbone import AgentKeys, Backbone
from wire.batch import (
    NO_HASH,
    Body,
    Books,
    Clock,
    Columns,
    Kind,
    Lane,
    Replaced,
    encode_body,
    encode_replaced,
    seal_batch,
)
from wire.control import Domain, seal
from wire.names import batch_subject, heartbeat_subject, message_id, new_session_id, report_subject
from wire.report import Heartbeat, Report, SessionBeat, SessionReport

ETHERNET = bytes.fromhex("0200000000020200000000010800")


def udp_packet(number: int, size: int = 60) -> bytes:
    """An Ethernet frame 10.0.0.1 → 10.0.0.2 UDP 1000 → 2000 that carries its number."""
    payload = struct.pack(">Q", number) + bytes(max(0, size - 50))
    udp = struct.pack(">HHHH", 1000, 2000, 8 + len(payload), 0) + payload
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\x0a\0\0\x01", b"\x0a\0\0\x02"
    )
    return ETHERNET + ip + udp


def columns(packets: list[bytes], first_ns: int, step_ns: int = 1000, flags: int = 0) -> Columns:
    """Packets as columns, `step_ns` apart."""
    count = len(packets)
    sizes = struct.pack(f"<{count}I", *map(len, packets))
    times = struct.pack(f"<{count}Q", *(first_ns + i * step_ns for i in range(count)))
    return Columns(times, sizes, sizes, struct.pack("<H", flags) * count, b"".join(packets))


@dataclass
class Chain:
    """The next batch of one lane."""

    sequence: int = 0
    previous: bytes = NO_HASH


@dataclass
class Message:
    """A sealed batch and what it was."""

    subject: str
    data: bytes
    id: str
    sequence: int
    header_hash: bytes
    packets: int = 0
    captured_bytes: int = 0


@dataclass
class FakeAgent:
    """One boot of an agent with one session."""

    keys: AgentKeys
    session: str = field(default_factory=new_session_id)
    boot: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    interface: str = "eth0"
    chains: dict[Lane, Chain] = field(default_factory=lambda: {Lane.BULK: Chain(), Lane.PRIO: Chain()})
    books: Books = field(default_factory=Books)
    heartbeats: int = 0
    reports: int = 0
    connection: Client | None = None

    @property
    def name(self) -> str:
        return self.keys.name

    def rebooted(self) -> FakeAgent:
        """The same agent and session after a restart: new boot, new chains, new books."""
        return replace(
            self,
            boot=secrets.token_bytes(16),
            chains={Lane.BULK: Chain(), Lane.PRIO: Chain()},
            books=Books(),
            heartbeats=0,
        )

    def packets(
        self,
        packets: list[bytes],
        *,
        first_ns: int | None = None,
        lane: Lane = Lane.BULK,
        flags: int = 0,
        **header: Any,
    ) -> Message:
        """Seal a batch of packets and book them as captured and spooled. flags: of each packet."""
        first_ns = time.time_ns() if first_ns is None else first_ns
        cols = columns(packets, first_ns, flags=flags)
        self.books.received += len(packets)
        self.books.captured += len(packets)
        self.books.spooled += len(packets)
        self.books.pending += len(packets)
        size = len(cols.data)
        message = self._seal(
            lane,
            Body.of(encode_body(cols)),
            {
                "kind": Kind.PACKETS,
                "first_timestamp_ns": first_ns,
                "last_timestamp_ns": first_ns + 1000 * (len(packets) - 1),
                "packets": len(packets),
                "captured_bytes": size,
                "original_bytes": size,
            }
            | header,
        )
        message.packets, message.captured_bytes = len(packets), size
        return message

    def closing(self, lane: Lane = Lane.BULK, reason: str = "stopped", **header: Any) -> Message:
        """Seal the lane's closing batch."""
        return self._seal(lane, Body.empty(), {"kind": Kind.CLOSING, "reason": reason} | header)

    def tombstone(self, lost: list[Message], lane: Lane = Lane.BULK) -> Message:
        """A tombstone for sealed batches that were never published; their packets go from pending to dropped."""
        listed = [
            Replaced(m.sequence, m.header_hash, m.packets, m.captured_bytes, m.captured_bytes) for m in lost
        ]
        packets = sum(m.packets for m in lost)
        self.books.pending -= packets
        self.books.dropped_oldest += packets
        size = sum(m.captured_bytes for m in lost)
        first = self._header(lane) | {
            "kind": Kind.TOMBSTONE,
            "sequence": lost[0].sequence,
            "previous": NO_HASH if lost[0].sequence == 0 else self._hash_before[lost[0].sequence],
            "last_sequence": lost[-1].sequence,
            "reason": "spool full",
            "packets": packets,
            "captured_bytes": size,
            "original_bytes": size,
        }
        data, digest = seal_batch(first, Body.of(encode_replaced(listed)), self.keys.signing)
        name = message_id(self.boot, self.session, lane, lost[0].sequence) + ".tombstone"
        return Message(batch_subject(self.name, self.session, lane), data, name, lost[0].sequence, digest)

    _hash_before: dict[int, bytes] = field(default_factory=dict)

    def _header(self, lane: Lane) -> dict[str, Any]:
        return {
            "agent": self.name,
            "session": self.session,
            "lane": lane,
            "boot": self.boot,
            "first_timestamp_ns": 0,
            "last_timestamp_ns": 0,
            "packets": 0,
            "captured_bytes": 0,
            "original_bytes": 0,
            "link_type": 1,
            "interface": self.interface,
            "filter_revision": 1,
            "snaplen": 262144,
            "clock": Clock("chrony", "synchronized", 0, 1000, None),
            "books": replace(self.books),
        }

    def _seal(self, lane: Lane, body: Body, fields: dict[str, Any]) -> Message:
        chain = self.chains[lane]
        header = self._header(lane) | {"sequence": chain.sequence, "previous": chain.previous} | fields
        data, digest = seal_batch(header, body, self.keys.signing)
        sequence = chain.sequence
        self._hash_before[sequence] = chain.previous
        chain.sequence, chain.previous = sequence + 1, digest
        subject = batch_subject(self.name, self.session, lane)
        return Message(subject, data, message_id(self.boot, self.session, lane, sequence), sequence, digest)

    async def publish(self, *messages: Message, acknowledge: bool = True) -> None:
        """Publish to JetStream as this agent's user and book the acknowledgements."""
        assert self.connection is not None
        for message in messages:
            await self.connection.jetstream().publish(
                message.subject, message.data, headers={"Nats-Msg-Id": message.id}, timeout=5
            )
            if acknowledge:
                self.books.acknowledged += message.packets
                self.books.pending -= message.packets

    def heartbeat(self, **changes: Any) -> bytes:
        """The next signed heartbeat."""
        self.heartbeats += 1
        now_ns = time.time_ns()
        beat = Heartbeat(
            agent=self.name,
            boot=self.boot,
            sequence=self.heartbeats,
            sent_ns=now_ns,
            uptime_s=1.0,
            cpu_seconds=0.1,
            resident_bytes=1 << 25,
            spool_bytes=0,
            spool_limit_bytes=1 << 30,
            clock=Clock("chrony", "synchronized", 0, 1000, None),
            sessions={
                self.session: SessionBeat(
                    books=replace(self.books), packets_per_second=1.0, bits_per_second=8.0, in_flight=0
                )
            },
        )
        beat = replace(beat, **changes)
        return seal(
            Domain.HEARTBEAT, agent=self.name, body=beat.to_map(), key=self.keys.signing, issued_ns=now_ns
        )

    async def beat(self, **changes: Any) -> None:
        """Publish a heartbeat."""
        assert self.connection is not None
        await self.connection.publish(heartbeat_subject(self.name), self.heartbeat(**changes))
        await self.connection.flush()

    async def report(self, desired_revision: int, sessions: dict[str, str]) -> None:
        """Publish a report: session → state."""
        assert self.connection is not None
        self.reports += 1
        body = Report(
            agent=self.name,
            version="test",
            wire_version=1,
            hostname=f"{self.name}.test",
            os="Linux",
            kernel="6",
            machine="x86_64",
            boot=self.boot,
            started_ns=1,
            report_revision=self.reports,
            desired_revision=desired_revision,
            capture_path="none",
            clock=Clock(),
            sessions=tuple(SessionReport(id=name, state=state, lanes={}) for name, state in sessions.items()),
        ).to_map()
        message = seal(
            Domain.REPORT, agent=self.name, body=body, key=self.keys.signing, issued_ns=time.time_ns()
        )
        await self.connection.publish(report_subject(self.name), message)
        await self.connection.flush()


async def enrolled(bus: Backbone, registry: Registry, name: str, **options: Any) -> FakeAgent:
    """An agent that the registry knows, connected with its own credentials."""
    keys = bus.agent(name)
    registry.agents.add(
        name,
        user_public=keys.request.user_public,
        signing_public=keys.signing.public,
        label=name,
        user_jwt=keys.enrolment.user_jwt,
        jwt_issued_ns=keys.jwt.issued_s * 10**9,
        jwt_expires_ns=keys.jwt.expires_s * 10**9,
        certificate=keys.enrolment.certificate,
    )
    agent = FakeAgent(keys, **options)
    agent.connection = await bus.connect_agent(keys)
    return agent
