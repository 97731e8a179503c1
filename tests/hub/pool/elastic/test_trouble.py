"""Elasticsearch is killed, full or overloaded: nothing is lost, nothing is there twice, and what is refused is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from hub.pool.elastic.connection import Access
from hub.pool.elastic.store import ElasticStore
from hub.pool.observed import ObservedBatch
from hub.pool.store import Put, StoreAway
from tests.hub.pool.elastic.conftest import connected, refresh
from tests.hub.pool.elastic.test_lines import FRAMES
from tests.hub.pool.made import START_NS, Made
from tests.support.elasticsearch import SUMS, Node, elasticsearch_node
from tests.support.nats_backbone import until

pytestmark = pytest.mark.slow
SPAN: dict[str, Any] = {"since_ns": START_NS, "until_ns": START_NS + 3_600 * 10**9}


TINY = {
    "thread_pool.write.queue_size": "1",
    "thread_pool.write.size": "1",
    "indexing_pressure.memory.limit": "3mb",
}
"""A queue and a memory for writes that are too small for what is sent."""


@pytest.fixture(params=sorted(SUMS))
def own_node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node that this test may kill."""
    with elasticsearch_node(request.param) as running:
        yield running


@pytest.fixture(params=sorted(SUMS))
def small_node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node that is overloaded soon."""
    with elasticsearch_node(request.param, settings=TINY) as running:
        yield running


def many(batches: int, packets: int = 1_000, *, boot: int = 0) -> list[ObservedBatch]:
    made = Made(boot=bytes([boot]) * 16)
    frames = [frame for frame in FRAMES if len(frame) < 300]
    some = (frames * (packets // len(frames) + 1))[:packets]
    return [made.frames(some, first_ns=START_NS + n * 10**9) for n in range(batches)]


async def put_until_done(store: ElasticStore, batches: Sequence[ObservedBatch]) -> Sequence[Put]:
    """As the ingest does it."""
    async with asyncio.timeout(400):
        while True:
            try:
                return await store.put(batches)
            except StoreAway:
                await asyncio.sleep(0.5)


def setting(node: Node, index: str, name: str, value: object) -> None:
    node.ask("PUT", f"/{index}/_settings", json.dumps({name: value}).encode())


async def test_killed_in_mid_bulk_nothing_is_lost_or_twice(own_node: Node) -> None:
    batches = many(20)
    async with connected(Access([own_node.url])) as store:
        await store.put(batches[:1])  # index and shard are there
        putting = asyncio.ensure_future(put_until_done(store, batches[1:]))  # noqa: TID251 - awaited below
        await until(lambda: store.counts.documents >= 3_000, 60)
        await asyncio.to_thread(own_node.kill)
        assert not putting.done()
        with pytest.raises(StoreAway, match="can't be reached"):
            await store.count(None, **SPAN)
        await asyncio.to_thread(own_node.start)
        puts = await putting
        assert [put.stored + put.known for put in puts] == [1_000] * 19
        refresh(own_node)
        assert await store.count(None, **SPAN) == 20_000
        assert [put.known for put in await put_until_done(store, batches)] == [1_000] * 20
        refresh(own_node)
        assert await store.count(None, **SPAN) == 20_000


async def test_overloaded_only_what_was_rejected_is_sent_again(small_node: Node) -> None:
    async with connected(Access([small_node.url]), shards=5) as store:
        groups = [many(2, 600, boot=number) for number in range(12)]
        done = await asyncio.gather(*(put_until_done(store, group) for group in groups))
        assert [put.stored + put.known for puts in done for put in puts] == [600] * 24
        assert store.counts.rejected + store.counts.failed_requests > 0
        refresh(small_node)
        assert await store.count(None, **SPAN) == 24 * 600
        stats = json.loads(small_node.ask("GET", "/_nodes/stats/indexing_pressure,thread_pool"))
        (told,) = stats["nodes"].values()
        pressure = told["indexing_pressure"]["memory"]["total"]["coordinating_rejections"]
        assert told["thread_pool"]["write"]["rejected"] + pressure > 0


async def test_a_full_disk_makes_it_wait_and_go_on(node: Node, store: ElasticStore) -> None:
    first, second = many(2)
    await store.put([first])
    block = "index.blocks.read_only_allow_delete"  # what Elasticsearch sets at its flood stage
    index = store.indices.all_packets
    setting(node, index, block, True)
    putting = asyncio.ensure_future(put_until_done(store, [first, second]))  # noqa: TID251 - awaited below
    await until(lambda: store.counts.rejected > 0, 60)
    assert not putting.done()
    assert await store.count(None, **SPAN) <= 1_000  # questions go on
    setting(node, index, block, None)
    known, new = await putting
    assert (known.known, new.stored + new.known) == (1_000, 1_000)
    refresh(node)
    assert await store.count(None, **SPAN) == 2_000


async def test_what_is_refused_for_good_is_put_aside_and_counted(node: Node, store: ElasticStore) -> None:
    batch = Made().frames(FRAMES)
    index = store.indices.packets(batch.header, batch.stored_ns)
    wrong = {"mappings": {"properties": {"network.community_id": {"type": "ip"}}}}
    node.ask("PUT", f"/{index}", json.dumps(wrong).encode())
    (put,) = await store.put([batch])
    flows = int((batch.seen.community_id != b"").sum())
    assert (put.refused, put.stored) == (flows, len(batch) - flows)
    assert "network.community_id" in put.reason
    assert store.counts.quarantined == flows
    assert [again.refused for again in await store.put([batch])] == [flows]
    refresh(node)
    found = json.loads(node.ask("GET", f"/{store.indices.quarantine}/_search?size=100"))["hits"]["hits"]
    assert len(found) == flows
    assert "network.community_id" in found[0]["_source"]["reason"]
    assert json.loads(found[0]["_source"]["document"])["agent_id"] == "web1"


async def test_no_room_for_another_shard_is_not_the_documents_fault(node: Node, store: ElasticStore) -> None:
    limit = {"persistent": {"cluster.max_shards_per_node": 1}}
    node.ask("PUT", "/other-index", b'{"settings": {"number_of_replicas": 0}}')
    node.ask("PUT", "/_cluster/settings", json.dumps(limit).encode())
    batch = Made().frames(FRAMES)
    try:
        putting = asyncio.ensure_future(put_until_done(store, [batch]))  # noqa: TID251 - awaited below
        await until(lambda: store.counts.rejected > 0, 60)
    finally:
        limit["persistent"]["cluster.max_shards_per_node"] = None  # type: ignore[assignment]
        node.ask("PUT", "/_cluster/settings", json.dumps(limit).encode())
        node.ask("DELETE", "/other-index")
    (put,) = await putting
    assert (put.stored, put.refused) == (len(batch), 0)
