"""A batch on its way into the pool: verified, decompressed and decoded once, for the store and for the correlation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.observation import BatchName, Observation
from hub.observe.application import ApplicationData, read_applications
from hub.observe.decode import UNKEYED, observe
from hub.observe.observations import U16, U32, U64, Observations
from hub.pooling import Pooling
from wire.batch import Header, OpenBatch, decode_columns
from wire.body import Columns

__all__ = ["I64", "AgentNames", "ClockOffset", "ObservedBatch", "Pooling"]

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AgentNames:
    """What a batch's agent said of itself when the batch was pooled: labels, never an identity."""

    hostname: str = ""
    """"" when it has not reported yet."""
    address: str = ""
    """Of its best interface; "" when it isn't known."""


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """How far an agent's clock is ahead of the pool's time around one batch: true time = its time − offset.

    The truth lies from `low_ns` to `high_ns`; the estimate lies between them.
    """

    estimate_ns: int
    low_ns: int
    high_ns: int

    @property
    def uncertainty_ns(self) -> int:
        """How far the truth may lie from the estimate."""
        return max(self.high_ns - self.estimate_ns, self.estimate_ns - self.low_ns)


@dataclass(frozen=True, slots=True)
class ObservedBatch:
    """One batch of packets. Arrays have an entry per packet, in the batch's order; they are views, never written to."""

    header: Header
    """Verified: its agent's signature was checked."""
    stored_ns: int
    """When the archive stored it, by the hub's clock."""
    level: Pooling
    names: AgentNames
    clock: ClockOffset | None
    """As known when the batch was pooled; None: unknown."""
    columns: Columns
    """As in the message; `data` are the packets' bytes end to end (`seen.packet_offset`)."""
    timestamp_ns: U64
    """Raw: as the agent's source gave it. Since 1970, UTC."""
    original_bytes: U32
    captured_bytes: U32
    flags: U16
    """Bits of wire.body.FLAGS."""
    seen: Observations
    applications: ApplicationData

    @classmethod
    def of(
        cls,
        batch: OpenBatch,
        *,
        stored_ns: int,
        level: Pooling = Pooling.HEADERS,
        names: AgentNames | None = None,
        clock: ClockOffset | None = None,
        key: bytes = UNKEYED,
    ) -> ObservedBatch:
        """Decompress and decode a packets batch whose signature was checked. WireError when its body is none.

        key: of the fingerprints, see hub.observe.decode.observe.
        """
        columns = decode_columns(batch)
        seen = observe(columns, batch.header.link_type, key=key)
        return cls(
            header=batch.header,
            stored_ns=stored_ns,
            level=level,
            names=names or AgentNames(),
            clock=clock,
            columns=columns,
            timestamp_ns=np.frombuffer(columns.timestamp_ns, np.uint64),
            original_bytes=np.frombuffer(columns.original_bytes, np.uint32),
            captured_bytes=np.frombuffer(columns.captured_bytes, np.uint32),
            flags=np.frombuffer(columns.flags, np.uint16),
            seen=seen,
            applications=read_applications(columns, seen),
        )

    def __len__(self) -> int:
        """How many packets."""
        return len(self.timestamp_ns)

    @property
    def name(self) -> BatchName:
        """What names the batch for ever; with a packet's index it is the observation's id."""
        return BatchName.of(self.header)

    def observation_id(self, index: int) -> str:
        """The id of one packet's observation: the same whenever and however often it is pooled."""
        return str(Observation(self.name, index))

    def corrected_ns(self) -> I64:
        """Each packet's time with the clock's estimated offset taken off; the raw time where that is unknown."""
        raw = self.timestamp_ns.astype(np.int64)
        return raw if self.clock is None else raw - self.clock.estimate_ns
