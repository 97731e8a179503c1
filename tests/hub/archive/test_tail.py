"""The newest messages of a subject, whatever else the stream holds: none missing between them, the bounds kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hub.archive.reading import stream_state
from hub.archive.tail import STRETCH_BYTES, STRETCH_MESSAGES, read_tail
from hub.bus import Bus
from tests.hub.agent_side import FakeAgent, enrolled
from tests.hub.parts import parts, running
from tests.support.nats_backbone import until
from wire.names import STREAM_CAPTURE, Lane, batch_subject, new_session_id

LAYOUTS: tuple[list[int], ...] = (
    [0] * (3 * STRETCH_MESSAGES),
    [0, 300, 0, 0, 5, *([0] * (STRETCH_MESSAGES + 20)), 400, 0, 90],
    [700],
    [],
)
"""Between a session's messages so many of others."""


async def stored(agent: FakeAgent, bus: Bus, subject: str, gaps: Sequence[int]) -> list[bytes]:
    """Publish numbered messages with others between them; those of the subject, in order."""
    assert agent.connection is not None
    other = batch_subject(agent.name, new_session_id(), Lane.BULK)
    before = (await stream_state(bus, STREAM_CAPTURE)).last_sequence
    sent: list[bytes] = []
    for gap in [*gaps, 30]:
        for _ in range(gap):
            await agent.connection.publish(other, b"another's")
        if len(sent) < len(gaps):
            sent.append(b"number %d" % len(sent))
            await agent.connection.publish(subject, sent[-1])
    await agent.connection.flush()
    last = before + len(gaps) + sum(gaps) + 30

    async def all_stored() -> bool:
        return (await stream_state(bus, STREAM_CAPTURE)).last_sequence == last

    await until(all_stored)
    return sent


async def test_the_end_of_a_subject_has_no_hole_and_keeps_its_bounds(tmp_path: Path) -> None:
    async with parts(tmp_path) as hub:
        web1 = await enrolled(hub.backbone, hub.registry, "web1")
        assert web1.connection is not None
        bus = hub.bus()

        async def newest(subject: str, wanted: int, messages: int = 1000, size: int = 1 << 30) -> list[bytes]:
            tail = await read_tail(
                bus,
                STREAM_CAPTURE,
                subject,
                weight=len,
                wanted=wanted,
                max_messages=messages,
                max_bytes=size,
            )
            assert tail.next == (tail.messages[-1].sequence + 1 if tail.messages else 1)
            return [one.data for one in tail.messages]

        async with running(bus.run()):
            await bus.client()
            for gaps in LAYOUTS:
                subject = batch_subject("web1", new_session_id(), Lane.BULK)
                sent = await stored(web1, bus, subject, gaps)
                assert await newest(subject, 10**6) == sent, "all there are"
                for wanted in (1, 20, 100):
                    found = await newest(subject, wanted)
                    assert found == sent[len(sent) - len(found) :]
                    assert min(wanted, len(sent)) <= len(found) <= wanted + STRETCH_MESSAGES
                assert len(await newest(subject, 10**6, messages=5)) <= 5 + STRETCH_MESSAGES

            # Messages as large as they get, small ones around them: what is read beyond the bound is one stretch.
            subject, heavy = batch_subject("web1", new_session_id(), Lane.BULK), bytes(900_000)
            for data in (b"first", heavy, heavy, heavy, b"small", heavy):
                await web1.connection.jetstream().publish(subject, data, timeout=5)
            assert await newest(subject, 10**6) == [b"first", heavy, heavy, heavy, b"small", heavy]
            found = await newest(subject, 10**6, size=1_000_000)
            assert found[-2:] == [b"small", heavy]
            assert sum(map(len, found)) < 1_000_000 + STRETCH_BYTES + len(heavy)
