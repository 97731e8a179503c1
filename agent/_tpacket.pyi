"""The capture kernels in C. All release the GIL while they work and check every length they are given."""

from typing import final

from typing_extensions import Buffer

# u64 timestamp_ns, u32 captured_bytes, u32 original_bytes, u16 flags, data; little endian, packets end to end
_Columns = tuple[Buffer, Buffer, Buffer, Buffer, Buffer]

# Why Ring.read returned: buffer full; time over; woken or a signal; the next packet belongs to a newer filter; the
# socket reports an error (SO_ERROR tells which).
END_FULL: int
END_TIME: int
END_WOKEN: int
END_EPOCH: int
END_ERROR: int
OWN_ENTRY_BYTES: int

@final
class Ring:
    """The reader's side of a TPACKET_V3 ring: position, filter epochs, counters."""

    def __new__(cls, mapping: Buffer, block_bytes: int, snaplen: int, ethernet: bool, epoch: int) -> Ring:
        """Holds on to `mapping` until `release`. ValueError unless it is whole blocks of whole pages."""

    def read(
        self, fd: int, wake_fd: int, own: Buffer, target: _Columns, linger_ns: int, wait_ns: int, /
    ) -> tuple[int, int, int, int, int]:
        """Fill `target` from its beginning: (packets, data_bytes, END_ reason, epoch, snaplen of the epoch).

        `own`: entries of version (4 or 6), 0, port (big endian), 16 bytes of address; their packets are skipped.
        RuntimeError while another thread reads, or after `release`.
        """

    def swap(self, start_ns: int, snaplen: int, epoch: int, /) -> None:
        """A filter change begins: packets stamped from `start_ns` on belong to `epoch`."""

    def swapped(self, end_ns: int, /) -> None:
        """It has ended: packets stamped after `end_ns` are judged by the new filter only."""

    def counters(self) -> tuple[int, int, int]:
        """Packets (captured, own traffic, lost to damaged blocks) so far."""

    def release(self) -> None:
        """Let go of the mapping. RuntimeError while a thread reads. Idempotent."""

def copy_packets(
    program: Buffer,
    snaplen: int,
    source: _Columns,
    index: int,
    offset: int,
    until_ns: int,
    most: int,
    target: _Columns,
    /,
) -> tuple[int, int, int, int, int]:
    """Filter columns into columns: (next index, next offset, packets, data_bytes, packets filtered out).

    Goes on at packet `index`, whose bytes begin at `offset`; stops at the first packet later than `until_ns`, after
    `most` packets read, or when `target` is full. ValueError for columns that contradict each other or an invalid
    program.
    """

def run_filter(program: Buffer, packet: Buffer, original_bytes: int, packet_type: int, tag: int, /) -> int:
    """One verdict: bytes to keep, 0 to turn away. `packet_type` as in sockaddr_ll; `tag`: tpid << 16 | tci of a VLAN
    tag beside the frame, -1 for none. ValueError for an invalid program."""
