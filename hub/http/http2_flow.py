"""Flow control of hypercorn's HTTP/2 side, corrected in four places.

How the world works: HTTP/2 gives each stream a window. A reader that stops reading leaves the window at 0, and the
server must stop producing. hypercorn 0.18 keeps a `StreamBuffer` per stream, and its `push` is meant to wait while
32 KiB are unsent. Four things go wrong there:

* `pop(0)`, which is what the sender does when the window is empty, counts as "drained" and wakes `push`: a client that
  never reads lets the buffer grow by everything the application sends.
* when the connection closes, buffers of unfinished streams aren't closed, so an application inside `push` or `drain`
  waits for ever, and the connection's task with it.
* body data for a request that was answered already (a refused login, a missing token) is a KeyError that ends the whole
  connection, with every event stream and download on it.
* an application that fails in the middle of its answer leaves the stream open: the client waits for ever for the rest.
  And at shutdown the connection's GOAWAY overtakes a stream's proper end.

They are mended by subclassing; `tests/web/test_backpressure.py` fails if a later hypercorn stops using these classes.
"""

import asyncio
import contextlib

import h2.errors
import h2.events
import h2.exceptions
import hypercorn.protocol
import hypercorn.protocol.h2
from hypercorn.events import Closed, Event
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer

SENDER_TURNS = 3
"""Turns of the event loop in which the sender task ends a stream whose buffer is empty."""


class BoundedStreamBuffer(StreamBuffer):
    """At most 32 KiB plus one pushed chunk are unsent."""

    async def pop(self, max_length: int) -> bytes:
        """The next `max_length` bytes or fewer; wakes the producer only when the buffer itself is low."""
        length = min(len(self.buffer), max_length)
        data = bytes(self.buffer[:length])
        del self.buffer[:length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class ClosingH2Protocol(H2Protocol):
    """Lets go of whoever waits for a stream's buffer when the stream or its connection is gone, and reads on."""

    async def handle(self, event: Event) -> None:
        """A closed connection closes every buffer, which ends `push` and `drain`."""
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                # Taken off the connection's window and thrown away: the answer was given without it.
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                continue
            await super()._handle_events([event])
        await self._flush()

    async def stream_send(self, event: StreamEvent) -> None:
        """An answer that was cut short is reset, so that the client knows."""
        if isinstance(event, StreamClosed):
            buffer = self.stream_buffers.get(event.stream_id)
            if buffer is not None and buffer.complete:
                for _ in range(SENDER_TURNS):
                    await asyncio.sleep(0)
            elif buffer is not None and not self.closed:
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
                await self._flush()
        await super().stream_send(event)

    async def _close_stream(self, stream_id: int) -> None:
        await super()._close_stream(stream_id)
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and not buffer.complete:
            await buffer.close()


def install() -> None:
    """Put both classes where hypercorn looks them up. Idempotent."""
    hypercorn.protocol.h2.StreamBuffer = BoundedStreamBuffer  # type: ignore[misc]
    setattr(hypercorn.protocol, "H2Protocol", ClosingH2Protocol)  # noqa: B010 - a name it doesn't export
