"""What an open socket on one interface is to the source over it: the kernel's ring and libpcap look alike."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import Buffer

from wire.priority import PriorityRules

END_FULL, END_TIME, END_WOKEN, END_EPOCH, END_ERROR = range(5)
"""Why `Reader.read` returned, as agent/_batch.h has it: the batch is full; time is over; woken; the next packet belongs
to a newer filter; the socket reports an error."""


class Reader(Protocol):
    """What takes packets out of an open socket: `agent._tpacket.Ring`, `agent.sources.pcap_socket.PcapReader`."""

    def read(
        self,
        fd: int,
        wake_fd: int,
        own: Buffer,
        target: tuple[Buffer, Buffer, Buffer, Buffer, Buffer],
        linger_ns: int,
        wait_ns: int,
        /,
    ) -> tuple[int, int, int, int, int]:
        """Fill `target`: (packets, data_bytes, END_ reason, epoch, snaplen of the epoch)."""
        ...

    def swap(self, start_ns: int, snaplen: int, epoch: int, /) -> None:
        """A filter change begins: packets stamped from `start_ns` on belong to `epoch`."""
        ...

    def swapped(self, end_ns: int, /) -> None:
        """It has ended."""
        ...

    def counters(self) -> tuple[int, int, int]:
        """Packets (captured, own traffic, invalid) so far."""
        ...


class LiveSocket(Protocol):
    """An open socket on one interface. Not thread-safe but for `attach` and `count` beside `ring.read`."""

    index: int
    """The kernel's number of the interface; 0: unknown."""
    link_type: int
    loopback: bool
    tags_beside: bool
    """The filter sees a frame without its outer VLAN tag, which stands beside it (`agent.tag_filter`)."""
    received: int
    """Packets that passed the filter, as of the last `count`, dropped ones included."""
    dropped: int
    hardware_stamps: bool
    """Packets carry the card's time stamps, where it made one."""
    stamp_error_ns: int
    """How far stamps may be off the host's clock, or behind the filter's verdict; 0: its own, and before it."""
    remark: str | None
    """What the user should know of this socket; None: nothing."""

    @property
    def ring(self) -> Reader:
        """The reader, from `start` on."""
        ...

    def start(self, snaplen: int, epoch: int) -> None:
        """Begin to receive, with the filter attached before from the first packet on. OSError when refused."""
        ...

    def attach(self, program: bytes) -> None:
        """Replace the filter, losing nothing. OSError when the kernel refuses."""
        ...

    def fileno(self) -> int:
        """The descriptor to wait on."""
        ...

    def count(self) -> None:
        """Bring `received` and `dropped` up to date."""
        ...

    def take_error(self) -> str | None:
        """What the socket reported, in words (None: nothing); a passing error is told once."""
        ...

    def trouble(self) -> str | None:
        """Why no packets can come now: "down" or "removed"; None when the interface is there and up."""
        ...

    def name(self) -> str | None:
        """What the interface is called now; None: it is gone, or nobody can tell."""
        ...

    def close(self) -> None:
        """Stop receiving, count for the last time, free everything. Idempotent; no thread may be reading."""
        ...


class Steering(Protocol):
    """How several sockets on one interface share its packets, so that each reaches one of them."""

    @property
    def can_prioritise(self) -> bool:
        """Whether packets can be told apart by rules."""
        ...

    def join(self, sock: LiveSocket) -> None:
        """A socket that receives becomes one of them, behind those that joined before. SourceError when refused."""
        ...

    def spread(self, sock: LiveSocket, rings: int) -> None:
        """Flows go to the first so many."""
        ...

    def prioritise(self, rules: PriorityRules) -> None:
        """Packets that a rule names go to the one behind those. OSError when the kernel refuses."""
        ...

    def restart(self) -> None:
        """The sockets are being replaced: those that join now share anew."""
        ...
