"""The callback of libpcap's pcap_dispatch in C: packets into columns, own traffic out, without the GIL."""

from typing import final

from typing_extensions import Buffer

_Columns = tuple[Buffer, Buffer, Buffer, Buffer, Buffer]  # as in _tpacket.pyi

@final
class Walk:
    """The reader of one handle: filter epochs, a packet held back, counters."""

    def __new__(
        cls, dispatch: int, break_loop: int, fraction_ns: int, snaplen: int, ethernet: bool, epoch: int
    ) -> Walk:
        """`dispatch`, `break_loop`: addresses of pcap_dispatch and pcap_breakloop. `fraction_ns`: what a unit of the
        handle's tv_usec is worth, 1 or 1000."""

    def dispatch(
        self, handle: int, own: Buffer, target: _Columns, packets: int, data_bytes: int, /
    ) -> tuple[int, int, int, int, int, int]:
        """Take what `handle` (a pcap_t) has, into columns that hold `packets` already.

        (packets, data_bytes, why it ended, pcap_dispatch's result, epoch, snaplen of the epoch). It ended as in
        `agent._tpacket`: END_TIME (nothing more there), END_FULL or END_EPOCH; the result is negative for an error
        (pcap_geterr has it) or -2 for a broken loop. RuntimeError while another thread reads.
        """

    def swap(self, start_ns: int, snaplen: int, epoch: int, /) -> None:
        """A filter change begins: packets stamped from `start_ns` on belong to `epoch`."""

    def swapped(self, end_ns: int, /) -> None:
        """It has ended: packets stamped after `end_ns` are judged by the new filter only."""

    def counters(self) -> tuple[int, int, int]:
        """Packets (captured, own traffic, impossible) so far."""
