"""A full disk under the archive: refused, noticed, healed by a restart once there is room; nothing stored is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from nats.errors import TimeoutError as NatsTimeout

from hub.backbone import system_account
from hub.up import stack
from tests.support.nats_backbone import Backbone, backbone, until
from tests.support.need import need

SUBJECT = f"cap.web1.{'a' * 26}.bulk"


async def trouble(bus: Backbone) -> str | None:
    async with system_account.system_connection(bus.state) as connection:
        return await system_account.jetstream_trouble(connection)


@pytest.mark.slow
@pytest.mark.root
async def test_wedged_stream_is_restarted_when_there_is_room_again(tmp_path: Path) -> None:
    need("root", "mount", "umount")
    disk = tmp_path / "state" / "nats" / "jetstream"
    disk.mkdir(mode=0o700, parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(disk)], check=True)  # noqa: ASYNC221
    try:
        async with backbone(tmp_path) as bus:
            await fill_and_heal(bus, disk / "ballast")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # noqa: ASYNC221


def fill(path: Path) -> None:
    """Write until the disk is full; raises that OSError."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


async def fill_and_heal(bus: Backbone, ballast: Path) -> None:
    agent = bus.agent("web1")
    js = (await bus.connect_agent(agent)).jetstream()
    for _ in range(20):
        await js.publish(SUBJECT, bytes(500_000), timeout=5)
    assert await trouble(bus) is None
    with pytest.raises(OSError, match="No space left"):
        fill(ballast)
    with pytest.raises(NatsTimeout):
        await js.publish(SUBJECT, bytes(500_000), timeout=1)
    assert "no space left" in str(await trouble(bus)).lower()

    said: list[str] = []
    restarts: list[str] = []

    async def restart(reason: str) -> None:
        restarts.append(reason)
        bus.stop()
        await bus.start()

    async with asyncio.TaskGroup() as group:
        watch = group.create_task(stack.watch_jetstream(bus.state, restart, said.append, interval_s=0.1))
        # While the disk is full a restart wouldn't help: it is said once.
        await until(lambda: bool(said))
        await asyncio.sleep(0.5)
        assert len(said) == 1
        assert "is full" in said[0]
        assert restarts == []
        os.unlink(ballast)
        with pytest.raises(NatsTimeout):
            await js.publish(
                SUBJECT, bytes(500_000), timeout=1
            )  # there is room, and it is refused all the same
        await until(lambda: bool(restarts))
        watch.cancel()
    fresh = (await bus.connect_agent(agent)).jetstream()
    await fresh.publish(SUBJECT, bytes(500_000), timeout=5)
    state = (await (await bus.connect_hub()).jetstream().stream_info("CAPTURE")).state
    assert state.messages == 21
    assert await trouble(bus) is None
