"""Exports out of a real archive, judged by tshark, capinfos and a reader that shares no code with wirepool."""

import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.archive.export import Export, Progress
from hub.ledger.ledger import Ledger
from hub.ledger.session_books import session_books
from hub.registry import UnknownError
from tests.hub.agent_side import FakeAgent, enrolled, udp_packet
from tests.hub.parts import Parts, parts, running
from tests.support.captures import read_capture
from tests.support.nats_backbone import until
from tests.support.need import need
from wire.chain import Verdict
from wire.evidence import verify_wpz
from wire.keys import SigningKey
from wire.names import Lane, new_session_id
from wire.payload import HEADERS

START_NS = 1_700_000_000_000_000_000


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def archive_of(hub: Parts, agent: FakeAgent) -> list[tuple[int, bytes]]:
    """A session with two filter revisions, two lanes, a message stored twice, a forged one and an end."""
    expected = []
    number = 0
    for batch in range(12):
        packets = [udp_packet(number + i, 60 + batch * 50) for i in range(50)]
        lane = Lane.PRIO if batch == 5 else Lane.BULK
        first_ns = START_NS + batch * 1_000_000
        order: dict[str, Any] = (
            {"filter_revision": 1} if batch < 6 else {"filter_revision": 2, "payload": HEADERS}
        )
        message = agent.packets(packets, first_ns=first_ns, lane=lane, **order)
        await agent.publish(message)
        if batch == 3:
            await agent.publish(replace(message, id="again." + message.id), acknowledge=False)
        expected += [(first_ns + i * 1000, packet) for i, packet in enumerate(packets)]
        number += 50
    forger = FakeAgent(replace(agent.keys, signing=SigningKey.generate()), session=agent.session)
    forged = forger.packets([udp_packet(1)], first_ns=START_NS)
    assert agent.connection is not None
    await agent.connection.jetstream().publish(forged.subject, forged.data)
    await agent.publish(agent.closing(), agent.closing(Lane.PRIO))
    return expected


async def test_pcapng_and_evidence(tmp_path: Path) -> None:
    need("tshark", "capinfos")
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        hub.registry.sessions.observe(web1.session, "web1", "", 1)
        expected = await archive_of(hub, web1)
        bus = hub.bus()
        ledger = Ledger(hub.registry, bus)
        async with running(bus.run(), ledger.run()):
            await until(lambda: ledger.counts.batches >= 14 and ledger.counts.quarantined >= 1)
            export = Export(hub.registry, bus, hub.key)
            estimate = export.estimate([web1.session])
            progress = Progress()
            data = await collect(export.pcapng([web1.session], progress))
            evidence = await collect(export.wpz([web1.session]))
            consumers = await (await bus.jetstream()).consumers_info("CAPTURE")
        assert [consumer.name for consumer in consumers] == ["ledger-bulk"], "an export leaves nothing behind"
        capture = read_capture(data)
        assert [(packet.timestamp_ns, packet.data) for packet in capture.packets] == expected
        assert [interface.name for interface in capture.interfaces] == ["eth0"] * len(capture.interfaces)
        assert len(capture.interfaces) == 2
        assert data.count(b"filter revision 2, cut on the host: headers only") == 1
        assert data.count(b"cut on the host") == 1
        assert (progress.packets, progress.duplicates_skipped, progress.left_out) == (600, 1, 1)
        assert progress.finished
        assert progress.bytes_out == len(data)
        delivered = [interface.statistics[8] for interface in capture.interfaces]
        assert sum(delivered) == 600
        assert estimate.packets == 600
        assert len(data) * 0.7 < estimate.pcapng_bytes < len(data) * 1.4
        assert len(evidence) * 0.7 < estimate.wpz_bytes < len(evidence) * 1.4
        file = tmp_path / "export.pcapng"
        file.write_bytes(data)
        report = json.loads(_run("tshark", "-r", str(file), "-T", "json", "-c", "1"))
        assert report[0]["_source"]["layers"]["udp"]["udp.dstport"] == "2000"
        lines = _run("tshark", "-n", "-r", str(file), "-T", "fields", "-e", "frame.time_epoch").splitlines()
        assert len(lines) == 600
        assert lines[0] == "1700000000.000000000"
        summary = _run("capinfos", "-M", str(file))
        assert "600" in summary
        assert "1 messages in quarantine" in summary, summary
        evidence_file = tmp_path / "session.wpz"
        evidence_file.write_bytes(evidence)
        judged = verify_wpz(evidence_file, hub.key.public)
        assert judged.complaints == []
        assert judged.verdict() is Verdict.INTACT
        assert sum(chain.packets for chain in judged.chains.values()) == 600


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


async def test_cancelled_export_leaves_nothing_and_unknown_session_is_an_error(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        hub.registry.sessions.observe(web1.session, "web1", "", 1)
        for _ in range(30):
            await web1.publish(web1.packets([udp_packet(i, 1400) for i in range(300)]))
        bus = hub.bus()
        async with running(bus.run()):
            export = Export(hub.registry, bus, hub.key)
            with pytest.raises(UnknownError):
                export.estimate([new_session_id()])
            chunks = export.pcapng([web1.session])
            assert await anext(chunks)
            await chunks.aclose()
            client = await bus.client()
            assert client._subs.keys() <= {1}, "only the request inbox is still subscribed"
            assert await (await bus.jetstream()).consumers_info("CAPTURE") == []
            assert len(read_capture(await collect(export.pcapng([web1.session]))).packets) == 9000


async def test_export_goes_on_over_a_server_restart(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        hub.registry.sessions.observe(web1.session, "web1", "", 1)
        for _ in range(30):
            await web1.publish(web1.packets([udp_packet(i, 1400) for i in range(300)]))
        bus = hub.bus()
        async with running(bus.run()):
            chunks = Export(hub.registry, bus, hub.key).pcapng([web1.session])
            data = await anext(chunks)
            hub.backbone.kill()
            await hub.backbone.start()
            data += await collect(chunks)
        assert len(read_capture(data).packets) == 9000
        assert session_books(hub.registry, web1.session).batches == 0, "an export books nothing"
