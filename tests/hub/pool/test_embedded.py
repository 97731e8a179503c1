"""The embedded store by itself: what it keeps, what it finds, what it lets go."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hub.pool.embedded.store import EmbeddedStore
from hub.pool.fields import PACKET_FIELDS, Type
from hub.pool.observed import ClockOffset, ObservedBatch, Pooling
from hub.pool.store import Value
from tests.hub.observe.made import CASES
from tests.hub.parts import running
from tests.hub.pool.made import START_NS, Made

WHOLE = {"since_ns": 0, "until_ns": 2**63 - 1}


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(directory / "pool")
    async with running(store.run()):
        async with asyncio.timeout(10):
            await store.opened.wait()
        yield store


def told(batch: ObservedBatch, index: int) -> dict[str, Value]:
    """What fields.py says that a packet holds."""
    found: dict[str, Value] = {}
    for one in PACKET_FIELDS:
        values = one.read(batch)
        if values.present is not None and not values.present[index]:
            continue
        value = values.array[index]
        if one.type is Type.IP:
            address = ipaddress.IPv6Address(value.tobytes())
            found[one.name] = str(address.ipv4_mapped or address)
        elif one.type is Type.MAC:
            found[one.name] = value.tobytes().hex(":")
        elif one.type is Type.HASH:
            found[one.name] = f"{int(value):016x}"
        elif one.type is Type.BOOLEAN:
            found[one.name] = bool(value)
        elif one.type is Type.BYTES:
            if batch.level is Pooling.PAYLOAD:
                found[one.name] = bytes(batch.columns.data[int(value[0]) : int(value[1])])
        elif one.type is Type.KEYWORD:
            found[one.name] = values.words[value] if values.words else value.decode()
        else:
            found[one.name] = int(value)
    return found


async def test_what_comes_back_is_what_the_fields_say(tmp_path: Path) -> None:
    """Every kind of frame, with each of its fields."""
    made = Made(level=Pooling.PAYLOAD)
    batches = []
    for link_type in sorted({case.link_type for case in CASES.values()}):
        frames = [case.frame for case in CASES.values() if case.link_type == link_type]
        made.clock = None if len(batches) % 2 else ClockOffset(-5_000_000, -6_000_000, -4_500_000)
        batches.append(
            made.frames(
                frames,
                link_type=link_type,
                flags=0x0D3 + len(batches),
                first_ns=START_NS + len(batches) * 10**9,
            )
        )
    async with opened(tmp_path) as store:
        puts = await store.put(batches)
        assert [put.stored for put in puts] == [len(batch) for batch in batches]
        page = await store.packets(None, **WHOLE, limit=1000)
    assert page.after is None
    found = {str(row.observation): dict(row.values) for row in page.rows}
    wanted = {batch.observation_id(i): told(batch, i) for batch in batches for i in range(len(batch))}
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name] == wanted[name], name
