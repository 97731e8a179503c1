"""Reading the archive back: one subject of a stream, in stream order, without a consumer.

JetStream's direct batched get (server 2.11, ADR-31) answers one request with up to so many messages and bytes and a
last "end of batch". The next request goes out when the answers before are used up, so a slow reader holds one
answer of BATCH_BYTES and the server holds nothing for it: nothing is left behind when the reader goes away.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import nats.errors
import orjson
from nats.aio.client import Client

from hub.bus import Bus

BATCH_MESSAGES = 64
BATCH_BYTES = 8 << 20
ANSWER_TIMEOUT_S = 5.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PATIENCE_S = 60.0
"""How long a reader waits for a server that is away."""


class ArchiveError(Exception):
    """The archive can't be read (any further); the text says why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of a stream."""

    sequence: int
    data: bytes
    stored_ns: int = 0
    """When the server stored it, to the microsecond."""
    subject: str = ""
    """As the server says; "" when it doesn't."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream holds."""

    first_sequence: int
    last_sequence: int
    messages: int
    bytes: int
    max_bytes: int
    """-1: no bound."""


async def stream_state(bus: Bus, stream: str) -> StreamState:
    """The stream's state now; ArchiveError when there is none."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            client = await bus.client()
        reply = await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=ANSWER_TIMEOUT_S)
    except (TimeoutError, nats.errors.Error) as error:
        raise ArchiveError(f"the NATS server doesn't answer: {error or type(error).__name__}") from error
    info = orjson.loads(reply.data)
    if "error" in info:
        raise ArchiveError(f"stream {stream}: {info['error'].get('description', 'refused')}")
    state = info["state"]
    return StreamState(
        state["first_seq"],
        state["last_seq"],
        state["messages"],
        state["bytes"],
        info["config"].get("max_bytes", -1),
    )


async def first_since(bus: Bus, stream: str, subject: str, since_rfc3339: str) -> Stored | None:
    """The subject's first message stored at or after a time; None when there is none."""
    return await _one(bus, stream, {"start_time": since_rfc3339, "next_by_subj": subject})


async def first_from(bus: Bus, stream: str, subject: str, sequence: int) -> Stored | None:
    """The subject's first message at or after a sequence of the stream; None when there is none."""
    return await _one(bus, stream, {"seq": sequence, "next_by_subj": subject})


async def last_of(bus: Bus, stream: str, subject: str) -> Stored | None:
    """The subject's newest message; None when it has none."""
    return await _one(bus, stream, {"last_by_subj": subject})


async def _one(bus: Bus, stream: str, question: dict[str, object]) -> Stored | None:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        client = await bus.client()
    body = orjson.dumps(question)
    reply = await client.request(f"$JS.API.DIRECT.GET.{stream}", body, timeout=ANSWER_TIMEOUT_S)
    headers = reply.headers or {}
    if _status(headers):
        return None
    return Stored(int(headers["Nats-Sequence"]), reply.data, _time_ns(headers))


async def first_at(bus: Bus, stream: str, subject: str, since_rfc3339: str) -> int | None:
    """Its sequence."""
    first = await first_since(bus, stream, subject, since_rfc3339)
    return None if first is None else first.sequence


def _status(headers: dict[str, str]) -> str | None:
    """What the server itself has to say instead of a message. A stored message keeps the headers its sender gave it, a
    `Status` among them; but the server gives every one its sequence, and has the last word on that."""
    return None if "Nats-Sequence" in headers else headers.get("Status")


def _time_ns(headers: dict[str, str]) -> int:
    """0 when the server doesn't say."""
    try:
        since = datetime.fromisoformat(headers.get("Nats-Time-Stamp", "")) - _EPOCH
    except (ValueError, TypeError):
        return 0
    return since // timedelta(microseconds=1) * 1000


async def read_subject(
    bus: Bus, stream: str, subject: str, *, first: int = 1, last: int | None = None
) -> AsyncGenerator[Stored, None]:
    """The subject's messages from sequence `first` to `last` (None: as far as the stream goes now).

    Goes on by itself after a lost connection. ArchiveError when the server stays away for PATIENCE_S. Close the
    iterator to stop (`contextlib.aclosing`).
    """
    if last is None:
        last = (await stream_state(bus, stream)).last_sequence
    loop = asyncio.get_running_loop()
    heard_s = loop.time()
    while first <= last:
        try:
            async with asyncio.timeout(PATIENCE_S):
                client = await bus.client()
            async with aclosing(read_answer(client, stream, subject, first)) as answer:
                async for stored in answer:
                    if stored is None or stored.sequence > last:
                        return
                    first = stored.sequence + 1
                    yield stored
                    heard_s = loop.time()  # the reader's own time isn't the server's silence
        except (TimeoutError, nats.errors.Error) as error:
            if loop.time() - heard_s > PATIENCE_S:
                raise ArchiveError("the NATS server stays away; the export is incomplete") from error
            await asyncio.sleep(0.5)


async def read_answer(
    client: Client,
    stream: str,
    subject: str,
    first: int,
    *,
    most: int = BATCH_MESSAGES,
    max_bytes: int = BATCH_BYTES,
) -> AsyncGenerator[Stored | None, None]:
    """One request's messages, from sequence `first` on; None last when the subject has no more.

    At most `most`, and no more once `max_bytes` are there. nats.errors.Error, TimeoutError, ArchiveError.
    """
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, pending_bytes_limit=4 * BATCH_BYTES)
    request = {"seq": first, "next_by_subj": subject, "batch": most, "max_bytes": max_bytes}
    try:
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", orjson.dumps(request), reply=inbox)
        while True:
            message = await subscription.next_msg(ANSWER_TIMEOUT_S)
            headers = message.headers or {}
            status = _status(headers)
            if status == "204":  # end of batch
                if int(headers.get("Nats-Num-Pending", "0")) == 0:
                    yield None
                return
            if status == "404":
                yield None
                return
            if status == "503":
                raise ArchiveError(f"stream {stream} isn't there")
            if status is not None:
                raise ArchiveError(
                    f"the server refused to read {stream}: {status} {headers.get('Description', '')}"
                )
            subject_of = headers.get("Nats-Subject", "")
            yield Stored(int(headers["Nats-Sequence"]), message.data, _time_ns(headers), subject_of)
    finally:
        with suppress(nats.errors.Error):
            await subscription.unsubscribe()
