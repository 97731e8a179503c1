"""A page with packets in its pool: what an agent published, read out of the archive and put into a store."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hub.archive.reading import read_subject
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.observed import AgentNames, ClockOffset, ObservedBatch
from hub.pool.pool import Pool
from hub.pool.store import Store
from tests.hub.parts import running
from tests.support.nats_backbone import until
from tests.web.fake_agent import FakeAgent
from tests.web.site import Browser, Site
from tests.web.test_live import stage, watched
from wire.batch import open_batch
from wire.names import Lane, batch_subject


@dataclass
class Pooled:
    """See the module."""

    where: Site
    client: Browser
    agent: FakeAgent
    session: str
    store: Store

    async def send(self, packets: Sequence[bytes], clock: ClockOffset | None = None) -> list[ObservedBatch]:
        """Publish packets, wait for the archive, and pool what is new there."""
        before = await self._stored()
        await self.agent.send(self.session, packets)

        async def arrived() -> bool:
            return len(await self._stored()) > len(before)

        await until(arrived)
        found = []
        for data, stored_ns in (await self._stored())[len(before) :]:
            opened = open_batch(data, public=self.agent.keys.signing.public)
            names = AgentNames("web1.example", "10.0.0.7")
            found.append(ObservedBatch.of(opened, stored_ns=stored_ns, names=names, clock=clock))
        await self.store.put(found)
        return found

    async def _stored(self) -> list[tuple[bytes, int]]:
        subject = batch_subject(self.agent.name, self.session, Lane.BULK)
        return [(one.data, 0) async for one in read_subject(self.where.hub.bus, "CAPTURE", subject)]


@asynccontextmanager
async def pooled(directory: Path) -> AsyncIterator[Pooled]:
    """One agent with a running session."""
    async with stage(directory) as (where, client, agent):
        session = await watched(client, agent)
        store = EmbeddedStore(directory / "explored")
        async with running(store.run()):
            await store.opened.wait()
            where.hub.pool = Pool(where.hub.registry, where.hub.bus, store, bytes(16))
            yield Pooled(where, client, agent, session, store)


def tcp_packet(
    flags: int, *, port: int = 443, payload: bytes = b"", ttl: int = 64, sequence: int = 1000
) -> bytes:
    """10.0.0.7:50000 → 10.0.0.9."""
    segment = struct.pack(">HHIIHHHH", 50000, port, sequence, 7, 5 << 12 | flags, 512, 0, 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, ttl, 6, 0)
    addresses = bytes([10, 0, 0, 7, 10, 0, 0, 9])
    return bytes.fromhex("020000000009020000000007") + b"\x08\0" + head + addresses + segment
