"""Several sockets on one interface of which each packet reaches exactly one: PACKET_FANOUT (packet(7)).

With eBPF the program `steer` (bpf/steer.h) says which one, by its place in the order of joining; otherwise the kernel
hashes flows. The program comes with the second socket: without one the kernel takes the first. A socket may join while
packets flow. When the interface goes down and comes up the kernel joins them again in the order of opening
(packet_notifier in net/packet/af_packet.c): so they join in that order at first.
"""

from __future__ import annotations

import errno
import socket
import struct

from agent.ebpf.programs import ProgramSet
from agent.sources.live_socket import LiveSocket
from agent.sources.source import SourceError
from wire.priority import PriorityRules

# linux/if_packet.h
_SOL_PACKET = 263
_PACKET_FANOUT, _PACKET_FANOUT_DATA = 18, 22
_HASH, _EBPF = 0, 7
_UNIQUE_ID = 0x2000  # PACKET_FANOUT_FLAG_UNIQUEID, Linux 4.12


_ETHERNET, _ETHERNET_BYTES = 1, 14


class Fanout:
    """A `Steering` over one group. It ends with the last of its sockets."""

    def __init__(self, programs: ProgramSet | None) -> None:
        """programs: those that have `steer`; None: flows are hashed by the kernel, and nothing has priority."""
        self._programs = programs
        self._group: int | None = None
        self._alone = False
        """One socket that the kernel lets be in no group: an old one."""

    @property
    def can_prioritise(self) -> bool:
        """See `Steering.can_prioritise`."""
        return self._programs is not None and not self._alone

    def join(self, sock: LiveSocket) -> None:
        """See `Steering.join`. The first one may be refused: then it stays the only one."""
        kind = _HASH if self._programs is None else _EBPF
        raw = socket.socket(fileno=sock.fileno())
        try:
            if self._group is not None:
                raw.setsockopt(_SOL_PACKET, _PACKET_FANOUT, self._group)
                if self._programs is not None:
                    raw.setsockopt(_SOL_PACKET, _PACKET_FANOUT_DATA, struct.pack("=i", self._programs.steer))
                return
            if self._alone:
                raise OSError(errno.EINVAL, "no groups")
            raw.setsockopt(_SOL_PACKET, _PACKET_FANOUT, (kind | _UNIQUE_ID) << 16)
            (said,) = struct.unpack("=I", raw.getsockopt(_SOL_PACKET, _PACKET_FANOUT, 4))
            self._group = (said & 0xFFFF) | kind << 16
        except OSError as error:
            if self._group is None and not self._alone:
                self._alone = True
                return
            raise SourceError(
                f"the kernel refused to spread packets over several rings ({error.strerror})",
                "That needs Linux 4.12: set capture.rings to 1 in the agent's configuration",
            ) from None
        finally:
            raw.detach()

    def spread(self, sock: LiveSocket, rings: int) -> None:
        """See `Steering.spread`."""
        if self._programs is not None:
            self._programs.spread(rings, _ETHERNET_BYTES if sock.link_type == _ETHERNET else 0)

    def prioritise(self, rules: PriorityRules) -> None:
        """See `Steering.prioritise`."""
        assert self._programs is not None
        self._programs.prioritise(rules)

    def restart(self) -> None:
        """See `Steering.restart`."""
        self._group = None
