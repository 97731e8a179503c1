"""What all sessions of an agent share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.session_memory import LastSpooled
from agent.settings import Config
from agent.sources.source import PacketSource
from agent.spool import Spool
from wire.clock import Clock
from wire.keys import SigningKey
from wire.names import Lane
from wire.session import SessionSpec


@dataclass(slots=True)
class Surroundings:
    """What all sessions of the agent share."""

    agent: str
    boot: bytes
    key: SigningKey
    config: Config
    spool: Spool
    wake_publisher: Callable[[], None]
    clock: Callable[[], Clock]
    open_source: Callable[[SessionSpec, list[tuple[str, int]]], PacketSource]
    changed: Callable[[], None]
    """Some session's state changed: a report is due. From any thread."""
    own_traffic: list[tuple[str, int]] = field(default_factory=list)
    last_records: dict[tuple[str, Lane], LastSpooled] = field(default_factory=dict)
    """(session, lane) → the head of its chain as the spool's recovery found it."""
