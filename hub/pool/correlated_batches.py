"""What the correlation's rows don't carry: the session that each batch is of, and the names spoken in each flow."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from hub.correlate.conversations import Conversations
from hub.pool.observed import ObservedBatch

MOST_BATCHES = 200_000
MOST_FLOWS = 100_000
MOST_NAMES = 8
"""Per flow."""
MOST_SESSIONS = 64
"""Per conversation."""


class CorrelatedBatches:
    """Bounded; the oldest are forgotten. Thread-safe: noted in one thread, asked in another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._session: OrderedDict[int, str] = OrderedDict()
        self._names: OrderedDict[int, dict[str, None]] = OrderedDict()

    def note(self, batch: ObservedBatch) -> int:
        """The batch's number: 64 bits that follow from its name alone."""
        name = str(batch.name).encode()
        number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
        spoken = [(one.packet, one.name) for one in batch.applications.dns]
        spoken += [(one.packet, one.server_name) for one in batch.applications.tls]
        spoken += [(one.packet, one.host) for one in batch.applications.http]
        with self._lock:
            self._session[number] = batch.header.session
            while len(self._session) > MOST_BATCHES:
                self._session.popitem(last=False)
            for packet, text in spoken:
                self._say(int(batch.seen.flow_hash[packet]), text)
        return number

    def _say(self, flow: int, name: str) -> None:
        if not flow or not name:
            return
        names = self._names.setdefault(flow, {})
        self._names.move_to_end(flow)
        if len(names) < MOST_NAMES:
            names[name] = None
        while len(self._names) > MOST_FLOWS:
            self._names.popitem(last=False)

    def names_of(self, flows: Iterable[int]) -> list[str]:
        """Spoken in any of these flows."""
        with self._lock:
            return list(dict.fromkeys(name for flow in flows for name in self._names.get(flow, ())))

    def sessions_of(self, found: Conversations) -> list[Sequence[str]]:
        """Of each conversation."""
        order = np.argsort(found.flow)
        at = order[np.searchsorted(found.flow[order], found.rows["flow_hash"])]
        pairs = np.unique(
            np.stack([found.conversation[at].astype(np.uint64), found.rows["batch"]], axis=1), axis=0
        )
        sessions: list[dict[str, None]] = [{} for _ in range(len(found))]
        with self._lock:
            for index, batch in pairs.tolist():
                session = self._session.get(batch)
                if session is not None and len(sessions[index]) < MOST_SESSIONS:
                    sessions[index][session] = None
        return [sorted(one) for one in sessions]
