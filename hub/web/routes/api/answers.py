"""What the API answers with. Texts of agents and packets are as they came: whoever shows them escapes them."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from hub.agents.control import Ping
from hub.agents.finding import Found as FoundAgents
from hub.agents.presence import AgentStatus
from hub.ledger.flow_totals import FlowRow
from hub.live.lookup import FoundPacket
from hub.registry.sessions import FilterRevision
from hub.web.packet_view import PacketView
from wire.flows import address_text, protocol_name

TimeNs = Annotated[str, Meta(description="Nanoseconds since 1970 in UTC.", pattern="^[0-9]{1,20}$")]
Count = Annotated[int, Meta(ge=0)]


class Login(Struct, frozen=True):
    """A web session."""

    user: str
    csrf: Annotated[str, Meta(description="The token for the header x-csrf-token.")]
    expires_ns: TimeNs
    must_change_password: Annotated[
        bool, Meta(description="Only the password can be changed until it isn't the generated one any more.")
    ]


class Interface(Struct, frozen=True):
    """A network interface of an agent's host."""

    name: str
    index: Count
    state: Annotated[str, Meta(description='"up", "down", or what the kernel says.')]
    speed_mbps: Annotated[int | None, Meta(description="null: unknown.")]
    mtu: Count
    link_type: Annotated[int, Meta(description="A LINKTYPE_ value; 1 is Ethernet.")]
    addresses: Annotated[list[str], Meta(description="With prefix length.")]
    mac: str
    driver: str = ""


class Clock(Struct, frozen=True):
    """A host's clock as the agent measured it."""

    source: str
    state: Literal["synchronized", "unsynchronized", "unknown"]
    offset_ns: Annotated[int | None, Meta(description="Estimated offset from UTC; positive: ahead.")]
    error_ns: Annotated[int | None, Meta(description="Estimated bound of that offset's error.")]
    stepped_ns: int | None


class Agent(Struct, frozen=True):
    """An agent and how it is."""

    id: str
    label: str
    state: Literal["online", "offline", "never", "revoked", "unknown"]
    online: bool
    reason: Annotated[str, Meta(description="The state in words.")]
    disabled: Annotated[str, Meta(description="Who disabled it and why; empty: it may capture.")]
    since_ns: Annotated[TimeNs | None, Meta(description="When the state began.")]
    warnings: list[str]
    packets_per_second: float
    bits_per_second: float
    spool_bytes: Count
    hostname: str | None
    os: str | None
    version: str | None
    capture_path: str | None
    capabilities: list[str]
    interfaces: list[Interface]
    clock: Clock | None

    @classmethod
    def of(cls, status: AgentStatus) -> "Agent":
        """As the hub sees it now."""
        report, beat = status.report, status.heartbeat
        clock = beat.clock if beat else report.clock if report else None
        return cls(
            id=status.id,
            label=status.label,
            state=status.state,
            online=status.online,
            reason=status.reason,
            disabled=status.off_words,
            since_ns=None if status.since_ns is None else str(status.since_ns),
            warnings=list(status.warnings),
            packets_per_second=status.packets_per_second,
            bits_per_second=status.bits_per_second,
            spool_bytes=status.spool_bytes,
            hostname=report.hostname if report else None,
            os=report.os if report else None,
            version=report.version if report else None,
            capture_path=report.capture_path if report else None,
            capabilities=list(report.capabilities) if report else [],
            interfaces=[Interface(**one.to_map()) for one in report.interfaces] if report else [],
            clock=Clock(**clock.to_map()) if clock else None,
        )


class AgentAnswer(Struct, frozen=True):
    """One agent."""

    agent: Agent


class Agents(Struct, frozen=True):
    """All of them."""

    agents: list[Agent]


class Match(Struct, frozen=True):
    """An agent that is meant, and why."""

    agent: str
    why: str


class Found(Struct, frozen=True):
    """Whom an address or a name means."""

    matches: list[Match]
    looked_up: Annotated[
        list[str],
        Meta(description="Addresses of the name by the hub's resolver, where no agent has the name."),
    ]

    @classmethod
    def of(cls, found: FoundAgents) -> "Found":
        return cls([Match(one.agent.id, one.why) for one in found.matches], list(found.looked_up))


class Step(Struct, frozen=True):
    """One step of the connection test."""

    name: str
    title: str
    state: Literal["ok", "warn", "bad", "skipped"]
    text: Annotated[str, Meta(description="What was found.")]
    advice: Annotated[str, Meta(description="What to do; empty when there is nothing to do.")]
    took_ns: Count


class ConnectionTest(Struct, frozen=True):
    """From the hub to the agent and back, in the order of the way."""

    steps: list[Step]


class PingAnswer(Struct, frozen=True):
    """A sign of life."""

    round_trip_ns: Annotated[int, Meta(description="Hub → server → agent and back.")]
    offset_ns: Annotated[
        int, Meta(description="Agent's clock minus the hub's; wrong by at most half the round trip.")
    ]
    version: str

    @classmethod
    def of(cls, ping: Ping) -> "PingAnswer":
        return cls(round_trip_ns=ping.round_trip_ns, offset_ns=ping.offset_ns, version=ping.version)


class Verdict(Struct, frozen=True):
    """What the agents' own libpcap says of a filter."""

    verdict: Annotated[
        Literal["ok", "error", "unchecked"], Meta(description="unchecked: nobody could be asked.")
    ]
    message: str


class Payload(Struct, frozen=True, omit_defaults=True):
    """How much of each packet's payload may leave the host."""

    policy: Literal["full", "headers", "masked"]
    keep_bytes: int | None = None
    ports_without: list[Annotated[list[int], Meta(min_length=2, max_length=2)]] = []


class Session(Struct, frozen=True, kw_only=True):
    """A capture on one agent. What the hub didn't order itself is null."""

    id: str
    name: Annotated[str, Meta(description="What people call it; may be empty.")]
    agent: str
    state: Annotated[str, Meta(description="In one word: running, paused, stopped, refused, …")]
    reason: str
    wanted: Annotated[str | None, Meta(description="What was ordered: running, paused or stopped.")]
    reported: Annotated[str | None, Meta(description="What the agent said last.")]
    interface: str
    filter: str
    filter_inside_tunnels: bool | None
    filter_revision: int | None
    applied_filter_revision: Annotated[
        int | None, Meta(description="The revision that is attached; null: the agent has said nothing yet.")
    ]
    snaplen: Annotated[int | None, Meta(description="Bytes kept of each packet.")]
    flow_cutoff_bytes: int | None
    flow_sampling: int | None
    flow_records: bool | None
    applied_flow_records: bool | None
    priority: str | None
    payload: Payload | None
    applied_payload: Payload | None
    requested_by: str
    created_ns: TimeNs
    ended_ns: TimeNs | None
    ended: bool


class SessionWithBooks(Session, frozen=True, kw_only=True):
    """A session and where each of its packets is."""

    books: Annotated[
        dict[str, int | None], Meta(description="Counter → packets; null: not counted. docs/wire-format.md")
    ]
    differences: Annotated[dict[str, int], Meta(description="What the books lack; all 0 when at rest.")]
    balanced: bool
    archived_packets: Count
    archived_bytes: Count
    message_bytes: Count
    batches: Count
    lost_at_end: Count
    missing_batches: Count
    broken_links: Count
    quarantined: Count
    verdict: Annotated[str, Meta(description="What the chain of signed batches proves, in one or two words.")]
    verdict_text: str


class SessionAnswer(Struct, frozen=True):
    """One session."""

    session: SessionWithBooks


class Sessions(Struct, frozen=True):
    """A page of those that fit, the newest first."""

    sessions: list[Session]
    more: Annotated[bool, Meta(description="There are older ones: ask for the next page.")]


class Revision(Struct, frozen=True):
    """A filter that a session has or had."""

    revision: Count
    filter: str
    snaplen: Count
    changed_ns: Annotated[TimeNs, Meta(description="When it was asked for.")]

    @classmethod
    def of(cls, one: FilterRevision) -> "Revision":
        return cls(one.revision, one.filter, one.snaplen, str(one.changed_ns))


class Revisions(Struct, frozen=True):
    """All of a session's."""

    filters: list[Revision]


class EstimateAnswer(Struct, frozen=True):
    """What an export will hold, before it is made."""

    packets: Count
    pcapng_bytes: Count
    wpz_bytes: Count
    purged_packets: Annotated[int, Meta(ge=0, description="Archived once, and there no longer.")]
    quarantined: Count


class Flow(Struct, frozen=True):
    """A flow's sums. A is the end whose address, then port, is the lower."""

    protocol: str
    address_a: str
    port_a: Count
    address_b: str
    port_b: Count
    packets_a: Count
    packets_b: Count
    bytes_a: Count
    bytes_b: Count
    first_ns: TimeNs
    last_ns: TimeNs

    @classmethod
    def of(cls, row: FlowRow) -> "Flow":
        return cls(
            protocol=protocol_name(row.protocol),
            address_a=address_text(row.address_a),
            port_a=row.port_a,
            address_b=address_text(row.address_b),
            port_b=row.port_b,
            packets_a=row.sum.packets_a,
            packets_b=row.sum.packets_b,
            bytes_a=row.sum.bytes_a,
            bytes_b=row.sum.bytes_b,
            first_ns=str(row.sum.first_timestamp_ns),
            last_ns=str(row.sum.last_timestamp_ns),
        )


class Flows(Struct, frozen=True):
    """A session's largest flows; the others as one sum."""

    flows: list[Flow]
    rest_flows: Count
    rest_packets: Count
    rest_bytes: Count


class Field(Struct, frozen=True):
    """A line of a packet's protocol tree."""

    level: Annotated[int, Meta(ge=1, description="1 is a layer.")]
    name: str
    value: str
    offset: Annotated[int, Meta(ge=0, description="Of its first byte in the packet.")]
    length: Annotated[int, Meta(ge=0, description="Bytes; 0: none of its own.")]
    wrong: bool


class Packet(Struct, frozen=True):
    """One packet, dissected."""

    time_ns: TimeNs
    agent: str
    interface: str
    original_bytes: Count
    captured_bytes: Count
    flags: list[str]
    fields: list[Field]
    data: Annotated[str, Meta(description="The captured bytes, hexadecimal.")]

    @classmethod
    def of(cls, found: FoundPacket, view: PacketView) -> "Packet":
        fields = [
            Field(line.level, line.name, line.value, line.offset, line.length, line.wrong)
            for line in view.lines
        ]
        return cls(
            time_ns=str(found.time_ns),
            agent=found.header.agent,
            interface=found.header.interface,
            original_bytes=found.original_bytes,
            captured_bytes=len(found.data),
            flags=list(view.flags),
            fields=fields,
            data=found.data.hex(),
        )


class PacketAnswer(Struct, frozen=True):
    """One packet."""

    packet: Packet


def session_fields(map_: dict[str, Any]) -> dict[str, Any]:
    """SessionView.to_json's map with its parts as they are answered."""
    parts = {
        name: None if map_[name] is None else Payload(**map_[name]) for name in ("payload", "applied_payload")
    }
    return map_ | parts
