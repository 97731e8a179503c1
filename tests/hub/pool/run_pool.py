"""The pool with its correlation as a process to be killed: `python -m tests.hub.pool.run_pool STATE REGISTRY POOL`.

Says what the store has taken, a line each: how many packets a conversation has, whose clock the pool's is.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from hub.backbone import nats_server
from hub.backbone.state import StateDir
from hub.bus import Bus
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.pool import Pool
from hub.pool.store import ConversationRow, OffsetRow
from hub.registry import Registry


class Telling(EmbeddedStore):
    async def put_conversations(self, rows: Sequence[ConversationRow]) -> None:
        await super().put_conversations(rows)
        for row in rows:
            print("packets", row.packets, flush=True)

    async def put_offsets(self, rows: Sequence[OffsetRow]) -> None:
        await super().put_offsets(rows)
        for row in rows:
            print("anchor", row.anchor, flush=True)


async def main(state: StateDir, registry: Registry, directory: Path) -> None:
    settings = state.settings()
    url = nats_server.server_url(nats_server.local_address(settings.nats_bind), settings.nats_port)
    bus = Bus([url], credentials=state.hub_credentials, ca_certificate=state.ca_certificate)
    pool = Pool(registry, bus, Telling(directory), key=bytes(16))
    async with asyncio.TaskGroup() as tasks:
        for part in (bus, pool):
            tasks.create_task(part.run())


if __name__ == "__main__":
    asyncio.run(main(StateDir(Path(sys.argv[1])), Registry(Path(sys.argv[2])), Path(sys.argv[3])))
