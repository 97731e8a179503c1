"""The newest batches that somebody watches, whole: a packet just seen is opened without asking the archive."""

from __future__ import annotations

from collections import OrderedDict

from hub.observation import BatchName

MAX_BYTES = 32 << 20
MAX_BATCHES = 4096


class RecentBatches:
    """Messages by the name of their batch, as they came and once verified; beyond the bounds the oldest go.

    At most MAX_BYTES and MAX_BATCHES, for all viewers together. Nothing is lost with what goes: the archive has it.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, max_batches: int = MAX_BATCHES) -> None:
        self._max_bytes = max_bytes
        self._max_batches = max_batches
        self._messages: OrderedDict[BatchName, bytes] = OrderedDict()
        self._bytes = 0

    def keep(self, name: BatchName, message: bytes) -> bool:
        """Take a verified message. The first of a name stays: a second one is a redelivery, for which False is said."""
        if name in self._messages:
            return False
        if len(message) > self._max_bytes:
            return True
        self._messages[name] = message
        self._bytes += len(message)
        while self._bytes > self._max_bytes or len(self._messages) > self._max_batches:
            _, gone = self._messages.popitem(last=False)
            self._bytes -= len(gone)
        return True

    def get(self, name: BatchName) -> bytes | None:
        """The message, or None when it is gone or never came."""
        return self._messages.get(name)
