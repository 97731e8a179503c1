"""An AF_PACKET socket with a TPACKET_V3 ring: opened so that no packet precedes its filter, freed exactly once.

Order matters (packet(7), net/packet/af_packet.c): a socket of protocol 0 receives nothing; so filter and ring first,
then bind with ETH_P_ALL.

**Time stamps.** SO_TIMESTAMPING makes the kernel stamp each packet where it enters the stack (netstamp_needed_key in
net/core/dev.c), so that every capture on the host, tcpdump's included, reads the same stamp of the same packet. They
differ

- for packets of the first milliseconds (the key is switched by a work queue);
- between interfaces: a packet passing eth0, a bridge and a veth is stamped anew where it is handed on;
- for TCP segments that arrive over a veth: they still carry their sender's departure time, which is no arrival time,
  so `tpacket_rcv` takes the time for each socket, some hundred nanoseconds apart. No network card does that.

Without the option (`capture.timestamps: late`) each socket takes the time when it puts the packet into its ring, later
the more sockets there are and the longer the packet waited for a processor. It spares the stamps of packets that nobody
keeps, on all interfaces. A packet is then judged before it is stamped, so a filter change allows for that (LATE_NS).
The card's own stamps are another option: `agent.sources.card_stamps`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct

from agent import _tpacket
from agent.clock import CARD_CLOCK_BOUND_NS
from agent.interfaces import LINKTYPE_OF_HARDWARE
from agent.sources import card_stamps
from agent.sources.source import SourceError
from agent.tag_filter import REJECT_ALL

# linux/if_packet.h, asm-generic/socket.h, linux/net_tstamp.h, linux/if_ether.h, linux/sockios.h
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 1, 5, 6, 10
_PACKET_MR_PROMISC = 1
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_SO_ATTACH_BPF = 50
_SO_TIMESTAMPING = 37
LATE_NS = 20_000_000
"""At most so long after its verdict is a packet stamped that nothing stamped before: the kernel does both in one go."""
_STAMP_RECEIVED, _STAMP_REPORT = 1 << 3, 1 << 4  # SOF_TIMESTAMPING_RX_SOFTWARE, SOF_TIMESTAMPING_SOFTWARE
_ETH_P_ALL = 3
_SIOCGIFNAME, _SIOCGIFFLAGS, _SIOCGIFHWADDR, _SIOCGIFINDEX = 0x8910, 0x8913, 0x8927, 0x8933
_IFF_UP = 0x1
_FRAME_BYTES = 2048  # V3 packs packets without regard to it; the kernel only checks that it is plausible
_INSTRUCTION_BYTES = 8

_ARPHRD_LOOPBACK = 772


class RingSocket:
    """One socket and its ring; every option is set, nothing is read. Not thread-safe but for `attach`."""

    tags_beside = True

    def __init__(
        self,
        interface: str,
        *,
        ring_bytes: int,
        block_bytes: int,
        retire_ms: int,
        promiscuous: bool,
        timestamps: str = card_stamps.SOFTWARE,
    ) -> None:
        """Open and prepare; nothing is received before `start`. SourceError with what to do about it.

        timestamps: whose, as `capture.timestamps` has it. AUTO without the card's: `remark` says why.
        """
        self.interface = interface
        self.received = 0
        self.dropped = 0
        self.ring: _tpacket.Ring
        self.hardware_stamps = False
        self.stamp_error_ns = 0
        self.remark: str | None = None
        self._card: card_stamps.CardClock | None = None
        self._mapping: mmap.mmap | None = None
        self._ring_bytes = max(2, ring_bytes // block_bytes) * block_bytes
        self._block_bytes = block_bytes
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError:
            raise SourceError(
                "opening an AF_PACKET socket was not permitted",
                "The agent needs CAP_NET_RAW: run it as root or through its systemd unit",
            ) from None
        except OSError as error:
            raise SourceError(
                f"this system has no AF_PACKET sockets ({error.strerror})",
                "The kernel must have CONFIG_PACKET, and the agent's sandbox must allow AF_PACKET",
            ) from None
        try:
            self.index, self.link_type, self.loopback = self._look_up()
            self._set_up(retire_ms, promiscuous)
            if timestamps == card_stamps.LATE:
                self.stamp_error_ns = LATE_NS
            else:
                stamp_early(self._socket)
            if timestamps in (card_stamps.HARDWARE, card_stamps.AUTO):
                self._take_card_stamps(required=timestamps == card_stamps.HARDWARE)
        except BaseException:
            self._socket.close()
            raise

    def _look_up(self) -> tuple[int, int, bool]:
        """(index, link type, loopback) of the interface, by ioctl: /sys shows another namespace's interfaces."""
        try:
            (index,) = struct.unpack_from("=i", self._ask(_SIOCGIFINDEX), 16)
            (hardware,) = struct.unpack_from("=H", self._ask(_SIOCGIFHWADDR), 16)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            present = ", ".join(sorted(name for _, name in socket.if_nameindex()))
            raise SourceError(
                f"there is no interface {self.interface}", f"This host has: {present}"
            ) from None
        if hardware not in LINKTYPE_OF_HARDWARE:
            raise SourceError(
                f"interface {self.interface} has hardware type {hardware} (ARPHRD_ in linux/if_arp.h), whose frames "
                "can't be captured yet",
                "Ethernet-like, loopback, tun, WireGuard and IP tunnel interfaces can",
            )
        return index, LINKTYPE_OF_HARDWARE[hardware], hardware == _ARPHRD_LOOPBACK

    def _set_up(self, retire_ms: int, promiscuous: bool) -> None:
        sock = self._socket
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        blocks = self._ring_bytes // self._block_bytes
        request = struct.pack(
            "=7I", self._block_bytes, blocks, _FRAME_BYTES, self._ring_bytes // _FRAME_BYTES, retire_ms, 0, 0
        )
        try:
            sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        except OSError as error:
            raise SourceError(
                f"the kernel refused a ring of {self._ring_bytes // 1024} KiB ({error.strerror})",
                "Give ring.bytes a smaller value, or the host more memory",
            ) from None
        if promiscuous:
            membership = struct.pack("=iHH8s", self.index, _PACKET_MR_PROMISC, 0, b"")
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)

    def _take_card_stamps(self, *, required: bool) -> None:
        try:
            self._card = card_stamps.switch_on(self._socket, self.interface)
        except card_stamps.NoCardStamps as reason:
            if required:
                raise SourceError(
                    f"packets can't carry the card's time stamps: {self.interface} {reason}",
                    "Or set capture.timestamps to auto or software in the agent's configuration",
                ) from None
            self.remark = f"packets carry the kernel's time stamps: {self.interface} {reason}"
        else:
            self.hardware_stamps, self.stamp_error_ns = True, CARD_CLOCK_BOUND_NS

    def _doubt_card(self) -> None:
        """Back to the kernel's stamps for good when the card's clock went astray."""
        trouble = self._card.trouble() if self._card is not None else None
        if self._card is not None and trouble is not None:
            card_stamps.switch_off(self._socket)
            self._card.close()
            self._card = None
            self.hardware_stamps = False  # what is in the ring may still be off: `stamp_error_ns` stays
            self.remark = f"packets carry the kernel's time stamps from now on: {self.interface} {trouble}"

    def start(self, snaplen: int, epoch: int) -> None:
        """Map the ring and begin to receive: the filter must be attached before."""
        self._mapping = mmap.mmap(self._socket.fileno(), self._ring_bytes)
        self.ring = _tpacket.Ring(self._mapping, self._block_bytes, snaplen, self.link_type == 1, epoch)
        self._socket.bind((self.interface, _ETH_P_ALL))

    def attach(self, program: bytes) -> None:
        """Replace the filter: atomic in the kernel, packets under judgement finish with the old one."""
        attach_filter(self._socket, program)

    def attach_ebpf(self, descriptor: int) -> None:
        """The same with a loaded eBPF program (Linux 3.19)."""
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, descriptor)

    def fileno(self) -> int:
        return self._socket.fileno()

    def count(self) -> None:
        """Add the kernel's counters, which reset when read, to `received` (drops included) and `dropped`."""
        packets, drops, _freezes = struct.unpack(
            "=3I", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)
        )
        self.received += packets
        self.dropped += drops
        self._doubt_card()

    def take_error(self) -> str | None:
        """See `LiveSocket.take_error`. That the interface is down isn't one: `trouble` says so."""
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return os.strerror(error) if error not in (0, errno.ENETDOWN) else None

    def trouble(self) -> str | None:
        """Why no packets can come now: "down" or "removed"; None when the interface is there and up."""
        return interface_trouble(self._socket, self.index)

    def name(self) -> str | None:
        """What the interface is called now; None: it is gone."""
        return interface_name(self._socket, self.index)

    def _ask(self, request: int) -> bytes:
        encoded = os.fsencode(self.interface)
        if not 0 < len(encoded) < 16:
            raise OSError(errno.ENODEV, "not an interface name")
        return fcntl.ioctl(self._socket.fileno(), request, struct.pack("=16s24x", encoded))

    def close(self) -> None:
        """Stop receiving, count for the last time, free ring and socket. Idempotent; no thread may be reading."""
        if self._socket.fileno() < 0:
            return
        if self._mapping is not None:
            if hasattr(self, "ring"):
                self.ring.release()
            self.attach(REJECT_ALL)
            self.count()
            self._mapping.close()  # it holds a descriptor of its own: the kernel frees the ring when both are closed
        if self._card is not None:
            self._card.close()
            self._card = None
        self._socket.close()


def attach_filter(packet_socket: socket.socket, program: bytes) -> None:
    """Replace a socket's filter: atomic in the kernel, packets under judgement finish with the old one."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // _INSTRUCTION_BYTES, ctypes.addressof(code))
    packet_socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def stamp_early(packet_socket: socket.socket) -> None:
    """Ask for the stamp of the moment when a packet enters the stack (see the module)."""
    packet_socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _STAMP_RECEIVED | _STAMP_REPORT)


def is_loopback(packet_socket: socket.socket, interface: str) -> bool:
    """Is this a loopback interface, which every packet passes twice?"""
    answer = fcntl.ioctl(
        packet_socket.fileno(), _SIOCGIFHWADDR, struct.pack("=16s24x", os.fsencode(interface))
    )
    return bool(struct.unpack_from("=H", answer, 16)[0] == _ARPHRD_LOOPBACK)


def interface_name(packet_socket: socket.socket, index: int) -> str | None:
    """What interface `index` of the socket's namespace is called now; None: there is none."""
    try:
        answer = fcntl.ioctl(packet_socket.fileno(), _SIOCGIFNAME, struct.pack("=16si20x", b"", index))
    except OSError:
        return None
    return os.fsdecode(answer[:16].split(b"\0")[0])


def interface_trouble(packet_socket: socket.socket, index: int) -> str | None:
    """Why no packets can come from interface `index` of the socket's namespace: "down" or "removed"; None: it is up."""
    name = interface_name(packet_socket, index)
    if name is None:
        return "removed"
    try:
        answer = fcntl.ioctl(packet_socket.fileno(), _SIOCGIFFLAGS, struct.pack("=16s24x", os.fsencode(name)))
    except OSError:
        return "removed"
    (flags,) = struct.unpack_from("=H", answer, 16)
    return None if flags & _IFF_UP else "down"
