"""Time stamps that the network card makes when a packet arrives: whether it can, whether to believe it, switching on.

A card that stamps has a clock of its own, which Linux shows as /dev/ptpN (Documentation/driver-api/ptp.rst). It runs
freely unless somebody sets it, and starts at 1970, at the host's time or at TAI, as its driver likes. Everything else
here reckons in the host's time: what belongs to which filter, what is shown first, what is kept how long. So a card is
believed while its clock agrees with the host's to `agent.clock.CARD_CLOCK_BOUND_NS`, and asked again as packets come.

The kernel gives each packet the best stamp that it has: one that the card didn't stamp (any that this host sends) keeps
the kernel's own (tpacket_get_timestamp in net/packet/af_packet.c). A flag of the packet tells which it was.

Switching on is a setting of the card, for all who use it, and stays on: others may have come to rely on it. What
somebody chose to be stamped on sending is kept. Layouts: linux/ethtool.h, linux/net_tstamp.h, linux/sockios.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import time

from agent.clock import CARD_CLOCK_BOUND_NS

SOFTWARE, LATE, HARDWARE, AUTO = "software", "late", "hardware", "auto"
"""The values of `capture.timestamps`."""

TS_INFO = struct.Struct("=IIiI12xI12x")
"""struct ethtool_ts_info: cmd, so_timestamping, phc_index, tx_types, rx_filters."""
HWTSTAMP_CONFIG = struct.Struct("=iii")
"""struct hwtstamp_config: flags, tx_type, rx_filter."""
IFREQ = struct.Struct("@16sP16x" if struct.calcsize("P") == 8 else "@16sP12x")
"""struct ifreq with ifr_data."""
ETHTOOL_GET_TS_INFO = 0x41
SIOCETHTOOL, SIOCSHWTSTAMP, SIOCGHWTSTAMP = 0x8946, 0x89B0, 0x89B1
RX_HARDWARE, RAW_HARDWARE = 1 << 2, 1 << 6  # SOF_TIMESTAMPING_
FILTER_ALL = 1  # HWTSTAMP_FILTER_ALL
PACKET_TIMESTAMP = 17
_SOL_PACKET = 263
_TAI_BEHIND_NS = 60_000_000_000  # TAI is 37 s ahead of UTC, and will not be a minute for some decades


class NoCardStamps(Exception):
    """Why packets of this interface can't carry the card's stamps, in words that go on from its name."""


class CardClock:
    """A clock beside the host's: any clockid_t, a card's through its device."""

    def __init__(self, clock_id: int, descriptor: int = -1) -> None:
        """Takes the descriptor over, which `clock_id` may stand on."""
        self._clock_id = clock_id
        self._descriptor = descriptor

    @classmethod
    def of_device(cls, path: str) -> CardClock:
        """NoCardStamps when it can't be opened."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NoCardStamps(
                f"has a clock that can't be read: {path}: {error.strerror}; let the agent's user read it"
            ) from None
        return cls(~descriptor << 3 | 3, descriptor)  # FD_TO_CLOCKID of man 2 clock_getres

    def ahead_ns(self) -> int:
        """How far it is ahead of CLOCK_REALTIME, from the tightest of five readings. OSError when it is gone."""
        best_width, best = 1 << 62, 0
        for _ in range(5):
            before = time.time_ns()
            there = time.clock_gettime_ns(self._clock_id)
            after = time.time_ns()
            if 0 <= after - before < best_width:
                best_width, best = after - before, there - (before + after) // 2
        return best

    def trouble(self) -> str | None:
        """Why its stamps aren't to be believed, as NoCardStamps has it; None: they are."""
        try:
            ahead_ns = self.ahead_ns()
        except OSError as error:
            return f"has a clock that doesn't answer any more ({error.strerror})"
        if abs(ahead_ns) <= CARD_CLOCK_BOUND_NS:
            return None
        way, seconds = "ahead of" if ahead_ns > 0 else "behind", abs(ahead_ns) / 1e9
        tai = " (it seems to run on TAI)" if 30_000_000_000 < ahead_ns < _TAI_BEHIND_NS else ""
        return (
            f"has a clock that is {seconds:.6f} s {way} this host's{tai}, and {CARD_CLOCK_BOUND_NS / 1e6:g} ms is the "
            "bound; keep the two together: phc2sys -s CLOCK_REALTIME -c INTERFACE -O 0"
        )

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def switch_on(packet_socket: socket.socket, interface: str) -> CardClock:
    """Let the card stamp what arrives, and this packet socket ask for it. NoCardStamps: nothing is changed."""
    clock = CardClock.of_device(f"/dev/ptp{_clock_index(packet_socket, interface)}")
    try:
        trouble = clock.trouble()
        if trouble is not None:
            raise NoCardStamps(trouble)
        _stamp_all(packet_socket, interface)
        packet_socket.setsockopt(_SOL_PACKET, PACKET_TIMESTAMP, RAW_HARDWARE)
    except BaseException:
        clock.close()
        raise
    return clock


def switch_off(packet_socket: socket.socket) -> None:
    """The kernel's own stamps for this socket from here on; what waits in the ring keeps what it has."""
    packet_socket.setsockopt(_SOL_PACKET, PACKET_TIMESTAMP, 0)


def _clock_index(packet_socket: socket.socket, interface: str) -> int:
    try:
        answer = _asked(packet_socket, interface, SIOCETHTOOL, TS_INFO.pack(ETHTOOL_GET_TS_INFO, 0, 0, 0, 0))
    except OSError:  # no ethtool, no stamps
        raise NoCardStamps("has no clock of its own") from None
    _, abilities, index, _, filters = TS_INFO.unpack(answer)
    if index < 0 or not abilities & RX_HARDWARE or not abilities & RAW_HARDWARE:
        raise NoCardStamps("has no clock of its own")
    if not filters >> FILTER_ALL & 1:
        raise NoCardStamps("has a card that stamps packets of its time protocol alone")
    return int(index)


def _stamp_all(packet_socket: socket.socket, interface: str) -> None:
    try:
        before = _asked(packet_socket, interface, SIOCGHWTSTAMP, HWTSTAMP_CONFIG.pack(0, 0, 0))
    except OSError:  # drivers before Linux 3.14 can't tell
        before = HWTSTAMP_CONFIG.pack(0, 0, 0)
    flags, sending, receiving = HWTSTAMP_CONFIG.unpack(before)
    if receiving == FILTER_ALL:
        return
    try:
        _asked(packet_socket, interface, SIOCSHWTSTAMP, HWTSTAMP_CONFIG.pack(flags, sending, FILTER_ALL))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise NoCardStamps(
                "has a card whose stamps may not be switched on: the agent needs CAP_NET_ADMIN"
            ) from None
        raise NoCardStamps(f"has a card that refused to stamp all packets ({error.strerror})") from None


def _asked(packet_socket: socket.socket, interface: str, request: int, question: bytes) -> bytes:
    room = ctypes.create_string_buffer(question, len(question))
    fcntl.ioctl(packet_socket.fileno(), request, IFREQ.pack(os.fsencode(interface), ctypes.addressof(room)))
    return room.raw
