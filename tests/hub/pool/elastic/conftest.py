"""One node of each version for all tests of this folder; each test has a prefix of its own for its indices."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from hub.pool.elastic.connection import Access
from hub.pool.elastic.indices import Indices
from hub.pool.elastic.store import ElasticStore
from tests.support.elasticsearch import SUMS, Node, elasticsearch_node


@pytest.fixture(scope="session", params=sorted(SUMS))
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node that stays; tests leave nothing behind that another could see."""
    with elasticsearch_node(request.param) as running:
        yield running


@contextlib.asynccontextmanager
async def connected(access: Access, **indices: Any) -> AsyncIterator[ElasticStore]:
    """A store that has found its cluster, with indices of its own."""
    named = {"prefix": f"t{secrets.token_hex(6)}", "replicas": 0} | indices
    store = ElasticStore(access, Indices(**named))
    running = asyncio.get_running_loop().create_task(store.run())
    try:
        async with asyncio.timeout(60):
            while store.cluster is None or not (await store.stats()).ready:
                if running.done():
                    await running
                await asyncio.sleep(0.02)
        yield store
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.fixture
async def store(node: Node) -> AsyncIterator[ElasticStore]:
    """On the node that stays."""
    async with connected(Access([node.url])) as found:
        yield found
        node.ask("DELETE", f"/{','.join(one.name for one in found._keeping.sizes()) or 'none'}?ignore_unavailable")


def refresh(node: Node) -> None:
    """Make what was written findable at once."""
    node.ask("POST", "/_refresh")
