"""What every source of packets is to the rest of the agent: the kernel's ring and a recorded file look alike.

A source fills a `BatchBuffer` (columns, no Python per packet) and keeps the first part of the books:

    received = dropped_ring + own_traffic + dropped_invalid + captured + in_ring

`captured` packets have entered a batch; `in_ring` ones wait in the kernel's ring (0 at rest).

Threads: one thread per ring calls `read_batch`; every other method may be called from any thread at any time. `close`
makes a running `read_batch` return first and then frees what the source holds, exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from wire.batch import Columns
from wire.priority import PriorityRules

if TYPE_CHECKING:  # eBPF is Linux' alone
    from agent.ebpf.flow_counters import FlowReading

# A batch of the target size in data, and at most as many packets as keep the columns beside it below the body's limit:
# 512 KiB + 16384 * 18 bytes < 1 MiB.
BUFFER_DATA_BYTES = 512 * 1024
BUFFER_PACKETS = 16384

CLOCK_HOST: Literal["host"] = "host"  # stamped by this host's kernel: the host's clock state applies
CLOCK_FILE: Literal["file"] = "file"  # as recorded by somebody else, some time ago


class SourceError(Exception):
    """The source can't deliver (any more). `remedy` is a sentence that tells the user what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}. {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class FlowRules:
    """What eBPF alone can do beside the filter. Of the packets that passed it, which of a flow are kept (a flow is both
    directions between two ends); which packet it is that the filter judges; whether all that are seen are counted."""

    cutoff_bytes: int | None = None
    """A packet is kept while its flow has had fewer bytes than this; None: every packet."""
    one_in: int = 1
    """One flow in so many is kept, the same ones on every host; 1: every flow."""
    look_inside: bool = False
    """The filter judges the packet inside a GRE, VXLAN or Geneve tunnel, where there is one."""
    counted: bool = False
    """Every packet that is seen, whatever becomes of it, is counted with its flow. A source that can't goes on
    without, and says so in its `notice`."""

    @property
    def needed(self) -> bool:
        """Whether they change anything."""
        return self.cutoff_bytes is not None or self.one_in > 1 or self.look_inside


EVERYTHING = FlowRules()


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """Packets since the source was opened, cumulative (the kernel's own counters reset when read; these don't).

    received         the filter let it pass (file: read from the file and passed the filter, or unreadable)
    dropped_ring     passed the filter, but the ring was full
    own_traffic      wirepool's own connections, left out
    dropped_invalid  could not be represented (a damaged ring block, a record of a file that can't be a packet)
    captured         handed out in a BatchBuffer
    filtered         turned away by the filter; None = not counted (classic BPF in the kernel can't)
    sampled_out      passed the filter, but their flow is none of the sample; None as above
    cut_off          passed the filter, but their flow has had its bytes; None as above
    flows_counted    seen and counted with their flow; None = never asked for, or not by this source
    flows_unattributed  seen while flows were counted, of no flow or one that found no room; None as flows_counted
    in_ring          received, not yet handed out
    """

    received: int = 0
    dropped_ring: int = 0
    own_traffic: int = 0
    dropped_invalid: int = 0
    captured: int = 0
    filtered: int | None = None
    sampled_out: int | None = None
    cut_off: int | None = None
    flows_counted: int | None = None
    flows_unattributed: int | None = None

    @property
    def in_ring(self) -> int:
        return self.received - self.dropped_ring - self.own_traffic - self.dropped_invalid - self.captured


@dataclass(slots=True)
class BatchBuffer:
    """Column buffers, allocated once and filled again and again (fresh half-megabyte blocks cost more than the copy).

    The source overwrites it at each `read_batch`; views from `columns()` show the new content from then on, so encode
    (or copy) a batch before reading the next. One batch has one interface, link type and filter.
    """

    packet_capacity: int = BUFFER_PACKETS
    data_capacity_bytes: int = BUFFER_DATA_BYTES
    # -- the columns: little endian, `packet_capacity` items each --
    timestamp_ns: bytearray = field(init=False, repr=False)  # u64, UTC
    captured_bytes: bytearray = field(init=False, repr=False)  # u32
    original_bytes: bytearray = field(init=False, repr=False)  # u32, on the wire
    flags: bytearray = field(init=False, repr=False)  # u16, see wire.batch
    data: bytearray = field(init=False, repr=False)  # the packets end to end
    # -- what the last read_batch put in --
    packets: int = field(init=False, default=0)
    data_bytes: int = field(init=False, default=0)
    interface: str = field(init=False, default="")
    link_type: int = field(init=False, default=0)  # LINKTYPE_ number as in pcap files
    snaplen: int = field(init=False, default=0)
    hardware_stamps: bool = field(init=False, default=False)
    """The source asks for the card's stamps; which packets have one, the flag HARDWARE_STAMP says."""
    filter_epoch: int = field(init=False, default=0)
    """How many `apply` calls preceded the filter that judged this batch (0: the filter the source was opened with).
    A batch never mixes epochs, so the caller can name the right filter revision even for packets that were already in
    the ring when the filter changed."""

    def __post_init__(self) -> None:
        if self.packet_capacity < 1 or self.data_capacity_bytes < 1:
            raise ValueError("a batch buffer needs room for at least one packet and one byte")
        self.timestamp_ns = bytearray(8 * self.packet_capacity)
        self.captured_bytes = bytearray(4 * self.packet_capacity)
        self.original_bytes = bytearray(4 * self.packet_capacity)
        self.flags = bytearray(2 * self.packet_capacity)
        self.data = bytearray(self.data_capacity_bytes)

    def columns(self) -> Columns:
        """Views of the filled part, valid until the next `read_batch` into this buffer."""
        n = self.packets
        return Columns(
            timestamp_ns=memoryview(self.timestamp_ns)[: 8 * n],
            captured_bytes=memoryview(self.captured_bytes)[: 4 * n],
            original_bytes=memoryview(self.original_bytes)[: 4 * n],
            flags=memoryview(self.flags)[: 2 * n],
            data=memoryview(self.data)[: self.data_bytes],
        )


class PacketSource(Protocol):
    """A ring (`agent.sources.ring.RingSource`) or a file (`agent.sources.replay.ReplaySource`)."""

    interface: str
    link_type: (
        int  # LINKTYPE_ number; a file may change it per batch: BatchBuffer.link_type is the one that counts
    )
    snaplen: int  # bytes kept of each packet, its VLAN tag included
    clock_source: Literal["host", "file"]
    priority_ring: int | None  # which ring has the packets that a priority rule names; None: there is none

    @property
    def rings(self) -> int:
        """How many threads may read, one per ring; a file has one. Grows by one with the first priority rules."""
        ...

    @property
    def index(self) -> int:
        """The kernel's number of the interface, which stays when it is renamed; 0: a file."""
        ...

    @property
    def finished(self) -> bool:
        """True when nothing will ever come again: a file at its end. A ring never finishes by itself."""
        ...

    @property
    def notice(self) -> str | None:
        """Why it delivers nothing or delivered less than asked, in a sentence for the user (interface down, file cut
        off at byte n); None when all is well. Goes away by itself when its cause does."""
        ...

    def read_batch(self, buffer: BatchBuffer, *, linger_ns: int, wait_ms: int, ring: int = 0) -> int:
        """Fill `buffer` from its beginning with packets of one ring; return their number (0: none came).

        Blocks with the GIL released: at most `wait_ms` for the first packet and `linger_ns` from the moment that the
        first packet was placed. Returns at once when the buffer is full, the filter changed under it or `wake` was
        called. SourceError when nothing more can come (after `close` too).
        """
        ...

    def apply(self, filter_text: str, snaplen: int, flows: FlowRules = EVERYTHING) -> tuple[int, int]:
        """Change filter, snaplen and flow rules without losing a packet; return [start_ns, end_ns], the UTC interval
        within which packets may have been judged by either filter (they carry the SWAP_INTERVAL flag).

        agent.bpf_filter.FilterError for a filter that doesn't compile, or flow rules that this source can't follow:
        the old ones stay.
        """
        ...

    def leave_out(self, own_traffic: list[tuple[str, int]]) -> None:
        """Replace the (IP address, port) pairs whose TCP and UDP packets are counted but not captured."""
        ...

    def prioritise(self, rules: PriorityRules) -> None:
        """Packets that a rule names come out of a ring of their own from here on, never of another one.

        SourceError when this source can't tell them apart; then none has priority.
        """
        ...

    def pause(self) -> None:
        """Stop accepting packets; those accepted before are still delivered."""
        ...

    def resume(self) -> None:
        """Accept packets again, with the filter in force."""
        ...

    def statistics(self) -> SourceStatistics:
        """The books so far. Still answers after `close`, with the final figures."""
        ...

    def look(self) -> None:
        """Call it about once a second: is the interface called something else now?"""
        ...

    def read_flows(self) -> list[FlowReading]:
        """The flow counters now, to be compared with the reading before; of programs that are gone their last reading,
        once. Empty: this source counts no flows. OSError: the kernel gives no reading now. After `close` too."""
        ...

    def wake(self) -> None:
        """Make a running `read_batch` return now with what it has (or the next one, when none runs)."""
        ...

    def close(self) -> None:
        """Free everything. Idempotent."""
        ...
