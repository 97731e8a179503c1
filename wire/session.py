"""What a capture session is: a record that the hub declares and the agent makes true."""

from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Literal

from wire import fields
from wire.errors import WireError
from wire.names import check_session_id
from wire.payload import FULL, PayloadPolicy
from wire.priority import NO_PRIORITY, PriorityRules

MAX_FILTER_BYTES = 16 * 1024
MAX_SNAPLEN = 262144
MAX_FLOW_CUTOFF_BYTES = 2**53
MAX_FLOW_SAMPLING = 65536
MAX_INTERFACE_BYTES = 128
ANY = "any"
"""Instead of an interface's name: every one that is up."""
MAX_SESSION_INTERFACES = 32
"""Interfaces that one session captures on at once."""
MAX_SESSIONS = 64
"""Sessions one agent may be asked to hold at once."""
MAX_OWN_ADDRESSES = 256

STATES = ("running", "paused", "stopped")
SOURCES = ("ring", "replay")
OVERFLOWS = ("drop_oldest", "drop_newest", "stop")

State = Literal["running", "paused", "stopped"]
Source = Literal["ring", "replay"]
Overflow = Literal["drop_oldest", "drop_newest", "stop"]


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay session reads."""

    file: str
    """Path on the agent's host, of a pcap or pcapng file."""
    rate_pps: float | None = None
    """Packets per second; None: as fast as it goes; 0: at the pace of the file's own times."""

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR or JSON."""
        return {"file": self.file, "rate_pps": self.rate_pps}

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "Replay":
        """Checked. WireError otherwise."""
        return cls(
            fields.text(map_, "file", min_bytes=1, max_bytes=4096),
            fields.optional(map_, "rate_pps", fields.number, 0.0, 1e9),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """One session as declared."""

    id: str
    """26 characters of base32."""
    state: State = "running"
    """What shall be: running, paused, stopped."""
    source: Source = "ring"
    """Where packets come from: an interface's ring, or a file."""
    interface: str = ""
    """The interface's name on the agent's host, several with commas between, or "any"; "" with a replay. Each batch
    names the one it is from. An agent without the capability `interfaces` knows one name only, and finds no interface
    of this name otherwise."""
    filter: str = ""
    """tcpdump syntax, at most 16 KiB; "" takes everything."""
    filter_revision: int = 1
    """1 or more; one more at each change of filter, filter_inside_tunnels, snaplen, a flow_ member or payload."""
    filter_inside_tunnels: bool = False
    """The filter judges the packet inside a GRE, VXLAN or Geneve tunnel, where there is one. Absent in the first
    writers' records; an agent without the capability `inner-filter` ignores it."""
    snaplen: int = MAX_SNAPLEN
    """Bytes kept of each packet: 1 to 262144."""
    flow_cutoff_bytes: int | None = None
    """A packet is kept while its flow (both directions) has had fewer bytes than this; None: every packet. Absent in
    the first writers' records."""
    flow_sampling: int | None = None
    """One flow in so many is kept, 1 to 65536; None: every flow. Absent in the first writers' records."""
    flow_records: bool = False
    """Count every flow that is seen, kept or not, and ship what was counted each second. Absent: no. An agent without
    the capability `flow-records` ignores it."""
    promiscuous: bool = False
    """Also take frames that aren't addressed to this host."""
    overflow: Overflow = "drop_oldest"
    """What a full spool does."""
    max_duration_s: float | None = None
    """Stop by itself after this time; None: never."""
    max_bytes: int | None = None
    """Stop by itself after this many captured bytes."""
    max_packets: int | None = None
    """Stop by itself after this many captured packets."""
    retention_s: int | None = None
    """How long the archive keeps it once confirmed."""
    retention_bytes: int | None = None
    """How much of it the archive keeps once confirmed."""
    exclude_own_traffic: bool = True
    """Leave wirepool's own connections out."""
    requested_by: str = ""
    """The user who asked."""
    created_ns: int = 0
    """When, nanoseconds since 1970."""
    replay: Replay | None = None
    """With source "replay"."""
    payload: PayloadPolicy = FULL
    """What of the payload leaves the host. An agent without the capability `payload` ignores it: see hub.sessions."""
    priority: PriorityRules = NO_PRIORITY
    """What goes by the priority lane. Changed on the running session; an agent without the capability `priority` has
    one lane only."""

    @property
    def interfaces(self) -> tuple[str, ...]:
        """The names in `interface`, in its order; none with "any" and with a replay."""
        return () if self.interface in ("", ANY) else interface_names(self.interface)

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR or JSON."""
        map_ = {member.name: getattr(self, member.name) for member in dataclass_fields(self)}
        map_["replay"] = None if self.replay is None else self.replay.to_map()
        del map_["payload"]
        if not self.filter_inside_tunnels:
            del map_["filter_inside_tunnels"]
        if not self.flow_records:
            del map_["flow_records"]
        if not self.payload.full:
            map_["payload"] = self.payload.to_map()
        del map_["priority"]
        if not self.priority.none:
            map_["priority"] = self.priority.to_map()
        return map_

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "SessionSpec":
        """Every bound checked; unknown keys ignored. WireError otherwise."""
        replay = fields.optional(map_, "replay", fields.submap)
        source = fields.choice(map_, "source", SOURCES)
        if (source == "replay") != (replay is not None):
            raise WireError('source "replay" and the map replay go together')
        payload = fields.optional(map_, "payload", fields.submap)
        priority = fields.optional(map_, "priority", fields.submap)
        interface = fields.text(map_, "interface", max_bytes=MAX_INTERFACE_BYTES)
        if source == "ring" and not interface:
            raise WireError("interface: a session on a ring names one")
        if source == "ring":
            interface_names(interface)
        return cls(
            id=check_session_id(map_.get("id")),
            state=fields.choice(map_, "state", STATES),  # type: ignore[arg-type]
            source=source,  # type: ignore[arg-type]
            interface=interface,
            filter=_filter(map_),
            filter_revision=fields.integer(map_, "filter_revision", 1, 2**32 - 1),
            filter_inside_tunnels=bool(fields.optional(map_, "filter_inside_tunnels", fields.boolean)),
            snaplen=fields.integer(map_, "snaplen", 1, MAX_SNAPLEN),
            flow_cutoff_bytes=fields.optional(
                map_, "flow_cutoff_bytes", fields.integer, 1, MAX_FLOW_CUTOFF_BYTES
            ),
            flow_sampling=fields.optional(map_, "flow_sampling", fields.integer, 1, MAX_FLOW_SAMPLING),
            flow_records=fields.optional(map_, "flow_records", fields.boolean) or False,
            promiscuous=fields.boolean(map_, "promiscuous"),
            overflow=fields.choice(map_, "overflow", OVERFLOWS),  # type: ignore[arg-type]
            max_duration_s=fields.optional(map_, "max_duration_s", fields.number, 0.001, 1e9),
            max_bytes=fields.optional(map_, "max_bytes", fields.integer, 1),
            max_packets=fields.optional(map_, "max_packets", fields.integer, 1),
            retention_s=fields.optional(map_, "retention_s", fields.integer),
            retention_bytes=fields.optional(map_, "retention_bytes", fields.integer),
            exclude_own_traffic=fields.boolean(map_, "exclude_own_traffic"),
            requested_by=fields.text(map_, "requested_by", max_bytes=256),
            created_ns=fields.integer(map_, "created_ns"),
            replay=None if replay is None else Replay.from_map(replay),
            payload=FULL if payload is None else PayloadPolicy.from_map(payload),
            priority=NO_PRIORITY if priority is None else PriorityRules.from_map(priority),
        )


def interface_names(text: str) -> tuple[str, ...]:
    """The names between commas ("any" is one of them). WireError for none, too many, one twice, or any among others."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise WireError("interface: a name is missing beside a comma")
    if len(set(names)) != len(names):
        raise WireError("interface: one name twice")
    if len(names) > MAX_SESSION_INTERFACES:
        raise WireError(f"interface: {len(names)} names where {MAX_SESSION_INTERFACES} are allowed")
    if ANY in names and len(names) > 1:
        raise WireError("interface: any stands for all, so no other name goes beside it")
    return names


def _filter(map_: dict[str, Any]) -> str:
    # A filter typed over several lines is fine: libpcap takes line breaks and tabs as blanks.
    value = map_.get("filter")
    if isinstance(value, str):
        map_ = {"filter": value.translate({9: " ", 10: " ", 13: " "})}
    return fields.text(map_, "filter", max_bytes=MAX_FILTER_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """The body of the DESIRED envelope: all that one agent shall do."""

    revision: int
    """Grows with each change; an older one is ignored."""
    sessions: tuple[SessionSpec, ...]
    user_jwt: str | None = None
    """Renewed NATS credentials, or None."""
    own_traffic: tuple[tuple[str, int], ...] = ()
    """(address, port) of servers and hubs to leave out; port 0 is kept for later and leaves nothing out."""

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR."""
        return {
            "revision": self.revision,
            "sessions": [spec.to_map() for spec in self.sessions],
            "user_jwt": self.user_jwt,
            "own_traffic": [[address, port] for address, port in self.own_traffic],
        }

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "Desired":
        """Every bound checked; a session may be declared once. WireError otherwise."""
        specs = tuple(
            SessionSpec.from_map(one) for one in fields.maps(map_, "sessions", max_length=MAX_SESSIONS)
        )
        if len({spec.id for spec in specs}) != len(specs):
            raise WireError("sessions: one id twice")
        own: list[tuple[str, int]] = []
        for pair in fields.sequence(map_, "own_traffic", max_length=MAX_OWN_ADDRESSES):
            if not isinstance(pair, list) or len(pair) != 2:
                raise WireError("own_traffic: [address, port] is needed")
            entry = {"address": pair[0], "port": pair[1]}
            own.append(
                (
                    fields.text(entry, "address", min_bytes=1, max_bytes=64),
                    fields.integer(entry, "port", 0, 65535),
                )
            )
        return cls(
            revision=fields.integer(map_, "revision"),
            sessions=specs,
            user_jwt=fields.optional(map_, "user_jwt", fields.text, max_bytes=16384),
            own_traffic=tuple(own),
        )
