"""Importing a file with the agent's own program: every packet once, and again where it was after a kill."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.agent.home import Home
from tests.support.captures import read_capture
from tests.support.nats_backbone import Backbone, backbone, until
from tests.support.netns import wait_for
from wire.batch import Kind, OpenBatch, decode_columns

SESSION = "a" * 26


def write_pcap(path: Path, packets: int, packet_bytes: int = 200) -> None:
    """A classic pcap in ns; every packet carries its number and bytes that don't compress."""
    noise = os.urandom(packet_bytes)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        for number in range(packets):
            data = (bytes(12) + b"\x88\xb5" + number.to_bytes(4, "big") + noise)[:packet_bytes]
            file.write(struct.pack("<IIII", number // 1000, number % 1000, packet_bytes, packet_bytes) + data)


def numbers(batches: list[OpenBatch], packet_bytes: int = 200) -> list[int]:
    """The packets' own numbers, as stored."""
    found = []
    for batch in batches:
        if batch.header.kind is Kind.PACKETS:
            data = bytes(decode_columns(batch).data)
            found += [
                int.from_bytes(data[at + 14 : at + 18], "big") for at in range(0, len(data), packet_bytes)
            ]
    return found


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Backbone]:
    async with backbone(tmp_path) as running:
        yield running


@pytest.fixture
def home(bus: Backbone, tmp_path: Path) -> Iterator[Home]:
    made = Home.new(bus, tmp_path / "web1")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


async def finished(home: Home, timeout_s: float = 60) -> int:
    assert home.process is not None
    return await asyncio.to_thread(home.process.wait, timeout_s)


async def test_a_file_is_stored_once_and_the_books_are_shown(
    bus: Backbone, home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "in.pcap"
    write_pcap(file, 20_011)
    home.start("replay", str(file), "--session", SESSION)
    assert await finished(home) == 0, home.log()
    hub = await bus.connect_hub()
    batches = await home.stored(hub)
    assert numbers(batches) == list(range(20_011))
    closing = batches[-1].header
    assert (closing.kind, closing.reason) == (Kind.CLOSING, "end of file")
    assert {batch.header.clock.source for batch in batches} == {"file"}
    assert "acknowledged     20011" in home.log()
    assert "the books balance" in home.log()
    assert list((home.directory / "spool").iterdir()) == []

    home.start("replay", str(file), "--session", SESSION)  # once more: it has ended, nothing is stored twice
    assert await finished(home) == 0
    assert len(await home.stored(hub)) == len(batches)


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["kill", "terminate"])
async def test_an_interrupted_import_goes_on(bus: Backbone, home: Home, tmp_path: Path, stop: str) -> None:
    file = tmp_path / "in.pcap"
    write_pcap(file, 60_013)
    for _ in range(3):
        process = home.start("replay", str(file), "--session", SESSION, "--rate", "60000")
        wait_for(lambda: "running" in home.log(), "it runs")
        await asyncio.sleep(0.15)
        getattr(process, stop)()
        await finished(home)
    home.start("replay", str(file), "--session", SESSION)
    assert await finished(home) == 0, home.log()
    batches = await home.stored(await bus.connect_hub())
    assert len({batch.header.boot for batch in batches}) > 1
    assert sorted(numbers(batches)) == list(range(60_013))
    assert "the books balance" in home.log()
    assert list((home.directory / "spool").iterdir()) == []


async def test_a_filter_counts_what_it_turns_away(
    bus: Backbone, home: Home, tmp_path: Path, captures: Path
) -> None:
    file = captures / "real" / "dns.pcap"
    whole = len(read_capture(file).packets)
    home.start("replay", str(file), "--filter", "udp port 53", "--snaplen", "64")
    assert await finished(home) == 0, home.log()
    books = [batch.header.books for batch in await home.stored(await bus.connect_hub())][-1]
    assert books.filtered is not None
    assert books.received + books.filtered == whole
    assert books.captured == books.received > 0


async def test_what_cannot_be_replayed_says_so(bus: Backbone, home: Home, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no capture")
    for file, word in ((tmp_path / "text", "neither"), (tmp_path / "absent.pcap", "absent.pcap")):
        home.start("replay", str(file))
        assert await finished(home) == 1
        assert "failed (" in home.log()
        assert word in home.log() or "pcap" in home.log()
    home.start("replay", str(tmp_path / "text"), "--session", "short")
    assert await finished(home) == 1
    assert "--session: not a session id" in home.log()


async def test_without_a_server_it_waits_and_one_agent_holds_the_directory(
    bus: Backbone, home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "in.pcap"
    write_pcap(file, 5000)
    bus.kill()
    process = home.start("replay", str(file), "--session", SESSION)
    await until(lambda: "stopped (end of file)" in home.log(), 15)
    second = subprocess.run(home.command("run"), capture_output=True, text=True, check=False)  # noqa: ASYNC221 - short
    assert second.returncode == 1
    assert "is running on" in second.stderr
    assert process.poll() is None
    await bus.start()
    assert await finished(home) == 0
    assert numbers(await home.stored(await bus.connect_hub())) == list(range(5000))


async def test_a_file_larger_than_the_spool_waits_for_room(bus: Backbone, home: Home, tmp_path: Path) -> None:
    file, config = tmp_path / "in.pcap", tmp_path / "agent.yaml"
    write_pcap(file, 30_011)
    config.write_text("spool: {max_bytes: 1 MiB}\nbatch: {compression: none}\n")
    bus.kill()
    home.start("replay", str(file), "--session", SESSION, "--config", str(config))
    await until(
        lambda: sum(p.stat().st_size for p in (home.directory / "spool").rglob("*.seg")) > 500_000, 15
    )
    await bus.start()
    assert await finished(home) == 0, home.log()
    assert numbers(await home.stored(await bus.connect_hub())) == list(range(30_011))
    assert "the books balance" in home.log()
    assert "dropped" not in home.log()
