"""What a vector decodes to, as plain values for JSON."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from tests.wire import make
from wire.batch import Kind, decode_columns, decode_flows, decode_tombstone, open_batch, split_messages
from wire.control import Domain, open_certificate, unseal
from wire.decode_outputs import packets_of
from wire.evidence import verify_wpz
from wire.flows import records_of
from wire.report import Heartbeat, Report
from wire.session import Desired
from wire.verify_command import as_map


def plain(value: Any) -> Any:
    """Dataclasses, bytes and enumerations as JSON knows them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {member.name: plain(getattr(value, member.name)) for member in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return value


def describe(name: str, data: bytes) -> Any:
    """Decode one vector completely, by its name."""
    if name == "evidence.wpz":
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / name
            path.write_bytes(data)
            return as_map(verify_wpz(path, make.HUB_KEY.public))
    if name == "envelope-certificate.bin":
        return plain(open_certificate(data, hub_public=make.HUB_KEY.public))
    if name.startswith("envelope-"):
        domain = Domain[name[9:-4].upper()]
        hubs = domain in (Domain.DESIRED, Domain.CONTROL, Domain.WATCH)
        public = (make.HUB_KEY if hubs else make.AGENT_KEY).public
        envelope = unseal(data, domain, public=public, agent="web1", now_ns=make.START_NS)
        readers: dict[Domain, Callable[[dict[str, Any]], Any]] = {
            Domain.DESIRED: Desired.from_map,
            Domain.REPORT: Report.from_map,
            Domain.HEARTBEAT: Heartbeat.from_map,
        }
        typed = plain(readers[domain](envelope.body)) if domain in readers else None
        return {**plain(envelope), "typed": typed}
    return [describe_batch(message) for message in split_messages([data])]


def describe_batch(message: bytes) -> Any:
    """One batch with all that is in it."""
    batch = open_batch(message, public=make.AGENT_KEY.public)
    described = {"header": plain(batch.header), "header_hash": batch.header_hash.hex()}
    if batch.header.kind is Kind.PACKETS:
        described["packets"] = [plain(list(packet)) for packet in packets_of(decode_columns(batch))]
    elif batch.header.kind is Kind.FLOWS:
        described["flows"] = [plain(one._asdict()) for one in records_of(decode_flows(batch))]
    elif batch.header.kind is Kind.TOMBSTONE:
        described["replaced"] = plain(decode_tombstone(batch))
    return described
