"""Which agent somebody means: by its name, its host's name, or an address of the host."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from hub.agents.status import AgentStatus

LOOK_UP_WITHIN_S = 2.0
MAX_ASKED_CHARACTERS = 253

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Match:
    """An agent that fits, and why."""

    agent: AgentStatus
    why: str


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a question."""

    asked: str
    matches: tuple[Match, ...]
    looked_up: tuple[str, ...]
    """Addresses that the name has by the hub's own resolver, where no agent had the name itself."""


def search_text(status: AgentStatus) -> str:
    """All that is known of an agent, in lower case, for searching by words."""
    report = status.report
    parts = [status.id, status.label, status.reason, status.off_words, *status.warnings, *status.addresses]
    if report is not None and not status.imported:
        parts += [report.hostname, report.os, report.kernel, report.version, report.capture_path]
        for interface in report.interfaces:
            parts += [interface.name, interface.mac, interface.driver, *interface.addresses]
    return "\n".join(parts).lower()


def addresses_of(status: AgentStatus) -> dict[Address, str]:
    """Address → where it is known from. Loopback and link-local ones name no host and are left out."""
    found: dict[Address, str] = {}
    if status.imported:
        return found
    for text in status.addresses:
        if (address := _address(text)) is not None:
            found[address] = "its connection comes from there"
    for interface in status.report.interfaces if status.report else ():
        for text in interface.addresses:
            address = _address(text.partition("/")[0])
            if address is not None:
                found[address] = f"its interface {interface.name} has this address"
    return {one: why for one, why in found.items() if not one.is_loopback and not one.is_link_local}


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _by_address(statuses: Iterable[AgentStatus], asked: Address, note: str = "") -> list[Match]:
    return [
        Match(status, addresses_of(status)[asked] + note)
        for status in statuses
        if asked in addresses_of(status)
    ]


def by_name(statuses: Iterable[AgentStatus], asked: str) -> list[Match]:
    """By agent id, host name or label: the whole name, or its first part where only one side has a domain."""
    name = asked.lower().rstrip(".")
    found = []
    for status in statuses:
        host = status.report.hostname.lower().rstrip(".") if status.report and not status.imported else ""
        label = status.label.lower().rstrip(".")
        if status.id.lower() == name:
            found.append(Match(status, "it is the agent's name"))
        elif host and host == name:
            found.append(Match(status, "it is the host's name"))
        elif label and label == name:
            found.append(Match(status, "it is the agent's label"))
        elif host and host.partition(".")[0] == name.partition(".")[0] and ("." in host) != ("." in name):
            found.append(
                Match(status, f"its host calls itself {status.report.hostname}" if status.report else "")
            )
    exact = [match for match in found if match.why == "it is the agent's name"]
    return exact + [match for match in found if match not in exact]


async def find(statuses: Iterable[AgentStatus], asked: str) -> Found:
    """Who is meant by an address or a name. A name that no agent has is looked up, for the addresses behind it."""
    asked = asked.strip()[:MAX_ASKED_CHARACTERS]
    everyone = list(statuses)
    address = _address(asked)
    if address is not None:
        return Found(asked, tuple(_by_address(everyone, address)), ())
    matches = by_name(everyone, asked)
    if matches or not asked:
        return Found(asked, tuple(matches), ())
    behind = await look_up(asked)
    by_address: dict[str, Match] = {}
    for one in behind:
        for match in _by_address(everyone, one, f" ({asked} is {one})"):
            by_address.setdefault(match.agent.id, match)
    return Found(asked, tuple(by_address.values()), tuple(str(one) for one in behind))


async def look_up(name: str) -> list[Address]:
    """The addresses of a host name by this host's resolver; none when it has none or takes too long."""
    try:
        async with asyncio.timeout(LOOK_UP_WITHIN_S):
            answers = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, ValueError):  # also a name that can't be one
        return []
    found = (_address(str(answer[4][0])) for answer in answers)
    return list(dict.fromkeys(one for one in found if one is not None))
