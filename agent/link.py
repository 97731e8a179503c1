"""The agent's connection to the NATS server: one that is there again whatever happened. Only here is nats-py known.

What nats-py leaves to its user, and what is done about it here (seen with 2.16):

- It closes for good when credentials expire or are revoked: `run` makes a new client whenever the old one closed.
- Its waits between attempts are constant: ours grow with jitter to `MAX_BACKOFF_S`, so that a fleet doesn't come back
  in step.
- `publish_async` has no deadline and leaks: `publish_batch` is a request with one.  A request that timed out may still
  arrive, so every batch has a message id.
- It buffers while there is no connection: here publishing raises `LinkAway`, and the batch stays in the spool.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.client import Server as PoolServer
from nats.aio.msg import Msg

from agent.credentials import Credentials
from wire.names import inbox_prefix

log = logging.getLogger(__name__)

MAX_BACKOFF_S = 15.0
MIN_BACKOFF_S = 0.25
CONNECT_TIMEOUT_S = 5
PING_INTERVAL_S = 20
"""Two unanswered pings and the link counts as broken: an unplugged host notices within a minute, a reset at once."""
FLUSH_TIMEOUT_S = 10.0
PENDING_BYTES = 4 << 20
"""What nats-py may hold unsent while connected; a publish beyond it waits for the socket."""
REPEAT_LOG_S = 300.0
"""The same kind of error is logged once in this time; all are counted."""

_LOST = 0.0
"""A time of the loop's clock that is long past: the connection broke while somebody waited for an answer."""

Handler = Callable[[str, bytes, str], Awaitable[None]]
"""(subject, data, reply subject or "")"""


class _Client(Client):
    """nats-py's client, which knows when it was not let in."""

    async def _process_connect_init(self) -> None:
        """nats-py takes a connection that ends before the server answers for one that was let in (its "-ERR" can be
        lost with the connection). Raises nats.errors.Error then."""
        await super()._process_connect_init()
        if not self.is_connected:  # only the server's PONG says so
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            raise nats.errors.Error("nats: the server closed the connection instead of letting us in")


class LinkAway(Exception):
    """There is no connection now. Try again when there is."""


class NoAnswer(Exception):
    """No acknowledgement within the deadline: it may or may not be stored. Also what a forbidden publish looks like."""


class NotTaken(Exception):
    """The server said no, and said why: no stream (yet), no room (10077, 10023), not now. Try again later."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
        """JetStream's error code; 0: nobody listens on the subject."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A publish acknowledgement."""

    stream: str
    stream_sequence: int
    duplicate: bool
    """The server knows the message id already."""


def tls_context(ca_pem: str) -> ssl.SSLContext:
    """TLS 1.3, the server's certificate checked against this authority only.

    Raises:
        ssl.SSLError: the PEM text isn't a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca_pem)
    return context


def backoff_s(attempt: int, cap_s: float = MAX_BACKOFF_S) -> float:
    """Jittered exponential: after `attempt` failures wait between half and all of min(cap, 0.25 * 2^attempt) s."""
    bound = min(cap_s, MIN_BACKOFF_S * 2.0 ** min(attempt, 16))
    return random.uniform(bound / 2, bound)  # noqa: S311 - jitter, no secret


class _Unreachable(Exception):
    """Ends nats-py's own endless first attempt, so that ours decides when the next one is."""


class Link:
    """One NATS user's connection. `run` keeps it up; everything else may be called at any time in the same loop."""

    def __init__(
        self,
        servers: Sequence[str],
        *,
        agent: str,
        tls: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
        max_backoff_s: float = MAX_BACKOFF_S,
    ) -> None:
        """servers: URLs as tls://host:4222. tls None: plain TCP (only for servers on the same host in tests)."""
        self._servers = list(servers)
        self._agent = agent
        self._tls = tls
        self._credentials = credentials
        self._max_backoff_s = max_backoff_s
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._subscriptions: list[tuple[str, Handler]] = []
        self._attempt = 0
        self._ending = False
        self._waiting: set[asyncio.Timeout] = set()
        self._logged_s: dict[str, float] = {}
        self.errors: Counter[str] = Counter()
        """Errors by kind since the start."""
        self.connections = 0
        """How often a connection came to be; 1: it was never lost."""
        self.last_error = ""

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    async def wait_connected(self) -> None:
        """Return when there is a connection."""
        await self._up.wait()

    async def changed(self) -> bool:
        """Wait for the connection to come or go; return whether it is there now."""
        await self._changed.wait()
        self._changed.clear()
        return self.connected

    @property
    def server_addresses(self) -> list[tuple[str, int]]:
        """Host and port of every server known, the ones the cluster announced included."""
        client = self._client
        urls = list(self._servers)
        if client is not None:
            urls += [uri.geturl() for uri in client.servers]
        return sorted({split_server(url) for url in urls})

    # -- keeping it up -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and again for ever; returns only by cancellation, with the connection closed."""
        try:
            while True:
                self._closed.clear()
                if await self._connect():
                    await self._closed.wait()
                self._set_up(False)
                await self._discard()
                await asyncio.sleep(backoff_s(self._attempt, self._max_backoff_s))
                self._attempt += 1
        finally:
            self._ending = True
            self._set_up(False)
            await self._discard()

    async def _connect(self) -> bool:
        client = _Client()
        self._client = client
        failures, first_attempt = 0, True

        async def on_error(error: Exception) -> None:
            nonlocal failures
            self._note(error)
            if first_attempt:
                failures += 1
                if failures >= len(self._servers):
                    raise _Unreachable

        async def on_disconnected() -> None:
            self._set_up(False)

        async def on_reconnected() -> None:
            self._came_up()

        async def on_closed() -> None:
            self._closed.set()

        options: dict[str, Any] = {}
        if self._tls is not None:
            options |= {"tls": self._tls, "tls_handshake_first": True}
        if self._credentials is not None:
            # Asked at each attempt, nats-py's own reconnections included.
            options |= {"user_jwt_cb": self._credentials.jwt, "signature_cb": self._credentials.sign}
        try:
            await client.connect(
                self._servers,
                name=f"wirepool-agent-{self._agent}",
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                closed_cb=on_closed,
                connect_timeout=CONNECT_TIMEOUT_S,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0,
                reconnect_to_server_handler=self._next_server,
                ping_interval=PING_INTERVAL_S,
                inbox_prefix=inbox_prefix(self._agent),
                pending_size=PENDING_BYTES,
                flush_timeout=FLUSH_TIMEOUT_S,
                drain_timeout=2,
                **options,
            )
            first_attempt = False
            for subject, handler in self._subscriptions:
                await client.subscribe(
                    subject, cb=_unpacked(handler), pending_msgs_limit=256, pending_bytes_limit=4 << 20
                )
        except _Unreachable:
            return False
        except (OSError, TimeoutError, ValueError, nats.errors.Error) as error:
            self._note(error)
            return False
        self._came_up()
        return True

    def _next_server(
        self, servers: list[PoolServer], _info: dict[str, Any]
    ) -> tuple[PoolServer | None, float]:
        attempt = min((server.reconnects for server in servers), default=0)
        chosen = random.choice([s for s in servers if s.reconnects == attempt])  # noqa: S311 - spreading, no secret
        return chosen, backoff_s(attempt, self._max_backoff_s)

    def _came_up(self) -> None:
        self.connections += 1
        self._attempt = 0
        if self._credentials is not None:
            self._credentials.accepted()
        self._logged_s.clear()
        log.info("connected to the server (connection %d)", self.connections)
        self._set_up(True)

    def _set_up(self, up: bool) -> None:
        if up == self._up.is_set():
            return
        if up:
            self._up.set()
        else:
            self._up.clear()
            for patience in self._waiting:  # their answers would go to a connection that is no more
                if not patience.expired():  # an expired one whose task hasn't come round yet can't be changed
                    patience.reschedule(_LOST)
        if not up and not self._ending:
            log.warning("the connection to the server is lost; batches wait in the spool")
        self._changed.set()

    async def _discard(self) -> None:
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await client.close()

    def _note(self, error: BaseException) -> None:
        kind = type(error).__name__
        self.errors[kind] += 1
        self.last_error = f"{kind}: {error}" if str(error) else kind
        now_s = time.monotonic()
        if now_s - self._logged_s.get(kind, -REPEAT_LOG_S) >= REPEAT_LOG_S:
            self._logged_s[kind] = now_s
            log.warning("server connection: %s%s", self.last_error, _remedy(error))

    async def force_reconnect(self) -> None:
        """Connect again: with renewed credentials where there are some."""
        client = self._client
        if client is not None and client.is_connected:
            await client.force_reconnect()

    # -- talking -----------------------------------------------------------------------------------------------

    def subscribe(self, subject: str, handler: Handler) -> None:
        """Have every connection made from now on deliver this subject. Call before `run`."""
        self._subscriptions.append((subject, handler))

    def _connected_client(self) -> Client:
        if self._client is None or not self.connected:
            raise LinkAway
        return self._client

    async def publish(self, subject: str, payload: bytes) -> None:
        """Send without asking whether it arrived.

        Raises:
            LinkAway: it can't be sent now.
        """
        try:
            await self._connected_client().publish(subject, payload)
        except (nats.errors.Error, OSError) as error:
            raise LinkAway from error

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> tuple[bytes, dict[str, str]]:
        """Ask and return the answer's data and headers.

        Raises:
            LinkAway: no connection.
            NotTaken: nobody answers on that subject.
            NoAnswer: not in time.
        """
        client = self._connected_client()
        try:
            answer = await client.request(subject, payload, timeout=timeout_s)
        except nats.errors.NoRespondersError:
            raise NotTaken("nobody answers", 0) from None
        except (nats.errors.TimeoutError, TimeoutError):
            raise NoAnswer from None
        except (nats.errors.Error, OSError) as error:
            raise LinkAway from error
        return answer.data, answer.headers or {}

    async def publish_batch(
        self, subject: str, payload: bytes, *, message_id: str, stream: str, timeout_s: float
    ) -> Stored:
        """Publish into a stream and wait for the acknowledgement.

        Raises:
            LinkAway, NoAnswer: unknown whether it is stored; the same message id makes a retry harmless.
            NotTaken: not stored.
        """
        client = self._connected_client()
        headers = {"Nats-Msg-Id": message_id, "Nats-Expected-Stream": stream}
        try:
            async with asyncio.timeout(timeout_s) as patience:
                self._waiting.add(patience)
                try:
                    answer = await client.request(subject, payload, timeout=timeout_s, headers=headers)
                finally:
                    self._waiting.discard(patience)
        except nats.errors.NoRespondersError:
            raise NotTaken("no stream takes this subject (yet)", 0) from None
        except (nats.errors.TimeoutError, TimeoutError):
            if patience.expired() and patience.when() == _LOST:
                raise LinkAway from None
            raise NoAnswer from None
        except nats.errors.MaxPayloadError:
            raise NotTaken("larger than the server's max_payload", 0) from None
        except (nats.errors.Error, OSError) as error:
            raise LinkAway from error
        return _acknowledgement(answer.data, stream)


def _unpacked(handler: Handler) -> Callable[[Msg], Awaitable[None]]:
    async def on_message(message: Msg) -> None:
        await handler(message.subject, message.data, message.reply)

    return on_message


def _acknowledgement(data: bytes, stream: str) -> Stored:
    """A JetStream PubAck (ADR-1): JSON with stream and seq, or an error with code and err_code.

    Anything else (somebody else's idea of a reply) is no acknowledgement.
    """
    try:
        answer = json.loads(data)
        if "error" in answer:
            error = answer["error"]
            raise NotTaken(str(error.get("description", ""))[:200], int(error.get("err_code", -1)))
        if answer["stream"] != stream:
            raise NotTaken(f"acknowledged by the stream {str(answer['stream'])[:60]!r}, not by {stream}", -1)
        return Stored(stream, int(answer["seq"]), answer.get("duplicate") is True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NoAnswer from None


def split_server(url: str) -> tuple[str, int]:
    """Host and port of a NATS URL; 4222 when it names none.

    Raises:
        ValueError: not a URL with a host, or an impossible port.
    """
    from urllib.parse import urlsplit

    parts = urlsplit(url if "//" in url else f"//{url}")
    if not parts.hostname:
        raise ValueError(f"no host name in {url!r}")
    return parts.hostname, parts.port or 4222


def _remedy(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            " (the server's certificate isn't from the authority of the enrolment: enrol this agent again?)"
        )
    if isinstance(error, nats.errors.AuthorizationError):
        return (
            " (the server doesn't accept this agent's credentials: disabled, revoked or expired; see the hub)"
        )
    if isinstance(error, ConnectionRefusedError):
        return " (nothing listens there: is the server running, is the port right?)"
    return ""
