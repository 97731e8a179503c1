"""The streams: made once, brought up to date, within their budget, and what they refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import StreamConfig
from nats.js.errors import APIError

from hub.backbone import first_start, streams
from hub.backbone.streams import DESIRED_STREAM, StreamBudget, ensure_streams
from tests.support.nats_backbone import MEBIBYTE, Backbone, backbone
from wire import names

BUDGET = 256 * MEBIBYTE


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Backbone]:
    async with backbone(tmp_path, with_streams=False, budget_bytes=BUDGET) as running:
        yield running


@given(st.integers(first_start.MIN_BUDGET_BYTES, 1 << 50))
def test_the_sum_stays_within_the_budget(total: int) -> None:
    budget = StreamBudget.of(total)
    assert budget.capture + budget.priority + budget.desired <= total
    assert min(budget.capture, budget.priority, budget.desired) >= 8 * MEBIBYTE
    assert budget.capture >= total // 2


async def test_made_once_and_not_again(bus: Backbone) -> None:
    hub = await bus.connect_hub()
    assert await ensure_streams(hub, BUDGET) == ["CAPTURE", "PRIORITY", DESIRED_STREAM]
    assert await ensure_streams(hub, BUDGET) == []
    js = hub.jetstream()
    for name, lane in (("CAPTURE", "bulk"), ("PRIORITY", "prio")):
        config = (await js.stream_info(name)).config
        assert config.subjects == [f"cap.*.*.{lane}"]
        assert (config.retention, config.discard, config.storage) == ("limits", "new", "file")
        assert config.discard_new_per_subject
        assert config.allow_direct
        assert config.duplicate_window == streams.DUPLICATE_WINDOW_S
        assert not config.allow_rollup_hdrs
    desired = await js.key_value(names.DESIRED_BUCKET)
    for value in (b"one", b"two"):
        await desired.put("web1", value)
    assert (await desired.get("web1")).value == b"two"
    assert (await js.stream_info(DESIRED_STREAM)).state.messages == 1
    await desired.delete("web1")


async def test_two_hubs_at_once(bus: Backbone) -> None:
    first, second = await bus.connect_hub(), await bus.connect_hub()
    await asyncio.gather(ensure_streams(first, BUDGET), ensure_streams(second, BUDGET))
    assert await ensure_streams(first, BUDGET) == []


async def test_an_older_configuration_is_brought_up_to_date_and_keeps_its_messages(bus: Backbone) -> None:
    hub = await bus.connect_hub()
    js = hub.jetstream()
    await js.add_stream(StreamConfig(name="CAPTURE", subjects=["cap.*.*.bulk"], max_bytes=20 * MEBIBYTE))
    await js.publish(f"cap.web1.{'a' * 26}.bulk", b"kept")
    assert "CAPTURE" in await ensure_streams(hub, BUDGET)
    info = await js.stream_info("CAPTURE")
    assert info.state.messages == 1
    assert info.config.max_bytes == StreamBudget.of(BUDGET).capture
    assert info.config.discard == "new"
    assert await ensure_streams(hub, BUDGET) == []


async def test_another_budget_changes_the_sizes(bus: Backbone) -> None:
    hub = await bus.connect_hub()
    await ensure_streams(hub, BUDGET)
    assert await ensure_streams(hub, 200 * MEBIBYTE) == ["CAPTURE", DESIRED_STREAM]
    # (The priority lane has its least size either way.)


async def test_more_than_the_account_may_take_is_a_clear_error(bus: Backbone) -> None:
    hub = await bus.connect_hub()
    with pytest.raises(streams.StreamError, match=r"refused stream CAPTURE: .*budget"):
        await ensure_streams(hub, 10 * BUDGET)


async def test_a_message_above_the_bound_is_refused(bus: Backbone) -> None:
    hub = await bus.connect_hub()
    await ensure_streams(hub, BUDGET)
    with pytest.raises(APIError):
        await hub.jetstream().publish(
            f"$KV.{names.DESIRED_BUCKET}.web1", bytes(streams.MAX_DESIRED_BYTES + 8192)
        )
    # A batch of exactly the largest payload fits, headers and all.
    headers = {"Nats-Msg-Id": "x" * 100}
    await hub.jetstream().publish(f"cap.web1.{'a' * 26}.bulk", bytes(MEBIBYTE - 200), headers=headers)


async def test_acknowledged_survives_kill_9_of_the_server(bus: Backbone) -> None:
    hub = await bus.connect_hub()
    await ensure_streams(hub, BUDGET)
    agent = await bus.connect_agent(bus.agent("web1"))
    js = agent.jetstream()
    for number in range(50):
        await js.publish(
            f"cap.web1.{'a' * 26}.bulk", bytes(10_000), headers={"Nats-Msg-Id": str(number)}, timeout=5
        )
    bus.kill()
    await bus.start()
    fresh = await bus.connect_hub()
    assert (await fresh.jetstream().stream_info("CAPTURE")).state.messages == 50
    # And the ids are remembered across it: a resend isn't stored twice.
    again = await bus.connect_agent(bus.agent("web1"))
    answer = await again.jetstream().publish(
        f"cap.web1.{'a' * 26}.bulk", bytes(10_000), headers={"Nats-Msg-Id": "49"}, timeout=5
    )
    assert answer.duplicate
