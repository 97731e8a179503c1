"""One batch of the archive by its name and about when it was stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime

from hub.archive.reading import first_since, read_subject
from hub.bus import Bus
from hub.observation import BatchName
from wire.batch import OpenBatch, open_batch
from wire.errors import WireError
from wire.names import STREAM_CAPTURE, STREAM_PRIORITY, Lane, batch_subject

MAX_READ = 512
"""Batches of the archive that are looked at for one."""
MAX_READ_BYTES = 32 << 20
_LATEST_US = 4_102_444_800 * 10**6
"""The year 2100: no time beyond it is asked for."""
_STREAMS = {Lane.BULK: STREAM_CAPTURE, Lane.PRIO: STREAM_PRIORITY}


async def find_batch(bus: Bus, name: BatchName, since_ns: int, keys: Sequence[bytes]) -> OpenBatch | None:
    """The batch, signed with one of the keys, if it is among the first MAX_READ of its subject stored since then.

    One question to the server when it is the first. nats.errors.Error, TimeoutError and ArchiveError when the server
    doesn't answer.
    """
    subject, stream = batch_subject(name.agent, name.session, name.lane), _STREAMS[name.lane]
    since = datetime.fromtimestamp(min(max(0, since_ns // 1000), _LATEST_US) / 1e6, UTC)
    first = await first_since(bus, stream, subject, since.isoformat())
    if first is None:
        return None
    if is_named(first.data, name):
        return opened(first.data, keys)
    read, read_bytes = 1, len(first.data)
    async with aclosing(read_subject(bus, stream, subject, first=first.sequence + 1)) as messages:
        async for stored in messages:
            if is_named(stored.data, name):
                return opened(stored.data, keys)
            read, read_bytes = read + 1, read_bytes + len(stored.data)
            if read >= MAX_READ or read_bytes >= MAX_READ_BYTES:
                break
    return None


def is_named(message: bytes, name: BatchName) -> bool:
    """Whether its header gives a message this name; the signature of the one that has it is checked afterwards."""
    try:
        return BatchName.of(open_batch(message, public=None).header) == name
    except WireError:
        return False


def opened(message: bytes, keys: Sequence[bytes]) -> OpenBatch | None:
    """The batch, if one of the agent's keys signed it."""
    for key in keys:
        try:
            return open_batch(message, public=key)
        except WireError:
            continue
    return None
