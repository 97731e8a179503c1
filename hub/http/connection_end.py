"""A connection that its client has closed is let go of at once; hypercorn 0.18 keeps it for the idle time.

How the world works: hypercorn's `TCPServer` runs each connection in a task group, and one of the group's tasks ends the
connection when it was idle for `keep_alive_timeout`. When the client closes first the reading ends, but the group waits
for that task, which nobody stops: the connection's TLS state, buffers and streams, some 300 KB, stay for 75 seconds. A
script that connects anew for each request fills the memory with them.

So the idle task ends with the reading, and an answer that is finished after that doesn't start another one.
`tests/web/test_connection_end.py` fails if a later hypercorn stops using this class.
"""

import hypercorn.asyncio.run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Event, Updated


class EndingTCPServer(TCPServer):
    """One connection, whose end is the end of its reading and of the answers under way."""

    _has_ended = False

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            self._has_ended = True
            await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if self._has_ended and isinstance(event, Updated):
            return  # idle or not: there is no next request to wait for
        await super().protocol_send(event)


def install() -> None:
    """Put the class where hypercorn looks it up. Idempotent."""
    setattr(hypercorn.asyncio.run, "TCPServer", EndingTCPServer)  # noqa: B010 - a name it doesn't export
