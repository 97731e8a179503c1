"""Read pcap and pcapng files as columns: whole chunks per call, no Python per packet.

pcap: both byte orders, microseconds and nanoseconds, the "modified" format of old Linux tools, versions 2.0 to 2.4.
pcapng: several sections of either byte order, several interfaces, enhanced, simple and obsolete packet blocks, every
if_tsresol and if_tsoffset. What neither libpcap nor we take (a captured length over 262,144) ends the reading.

The file comes through a `read(n)` function into a window that is bounded, never mapped: a mapped file that somebody
shortens meanwhile kills the process.

A file that ends or breaks in the middle yields its packets so far; `CaptureReader.complaint` says where and why.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from wire import _columns
from wire.errors import WireError

MAX_INTERFACES = 4096
"""Per section of a pcapng file."""
MAX_BLOCK_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_PCAP_MAGICS = {  # as the file's first four bytes: (big endian, nanoseconds, record header bytes)
    bytes.fromhex("a1b2c3d4"): (True, False, 16),
    bytes.fromhex("d4c3b2a1"): (False, False, 16),
    bytes.fromhex("a1b23c4d"): (True, True, 16),
    bytes.fromhex("4d3cb2a1"): (False, True, 16),
    bytes.fromhex("a1b2cd34"): (True, False, 24),
    bytes.fromhex("34cdb2a1"): (False, False, 24),
}
_SECTION = bytes.fromhex("0a0d0d0a")


@dataclass(frozen=True, slots=True)
class CaptureInterface:
    """Where packets of a file come from."""

    section: int
    """Section of the file, from 0 (a pcap file has one)."""
    index: int
    """Interface within the section, from 0."""
    name: str
    """if_name without control characters, at most 128 bytes of UTF-8; "" when the file has none."""
    link_type: int
    snaplen: int
    """As the file says; 0: no limit stated."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What one `read_into` put into the columns."""

    packets: int
    data_bytes: int
    interface: CaptureInterface


class CaptureReader:
    """One pass over one file.

    `read(n)` returns up to n bytes, b"" at the end (a file's own `read`). WireError at once when it is no capture.
    Memory: the window (1 MiB; 17 MiB at a huge block), and with several interfaces one more set of columns.
    """

    complaint: str | None
    """Why reading stopped before the file's end, with the offset; None: whole so far."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.complaint = None
        self.finished = False
        """Nothing more will come."""
        self.interfaces: list[CaptureInterface] = []
        """All seen so far, of all sections."""
        self._read = read
        self._window = bytearray()
        self._base = 0  # offset in the file of the window's first byte
        self._at = 0  # where in the window the next record begins
        self._eof = False
        self._section = -1
        self._big_endian = False
        self._table = bytearray()  # the section's interfaces for the C reader, 24 bytes each
        self._current: list[CaptureInterface] = []  # the section's interfaces
        self._mixed: list[bytearray] = []  # columns and interface ids of a chunk of several interfaces
        self._mixed_packets = self._mixed_bytes = 0
        self._waiting: list[int] = []  # interfaces of that chunk not yet handed out
        self._fill(24)
        magic = bytes(self._window[:4])
        self._pcap = _PCAP_MAGICS.get(magic)
        self._lengths = 0
        if self._pcap is not None:
            self._open_pcap(*self._pcap)
        elif magic != _SECTION:
            raise WireError("not a capture file: neither pcap nor pcapng begins like this")

    @property
    def offset(self) -> int:
        """How far into the file the packets handed out reach (progress)."""
        return self._base + self._at

    def read_into(
        self,
        timestamp_ns: bytearray,
        captured_bytes: bytearray,
        original_bytes: bytearray,
        flags: bytearray,
        data: bytearray,
        *,
        max_packets: int,
        snaplen: int = 262144,
    ) -> Filled | None:
        """Fill the columns from their beginnings with packets of one interface; None at the end (see `complaint`).

        The columns hold at least `max_packets` numbers and `data` at least `snaplen` bytes, else ValueError. Within
        one chunk of a file with several interfaces, packets are grouped by interface, in file order.
        """
        columns = [timestamp_ns, captured_bytes, original_bytes, flags, data]
        if max_packets < 1 or len(data) < min(snaplen, 262144):
            raise ValueError("no room for even one packet")
        if self._waiting:
            return self._next_interface(columns)
        while not self.finished:
            if self._pcap is not None:
                filled = self._pcap_chunk(columns, max_packets, snaplen)
            else:
                filled = self._pcapng_chunk(columns, max_packets, snaplen)
            if filled is not None:
                return filled
        return None

    # -- the window

    def _fill(self, needed: int) -> None:
        """Have at least `needed` bytes from `_at` in the window, or all there are."""
        if self._at:
            del self._window[: self._at]
            self._base += self._at
            self._at = 0
        while len(self._window) < needed and not self._eof:
            chunk = self._read(_CHUNK_BYTES)
            self._window += chunk
            self._eof = not chunk

    def _more(self, what: str, needed: int) -> None:
        """The window's end cuts a record: read on; or end, with a complaint unless the file ends exactly here."""
        before = len(self._window) - self._at
        self._fill(max(needed, before + 1))
        if len(self._window) == before:
            self.finished = True
            if before:
                self.complaint = f"the file ends within the {what} that begins at byte {self.offset}"

    def _stop(self, reason: str) -> None:
        self.finished = True
        self.complaint = f"{reason} at byte {self.offset}"

    # -- pcap

    def _open_pcap(self, big_endian: bool, nanosecond: bool, header_bytes: int) -> None:
        if len(self._window) < 24:
            raise WireError(f"the file ends within its pcap header ({len(self._window)} of 24 bytes)")
        major, minor, _, _, snaplen, network = struct.unpack_from(
            (">" if big_endian else "<") + "HHIIII", self._window, 4
        )
        if (major, minor) != (543, 0) and (major != 2 or minor > 4):
            raise WireError(f"pcap version {major}.{minor}; versions 2.0 to 2.4 are known")
        # Before 2.3 the two lengths stood in the other order, and version 2.3 was written either way (libpcap).
        self._lengths = 1 if major == 543 or minor < 3 else 2 if minor == 3 else 0
        self._section, self._at = 0, 24
        self._add_interface("", network & 0xFFFF, snaplen)

    def _pcap_chunk(self, columns: list[bytearray], max_packets: int, snaplen: int) -> Filled | None:
        assert self._pcap is not None
        packets, data_bytes, self._at, why = _columns.read_pcap_records(
            self._window, self._at, *self._pcap, self._lengths, snaplen, max_packets, *columns
        )
        if packets:
            return Filled(packets, data_bytes, self._current[0])
        if why == "invalid":
            self._stop("an impossible record (more than 262144 bytes)")
        elif why == "more":
            self._more("record", 0)
        else:
            raise ValueError("no room for even one packet")
        return None

    # -- pcapng

    def _pcapng_chunk(self, columns: list[bytearray], max_packets: int, snaplen: int) -> Filled | None:
        if self._section < 0:
            self._read_block()
            return None
        several = len(self._current) > 1
        if several:
            sizes = [len(column) for column in columns] + [4 * max_packets]
            if [len(column) for column in self._mixed] != sizes:
                self._mixed = [bytearray(size) for size in sizes]
        target = self._mixed if several else [*columns, bytearray(4 * max_packets)]
        packets, data_bytes, self._at, why = _columns.read_pcapng_packets(
            self._window, self._at, self._big_endian, self._table, snaplen, max_packets, *target
        )
        if packets and not several:
            return Filled(packets, data_bytes, self._current[0])
        if packets:
            self._mixed_packets, self._mixed_bytes = packets, data_bytes
            ids = struct.unpack_from(f"<{packets}I", self._mixed[5])
            self._waiting = sorted(set(ids), reverse=True)
            return self._next_interface(columns)
        if why == "block":
            self._read_block()
        elif why == "invalid":
            self._stop("an impossible packet block")
        elif why == "more":
            self._more("block", self._block_bytes())
        else:
            raise ValueError("no room for even one packet")
        return None

    def _next_interface(self, columns: list[bytearray]) -> Filled:
        wanted = self._waiting.pop()
        n = self._mixed_packets
        lengths = (8 * n, 4 * n, 4 * n, 2 * n, self._mixed_bytes, 4 * n)
        *sources, ids = (memoryview(column)[:size] for column, size in zip(self._mixed, lengths, strict=True))
        packets, data_bytes = _columns.select(wanted, ids, *sources, *columns)
        return Filled(packets, data_bytes, self._current[wanted])

    def _block_bytes(self) -> int:
        """The total length of the block that begins here, as far as it can be known."""
        if len(self._window) - self._at < 8:
            return 12
        return min(self._u32(self._at + 4), MAX_BLOCK_BYTES)

    def _u32(self, at: int) -> int:
        return int.from_bytes(self._window[at : at + 4], "big" if self._big_endian else "little")

    def _read_block(self) -> None:
        """Take in the block at `_at`, which isn't a packet's."""
        at = self._at
        if len(self._window) - at < 12:
            self._more("block", 12)
            return
        if self._window[at : at + 4] == _SECTION:
            order = bytes(self._window[at + 8 : at + 12])
            if order not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
                self._stop("a section without a byte order")
                return
            self._big_endian = order == b"\x1a\x2b\x3c\x4d"
        length = self._u32(at + 4)
        if length < 12 or length % 4 or length > MAX_BLOCK_BYTES:
            self._stop(f"a block of {length} bytes")
            return
        if len(self._window) - at < length:
            self._more("block", length)
            return
        if self._u32(at + length - 4) != length:
            self._stop("a block whose two lengths differ")
            return
        if self._window[at : at + 4] == _SECTION:
            self._begin_section(length)
        elif self._u32(at) == 1:
            self._take_interface(length)
        if not self.finished:
            self._at += length

    def _begin_section(self, length: int) -> None:
        major = int.from_bytes(
            self._window[self._at + 12 : self._at + 14], "big" if self._big_endian else "little"
        )
        if length < 28 or major != 1:
            self._stop(f"a section of pcapng version {major}")
            return
        self._section += 1
        self._current, self._table = [], bytearray()

    def _take_interface(self, length: int) -> None:
        if length < 20 or len(self._current) >= MAX_INTERFACES:
            self._stop(f"an interface block too short or more than {MAX_INTERFACES} of them")
            return
        order = ">" if self._big_endian else "<"
        link_type, _, snaplen = struct.unpack_from(order + "HHI", self._window, self._at + 8)
        name, resolution, offset_s = "", 6, 0
        at, end = self._at + 16, self._at + length - 4
        while end - at >= 4:
            code, size = struct.unpack_from(order + "HH", self._window, at)
            at += 4
            if code == 0 or size > end - at:
                break
            value = bytes(self._window[at : at + size])
            if code == 2:
                name = _plain(value)
            elif code == 9 and size == 1:
                resolution = value[0]
            elif code == 14 and size == 8:
                (offset_s,) = struct.unpack(order + "q", value)
            at += (size + 3) & ~3
        self._table += struct.pack("<IIqQ", resolution, snaplen, offset_s, 0)
        self._add_interface(name, link_type, snaplen)

    def _add_interface(self, name: str, link_type: int, snaplen: int) -> None:
        interface = CaptureInterface(self._section, len(self._current), name, link_type, snaplen)
        self._current.append(interface)
        self.interfaces.append(interface)


def _plain(value: bytes) -> str:
    text = value.split(b"\0")[0].decode("utf-8", "replace")
    text = "".join(character for character in text if character.isprintable())
    return text.encode()[:128].decode("utf-8", "ignore")
