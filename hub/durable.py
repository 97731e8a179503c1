"""Reading a stream by a durable of one's own: rounds of messages, through lost connections and lost consumers.

Each purpose has a durable per stream, so that one that waits holds up no other, and the archive's keeper lets nothing
go that one of them has yet to acknowledge.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import nats.errors
import nats.js.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from hub.bus import Bus

log = logging.getLogger(__name__)

FETCH_WAIT_S = 1.0
RETRY_S = 2.0
ACK_WAIT_S = 10.0
"""What a killed hub had in hand comes again after this."""
PENDING_BYTES = 256 << 20

StreamListener = Callable[[str], Awaitable[None]]
"""(when the stream was made): told before the first message of each subscription. One made anew counts its sequences
from 1 again."""


class Durable:
    """One durable of one stream."""

    def __init__(
        self, bus: Bus, stream: str, name: str, *, most_messages: int, most_unacknowledged: int
    ) -> None:
        """most_messages: of a round."""
        self._bus = bus
        self.stream = stream
        self.name = name
        self._most_messages = most_messages
        self._most_unacknowledged = most_unacknowledged
        self.pending = 0
        """Messages yet to be read, as of the last round."""

    async def rounds(self, on_stream: StreamListener | None = None) -> AsyncGenerator[list[Msg], None]:
        """Messages as they come, for ever; each is to be acknowledged, refused or asked for again by who takes it."""
        client: Client | None = None
        subscription: JetStreamContext.PullSubscription | None = None
        trouble = ""
        while True:
            current = await self._bus.client()
            try:
                if subscription is None or client is not current:
                    client = current
                    subscription = await self._subscribe(on_stream)
                messages = await subscription.fetch(self._most_messages, timeout=FETCH_WAIT_S)
            except (TimeoutError, nats.errors.TimeoutError):
                continue
            except (nats.errors.Error, nats.js.errors.Error, OSError) as error:
                # Also the answer to a durable or stream that is gone: made again with the next round.
                if repr(error) != trouble:
                    log.warning("%s can't be read, trying again: %s", self.stream, error)
                trouble, subscription = repr(error), None
                await asyncio.sleep(RETRY_S)
                continue
            trouble = ""
            if not messages:  # what came was a status alone
                continue
            self.pending = messages[-1].metadata.num_pending or 0
            yield messages

    async def _subscribe(self, on_stream: StreamListener | None) -> JetStreamContext.PullSubscription:
        jetstream = await self._bus.jetstream()
        config = ConsumerConfig(
            durable_name=self.name,
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=self._most_unacknowledged,
            max_deliver=-1,
        )
        if on_stream is not None:
            client = await self._bus.client()
            info = await client.request(f"$JS.API.STREAM.INFO.{self.stream}", b"", timeout=5)
            await on_stream(str(orjson.loads(info.data).get("created", "")))
        await jetstream.add_consumer(self.stream, config)  # makes it, or brings an older one up to date
        return await jetstream.pull_subscribe_bind(
            self.name,
            self.stream,
            pending_msgs_limit=4 * self._most_messages,
            pending_bytes_limit=PENDING_BYTES,
        )

    async def remove(self) -> None:
        """Have the server forget it, so that it holds nothing back; nothing when there is none. nats errors."""
        jetstream = await self._bus.jetstream()
        with suppress(nats.js.errors.NotFoundError):
            await jetstream.delete_consumer(self.stream, self.name)
