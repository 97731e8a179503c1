"""The newest messages of a subject: the archive read from its end.

A stream can only be read forwards. So one asks for its last message, and then for what stands in ever longer stretches
before it, each of them read whole: what comes out has no hole, however many other subjects share the stream. Each
stretch costs one question; one that turns out too long is read to STRETCH_MESSAGES and asked for again, shorter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from hub.archive.reading import Stored, last_of, read_answer
from hub.bus import Bus

STRETCH_MESSAGES = 64
STRETCH_BYTES = 1 << 20
"""And one message more: the bound is looked at when one has been sent."""
MAX_QUESTIONS = 32
FIRST_STRETCH = 16


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a subject."""

    messages: list[Stored]
    """Oldest first, none missing between them."""
    next: int
    """What is stored after the last of them has at least this sequence."""


async def read_tail(
    bus: Bus,
    stream: str,
    subject: str,
    *,
    weight: Callable[[Sequence[Stored]], int],
    wanted: int,
    max_messages: int,
    max_bytes: int,
) -> Tail:
    """The newest messages that together weigh `wanted`, or as many as the bounds allow; fewer if there are no more.

    weight: called in a thread. nats.errors.Error, TimeoutError and ArchiveError when the server doesn't answer.
    """
    last = await last_of(bus, stream, subject)
    if last is None:
        return Tail([], 1)
    found = [last]
    size, weighs = len(last.data), await asyncio.to_thread(weight, found)
    end, stretch = last.sequence, FIRST_STRETCH
    for _ in range(MAX_QUESTIONS):
        if weighs >= wanted or len(found) >= max_messages or size >= max_bytes or end <= 1:
            break
        begin = max(1, end - stretch)
        before = await _between(bus, stream, subject, begin, end)
        if before is None:
            stretch = max(1, stretch // 4)
            continue
        end = begin
        stretch *= 2 if before else 8
        found[:0] = before
        size += sum(len(one.data) for one in before)
        weighs += await asyncio.to_thread(weight, before)
    return Tail(found, last.sequence + 1)


async def _between(bus: Bus, stream: str, subject: str, begin: int, end: int) -> list[Stored] | None:
    """The subject's messages from sequence `begin` to before `end`; None: more than one answer of them."""
    found: list[Stored] = []
    async with aclosing(
        read_answer(
            await bus.client(), stream, subject, begin, most=STRETCH_MESSAGES, max_bytes=STRETCH_BYTES
        )
    ) as answer:
        async for stored in answer:
            if stored is None or stored.sequence >= end:
                return found
            found.append(stored)
    # One message is always whole, whatever its size.
    return found if found and found[-1].sequence == end - 1 else None
