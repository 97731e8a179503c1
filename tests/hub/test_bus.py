"""The bus over a real server: killed servers, closed clients, slow handlers."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from hub.bus import Bus, BusAway
from tests.hub.parts import parts, running, settled
from tests.support.nats_backbone import until


async def test_subscriptions_survive_a_killed_server_and_a_closed_client(tmp_path: Path) -> None:
    async with parts(tmp_path, with_streams=False) as hub:
        bus = hub.bus()
        got: list[bytes] = []
        states: list[bool] = []
        bus.on_change(states.append)

        async def handler(message: Any) -> None:
            got.append(message.data)

        subscription = await bus.subscribe("x.*", handler)
        with pytest.raises(BusAway):
            await bus.publish("x.a", b"too early")
        async with running(bus.run()):
            await settled(bus)
            await bus.publish("x.a", b"1")
            await until(lambda: got == [b"1"])
            hub.backbone.kill()
            await until(lambda: not bus.connected)
            await hub.backbone.start()
            await until(lambda: bus.connected)
            await settled(bus)
            await bus.publish("x.a", b"2")
            await until(lambda: got == [b"1", b"2"])
            # As after revoked or expired credentials: nats-py is closed for good.
            first = await bus.client()
            await first.close()
            await until(lambda: bus.connected and bus._client is not first)
            await settled(bus)
            await bus.publish("x.a", b"3")
            await until(lambda: got == [b"1", b"2", b"3"])
            await subscription.close()
            await settled(bus)
            await bus.publish("x.a", b"4")
            await settled(bus)
        assert got == [b"1", b"2", b"3"]
        assert states[:3] == [True, False, True]


async def test_a_slow_handler_drops_and_counts(tmp_path: Path) -> None:
    async with parts(tmp_path, with_streams=False) as hub:
        bus = hub.bus()
        go_on = asyncio.Event()
        handled = 0

        async def handler(message: Any) -> None:
            nonlocal handled
            await go_on.wait()
            handled += 1

        subscription = await bus.subscribe("x", handler, max_messages=10)
        async with running(bus.run()):
            await settled(bus)
            for _ in range(50):
                await bus.publish("x", b"")
            await settled(bus)
            await until(lambda: subscription.dropped >= 39)
            go_on.set()
            await until(lambda: handled + subscription.dropped == 50)
        assert 10 <= handled <= 11


async def test_without_a_server_it_waits_and_tells_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus(["nats://127.0.0.1:1"])
    async with running(bus.run()):
        await until(lambda: sum(bus.errors.values()) >= 3, 20)
        assert not bus.connected
    assert sum("ConnectionRefused" in record.message for record in caplog.records) <= 2


async def test_a_loop_ends_although_its_cancellation_was_lost_on_the_way(tmp_path: Path) -> None:
    """As it is in nats-py under Python 3.11, when a message and the cancellation arrive together."""
    rounds = 0

    async def loop(bus: Bus) -> None:
        nonlocal rounds
        while True:
            await bus.client()
            rounds += 1
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async with parts(tmp_path, with_streams=False) as hub:
        bus = hub.bus()
        async with running(bus.run()), asyncio.TaskGroup() as group:
            task = group.create_task(loop(bus))
            await until(lambda: rounds == 1)
            task.cancel()
            await asyncio.wait([task], timeout=5)
            assert task.cancelled()
            assert rounds == 1
