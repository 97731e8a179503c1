"""The pool's ingest as a process to be killed: `python -m tests.hub.pool.run_ingest STATE REGISTRY POOL`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from hub.backbone import nats_server
from hub.backbone.state import StateDir
from hub.bus import Bus
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.ingest import Ingest
from hub.registry import Registry


async def main(state: StateDir, registry: Registry, pool: Path) -> None:
    settings = state.settings()
    url = nats_server.server_url(nats_server.local_address(settings.nats_bind), settings.nats_port)
    bus = Bus([url], credentials=state.hub_credentials, ca_certificate=state.ca_certificate)
    store = EmbeddedStore(pool)
    ingest = Ingest(registry, bus, store, key=bytes(16))
    async with asyncio.TaskGroup() as tasks:
        for part in (bus, store, ingest):
            tasks.create_task(part.run())


if __name__ == "__main__":
    asyncio.run(main(StateDir(Path(sys.argv[1])), Registry(Path(sys.argv[2])), Path(sys.argv[3])))
