"""What the API is asked for. A member that isn't known is refused, so that a misspelt one isn't silently left out."""

from typing import Annotated, Literal

from litestar.exceptions import ClientException
from msgspec import Meta, Struct, structs

from hub.pooling import Pooling
from hub.registry.agents import MAX_REASON_CHARACTERS
from hub.registry.sessions import MAX_NAME_CHARACTERS as SESSION_NAME_CHARACTERS
from hub.web.auth import MAX_NAME_CHARACTERS, MAX_PASSWORD_CHARACTERS
from hub.web.routes.start_form import NUMBERS
from wire.errors import WireError
from wire.payload import FULL, MAX_KEEP_BYTES, MAX_PORT_RANGES, PayloadPolicy
from wire.priority import MAX_TEXT_BYTES, NO_PRIORITY, PriorityRules, parse
from wire.session import (
    MAX_FILTER_BYTES,
    MAX_FLOW_CUTOFF_BYTES,
    MAX_FLOW_SAMPLING,
    MAX_INTERFACE_BYTES,
    MAX_SNAPLEN,
)

FilterText = Annotated[
    str, Meta(max_length=MAX_FILTER_BYTES, description="tcpdump's syntax; empty: everything.")
]
Snaplen = Annotated[int, Meta(ge=1, le=MAX_SNAPLEN, description="Bytes kept of each packet.")]
PriorityText = Annotated[
    str,
    Meta(max_length=MAX_TEXT_BYTES, description='E.g. "10.0.0.0/8, port 53": sent ahead of everything else.'),
]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[int, Meta(ge=1, le=NUMBERS["max_duration_s"][1])]
Retention = Annotated[int, Meta(ge=1, le=NUMBERS["retention_s"][1])]
Many = Annotated[int, Meta(ge=1, le=NUMBERS["max_packets"][1])]


class LoginOrder(Struct, forbid_unknown_fields=True):
    """Name and password."""

    name: Annotated[str, Meta(max_length=MAX_NAME_CHARACTERS)]
    password: Annotated[str, Meta(max_length=MAX_PASSWORD_CHARACTERS)]


class PasswordOrder(Struct, forbid_unknown_fields=True):
    """The password until now and the one from now on."""

    old: Annotated[str, Meta(max_length=MAX_PASSWORD_CHARACTERS)]
    new: Annotated[str, Meta(max_length=MAX_PASSWORD_CHARACTERS)]


class PayloadOrder(Struct, forbid_unknown_fields=True):
    """How much of each packet's payload may leave the host."""

    policy: Literal["full", "headers", "masked"]
    keep_bytes: Annotated[int, Meta(ge=0, le=MAX_KEEP_BYTES, description="With masked.")] | None = None
    ports_without: Annotated[
        list[Annotated[list[Port], Meta(min_length=2, max_length=2)]],
        Meta(
            max_length=MAX_PORT_RANGES, description="With masked: [first, last] ports that keep no payload."
        ),
    ] = []


class StartOrder(Struct, forbid_unknown_fields=True, kw_only=True):
    """A capture to start."""

    agent: Annotated[str, Meta(max_length=48)]
    interface: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_INTERFACE_BYTES,
            description='One, several with commas between, or "any".',
        ),
    ]
    name: Annotated[str, Meta(max_length=SESSION_NAME_CHARACTERS, description="What to call it.")] = ""
    filter: FilterText = ""
    filter_inside_tunnels: Annotated[bool, Meta(description="Needs eBPF on the host.")] = False
    snaplen: Snaplen = MAX_SNAPLEN
    promiscuous: bool = False
    overflow: Annotated[
        Literal["drop_oldest", "drop_newest", "stop"], Meta(description="When the agent's spool is full.")
    ] = "drop_oldest"
    exclude_own_traffic: bool = True
    flow_records: Annotated[bool, Meta(description="Count flows. Needs eBPF on the host.")] = False
    flow_cutoff_bytes: Annotated[int, Meta(ge=1, le=MAX_FLOW_CUTOFF_BYTES)] | None = None
    flow_sampling: (
        Annotated[int, Meta(ge=1, le=MAX_FLOW_SAMPLING, description="Keep one flow in so many.")] | None
    ) = None
    max_duration_s: Seconds | None = None
    max_packets: Many | None = None
    max_bytes: Many | None = None
    retention_s: Annotated[Retention | None, Meta(description="null: as the hub is configured.")] = None
    retention_bytes: Many | None = None
    payload: PayloadOrder | None = None
    priority: PriorityText | None = None
    pooling: Annotated[
        Literal["off", "conversations", "headers", "payload"] | None,
        Meta(description="How much of it goes into the pool; null: as the hub is configured."),
    ] = None


class FilterOrder(Struct, forbid_unknown_fields=True, kw_only=True):
    """What changes on a running session; what is left out stays as it is."""

    filter: FilterText
    filter_inside_tunnels: bool | None = None
    snaplen: Snaplen | None = None
    flow_cutoff_bytes: Annotated[int, Meta(ge=0, le=MAX_FLOW_CUTOFF_BYTES, description="0: none.")] | None = (
        None
    )
    flow_sampling: Annotated[int, Meta(ge=1, le=MAX_FLOW_SAMPLING)] | None = None
    flow_records: bool | None = None
    payload: PayloadOrder | None = None
    priority: PriorityText | None = None


class NameOrder(Struct, forbid_unknown_fields=True):
    """What to call a session."""

    name: Annotated[str, Meta(max_length=SESSION_NAME_CHARACTERS)]


class DisableOrder(Struct, forbid_unknown_fields=True):
    """Why an agent is to have no sessions."""

    reason: Annotated[str, Meta(max_length=MAX_REASON_CHARACTERS)] = ""


class CheckOrder(Struct, forbid_unknown_fields=True):
    """A filter to be judged."""

    agent: Annotated[str, Meta(max_length=48)]
    filter: FilterText
    interface: Annotated[str, Meta(max_length=MAX_INTERFACE_BYTES)] = ""


def refused(message: str) -> ClientException:
    """A value is wrong: 422."""
    return ClientException(message, status_code=422)


def payload_of(order: PayloadOrder | None) -> PayloadPolicy | None:
    """The policy; None where nothing was said."""
    if order is None:
        return None
    try:
        return PayloadPolicy.from_map(structs.asdict(order))
    except WireError as error:
        raise refused(f"payload: {error}") from None


def priority_of(text: str | None) -> PriorityRules | None:
    """The rules; None where nothing was said."""
    if text is None:
        return None
    try:
        return parse(text)
    except WireError as error:
        raise refused(str(error)) from None


def start_options(order: StartOrder) -> dict[str, object]:
    """Keyword arguments of SessionControl.start, but for the user."""
    options: dict[str, object] = structs.asdict(order)
    del options["agent"], options["interface"]
    options["payload"] = payload_of(order.payload) or FULL
    options["priority"] = priority_of(order.priority) or NO_PRIORITY
    options["pooling"] = Pooling(order.pooling) if order.pooling else None
    return options
