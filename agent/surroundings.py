"""What all sessions of an agent share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.session_memory import LastSpooled
from agent.settings import Config
from agent.sources.source import PacketSource
from agent.spool import Spool
from wire.clock import Clock
from wire.keys import SigningKey
from wire.names import Lane
from wire.session import SessionSpec

if TYPE_CHECKING:
    from agent.intake import Order

OwnTraffic = list[tuple[str, int]]
"""(IP address, port) of servers and hubs that captures leave out."""


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
    open_source: Callable[[SessionSpec, str, Order, OwnTraffic, int], PacketSource]
    """A session's source on an interface ("" with a file), and among how many it shares the session's ring memory."""
    changed: Callable[[], None]
    """Some session's state changed: a report is due. From any thread."""
    own_traffic: OwnTraffic = field(default_factory=list)
    last_records: dict[tuple[str, Lane], LastSpooled] = field(default_factory=dict)
    """(session, lane) → the head of its chain as the spool's recovery found it."""
