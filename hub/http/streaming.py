"""Answers that take long: downloads and event streams, with backpressure and a certain end.

Litestar's own stream response leaves an async generator where it was when the client goes away in the middle of
`send`; Python then closes it whenever it is collected. Here it is closed before the request ends, so that an aborted
download has freed its archive consumer, and an ended page its live viewer, by the time the connection is gone.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from litestar.types import Receive, Scope, Send

log = logging.getLogger("wirepool.hub.http")


DOWNLOAD_GRACE_S = 2.0
"""At shutdown a download has this long to finish; then it is cut (hub.http.server gives the whole 3 s)."""


class _ClientGone(Exception):
    """Ends the TaskGroup of a stream whose client went away."""


class StreamedAnswer:
    """An ASGI application that sends chunks as the client takes them: `send` waits while 32 KiB are unsent.

    An exception of the generator after the first byte can't become an error page any more: the stream is cut, which a
    browser reports as a failed download, and the error is logged.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        status: int = 200,
        headers: dict[str, str] | None = None,
        stopping: asyncio.Event | None = None,
        grace_s: float = 0.0,
    ) -> None:
        """`stopping`: `grace_s` after it is set the stream is over. Without grace it ends properly (events); with one
        it is cut, since a file that ended properly would pass for whole (downloads)."""
        self._chunks = chunks
        self._status = status
        self._headers = {"content-type": media_type, "cache-control": "no-store", **(headers or {})}
        self._stopping = stopping
        self._grace_s = grace_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        async with aclosing(self._chunks) as chunks:
            headers = [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in self._headers.items()
            ]
            await send({"type": "http.response.start", "status": self._status, "headers": headers})
            if scope.get("method") == "HEAD":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            gone = False
            try:
                async with asyncio.TaskGroup() as tasks:
                    watch = tasks.create_task(_until_gone(receive))
                    stop = (
                        tasks.create_task(_until_set(self._stopping, self._grace_s))
                        if self._stopping
                        else None
                    )
                    async for chunk in chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    watch.cancel()
                    if stop is not None:
                        stop.cancel()
            except* _ClientGone:
                gone = True
            except* _Stopping:
                gone = self._grace_s > 0
            if gone:
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Stopping(Exception):
    """Ends the TaskGroup of an event stream at shutdown."""


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _ClientGone


async def _until_set(event: asyncio.Event, grace_s: float) -> None:
    await event.wait()
    await asyncio.sleep(grace_s)
    raise _Stopping


def event(name: str, data: str) -> bytes:
    """One server-sent event (HTML Living Standard, 9.2.6): each line of `data` becomes a `data:` field."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"event: {name}\n{lines}\n".encode()


def event_stream(chunks: AsyncGenerator[bytes, None], stopping: asyncio.Event) -> StreamedAnswer:
    """An answer of server-sent events that ends at shutdown. `retry` tells the browser to come back after 2 s."""
    return StreamedAnswer(
        chunks,
        media_type="text/event-stream; charset=utf-8",
        headers={"x-accel-buffering": "no"},
        stopping=stopping,
    )


def download(
    chunks: AsyncIterator[bytes],
    *,
    file_name: str,
    media_type: str,
    stopping: asyncio.Event,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> StreamedAnswer:
    """A file made while it is sent. `file_name` is our own ASCII text: letters, digits, dot, dash, underscore."""
    if not file_name.isascii() or not all(c.isalnum() or c in "._-" for c in file_name):
        raise ValueError(f"unsafe file name {file_name!r}")
    return StreamedAnswer(
        _as_generator(chunks),
        media_type=media_type,
        status=status,
        headers={"content-disposition": f'attachment; filename="{file_name}"', **(headers or {})},
        stopping=stopping,
        grace_s=DOWNLOAD_GRACE_S,
    )


async def _as_generator(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    close: Callable[[], Awaitable[Any]] | None = getattr(chunks, "aclose", None)
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        if close is not None:
            await close()
