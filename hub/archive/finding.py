"""One batch of the archive by its name.

It is looked for where it probably is (from the time on that it was stored, as far as that is known), and then by the
ledger's marks: one per MiB or so of a subject, so that a dozen questions to the server find the place in an archive of
any size, whatever the clocks say.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime

from hub.archive.reading import Stored, first_from, first_since, read_subject
from hub.bus import Bus
from hub.observation import BatchName
from hub.registry import Registry
from wire.batch import OpenBatch, open_batch
from wire.errors import WireError
from wire.names import STREAM_CAPTURE, STREAM_PRIORITY, Lane, batch_subject

MAX_READ = 512
"""Batches that are looked at in one place."""
MAX_READ_BYTES = 32 << 20
_LATEST_US = 4_102_444_800 * 10**6
"""The year 2100: no time beyond it is asked for."""
_STREAMS = {Lane.BULK: STREAM_CAPTURE, Lane.PRIO: STREAM_PRIORITY}


async def find_batch(
    bus: Bus, name: BatchName, since_ns: int, keys: Sequence[bytes], *, most: int = MAX_READ
) -> OpenBatch | None:
    """The batch, signed with one of the keys, if it is among the first `most` of its subject stored since then.

    One question to the server when it is the first. nats.errors.Error, TimeoutError and ArchiveError when the server
    doesn't answer.
    """
    subject, stream = _place(name)
    since = datetime.fromtimestamp(min(max(0, since_ns // 1000), _LATEST_US) / 1e6, UTC)
    first = await first_since(bus, stream, subject, since.isoformat())
    return await _read_on(bus, name, first, keys, most)


async def find_by_marks(
    registry: Registry, bus: Bus, name: BatchName, keys: Sequence[bytes]
) -> OpenBatch | None:
    """The batch, wherever in the archive it is. Errors as of find_batch."""
    subject, stream = _place(name)
    marks = [
        row["sequence"]
        for row in registry.connection.execute(
            "SELECT sequence FROM archive_marks WHERE stream = ? AND subject = ? ORDER BY sequence",
            (stream, subject),
        )
    ]
    boots = {
        bytes(row["boot"]): number
        for number, row in enumerate(
            registry.connection.execute(
                "SELECT boot FROM chains WHERE agent = ? AND session = ? AND lane = ? ORDER BY first_received_ns",
                (name.agent, name.session, name.lane.value),
            )
        )
    }
    if not marks or name.boot not in boots:
        return None
    wanted = (boots[name.boot], name.sequence)
    low, high = 0, len(marks)
    while high - low > 1:
        middle = (low + high) // 2
        found = await first_from(bus, stream, subject, marks[middle])
        if found is None or _order(found.data, boots) > wanted:
            high = middle
        else:
            low = middle
    # Batches in flight may be stored in another order: one mark earlier.
    return await _read_on(
        bus, name, await first_from(bus, stream, subject, marks[max(0, low - 1)]), keys, MAX_READ
    )


def _place(name: BatchName) -> tuple[str, str]:
    return batch_subject(name.agent, name.session, name.lane), _STREAMS[name.lane]


def _order(message: bytes, boots: dict[bytes, int]) -> tuple[int, int]:
    """(which boot, sequence) as the header says; what is none of the session's goes first."""
    try:
        header = open_batch(message, public=None).header
    except WireError:
        return (-1, 0)
    return (boots.get(header.boot, -1), header.sequence)


async def _read_on(
    bus: Bus, name: BatchName, first: Stored | None, keys: Sequence[bytes], most: int
) -> OpenBatch | None:
    """The batch, if it is the first or among the next `most`."""
    if first is None:
        return None
    if is_named(first.data, name):
        return opened(first.data, keys)
    subject, stream = _place(name)
    read, read_bytes = 1, len(first.data)
    async with aclosing(read_subject(bus, stream, subject, first=first.sequence + 1)) as messages:
        async for stored in messages:
            if is_named(stored.data, name):
                return opened(stored.data, keys)
            read, read_bytes = read + 1, read_bytes + len(stored.data)
            if read >= most or read_bytes >= MAX_READ_BYTES:
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
