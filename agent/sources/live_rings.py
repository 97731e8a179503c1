"""The rings of one live source: sockets on one interface that are filled, changed and closed together."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from agent.sources.live_socket import LiveSocket, Reader
from agent.sources.wake import Wake


@dataclass(slots=True)
class Totals:
    """What sockets that are closed have counted."""

    received: int = 0
    dropped: int = 0
    captured: int = 0
    own: int = 0
    invalid: int = 0


@dataclass(slots=True)
class Ring:
    """One socket and what its reader needs."""

    socket: LiveSocket
    reading: threading.Lock = field(default_factory=threading.Lock)
    wake: Wake = field(default_factory=Wake)


def close_all(sockets: list[LiveSocket]) -> None:
    """What still stood in them is counted by whoever closes them."""
    for sock in sockets:
        sock.close()


def swap(readers: list[Reader], start_ns: int, snaplen: int, epoch: int) -> None:
    """From `start_ns` on either filter may have judged a packet; `epoch` is the new one's."""
    for reader in readers:
        reader.swap(start_ns, snaplen, epoch)


def swapped(readers: list[Reader], end_ns: int) -> None:
    """Until `end_ns`."""
    for reader in readers:
        reader.swapped(end_ns)
