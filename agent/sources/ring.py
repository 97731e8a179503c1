"""Live packets of one interface, out of the kernel's ring: one C call per batch (`agent._tpacket.Ring.read`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from agent.ebpf.programs import ProgramSet
from agent.sources.card_stamps import AUTO, HARDWARE, SOFTWARE
from agent.sources.fanout import Fanout
from agent.sources.live import LiveSource
from agent.sources.ring_socket import RingSocket
from agent.sources.socket_filter import ClassicSocketFilter, EbpfSocketFilter
from agent.sources.source import EVERYTHING, FlowRules

RING_BYTES = 32 * 1024 * 1024
BLOCK_BYTES = 256 * 1024
"""The kernel cuts what exceeds a block (only "big TCP" frames do) and spends a block per retire time at low rates:
128 of them ride out a stall of half a second, fewer and larger ones don't."""
RETIRE_MS = 4


class RingSource(LiveSource):
    """A `PacketSource` over a TPACKET_V3 ring. Opening it needs CAP_NET_RAW.

    `block_bytes`: a multiple of the page size. `programs`: those of bpf/capture.c, taken over; None: classic BPF
    judges, and `why_classic` says why to who asks for more. `timestamps`: whose, as `capture.timestamps` has it. See
    `LiveSource` for the rest.
    """

    def __init__(
        self,
        interface: str,
        filter_text: str,
        snaplen: int,
        promiscuous: bool,
        own_traffic: Sequence[tuple[str, int]] = (),
        *,
        ring_bytes: int = RING_BYTES,
        block_bytes: int = BLOCK_BYTES,
        retire_ms: int = RETIRE_MS,
        programs: ProgramSet | None = None,
        flows: FlowRules = EVERYTHING,
        timestamps: str = SOFTWARE,
        why_classic: str = "",
        rings: int = 1,
    ) -> None:
        """rings: `ring_bytes` is divided among so many, each with a reader of its own."""
        open_socket = functools.partial(
            RingSocket,
            interface,
            ring_bytes=ring_bytes // rings,
            block_bytes=block_bytes,
            retire_ms=retire_ms,
            promiscuous=promiscuous,
            timestamps=timestamps,
        )
        judge = ClassicSocketFilter(why=why_classic) if programs is None else EbpfSocketFilter(programs)
        # With eBPF a lone socket is a group too: one for priority may join it while packets flow.
        steering = Fanout(programs) if programs is not None or rings > 1 else None
        super().__init__(
            interface,
            filter_text,
            snaplen,
            own_traffic,
            open_socket,
            judge,
            flows,
            rings=rings,
            steering=steering,
        )
        if (
            timestamps == HARDWARE
        ):  # what comes back under this name may be another card: capturing matters more
            self._open = functools.partial(open_socket, timestamps=AUTO)
