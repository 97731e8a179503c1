"""A client that doesn't read, or goes away, costs a bounded amount and is let go of completely."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import hypercorn.protocol
import hypercorn.protocol.h2
import pytest

from hub.backbone import first_start
from hub.backbone.state import StateDir
from hub.http import http2_flow, server
from hub.http.renewal_tls import RenewableCertificate
from hub.http.request_limits import RequestLimits
from hub.http.streaming import StreamedAnswer, download, event_stream

CHUNK = bytes(16 * 1024)
PLENTY = 4000
"""Chunks: 64 MiB, far more than every buffer on the way."""


class Source:
    """Makes chunks and counts them; says when it was closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = asyncio.Event()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(PLENTY):
                self.made += 1
                yield CHUNK
        finally:
            self.closed.set()


Serving = tuple[int, ssl.SSLContext, asyncio.Event, RenewableCertificate]


@asynccontextmanager
async def serving(
    directory: Path, app: Any
) -> AsyncIterator[tuple[int, ssl.SSLContext, asyncio.Event, RenewableCertificate]]:
    """`app` behind the real server: (port, a client's TLS context, stopping, certificate)."""
    state = StateDir(directory / "state")
    first_start.prepare(state, budget_bytes=256 << 20)
    listener = server.bind("127.0.0.1", 0, exact=True)
    certificate = RenewableCertificate(state.server_certificate, state.server_key)
    stopping = asyncio.Event()
    trust = ssl.create_default_context(cafile=str(state.ca_certificate))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(RequestLimits(app), listener, certificate, stopping))
        try:
            yield listener.port, trust, stopping, certificate
        finally:
            stopping.set()


class H2Client:
    """A raw HTTP/2 client: it reads and opens windows only when told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))

    @classmethod
    async def connect(cls, port: int, trust: ssl.SSLContext) -> H2Client:
        trust.set_alpn_protocols(["h2"])
        client = cls(
            *await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="127.0.0.1")
        )
        client.connection.initiate_connection()
        await client.flush()
        return client

    async def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())
        await self.writer.drain()

    async def get(
        self,
        path: str,
        stream: int,
        method: str = "GET",
        *,
        end: bool = True,
        more: Sequence[tuple[str, str]] = (),
    ) -> None:
        headers = [
            (":method", method),
            (":path", path),
            (":scheme", "https"),
            (":authority", "127.0.0.1"),
            *more,
        ]
        self.connection.send_headers(stream, headers, end_stream=end)
        await self.flush()

    async def events(self) -> list[Any]:
        """What came in one read; windows stay as they are."""
        async with asyncio.timeout(10):
            data = await self.reader.read(65536)
        assert data, "the server closed the connection"
        events = self.connection.receive_data(data)
        await self.flush()
        return list(events)

    async def close(self) -> None:
        self.writer.transport.abort()


async def settled(source: Source) -> int:
    """How much was made once nothing more is made for a while."""
    made = -1
    while made != source.made:
        made = source.made
        await asyncio.sleep(0.3)
    return made


async def test_our_corrections_are_the_ones_in_use() -> None:
    http2_flow.install()
    assert hypercorn.protocol.H2Protocol is http2_flow.ClosingH2Protocol  # type: ignore[attr-defined]
    assert hypercorn.protocol.h2.StreamBuffer is http2_flow.BoundedStreamBuffer


async def test_a_closed_window_stops_the_producer_and_leaving_frees_it(tmp_path: Path) -> None:
    source = Source()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamedAnswer(source.chunks(), media_type="application/octet-stream")(scope, receive, send)

    async with serving(tmp_path, app) as (port, trust, _, _):
        client = await H2Client.connect(port, trust)
        await client.get("/", 1)
        received = 0
        while received < 65535:  # the window HTTP/2 begins with; it is never opened again
            for one in await client.events():
                if isinstance(one, h2.events.DataReceived):
                    received += len(one.data)
        made = await settled(source)
        assert received == 65535
        assert made * len(CHUNK) < received + 6 * len(CHUNK)
        await client.close()
        async with asyncio.timeout(10):
            await source.closed.wait()


async def test_a_socket_that_is_never_read_stops_the_producer(tmp_path: Path) -> None:
    source = Source()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamedAnswer(source.chunks(), media_type="application/octet-stream")(scope, receive, send)

    async with serving(tmp_path, app) as (port, trust, _, _):
        client = await H2Client.connect(port, trust)
        client.reader._limit = 1  # type: ignore[attr-defined]  # asyncio stops reading the socket at once
        await client.get("/", 1)
        client.connection.increment_flow_control_window(2**30)
        client.connection.increment_flow_control_window(2**30, 1)
        await client.flush()
        made = await settled(source)
        assert 0 < made < PLENTY, "kernel buffers are a few MiB; 64 MiB must not fit"
        await client.close()
        async with asyncio.timeout(10):
            await source.closed.wait()


async def test_a_reset_download_is_freed_and_the_connection_goes_on(tmp_path: Path) -> None:
    source = Source()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/small":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"small"})
            return
        await StreamedAnswer(source.chunks(), media_type="application/octet-stream")(scope, receive, send)

    async with serving(tmp_path, app) as (port, trust, _, _):
        client = await H2Client.connect(port, trust)
        await client.get("/", 1)
        while source.made == 0:
            await client.events()
        client.connection.reset_stream(1)
        await client.flush()
        async with asyncio.timeout(10):
            await source.closed.wait()
        client.connection.increment_flow_control_window(2**20)
        await client.get("/small", 3)
        body = b""
        while body != b"small":
            for one in await client.events():
                if isinstance(one, h2.events.DataReceived) and one.stream_id == 3:
                    body += one.data
        await client.close()


async def test_an_answer_that_fails_half_way_is_reset(tmp_path: Path) -> None:
    async def failing() -> AsyncGenerator[bytes, None]:
        yield b"begun"
        raise OSError("the archive is away")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamedAnswer(failing(), media_type="application/octet-stream")(scope, receive, send)

    async with serving(tmp_path, app) as (port, trust, _, _):
        client = await H2Client.connect(port, trust)
        await client.get("/", 1)
        kinds: list[type] = []
        while h2.events.StreamReset not in kinds:
            kinds += [type(one) for one in await client.events()]
        assert h2.events.StreamEnded not in kinds, "half a file must not pass for a whole one"
        await client.close()


async def test_a_body_after_the_answer_does_not_end_the_connection(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async with serving(tmp_path, app) as (port, trust, _, _):
        client = await H2Client.connect(port, trust)
        for stream in (1, 3):
            await client.get("/", stream, "POST", end=False)
            answered = False
            while not answered:
                answered = any(isinstance(one, h2.events.StreamEnded) for one in await client.events())
            client.connection.send_data(stream, b"late body", end_stream=True)
            await client.flush()
        await client.close()


async def test_a_body_that_never_comes_is_given_up(tmp_path: Path) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])

    async def send(message: Any) -> None:
        raise AssertionError(message)

    parts = iter([{"type": "http.request", "body": b"a", "more_body": True}])

    async def receive() -> Any:
        for part in parts:
            return part
        return await asyncio.Event().wait()

    limits = RequestLimits(app, body_deadline_s=0.05)
    async with asyncio.timeout(5):
        await limits({"type": "http"}, receive, send)
    assert seen == ["http.request", "http.disconnect"]
    assert limits.in_progress == 0


async def test_shutdown_ends_event_streams_and_cuts_what_hangs(tmp_path: Path) -> None:
    source = Source()

    async def endless() -> AsyncGenerator[bytes, None]:
        yield b"data: hello\n\n"
        await asyncio.Event().wait()

    stop: list[asyncio.Event] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/events":
            await event_stream(endless(), stop[0])(scope, receive, send)
        elif scope["path"] == "/file":
            await download(
                source.chunks(), file_name="a.pcapng", media_type="application/zip", stopping=stop[0]
            )(scope, receive, send)

    async with serving(tmp_path, app) as (port, trust, stopping, _):
        stop.append(stopping)
        client = await H2Client.connect(port, trust)
        await client.get("/events", 1)
        ended: set[int] = set()
        data = b""
        while data != b"data: hello\n\n":
            data += b"".join(
                one.data for one in await client.events() if isinstance(one, h2.events.DataReceived)
            )
        stalled = await H2Client.connect(port, trust)
        await stalled.get("/file", 1)
        await settled(source)
        stopping.set()
        while 1 not in ended:
            ended.update(
                one.stream_id for one in await client.events() if isinstance(one, h2.events.StreamEnded)
            )
        await client.close()
        async with asyncio.timeout(10):
            await source.closed.wait()
        await stalled.close()


@pytest.mark.parametrize("http2", [True, False])
async def test_both_protocols_over_tls_1_3_only(tmp_path: Path, http2: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = scope["http_version"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async with serving(tmp_path, app) as (port, trust, _, _):
        async with httpx.AsyncClient(verify=trust, http2=http2, http1=not http2, trust_env=False) as client:
            answer = await client.get(f"https://127.0.0.1:{port}/")
            assert answer.text == ("2" if http2 else "1.1")
            assert "server" not in answer.headers
        old = ssl.create_default_context()
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)


async def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("not asked")

    async def serial(port: int, trust: ssl.SSLContext) -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="127.0.0.1")
        certificate = writer.get_extra_info("peercert")
        writer.transport.abort()
        return str(certificate["serialNumber"])

    async with serving(tmp_path, app) as (port, trust, _, certificate):
        before = await serial(port, trust)
        assert certificate.reload_if_changed() is False
        state = StateDir(tmp_path / "state")
        old_key, old_certificate = state.server_key.read_bytes(), state.server_certificate.read_bytes()
        state.server_certificate.unlink()
        first_start.prepare(state, budget_bytes=256 << 20)
        new_certificate = state.server_certificate.read_bytes()
        assert new_certificate != old_certificate
        new_key = state.server_key.read_bytes()
        state.server_key.write_bytes(old_key)  # half renewed: certificate and key of different pairs
        if new_key != old_key:
            with pytest.raises(ssl.SSLError):
                certificate.reload_if_changed()
            assert await serial(port, trust) == before
        state.server_key.write_bytes(new_key)
        assert certificate.reload_if_changed() is True
        assert await serial(port, trust) != before


def test_a_taken_port_is_said_clearly() -> None:
    first = server.bind("127.0.0.1", 0, exact=True)
    try:
        second = server.bind("127.0.0.1", first.port, exact=False)
        second.socket.close()
        assert second.port != first.port
        assert second.notice is not None
        assert str(first.port) in second.notice
        assert str(second.port) in second.notice
        with pytest.raises(server.AddressError, match=f"port {first.port} on 127.0.0.1 is taken"):
            server.bind("127.0.0.1", first.port, exact=True)
    finally:
        first.socket.close()
    with pytest.raises(server.AddressError, match=r"can't listen on 192\.0\.2\.1"):
        server.bind("192.0.2.1", 0, exact=True)
