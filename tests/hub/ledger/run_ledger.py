"""A hub of nothing but the ledger, to be killed: python -m tests.hub.ledger.run_ledger <state directory> <registry>."""

import asyncio
import sys
from pathlib import Path

from hub.backbone import nats_server
from hub.backbone.state import StateDir
from hub.bus import Bus
from hub.ledger.ledger import Ledger
from hub.registry import Registry


async def main(state: StateDir, registry: Registry) -> None:
    """Run until killed."""
    url = nats_server.server_url("127.0.0.1", state.settings().nats_port)
    bus = Bus([url], credentials=state.hub_credentials, ca_certificate=state.ca_certificate)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.run())
        tasks.create_task(Ledger(registry, bus).run())


if __name__ == "__main__":
    asyncio.run(main(StateDir(Path(sys.argv[1])), Registry(sys.argv[2])))
