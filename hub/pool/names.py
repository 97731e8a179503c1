"""What agents say of themselves, for the observations of their batches."""

from __future__ import annotations

import ipaddress

from hub.pool.observed import AgentNames
from hub.registry import Registry
from wire.errors import WireError
from wire.report import Report
from wire.strict_cbor import loads_map

MAX_BODY_BYTES = 256 * 1024


def names_of(registry: Registry, agent: str) -> AgentNames:
    """Host name and address out of the agent's last report; empty where there is none."""
    record = registry.agents.get(agent)
    if record is None or record.report is None:
        return AgentNames(record.label if record else "")
    try:
        report = Report.from_map(
            loads_map(record.report, max_bytes=MAX_BODY_BYTES, max_depth=8, max_items=32768)
        )
    except WireError:  # written by another version: it will be told again
        return AgentNames(record.label)
    return AgentNames(report.hostname[:255], _address(report))


def _address(report: Report) -> str:
    """Of the best interface, else of any; the first that others can reach."""
    interfaces = sorted(report.interfaces, key=lambda one: one.name != report.best_interface)
    for interface in interfaces:
        for text in interface.addresses:
            try:
                address = ipaddress.ip_interface(text).ip
            except ValueError:
                continue
            if not address.is_loopback and not address.is_link_local:
                return str(address)
    return ""
