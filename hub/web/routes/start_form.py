"""The form that starts a capture: reading it, checking every field, and saying next to each what is wrong."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from litestar.datastructures import FormMultiDict

from hub.agents.presence import AgentStatus
from hub.pooling import Pooling
from hub.registry.sessions import MAX_NAME_CHARACTERS
from hub.web.payload_form import PAYLOAD_FIELDS, read_payload
from hub.web.running import Hub
from wire.errors import WireError
from wire.priority import MAX_TEXT_BYTES, parse
from wire.report import (
    CAN_COUNT_FLOWS,
    CAN_FLOW_RULES,
    CAN_LOOK_INSIDE,
    InterfaceReport,
)
from wire.session import (
    MAX_FILTER_BYTES,
    MAX_FLOW_CUTOFF_BYTES,
    MAX_FLOW_SAMPLING,
    MAX_INTERFACE_BYTES,
    MAX_SNAPLEN,
    OVERFLOWS,
    interface_names,
)

MAX_AGENTS = 16
"""Agents one order may start on; also what one live page joins."""
NUMBERS: dict[str, tuple[int, int]] = {
    "flow_cutoff_bytes": (1, MAX_FLOW_CUTOFF_BYTES),
    "flow_sampling": (1, MAX_FLOW_SAMPLING),
    "max_duration_s": (1, 366 * 86400),
    "max_packets": (1, 2**53),
    "max_bytes": (1, 2**53),
    "retention_s": (1, 3650 * 86400),
    "retention_bytes": (1, 2**53),
}
_VIRTUAL = re.compile(r"(lo|docker|br-|veth|virbr|cni|flannel|tun|tap|ifb|dummy)")


@dataclass(slots=True)
class StartForm:
    """What was typed, as text, so that it can be shown again; and what was understood."""

    agents: list[str] = field(default_factory=list)
    interfaces: dict[str, str] = field(default_factory=dict)
    filter: str = ""
    filter_inside_tunnels: bool = False
    snaplen: str = str(MAX_SNAPLEN)
    promiscuous: bool = False
    overflow: str = "drop_oldest"
    exclude_own_traffic: bool = True
    flow_cutoff_bytes: str = ""
    flow_sampling: str = ""
    flow_records: bool = False
    max_duration_s: str = ""
    max_packets: str = ""
    max_bytes: str = ""
    retention_s: str = ""
    retention_bytes: str = ""
    payload_policy: str = "full"
    payload_keep_bytes: str = ""
    payload_ports_without: str = ""
    priority: str = ""
    name: str = ""
    pooling: str = ""
    """"": as the hub's setting says."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    @property
    def advanced(self) -> bool:
        """Whether the folded part holds something worth seeing."""
        return (
            any(self[name] for name in NUMBERS)
            or self.overflow != "drop_oldest"
            or not self.exclude_own_traffic
            or self.filter_inside_tunnels
            or self.flow_records
            or self.payload_policy != "full"
            or bool(self.priority)
            or bool(self.pooling)
        )


@dataclass(frozen=True, slots=True)
class Order:
    """A form that was understood."""

    interfaces: dict[str, str]
    """Agent → interface."""
    options: dict[str, Any]
    """Keyword arguments for SessionControl.start."""

    @property
    def needs(self) -> dict[str, str]:
        """Fields that ask for something that not every agent can, each with the capability."""
        options, found = self.options, {}
        if options["flow_cutoff_bytes"] is not None:
            found["flow_cutoff_bytes"] = CAN_FLOW_RULES
        if (options["flow_sampling"] or 1) > 1:
            found["flow_sampling"] = CAN_FLOW_RULES
        if options["filter_inside_tunnels"]:
            found["filter_inside_tunnels"] = CAN_LOOK_INSIDE
        if options["flow_records"]:
            found["flow_records"] = CAN_COUNT_FLOWS
        return found


def read(form: FormMultiDict) -> StartForm:
    """The form as typed."""
    agents = [str(one) for one in form.getall("agent", [])][: MAX_AGENTS + 1]
    result = StartForm(
        agents=agents,
        interfaces={
            agent: str(form.get(f"interfaces.{agent}", "")).strip()
            or str(form.get(f"interface.{agent}", "")).strip()
            for agent in agents
        },
        filter=str(form.get("filter", "")).strip(),
        filter_inside_tunnels="filter_inside_tunnels" in form,
        snaplen=str(form.get("snaplen", "")).strip(),
        promiscuous="promiscuous" in form,
        overflow=str(form.get("overflow", "drop_oldest")),
        exclude_own_traffic="exclude_own_traffic" in form,
        flow_records="flow_records" in form,
    )
    result.payload_policy = str(form.get("payload_policy", "full"))
    result.payload_keep_bytes = str(form.get("payload_keep_bytes", "")).strip()[:32]
    result.payload_ports_without = str(form.get("payload_ports_without", "")).strip()[:512]
    result.priority = str(form.get("priority", "")).strip()[: MAX_TEXT_BYTES + 1]
    result.name = str(form.get("name", "")).strip()[:MAX_NAME_CHARACTERS]
    result.pooling = str(form.get("pooling", ""))[:32]
    for name in NUMBERS:
        setattr(result, name, str(form.get(name, "")).strip()[:32])
    return result


def check(form: StartForm) -> tuple[Order | None, dict[str, str]]:
    """(order, {}) or (None, what is wrong by field)."""
    errors: dict[str, str] = defaultdict(str)
    if not form.agents:
        errors["agents"] = "Choose at least one agent."
    elif len(form.agents) > MAX_AGENTS:
        errors["agents"] = f"Choose at most {MAX_AGENTS} agents; start the others in a second go."
    for agent in form.agents:
        interface = form.interfaces[agent]
        if not interface:
            errors["agents"] = f"Name an interface of {agent}."
        elif len(interface.encode()) > MAX_INTERFACE_BYTES:
            errors["agents"] = (
                f"An interface, or several together, take at most {MAX_INTERFACE_BYTES} bytes ({agent})."
            )
        else:
            try:
                interface_names(interface)
            except WireError as refused:
                errors["agents"] = f"{agent}: {refused}."
    if len(form.filter.encode()) > MAX_FILTER_BYTES:
        errors["filter"] = f"A filter may have at most {MAX_FILTER_BYTES} bytes."
    options: dict[str, Any] = {
        "filter": form.filter,
        "filter_inside_tunnels": form.filter_inside_tunnels,
        "promiscuous": form.promiscuous,
        "overflow": form.overflow,
        "exclude_own_traffic": form.exclude_own_traffic,
        "flow_records": form.flow_records,
        "name": form.name,
    }
    if form.overflow not in OVERFLOWS:
        errors["overflow"] = "Choose one of the list."
    snaplen = whole_number(form.snaplen or str(MAX_SNAPLEN), 1, MAX_SNAPLEN)
    if snaplen is None:
        errors["snaplen"] = f"A whole number from 1 to {MAX_SNAPLEN}."
    options["snaplen"] = snaplen
    for name, (low, high) in NUMBERS.items():
        text = form[name]
        value = whole_number(text, low, high) if text else None
        if text and value is None:
            errors[name] = f"A whole number from {low} to {high}."
        options[name] = value
    try:
        options["payload"] = read_payload(*(form[name] for name in PAYLOAD_FIELDS))
    except WireError as refused:
        errors["payload"] = str(refused)
    try:
        options["priority"] = parse(form.priority)
    except WireError as refused:
        errors["priority"] = f"{refused}."
    try:
        options["pooling"] = Pooling(form.pooling) if form.pooling else None
    except ValueError:
        errors["pooling"] = "Choose one of the list."
    if errors:
        return None, errors
    return Order(dict(form.interfaces), options), errors


def cannot(hub: Hub, agents: Iterable[str], capability: str) -> str:
    """Why one of these can't do what needs a capability, as far as its report says; "" when nothing speaks against."""
    asked = set(agents)
    for status in hub.presence.all():
        report = status.report if status.id in asked else None
        if report is not None and capability not in report.capabilities:
            return (
                f"{status.id} can't: that needs eBPF and a present agent "
                f"({report.capture_path_reason or report.capture_path})."
            )
    return ""


def whole_number(text: str, low: int, high: int) -> int | None:
    """The number, or None when it isn't one within the bounds."""
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        return None
    return value if low <= (value := int(text)) <= high else None


@dataclass(frozen=True, slots=True)
class AgentChoice:
    """An agent as the form offers it."""

    id: str
    state: str
    reason: str
    interfaces: tuple[InterfaceReport, ...]
    best: str
    why: str
    """Why it is the best, as the agent says ("it …"); "" when the agent doesn't say."""
    chosen: str
    disabled: bool = False
    """It gets no sessions, whatever its state."""


def choices(hub: Hub, form: StartForm) -> list[AgentChoice]:
    """Every agent that can be asked to capture, those that are online first."""
    order = {"online": 0, "unknown": 1, "offline": 2, "never": 3, "revoked": 4}
    hosts = [status for status in hub.presence.all() if not status.imported]
    statuses = sorted(hosts, key=lambda status: (status.disabled, order[status.state], status.id))
    return [_choice(status, form.interfaces.get(status.id, "")) for status in statuses]


def _choice(status: AgentStatus, chosen: str) -> AgentChoice:
    interfaces = status.report.interfaces if status.report else ()
    best, why = best_interface(interfaces), ""
    if status.report and status.report.best_interface in (one.name for one in interfaces):
        best, why = status.report.best_interface, status.report.best_interface_reason
    reason = status.off_words or status.reason
    return AgentChoice(
        status.id, status.state, reason, interfaces, best, why, chosen or best, status.disabled
    )


def best_interface(interfaces: tuple[InterfaceReport, ...]) -> str:
    """A guess where the agent doesn't say: up, with an address, physical rather than virtual, fast. "" without any."""

    def merit(interface: InterfaceReport) -> tuple[bool, bool, bool, int, int]:
        routable = [a for a in interface.addresses if not a.startswith(("127.", "::1", "fe80:"))]
        return (
            interface.state == "up" and interface.name != "lo",
            bool(routable),
            not _VIRTUAL.match(interface.name),
            interface.speed_mbps or 0,
            -interface.index,
        )

    return max(interfaces, key=merit).name if interfaces else ""


def blank(hub: Hub, agent: str | None, interface: str = "") -> StartForm:
    """An empty form with `agent` (and its interface) chosen, or the only one that is online."""
    online = [status.id for status in hub.presence.all() if status.online and not status.disabled]
    if agent is not None:
        return StartForm(
            agents=[agent], interfaces={agent: interface[:MAX_INTERFACE_BYTES]} if interface else {}
        )
    return StartForm(agents=online if len(online) == 1 else [])
