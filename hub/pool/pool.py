"""The running pool: its store (or stores), what reads the archive into it, and the analyses people ask for."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import nats.errors

from hub.bus import Bus
from hub.durable import Durable
from hub.pool.analyze import Analyses
from hub.pool.correlation import Correlation
from hub.pool.ingest import DURABLES, MAX_FETCH, Ingest
from hub.pool.observed import Pooling
from hub.pool.recall import Recall
from hub.pool.store import Store
from hub.registry import Registry
from wire.keys import SigningKey

log = logging.getLogger(__name__)

INGEST_WAITS_S = 12.0
"""At the start, at most: the live view doesn't, and the archive keeps what comes."""


def fingerprint_key(key: SigningKey) -> bytes:
    """16 bytes that only this hub knows, the same for ever: packets of all times can be compared."""
    return hashlib.blake2b(key.seed, digest_size=16, person=b"wirepool pool").digest()


@dataclass(slots=True)
class Pool:
    """One per hub."""

    registry: Registry
    bus: Bus
    store: Store
    """Where the ingest puts."""
    key: bytes
    level: Pooling = Pooling.HEADERS
    """Of sessions that don't say."""
    others: Mapping[str, Store] = field(default_factory=dict)
    """Further stores that a session can be analysed into, by name."""
    name: str = "embedded"
    """Of `store`."""
    correlate: bool = True
    ingest: Ingest = field(init=False)
    analyses: Analyses = field(init=False)
    correlation: Correlation | None = field(init=False, default=None)
    """None: switched off."""

    def __post_init__(self) -> None:
        if self.correlate:
            recall = Recall(self.registry, self.bus, key=self.key, level=self.level)
            self.correlation = Correlation(self.store, recall)
        clock_of = None if self.correlation is None else self.correlation.clock_of
        self.ingest = Ingest(
            self.registry, self.bus, self.store, key=self.key, level=self.level, clock_of=clock_of
        )
        if self.correlation is not None:
            self.ingest.on_batch(self.correlation.hear)
        self.analyses = Analyses(
            self.registry,
            self.bus,
            self.stores,
            key=self.key,
            clock_of=clock_of,
            source=self.store,
            level=self.level,
            correlate=self.correlate,
        )

    @property
    def stores(self) -> dict[str, Store]:
        """All of them by name."""
        return {self.name: self.store, **self.others}

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for store in self.stores.values():
                tasks.create_task(store.run())
            tasks.create_task(self._ingest())
            tasks.create_task(self.analyses.run())
            if self.correlation is not None:
                tasks.create_task(self.correlation.run())

    async def _ingest(self) -> None:
        """New packets wait for what the correlation had in hand, or they would be pooled with uncorrected times."""
        if self.correlation is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(INGEST_WAITS_S):
                    await self.correlation.recalled.wait()
        await self.ingest.run()


@dataclass(slots=True)
class NoPool:
    """Where the pool is switched off: what it would read must not wait for it in the archive."""

    bus: Bus

    async def run(self) -> None:
        """Have the server forget the pool's durables."""
        for stream, name in DURABLES.items():
            durable = Durable(self.bus, stream, name, most_messages=MAX_FETCH, most_unacknowledged=MAX_FETCH)
            while True:
                try:
                    await durable.remove()
                    break
                except (nats.errors.Error, TimeoutError) as error:
                    log.info("the pool's durable %s can't be removed yet: %s", name, error)
                    await asyncio.sleep(5.0)
