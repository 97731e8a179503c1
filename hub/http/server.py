"""The hub's web server: hypercorn in this process, HTTP/2 over TLS 1.3, its limits, and how it ends.

In this process, so that the page talks to the live feed by calling it, and so that a renewed certificate is loaded
into the very `SSLContext` that serves (hub/http/renewal_tls.py). HTTP/2, since a browser opens six HTTP/1.1 connections
per host and each live page keeps one for its event stream: the seventh tab would hang.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from dataclasses import dataclass
from typing import Any, cast

import hypercorn
import hypercorn.asyncio
from hypercorn.config import Sockets

from hub.http import connection_end, http2_flow
from hub.http.renewal_tls import RenewableCertificate

log = logging.getLogger("wirepool.hub.http")

PORTS_TRIED = 20
BACKLOG = 256
IDLE_TIMEOUT_S = 75.0
"""A connection without a request in progress is closed after this time. Browsers reopen it unnoticed."""
HANDSHAKE_TIMEOUT_S = 10.0
GRACEFUL_S = 3.0
"""At the end, requests in progress have this long. Event streams end at once, by `stopping`."""
DEAD_PEER_MS = 60_000
"""TCP_USER_TIMEOUT: a peer that acknowledges nothing, or holds its TCP window at 0, is cut off after this time."""
MAX_HEADER_BYTES = 32 * 1024
MAX_STREAMS = 64
"""Requests in progress at once in one HTTP/2 connection."""


class AddressError(Exception):
    """The page can't listen where it was told to; the text says what to do."""


@dataclass(slots=True)
class Listener:
    """A socket that is bound, and what to tell people about it."""

    socket: socket.socket
    port: int
    notice: str | None
    """Set when another port than the wanted one was taken."""


def bind(address: str, port: int, *, exact: bool) -> Listener:
    """Bind a listening socket. Raises AddressError.

    `exact`: the port was chosen by a person, so a taken one is an error. Otherwise one of the next PORTS_TRIED ports
    serves as well, and `notice` says so.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for candidate in range(port, port + (1 if exact or port == 0 else PORTS_TRIED)):
        if candidate > 65535:
            break
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)
            listener.bind((address, candidate))
            # With SO_REUSEADDR two sockets may be bound to a port, but only one may listen: ask now.
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                continue
            raise AddressError(
                f"the page can't listen on {address} port {candidate}: {error.strerror}. "
                "Choose another address with `bind` or another port with `port` in hub.yaml."
            ) from error
        actual = int(listener.getsockname()[1])
        notice = None
        if candidate != port:
            notice = (
                f"port {port} is taken by another program, so the page is on port {actual} this time; "
                f"set `port: {actual}` in hub.yaml to keep it"
            )
        return Listener(listener, actual, notice)
    raise AddressError(
        f"port {port} on {address} is taken by another program"
        + ("" if exact else f", and so are the next {PORTS_TRIED - 1}")
        + ". End that program, or choose another port with `port` in hub.yaml or --port."
    )


class _ServerConfig(hypercorn.Config):
    """hypercorn's configuration around our own socket and TLS context."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        self._listener = listener
        self._context = context
        self.accesslog = None
        self.errorlog = log
        self.loglevel = "WARNING"
        self.include_server_header = False
        self.backlog = BACKLOG
        self.keep_alive_timeout = IDLE_TIMEOUT_S
        # After this many requests hypercorn ends an HTTP/2 connection, and with it a live page's event stream.
        self.keep_alive_max_requests = 10_000_000
        self.ssl_handshake_timeout = HANDSHAKE_TIMEOUT_S
        self.graceful_timeout = GRACEFUL_S
        self.h11_max_incomplete_size = MAX_HEADER_BYTES
        self.h2_max_header_list_size = MAX_HEADER_BYTES
        self.h2_max_concurrent_streams = MAX_STREAMS
        self.websocket_max_message_size = 1

    @property
    def ssl_enabled(self) -> bool:
        return True

    def create_ssl_context(self) -> ssl.SSLContext:
        return self._context

    def create_sockets(self) -> Sockets:
        return Sockets([self._listener], [], [])


async def serve(
    app: Any, listener: Listener, certificate: RenewableCertificate, stopping: asyncio.Event
) -> None:
    """Serve the ASGI app until `stopping` is set, then finish within GRACEFUL_S and return.

    Whoever streams events must watch `stopping`, too: an event stream never ends by itself.
    """
    http2_flow.install()
    connection_end.install()
    config = _ServerConfig(listener.socket, certificate.context)
    finished = asyncio.Event()

    async def until_finished() -> None:
        # From Python 3.12 on `Server.wait_closed` waits for every connection, before hypercorn's own deadline begins:
        # one slow download would hold the end up for ever.
        await stopping.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACEFUL_S + 2):
                await finished.wait()
        if not finished.is_set():
            server.cancel()

    try:
        async with asyncio.TaskGroup() as tasks:
            server = tasks.create_task(_serve(app, config, stopping, finished))
            tasks.create_task(until_finished())
            watcher = tasks.create_task(certificate.watch())
            await stopping.wait()
            watcher.cancel()
    finally:
        listener.socket.close()


async def _serve(app: Any, config: _ServerConfig, stopping: asyncio.Event, finished: asyncio.Event) -> None:
    try:
        await hypercorn.asyncio.serve(
            cast("Any", app), config, shutdown_trigger=cast("Any", stopping.wait), mode="asgi"
        )
    finally:
        finished.set()


def quiet_tls_noise(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler of the event loop: scanners and browsers that refuse the certificate aren't errors of ours."""
    error = context.get("exception")
    if isinstance(error, ssl.SSLError | ConnectionError | TimeoutError):
        log.debug("connection ended: %s", error)
        return
    loop.default_exception_handler(context)
