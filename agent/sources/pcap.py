"""Live packets of one interface through libpcap: where there is no AF_PACKET ring, or where somebody asks for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from agent.sources.live import LiveSource
from agent.sources.pcap_socket import PcapSocket
from agent.sources.socket_filter import ClassicSocketFilter
from agent.sources.source import EVERYTHING, FlowRules

BUFFER_BYTES = 32 * 1024 * 1024
TIMEOUT_MS = 4


class PcapSource(LiveSource):
    """A `PacketSource` over a libpcap handle.

    The same columns as `agent.sources.ring.RingSource` but for their flags: libpcap doesn't tell a packet's direction,
    whether its check sums are ready, nor that it put a VLAN tag back in, so those bits are unset. An interface must be
    up to be opened.
    """

    def __init__(
        self,
        interface: str,
        filter_text: str,
        snaplen: int,
        promiscuous: bool,
        own_traffic: Sequence[tuple[str, int]] = (),
        *,
        buffer_bytes: int = BUFFER_BYTES,
        timeout_ms: int = TIMEOUT_MS,
        flows: FlowRules = EVERYTHING,
        late_stamps: bool = False,
    ) -> None:
        open_socket = functools.partial(
            PcapSocket,
            interface,
            buffer_bytes=buffer_bytes,
            timeout_ms=timeout_ms,
            promiscuous=promiscuous,
            late_stamps=late_stamps,
        )
        super().__init__(
            interface, filter_text, snaplen, own_traffic, open_socket, ClassicSocketFilter(), flows
        )
