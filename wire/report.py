"""What an agent says of itself: the report (its state, on change) and the heartbeat (its numbers, every 5 s)."""

from dataclasses import dataclass
from typing import Any

from wire import fields
from wire.books import Books
from wire.clock import Clock
from wire.errors import WireError
from wire.names import check_agent_id, check_lane, check_session_id
from wire.payload import FULL, MAX_MERGED_RANGES, PayloadPolicy
from wire.session import MAX_SESSIONS

SESSION_STATES = ("starting", "running", "paused", "stopping", "stopped", "refused", "failed")
CAN_CUT_PAYLOAD = "payload"
"""The agent obeys `SessionSpec.payload`. One that doesn't say so would ignore it."""
CAN_SEVERAL_INTERFACES = "interfaces"
"""The agent takes several names, or any, for a session's interface."""
MAX_INTERFACES = 256
MAX_ADDRESSES = 64
CAN_PRIORITISE = "priority"
"""A host that steers with eBPF what `SessionSpec.priority` names into a lane of its own."""
CAN_COUNT_FILTERED = "count-filtered"
CAN_FLOW_RULES = "flow-rules"
CAN_COUNT_FLOWS = "flow-records"
"""Capabilities of a host that filters with eBPF: it knows what its filter turned away, obeys SessionSpec's
flow_cutoff_bytes and flow_sampling, and its flow_records."""
CAN_LOOK_INSIDE = "inner-filter"
"""It obeys `SessionSpec.filter_inside_tunnels`."""
MAX_REASON_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceReport:
    """One interface of the agent's host."""

    name: str
    index: int
    state: str
    """"up", "down" or what the kernel says."""
    speed_mbps: int | None = None
    """None: unknown."""
    mtu: int = 0
    link_type: int = 1
    """LINKTYPE_ value, 1 is Ethernet."""
    addresses: tuple[str, ...] = ()
    """With prefix length, as in 10.0.0.1/24."""
    mac: str = ""
    driver: str = ""
    """The kernel driver's name; "": unknown, or an agent that doesn't tell."""

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR or JSON."""
        return {
            "name": self.name,
            "index": self.index,
            "state": self.state,
            "speed_mbps": self.speed_mbps,
            "mtu": self.mtu,
            "link_type": self.link_type,
            "addresses": list(self.addresses),
            "mac": self.mac,
            **({"driver": self.driver} if self.driver else {}),
        }

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "InterfaceReport":
        """Checked. WireError otherwise."""
        return cls(
            name=fields.text(map_, "name", min_bytes=1, max_bytes=128),
            index=fields.integer(map_, "index", 0, 2**32 - 1),
            state=fields.text(map_, "state", max_bytes=32),
            speed_mbps=fields.optional(map_, "speed_mbps", fields.integer, 0, 2**32 - 1),
            mtu=fields.integer(map_, "mtu", 0, 2**32 - 1),
            link_type=fields.integer(map_, "link_type", 0, 65535),
            addresses=tuple(fields.texts(map_, "addresses", max_length=MAX_ADDRESSES, max_bytes=64)),
            mac=fields.text(map_, "mac", max_bytes=64),
            driver=fields.optional(map_, "driver", fields.text, max_bytes=64) or "",
        )


@dataclass(frozen=True, slots=True)
class LaneHead:
    """How far a lane has come."""

    next_sequence: int
    """The sequence the lane's next batch will have."""
    head_hash: bytes
    """sha256 of the last batch's header (32 bytes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """What has become of one declared session."""

    id: str
    state: str
    """One of SESSION_STATES."""
    reason: str = ""
    """Why, in a sentence, when it is refused, failed or stopped by itself."""
    filter_revision: int = 1
    """The revision that is attached now."""
    filter_swap_ns: tuple[int, int] | None = None
    """Within this interval packets may have been judged by either filter."""
    interface: str = ""
    link_type: int = 1
    boot: bytes = bytes(16)
    started_ns: int = 0
    payload: PayloadPolicy = FULL
    """What of the payload leaves the host now: the order's policy and the host owner's together."""
    flow_records: bool = False
    """Flows are counted and their records shipped now. Absent: no."""
    lanes: dict[str, LaneHead]

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR."""
        return {
            "id": self.id,
            "state": self.state,
            "reason": self.reason,
            "filter_revision": self.filter_revision,
            "filter_swap_ns": None if self.filter_swap_ns is None else list(self.filter_swap_ns),
            "interface": self.interface,
            "link_type": self.link_type,
            "boot": self.boot,
            "started_ns": self.started_ns,
            "lanes": {
                str(name): {"next_sequence": head.next_sequence, "head_hash": head.head_hash}
                for name, head in self.lanes.items()
            },
            **({} if self.payload.full else {"payload": self.payload.to_map()}),
            **({"flow_records": True} if self.flow_records else {}),
        }

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "SessionReport":
        """Checked. WireError otherwise."""
        swap = fields.optional(map_, "filter_swap_ns", fields.sequence, max_length=2)
        interval = None
        if swap is not None:
            if len(swap) != 2:
                raise WireError("filter_swap_ns: [start, end] is needed")
            pair = {"start": swap[0], "end": swap[1]}
            interval = (fields.integer(pair, "start"), fields.integer(pair, "end"))
        lanes = fields.submap(map_, "lanes", max_entries=2)
        payload = fields.optional(map_, "payload", fields.submap)
        return cls(
            id=check_session_id(map_.get("id")),
            state=fields.choice(map_, "state", SESSION_STATES),
            reason=fields.text(map_, "reason", max_bytes=MAX_REASON_BYTES),
            filter_revision=fields.integer(map_, "filter_revision", 0, 2**32 - 1),
            filter_swap_ns=interval,
            interface=fields.text(map_, "interface", max_bytes=128),
            link_type=fields.integer(map_, "link_type", 0, 65535),
            boot=fields.octets(map_, "boot", length=16),
            started_ns=fields.integer(map_, "started_ns"),
            lanes={
                check_lane(name).value: LaneHead(
                    fields.integer(head, "next_sequence"), fields.octets(head, "head_hash", length=32)
                )
                for name in lanes
                for head in (fields.submap(lanes, name),)
            },
            payload=FULL
            if payload is None
            else PayloadPolicy.from_map(payload, max_ranges=MAX_MERGED_RANGES),
            flow_records=fields.optional(map_, "flow_records", fields.boolean) or False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The body of the REPORT envelope."""

    agent: str
    version: str
    """The program's version."""
    wire_version: int
    hostname: str
    """A label only; the agent id is its name."""
    os: str
    kernel: str
    machine: str
    boot: bytes
    """16 random bytes, new at each start of the agent."""
    started_ns: int
    report_revision: int = 0
    """Grows with each report of a boot."""
    desired_revision: int
    """The revision of the desired state this report answers; 0: none yet."""
    capture_path: str
    """How packets are taken, as in "af_packet+cbpf"."""
    capture_path_reason: str = ""
    """Why not the better way."""
    capabilities: tuple[str, ...] = ()
    interfaces: tuple[InterfaceReport, ...] = ()
    best_interface: str = ""
    """The one that a person would capture on; "": none, or an agent that doesn't tell."""
    best_interface_reason: str = ""
    """Why, in words that go behind its name: "it carries the default route"."""
    clock: Clock
    sessions: tuple[SessionReport, ...] = ()

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR."""
        return {
            "agent": self.agent,
            "version": self.version,
            "wire_version": self.wire_version,
            "hostname": self.hostname,
            "os": self.os,
            "kernel": self.kernel,
            "machine": self.machine,
            "boot": self.boot,
            "started_ns": self.started_ns,
            "report_revision": self.report_revision,
            "desired_revision": self.desired_revision,
            "capture_path": self.capture_path,
            "capture_path_reason": self.capture_path_reason,
            "capabilities": list(self.capabilities),
            "interfaces": [interface.to_map() for interface in self.interfaces],
            **(
                {
                    "best_interface": self.best_interface,
                    "best_interface_reason": self.best_interface_reason,
                }
                if self.best_interface
                else {}
            ),
            "clock": self.clock.to_map(),
            "sessions": [session.to_map() for session in self.sessions],
        }

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "Report":
        """Every bound checked; unknown keys ignored. WireError otherwise."""
        return cls(
            agent=check_agent_id(map_.get("agent")),
            version=fields.text(map_, "version", max_bytes=64),
            wire_version=fields.integer(map_, "wire_version", 1, 1000),
            hostname=fields.text(map_, "hostname", max_bytes=256),
            os=fields.text(map_, "os", max_bytes=256),
            kernel=fields.text(map_, "kernel", max_bytes=256),
            machine=fields.text(map_, "machine", max_bytes=64),
            boot=fields.octets(map_, "boot", length=16),
            started_ns=fields.integer(map_, "started_ns"),
            report_revision=fields.integer(map_, "report_revision"),
            desired_revision=fields.integer(map_, "desired_revision"),
            capture_path=fields.text(map_, "capture_path", max_bytes=64),
            capture_path_reason=fields.text(map_, "capture_path_reason", max_bytes=MAX_REASON_BYTES),
            capabilities=tuple(fields.texts(map_, "capabilities", max_length=64, max_bytes=64)),
            interfaces=tuple(
                InterfaceReport.from_map(one)
                for one in fields.maps(map_, "interfaces", max_length=MAX_INTERFACES)
            ),
            best_interface=fields.optional(map_, "best_interface", fields.text, max_bytes=128) or "",
            best_interface_reason=fields.optional(
                map_, "best_interface_reason", fields.text, max_bytes=MAX_REASON_BYTES
            )
            or "",
            clock=Clock.from_map(fields.submap(map_, "clock")),
            sessions=tuple(
                SessionReport.from_map(one)
                for one in fields.maps(map_, "sessions", max_length=MAX_SESSIONS * 4)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBeat:
    """One session's numbers in a heartbeat."""

    books: Books
    packets_per_second: float
    bits_per_second: float
    in_flight: int
    """Batches published and not yet acknowledged."""

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR: the books' counters and the rates side by side."""
        return {
            **self.books.to_map(),
            "packets_per_second": self.packets_per_second,
            "bits_per_second": self.bits_per_second,
            "in_flight": self.in_flight,
        }

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "SessionBeat":
        """Checked. WireError otherwise."""
        return cls(
            books=Books.from_map(map_),
            packets_per_second=fields.number(map_, "packets_per_second"),
            bits_per_second=fields.number(map_, "bits_per_second"),
            in_flight=fields.integer(map_, "in_flight"),
        )


MAX_ALERTS = 16
MAX_ALERT_BYTES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The body of the HEARTBEAT envelope."""

    agent: str
    boot: bytes
    sequence: int
    """Grows by one with each heartbeat of a boot."""
    sent_ns: int
    uptime_s: float
    cpu_seconds: float
    """User and system, of the whole agent since its start."""
    resident_bytes: int
    spool_bytes: int
    """Of the batches that are not yet acknowledged."""
    spool_limit_bytes: int
    spool_oldest_ns: int | None = None
    """When the oldest unacknowledged batch was spooled; None: the spool is empty."""
    clock: Clock
    sessions: dict[str, SessionBeat]
    report_revision: int = 0
    """The revision of the report that is current: a hub that has an older one asks."""
    alerts: tuple[str, ...] = ()
    """What a person should know of, in words: the spool's disk refuses, an id was used by somebody else, …"""

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR."""
        return {
            "agent": self.agent,
            "boot": self.boot,
            "sequence": self.sequence,
            "sent_ns": self.sent_ns,
            "uptime_s": self.uptime_s,
            "cpu_seconds": self.cpu_seconds,
            "resident_bytes": self.resident_bytes,
            "spool_bytes": self.spool_bytes,
            "spool_limit_bytes": self.spool_limit_bytes,
            "spool_oldest_ns": self.spool_oldest_ns,
            "clock": self.clock.to_map(),
            "sessions": {name: beat.to_map() for name, beat in self.sessions.items()},
            "report_revision": self.report_revision,
            **({"alerts": list(self.alerts)} if self.alerts else {}),
        }

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "Heartbeat":
        """Every bound checked; unknown keys ignored. WireError otherwise."""
        sessions = fields.submap(map_, "sessions", max_entries=MAX_SESSIONS * 4)
        return cls(
            agent=check_agent_id(map_.get("agent")),
            boot=fields.octets(map_, "boot", length=16),
            sequence=fields.integer(map_, "sequence"),
            sent_ns=fields.integer(map_, "sent_ns"),
            uptime_s=fields.number(map_, "uptime_s"),
            cpu_seconds=fields.number(map_, "cpu_seconds"),
            resident_bytes=fields.integer(map_, "resident_bytes"),
            spool_bytes=fields.integer(map_, "spool_bytes"),
            spool_limit_bytes=fields.integer(map_, "spool_limit_bytes"),
            spool_oldest_ns=fields.optional(map_, "spool_oldest_ns", fields.integer),
            clock=Clock.from_map(fields.submap(map_, "clock")),
            sessions={
                check_session_id(name): SessionBeat.from_map(fields.submap(sessions, name))
                for name in sessions
            },
            report_revision=fields.integer(map_, "report_revision"),
            alerts=tuple(
                fields.optional(
                    map_, "alerts", fields.texts, max_length=MAX_ALERTS, max_bytes=MAX_ALERT_BYTES
                )
                or ()
            ),
        )
