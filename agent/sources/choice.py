"""Ring or libpcap on this host, and why. Which programs judge packets on a ring is `agent.ebpf.loading`'s matter."""

from __future__ import annotations

import socket
import sys

from agent import libpcap

ON_A_RING, THROUGH_LIBPCAP, NO_PATH = "af_packet+cbpf", "libpcap+cbpf", "none"
"""As the agent's report names them (a ring without eBPF)."""


def ring_or_libpcap(wanted: str) -> tuple[str, str]:
    """(one of the names above, why in words) for a `capture.path`; for NO_PATH the words say what to do.

    "auto": the ring where the system has AF_PACKET, else libpcap, else none. "pcap": libpcap or none. Any other asks
    for the ring.
    """
    missing = {"pcap": "capture.path asks for it", "auto": _missing_ring()}.get(wanted)
    if missing is None:
        return ON_A_RING, ""
    try:
        return THROUGH_LIBPCAP, f"{missing}; {libpcap.version()}"[:500]
    except libpcap.LibpcapMissing as error:
        return NO_PATH, str(error) if wanted == "pcap" else f"{missing}, and {error}"


def _missing_ring() -> str | None:
    """Why there is no AF_PACKET ring here; None: there is (whether we may open one, opening will say)."""
    if not hasattr(socket, "AF_PACKET"):
        return f"AF_PACKET is Linux's, this is {sys.platform}"
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        return None
    except OSError as error:
        return f"this system has no AF_PACKET sockets ({error.strerror})"
    return None
