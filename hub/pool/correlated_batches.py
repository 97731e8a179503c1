"""What the correlation's rows don't carry: the session that each batch is of, and the names spoken in each flow."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hub.correlate.conversations import Conversations
from hub.correlate.flows import Flows, flows_of
from hub.correlate.sightings import Rows, sightings_of
from hub.pool.observed import ObservedBatch

MOST_BATCHES = 200_000
MOST_FLOWS = 100_000
MOST_NAMES = 8
"""Per flow."""
MOST_SESSIONS = 64
"""Per conversation."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What the correlation needs of a batch beside its rows."""

    agent: str
    boot: bytes
    interface: str
    claim: tuple[int, bool, int | None, int | None]
    """See Claim: without its clock."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A batch as the correlation takes it; the rows' vantage point is yet to be filled in."""

    key: BatchKey
    packets: int
    stored_ns: int
    rows: Rows
    flows: Flows


class CorrelatedBatches:
    """Bounded; the oldest are forgotten. Thread-safe: noted in one thread, asked in another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._session: OrderedDict[int, str] = OrderedDict()
        self._names: OrderedDict[int, dict[str, None]] = OrderedDict()

    def hear(self, batch: ObservedBatch) -> Heard:
        """Note the batch, and take of it what is correlated."""
        header, clock = batch.header, batch.header.clock
        claim = (
            header.last_timestamp_ns,
            clock.state == "synchronized",
            clock.offset_ns,
            clock.error_ns,
        )
        rows = sightings_of(
            batch.seen,
            batch.timestamp_ns,
            batch.original_bytes,
            batch.flags,
            vantage=0,
            batch=self.note(batch),
        )
        key = BatchKey(header.agent, header.boot, header.interface, claim)
        return Heard(key, len(batch), batch.stored_ns, rows, flows_of(batch.seen))

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
