"""An ASGI layer below the application: a deadline for the request's body and a bound of requests in progress.

hypercorn bounds headers, streams per connection and what it buffers; Litestar bounds the body's size. What is left is a
client that sends its body a byte a minute, and one that opens connections without end.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

log = logging.getLogger("wirepool.hub.http")

BODY_DEADLINE_S = 20.0
MAX_REQUESTS = 512
"""Requests in progress in the whole hub, event streams and downloads included; beyond it: 503."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class RequestLimits:
    """Wraps an ASGI application."""

    def __init__(self, app: Application, *, body_deadline_s: float = BODY_DEADLINE_S) -> None:
        self._app = app
        self._body_deadline_s = body_deadline_s
        self.in_progress = 0
        self.refused = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self.in_progress >= MAX_REQUESTS:
            self.refused += 1
            await _refuse(scope, send)
            return
        self.in_progress += 1
        try:
            await self._app(scope, _with_deadline(receive, self._body_deadline_s), send)
        finally:
            self.in_progress -= 1


def _with_deadline(receive: Receive, seconds: float) -> Receive:
    deadline = asyncio.get_running_loop().time() + seconds
    complete = False

    async def receive_body() -> Message:
        nonlocal complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            complete = True
            return {"type": "http.disconnect"}
        complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    return receive_body


async def _refuse(scope: MutableMapping[str, Any], send: Send) -> None:
    text = "Too many requests are in progress. Close some live pages or downloads, then try again."
    kind, body = b"text/plain; charset=utf-8", f"{text}\n".encode()
    if scope["path"].startswith("/api/"):
        kind, body = b"application/json", b'{"error":{"status":503,"message":"%s"}}' % text.encode()
    headers = [(b"content-type", kind), (b"retry-after", b"5")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
