"""Conversations of sessions that nobody correlated when they came: those whose level was `off`, analysed afterwards.

One correlation per store and hub, which seals nothing for being old: sessions of several agents that are analysed one
after the other become one truth, in whichever order. What it finds is given out when an analysis ends, or, of more
packets than are held, on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from hub.correlate.correlator import Correlator
from hub.pool.correlation import Correlation
from hub.pool.query import Compare
from hub.pool.store import Store

EVALUATE_AT = 200_000
"""Packets that wait, before they are evaluated."""
MOST_ROWS = 500_000
"""Packets kept (104 bytes each); beyond it the conversations that were quiet longest are given out and forgotten."""
MOST_SESSIONS = 10_000
NEVER_NS = 2**62

Patiently = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Does something that may raise StoreAway until it has gone well."""


class Afterwards:
    """For the event loop, but for `Correlation.hear`."""

    def __init__(self, stores: Mapping[str, Store], source: Store) -> None:
        """source: where the conversations are of what was correlated as it came."""
        self._stores = stores
        self._source = source
        self._correlations: dict[str, Correlation] = {}
        self._heard: set[tuple[str, str]] = set()
        self._lock = asyncio.Lock()

    async def wanted(self, session: str) -> bool:
        """Whether nobody has made conversations of it yet. StoreAway."""
        mine = Compare("wirepool.session", "=", session)
        page = await self._source.conversations(mine, since_ns=0, until_ns=2**63 - 1, limit=1)
        return not page.rows

    def of(self, target: str) -> Correlation:
        """That whose results go to this store."""
        found = self._correlations.get(target)
        if found is None:
            make = partial(Correlator, idle_ns=NEVER_NS, most_rows=MOST_ROWS)
            found = self._correlations[target] = Correlation(self._stores[target], correlator=make)
        return found

    def begin(self, session: str, target: str) -> bool:
        """Whether the session's packets have to be read from the first one on: none was heard since the hub's start."""
        if (session, target) in self._heard:
            return False
        if len(self._heard) >= MOST_SESSIONS:
            self._heard.clear()
        self._heard.add((session, target))
        return True

    async def settle(self, correlation: Correlation, patiently: Patiently, *, final: bool) -> None:
        """Evaluate, and give the store what was found. final: all that is kept; else only when much waits."""
        if not final and correlation.waiting_packets < EVALUATE_AT:
            return
        async with self._lock:  # what one gives out, another's evaluation must not change meanwhile
            await correlation.evaluate(final=final)
            await patiently(correlation.give_out)

    def close(self) -> None:
        """End the threads."""
        for correlation in self._correlations.values():
            correlation.close()
