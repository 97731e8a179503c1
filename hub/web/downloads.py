"""Downloads that are under way: how far each has come, for the page that started it, and how long files are.

All of it is in memory and bounded. After a restart of the hub a broken download goes on all the same (the file's
identity says whether it may), only its progress is not known any more.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

TOKEN = re.compile(r"[0-9a-f]{16}", re.ASCII)
"""What names a download; made by the page that begins it."""
MAX_WATCHED = 256
MAX_LENGTHS = 1024
MEASURED_AT_ONCE = 1


@dataclass(slots=True)
class DownloadProgress:
    """One download."""

    expected_bytes: int
    """Of the whole file; an estimate unless `exact`."""
    exact: bool
    first_byte: int = 0
    """Where this part of it began."""
    sent_bytes: int = 0
    """Of this part; handed to the network."""
    started_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    finished: bool = False
    """Ended, and all of it was sent."""

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return max(0.001, (self.ended_s if self.ended_s is not None else time.monotonic()) - self.started_s)

    @property
    def bytes_per_second(self) -> float:
        """Since it began."""
        return self.sent_bytes / self.seconds

    @property
    def share(self) -> float:
        """Of the whole file, 0 to 1; less than 1 until it is finished, whatever was estimated."""
        if self.finished:
            return 1.0
        return min(0.99, (self.first_byte + self.sent_bytes) / max(1, self.expected_bytes))


class Downloads:
    """See the module."""

    def __init__(self) -> None:
        self._watched: OrderedDict[str, DownloadProgress] = OrderedDict()
        self._lengths: OrderedDict[str, int] = OrderedDict()
        self._measuring = asyncio.Semaphore(MEASURED_AT_ONCE)

    def watch(self, token: str, progress: DownloadProgress) -> None:
        """Let a page ask for this download by a token of its own."""
        self._watched[token] = progress
        self._watched.move_to_end(token)
        while len(self._watched) > MAX_WATCHED:
            self._watched.popitem(last=False)

    def progress(self, token: str) -> DownloadProgress | None:
        """The download of this token, if it is known here."""
        return self._watched.get(token)

    def length(self, identity: str) -> int | None:
        """The length of a file that was made before, in bytes."""
        return self._lengths.get(identity)

    async def measure(self, identity: str, make: Callable[[], AsyncIterator[bytes]]) -> int:
        """The length of a file; it is made and thrown away unless its length is known. One at a time."""
        async with self._measuring:
            known = self.length(identity)
            if known is not None:
                return known
            length = 0
            chunks: Any = make()
            async with aclosing(chunks):
                async for chunk in chunks:
                    length += len(chunk)
            self._remember(identity, length)
            return length

    async def followed(
        self, chunks: AsyncIterator[bytes], progress: DownloadProgress, identity: str | None
    ) -> AsyncGenerator[bytes, None]:
        """The same chunks, counted; a whole file's length is remembered by its identity."""
        source: Any = chunks
        try:
            async with aclosing(source):
                async for chunk in chunks:
                    yield chunk
                    progress.sent_bytes += len(chunk)
            progress.finished = True
            if identity is not None and progress.first_byte == 0:
                self._remember(identity, progress.sent_bytes)
        finally:
            progress.ended_s = time.monotonic()

    def _remember(self, identity: str, length: int) -> None:
        self._lengths[identity] = length
        while len(self._lengths) > MAX_LENGTHS:
            self._lengths.popitem(last=False)
