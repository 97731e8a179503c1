"""The running parts of one hub, and how a route reaches them."""

import asyncio
import time
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from litestar import Request

from hub.agents.interface_rates import InterfaceRates
from hub.config import HubSettings
from hub.dissect.tshark import Tshark
from hub.live.feed import LiveFeed
from hub.registry import Registry
from hub.web.auth import Authentication
from hub.web.downloads import Downloads
from hub.web.pages import Pages

if TYPE_CHECKING:
    from hub.agents.control import Control
    from hub.agents.declarer import Declarer
    from hub.agents.presence import Presence
    from hub.agents.sessions import SessionControl
    from hub.archive.export import Export
    from hub.archive.keeper import Keeper
    from hub.bus import Bus
    from hub.ledger.ledger import Ledger
    from hub.live.lookup import PacketLookup
    from hub.pool.pool import Pool


@dataclass(slots=True)
class Hub:
    """The running parts of one hub."""

    registry: Registry
    bus: "Bus"
    system_bus: "Bus | None"
    sessions: "SessionControl"
    presence: "Presence"
    live: LiveFeed
    packets: "PacketLookup"
    ledger: "Ledger"
    export: "Export"
    control: "Control"
    declarer: "Declarer"
    keeper: "Keeper"
    pool: "Pool | None" = None
    """None: switched off."""
    settings: HubSettings = field(default_factory=HubSettings)
    tshark: Tshark = field(default_factory=Tshark)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at shutdown: event streams end."""
    started_ns: int = field(default_factory=time.time_ns)
    rates: InterfaceRates = field(default_factory=InterfaceRates)
    downloads: Downloads = field(default_factory=Downloads)
    pages: Pages = field(init=False)
    authentication: Authentication = field(init=False)

    def __post_init__(self) -> None:
        self.pages = Pages(program_version())
        self.authentication = Authentication(
            self.registry, idle_s=self.settings.session_idle_s, lifetime_s=self.settings.session_lifetime_s
        )


def program_version() -> str:
    """The installed version; also the cache key of our own static files."""
    try:
        return metadata.version("wirepool")
    except metadata.PackageNotFoundError:
        return "0"


def hub_of(request: Request[Any, Any, Any]) -> Hub:
    """The hub a request is served by."""
    hub = request.app.state["hub"]
    assert isinstance(hub, Hub)
    return hub
