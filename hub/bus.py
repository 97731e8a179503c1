"""The hub's connection to NATS: one client that is there again whatever happened.

nats-py reconnects by itself after a broken link, but closes for good when its credentials expire or are revoked. So
`Bus.run` makes a new client whenever the old one closed, and puts every subscription on it again. Who uses the bus
holds the Bus, never the client.

Nothing is buffered here while the server is away: `client()` waits, `publish` raises BusAway.
"""

import asyncio
import contextlib
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as ClientSubscription
from nats.js import JetStreamContext

from hub.cancellation import obey_cancellation

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5
RECONNECT_WAIT_S = 0.5
PING_INTERVAL_S = 10
"""A server that doesn't answer two pings is away: noticed in 20 to 30 s at worst, at once when the socket breaks."""
JETSTREAM_TIMEOUT_S = 5.0
SETTLE_TIMEOUT_S = 5

Handler = Callable[[Msg], Awaitable[None]]


class BusAway(Exception):
    """There is no connection to the NATS server now."""


class Subscription:
    """A core subscription that outlives clients. Bounded: beyond the limits the client drops and it is counted."""

    def __init__(self, bus: "Bus", subject: str, handler: Handler, max_messages: int, max_bytes: int) -> None:
        self._bus = bus
        self.subject = subject
        self.handler = handler
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.dropped = 0
        """Messages the client dropped because the handler was too slow."""
        self._client_subscription: ClientSubscription | None = None

    async def put_on(self, client: Client) -> None:
        """Subscribe on this client (a new one)."""
        self._client_subscription = await client.subscribe(
            self.subject,
            cb=self.handler,
            pending_msgs_limit=self.max_messages,
            pending_bytes_limit=self.max_bytes,
        )

    def is_on(self, client_subscription: Any) -> bool:
        """Whether this is the client's subscription object."""
        return self._client_subscription is client_subscription

    async def close(self) -> None:
        """Unsubscribe; no error when the connection is gone."""
        self._bus.forget(self)
        subscription, self._client_subscription = self._client_subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()


class BusClient(Client):
    """nats-py's client, whose reader no message can end, and whose `flush` is a barrier.

    nats-py decodes subjects and headers as UTF-8, and what isn't ends its reading task without a word: one message of
    one agent, stored in a stream, would leave the hub deaf, again after each reconnect. Here such a subject comes with
    replacement characters and such headers as none, so that whoever verifies the message refuses it.

    And it takes a stored message whose sender gave it a header `Status` for a word of the server: `fetch` swallows it,
    nobody acknowledges it, and the floor below which the archive may be purged never rises again. Delivered messages
    have a reply subject for their acknowledgement; the server's own words have none.

    Its `flush` writes the PING past what is still in its buffer, a subscription made a moment ago for instance. By the
    time of the answer that buffer is written, so a second PING comes behind it.
    """

    async def flush(self, timeout: int = 10) -> None:  # noqa: ASYNC109  as the library has it
        """Until the server has everything that was sent before. nats.errors.Error when it doesn't answer in time."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        # Not nats-py's own waiting: the `asyncio.wait_for` of Python 3.11 forgets a cancellation that comes together
        # with the answer, and the loop that flushed goes on for ever.
        try:
            async with asyncio.timeout(timeout):
                for _ in range(2):
                    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    await self._send_ping(answered)
                    await answered
        except TimeoutError:
            raise nats.errors.FlushTimeoutError from None

    async def _process_connect_init(self) -> None:
        """nats-py takes a connection that ends before the server answers for one that was let in (its "-ERR" can be
        lost with the connection). Raises nats.errors.Error then."""
        await super()._process_connect_init()
        if not self.is_connected:  # only the server's PONG says so
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            raise nats.errors.Error("nats: the server closed the connection instead of letting us in")

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)
        except (ValueError, IndexError):
            return None
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        if headers and reply.startswith(b"$JS.ACK."):
            headers = {name: value for name, value in headers.items() if name != "Status"}
        message: Msg = super()._build_message(sid, _utf8(subject), _utf8(reply), data, headers)
        return message


def _utf8(text: bytes) -> bytes:
    return bytes(text).decode(errors="replace").encode()


class Bus:
    """One NATS user's connection, made again for ever."""

    def __init__(
        self,
        servers: Sequence[str],
        *,
        credentials: Path | None = None,
        ca_certificate: Path | None = None,
        name: str = "wirepool-hub",
        inbox_prefix: str = "_INBOX_hub",
    ) -> None:
        """servers: URLs (`tls://host:4222`). With `ca_certificate` TLS 1.3 comes before the first protocol line."""
        self._servers = list(servers)
        self._credentials = credentials
        self._ca_certificate = ca_certificate
        self._name = name
        self._inbox_prefix = inbox_prefix
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._listeners: list[Callable[[bool], None]] = []
        self.errors: Counter[str] = Counter()
        """Errors of the client by kind, since the start."""
        self.connections = 0
        """How often a connection was made (1 = never lost)."""

    @property
    def connected(self) -> bool:
        """Whether the server is there now."""
        return self._up.is_set()

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """Call `listener(connected)` at each change, in the event loop."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        while True:
            closed = asyncio.Event()
            client = BusClient()
            try:
                await self._connect(client, closed)
                await closed.wait()
                log.warning(
                    "the NATS client %s has closed (%s); making a new one", self._name, client.last_error
                )
            except (TimeoutError, OSError, nats.errors.Error, ssl.SSLError) as error:
                self._note(error, "connect")
            finally:
                self._set(False)
                self._client = None
                if not client.is_closed:
                    with contextlib.suppress(Exception):
                        async with asyncio.timeout(2):
                            await client.close()
            await asyncio.sleep(RECONNECT_WAIT_S)

    async def _connect(self, client: Client, closed: asyncio.Event) -> None:
        async def on_error(error: Exception) -> None:
            self._note(error, "client")
            if isinstance(error, nats.errors.SlowConsumerError):
                for subscription in self._subscriptions:
                    if subscription.is_on(error.sub):
                        subscription.dropped += 1

        async def on_disconnect() -> None:
            self._set(False)

        async def on_reconnect() -> None:
            self.connections += 1
            self._set(True)

        async def on_close() -> None:
            closed.set()

        options: dict[str, Any] = {}
        if self._ca_certificate is not None:
            context = ssl.create_default_context(cafile=str(self._ca_certificate))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            options |= {"tls": context, "tls_handshake_first": True}
        if self._credentials is not None:
            options["user_credentials"] = str(self._credentials)
        await client.connect(
            servers=self._servers,
            name=self._name,
            inbox_prefix=self._inbox_prefix.encode(),
            connect_timeout=CONNECT_TIMEOUT_S,
            reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=2,
            flush_timeout=5.0,
            error_cb=on_error,
            disconnected_cb=on_disconnect,
            reconnected_cb=on_reconnect,
            closed_cb=on_close,
            **options,
        )
        self._client = client
        for subscription in list(self._subscriptions):
            await subscription.put_on(client)
        self.connections += 1
        self._set(True)

    def _set(self, connected: bool) -> None:
        if connected == self._up.is_set():
            return
        if connected:
            self._up.set()
            self._down.clear()
            self.errors.pop("reported", None)
        else:
            self._up.clear()
            self._down.set()
        log.info("NATS %s: %s", self._name, "connected" if connected else "connection lost")
        for listener in self._listeners:
            listener(connected)

    def _note(self, error: BaseException, where: str) -> None:
        kind = f"{where}: {type(error).__name__}"
        self.errors[kind] += 1
        if self.errors[kind] == 1:  # the first of a kind tells; the rest are counted
            log.warning("NATS %s: %s: %s", self._name, kind, str(error)[:300] or "no reason given")

    async def client(self) -> Client:
        """The connected client; waits while there is none."""
        while True:
            obey_cancellation()
            await self._up.wait()
            if self._client is not None:
                return self._client
            await asyncio.sleep(0)

    async def jetstream(self, timeout_s: float = JETSTREAM_TIMEOUT_S) -> JetStreamContext:
        """A JetStream context of the present client; waits while there is none."""
        return (await self.client()).jetstream(timeout=timeout_s)

    async def settled(self) -> None:
        """Until the server has every subscription made so far; returns without a word when it is away."""
        if self._client is not None and self.connected:
            with contextlib.suppress(nats.errors.Error):
                await self._client.flush(SETTLE_TIMEOUT_S)

    async def publish(self, subject: str, payload: bytes) -> None:
        """Publish by core NATS now. BusAway while there is no connection."""
        if self._client is None or not self.connected:
            raise BusAway(f"no connection to the NATS server ({', '.join(self._servers)})")
        await self._client.publish(subject, payload)

    async def subscribe(
        self, subject: str, handler: Handler, *, max_messages: int = 8192, max_bytes: int = 64 << 20
    ) -> Subscription:
        """Subscribe for as long as the Bus runs, across reconnects and new clients, until `close()`."""
        subscription = Subscription(self, subject, handler, max_messages, max_bytes)
        self._subscriptions.append(subscription)
        if self._client is not None and self.connected:
            await subscription.put_on(self._client)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Don't put this subscription on new clients any more."""
        with contextlib.suppress(ValueError):
            self._subscriptions.remove(subscription)


@contextlib.asynccontextmanager
async def running(*buses: Bus) -> AsyncIterator[None]:
    """Run buses for the time of the block and wait until each is connected first."""
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(bus.run()) for bus in buses]
        try:
            for bus in buses:
                await bus.client()
            yield
        finally:
            for run in runs:
                run.cancel()
