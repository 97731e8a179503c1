"""Stores on the nodes of the tests above; each has a prefix of its own for its indices."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hub.pool.elastic.connection import Access
from hub.pool.elastic.indices import Indices
from hub.pool.elastic.store import ElasticStore
from hub.pool.tracing import Tracing
from tests.support.elasticsearch import SUMS, Node
from tests.support.nats_backbone import until


@pytest.fixture(scope="session", params=sorted(SUMS))
def node(request: pytest.FixtureRequest, nodes: Callable[[str], Node]) -> Node:
    """A node that stays; tests leave nothing behind that another could see."""
    return nodes(request.param)


@contextlib.asynccontextmanager
async def connected(
    access: Access, *, tracing: Tracing | None = None, **indices: Any
) -> AsyncIterator[ElasticStore]:
    """A store that has found its cluster, with indices of its own."""
    named: dict[str, Any] = {"prefix": f"t{secrets.token_hex(6)}", "replicas": 0} | indices
    store = ElasticStore(access, Indices(**named), tracing=tracing)
    running = asyncio.get_running_loop().create_task(store.run())
    try:
        await until(lambda: ready(store), 60)
        yield store
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def ready(store: ElasticStore) -> bool:
    """Whether it has found its cluster, and its templates are there."""
    return (await store.stats()).ready


@pytest.fixture
async def store(node: Node) -> AsyncIterator[ElasticStore]:
    """On the node that stays."""
    async with connected(Access([node.url])) as found:
        yield found
        if names := ",".join(one.name for one in found._keeping.sizes()):
            node.ask("DELETE", f"/{names}")


def refresh(node: Node) -> None:
    """Make what was written findable at once."""
    node.ask("POST", "/_refresh")
