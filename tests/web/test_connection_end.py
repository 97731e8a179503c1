"""A client that has gone leaves nothing behind: neither at once nor for the idle time."""

from __future__ import annotations

import asyncio
import gc
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypercorn.asyncio.tcp_server import TCPServer

from tests.support.nats_backbone import until
from tests.web.test_backpressure import serving

CONNECTIONS = 100


async def greeting(scope: Any, receive: Any, send: Any) -> None:
    """The smallest application, which takes its time over /slow."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        while (await receive())["type"] != "http.disconnect":
            pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def held() -> int:
    """Connections that the server still has objects of."""
    gc.collect()
    return sum(isinstance(thing, TCPServer) for thing in gc.get_objects())


async def leave_while_it_answers(port: int, context: ssl.SSLContext) -> None:
    """Ask, and go without a word before the answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")
    await writer.drain()
    writer.transport.abort()


@pytest.mark.parametrize("http2", [True, False])
async def test_connections_leave_nothing_behind(tmp_path: Path, http2: bool) -> None:
    async with serving(tmp_path, greeting) as (port, context, _, _):
        for _ in range(CONNECTIONS):
            async with httpx.AsyncClient(verify=context, http2=http2, trust_env=False) as client:
                answer = await client.get(f"https://127.0.0.1:{port}/")
                assert (answer.text, answer.http_version) == ("hello", "HTTP/2" if http2 else "HTTP/1.1")
        await until(lambda: held() == 0)


async def test_a_client_that_leaves_before_the_answer_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, greeting) as (port, context, _, _):
        for _ in range(CONNECTIONS):
            await leave_while_it_answers(port, context)
        await until(lambda: held() == 0)


async def test_an_open_connection_is_kept(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, greeting) as (port, context, _, _),
        httpx.AsyncClient(verify=context, http2=True, trust_env=False) as client,
    ):
        for _ in range(3):
            assert (await client.get(f"https://127.0.0.1:{port}/")).text == "hello"
            assert held() == 1
