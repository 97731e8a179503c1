"""A backbone, a registry and hub connections for the hub's tests, and running parts for the time of a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.agents.control import Control
from hub.bus import Bus
from hub.registry import Registry
from tests.support.nats_backbone import Backbone, backbone
from wire.keys import SigningKey


@dataclass
class Parts:
    """What most tests need."""

    backbone: Backbone
    registry: Registry
    key: SigningKey

    def bus(self, *, system: bool = False) -> Bus:
        """A new Bus to the server."""
        state = self.backbone.state
        credentials = state.system_credentials if system else state.hub_credentials
        return Bus([self.backbone.url], credentials=credentials, ca_certificate=state.ca_certificate)

    def control(self, bus: Bus) -> Control:
        return Control(bus, self.registry, self.key)


@asynccontextmanager
async def parts(directory: Path, **options: Any) -> AsyncIterator[Parts]:
    """A real server with streams, an empty registry."""
    async with backbone(directory, **options) as server:
        registry = Registry(directory / "wirepool.sqlite3")
        try:
            yield Parts(server, registry, SigningKey.load(server.state.control_key))
        finally:
            registry.close()


@asynccontextmanager
async def running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines beside the block; an error of theirs fails the test."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def settled(bus: Bus) -> None:
    """Until there is a connection and the server has every subscription made so far."""
    await (await bus.client()).flush()
