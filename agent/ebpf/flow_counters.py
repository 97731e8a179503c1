"""Reading the map of flow counters: all flows in a few system calls, into buffers that are used again.

The counters are read, never taken out, and only grow (see bpf/flow_counters.h); what came since the reading before is
the difference, which agent/_flows.c makes.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent import _flows
from agent.ebpf.contract import FLOW_COUNTER, FLOW_COUNTERS, FLOW_KEY

if TYPE_CHECKING:
    from agent.ebpf.programs import ProgramSet

_ROOM = FLOW_COUNTERS + 1024
"""A preallocated hash map may hold a few more than it was asked for, one for each processor."""


@dataclass(slots=True)
class FlowReading:
    """All flow counters at one moment. The buffers are the reader's: see `FlowCounters.read`."""

    life: object
    """Equal for readings of the same map."""
    keys: bytearray
    values: bytearray
    flows: int = 0
    index: bytearray = field(default_factory=lambda: bytearray(4))
    """As agent._flows wants it."""
    own_traffic: bytes = b""
    """A table of agent.own_traffic: what isn't to be shipped. The source fills it in."""

    @classmethod
    def empty(cls, life: object) -> FlowReading:
        """Before anything was counted."""
        return cls(life, bytearray(), bytearray())


class FlowCounters:
    """Reads one capture's map of flow counters. One thread at a time."""

    def __init__(self, programs: ProgramSet, *, batches: bool = True) -> None:
        """batches False: as on a kernel before 5.6, which the first reading finds out by itself."""
        self._programs = programs
        self._batches = batches
        self._spare: list[FlowReading] = []
        self._turn = 0

    def read(self) -> FlowReading:
        """The counters now. Valid until the second next reading, so that it can be compared with the next one.

        A counter that is being added to may show a packet whose bytes come in the next reading. KernelRefused, OSError.
        """
        if not self._spare:
            self._spare = [
                FlowReading(self, bytearray(_ROOM * FLOW_KEY.size), bytearray(_ROOM * FLOW_COUNTER.size))
                for _ in range(2)
            ]
        reading = self._spare[self._turn]
        flows = self._read_into(reading)
        slots = 1 << (2 * flows).bit_length()
        reading.index = bytearray(4 * slots)
        reading.flows = _flows.index(reading.keys, reading.values, flows, reading.index)
        self._turn ^= 1
        return reading

    def _read_into(self, reading: FlowReading) -> int:
        descriptor = self._programs.flow_counters
        if self._batches:
            try:
                return _flows.read_map(descriptor, reading.keys, reading.values, True)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._batches = False
        return _flows.read_map(descriptor, reading.keys, reading.values, False)
