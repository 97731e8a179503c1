"""Which index a batch goes to, and what goes by age, by size and with its session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hub.pool.elastic.connection import Access
from hub.pool.elastic.indices import DAY_NS, EARLY_DAYS, Indices, day_end_ns, day_of
from hub.pool.elastic.store import ElasticStore
from hub.pool.store import OffsetRow, Retention
from tests.hub.pool.elastic.conftest import connected, refresh
from tests.hub.pool.elastic.test_lines import FRAMES
from tests.hub.pool.elastic.test_questions import CONVERSATION
from tests.hub.pool.made import START_NS, Made
from tests.support.elasticsearch import Node

SPAN: dict[str, Any] = {"since_ns": 0, "until_ns": 2**63}
NOW_NS = START_NS + 10 * DAY_NS


def test_the_day_is_the_headers_where_the_archives_clock_agrees() -> None:
    header = Made().frames(FRAMES[:1]).header
    for stored_ns, day in (
        (START_NS, "2026.09.21"),
        (START_NS + EARLY_DAYS * DAY_NS, "2026.09.21"),
        (START_NS + EARLY_DAYS * DAY_NS + 1, "undated"),
        (START_NS - DAY_NS, "2026.09.21"),
        (START_NS - DAY_NS - 1, "undated"),
    ):
        assert Indices().packets(header, stored_ns) == f"wirepool-packets-{day}"
    assert Indices(per_session=True).packets(header, START_NS) == f"wirepool-packets-{'s' * 26}-2026.09.21"
    assert (
        Indices("a_b-1").packets(replace(header, first_timestamp_ns=2**64 - 1), START_NS)
        == "a_b-1-packets-undated"
    )


def test_days_and_their_ends() -> None:
    assert day_of(-1) == "1970.01.01"
    assert day_of(2**64) == "2262.04.11"
    assert day_end_ns("x-2026.09.21") == 1_790_035_200 * 10**9
    assert day_end_ns("x-undated") is None
    assert day_end_ns("x-2026.02.31") is None


@pytest.mark.parametrize("prefix", ["", "-a", "A", "a*", "a,b", "a" * 42, "ä", "a b", "_a", ".a"])
def test_a_prefix_that_no_index_may_have_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="can't begin an index's name"):
        Indices(prefix)


async def fill(store: ElasticStore, days: int) -> None:
    for day in range(days):
        first_ns = NOW_NS - day * DAY_NS - 10**9
        made = Made(sequence=day)
        await store.put([made.frames(FRAMES, first_ns=first_ns, stored_ns=NOW_NS)])
        await store.put_conversations(
            [replace(CONVERSATION, id=f"c{day}", first_ns=first_ns, last_ns=first_ns)]
        )
        await store.put_offsets([OffsetRow("web1", first_ns, "", 1, 0, 2)])


@pytest.mark.slow
async def test_whole_days_go_by_age_and_by_size(node: Node, store: ElasticStore) -> None:
    await fill(store, 5)
    await store.put([Made(sequence=9).frames(FRAMES, first_ns=5)])  # undated
    refresh(node)
    keeping = store._keeping
    kept = {one.name for one in keeping.sizes()}
    assert len(kept) == 3 * 5 + 1
    assert keeping.retain(Retention(), NOW_NS) == 0
    gone = keeping.retain(Retention(max_age_s=2 * 86_400), NOW_NS)
    assert gone == 2 * len(FRAMES)
    assert sorted(kept - {one.name for one in keeping.sizes()}) == sorted(
        f"{store.indices.prefix}-{kind}-{day_of(NOW_NS - n * DAY_NS - 10**9)}"
        for kind in ("packets", "conversations", "clocks")
        for n in (3, 4)
    )
    assert len((await store.conversations(None, **SPAN)).rows) == 3
    sizes = keeping.sizes()
    oldest = min(
        (one for one in sizes if not one.name.endswith("undated")), key=lambda one: (one.end_ns, one.name)
    )
    keeping.retain(Retention(max_bytes=sum(one.bytes for one in sizes) - 1), NOW_NS)
    assert {one.name for one in sizes} - {one.name for one in keeping.sizes()} == {oldest.name}
    keeping.retain(Retention(max_bytes=0), NOW_NS)
    left = {one.name for one in keeping.sizes()}
    assert {name.rpartition("-")[2] for name in left} == {day_of(NOW_NS), "undated"}


@pytest.mark.slow
@pytest.mark.parametrize("per_session", [False, True])
async def test_a_session_goes_and_the_others_stay(node: Node, per_session: bool) -> None:
    async with connected(Access([node.url]), per_session=per_session) as store:
        await store.put([Made().frames(FRAMES), Made(session="t" * 26).frames(FRAMES[:3])])
        alone = replace(CONVERSATION, id="alone")
        both = replace(CONVERSATION, id="both", sessions=("s" * 26, "t" * 26))
        await store.put_conversations([alone, both])
        refresh(node)
        assert [(one.session, one.packets) for one in await store.sessions()] == [
            ("s" * 26, len(FRAMES)), ("t" * 26, 3)
        ]  # fmt: skip
        assert await store.delete_session("s" * 26) == len(FRAMES)
        refresh(node)
        assert [one.session for one in await store.sessions()] == ["t" * 26]
        assert (await store.stats()).packets == 3
        assert [row.id for row in (await store.conversations(None, **SPAN)).rows] == ["both"]
        assert await store.delete_session("s" * 26) == 0
