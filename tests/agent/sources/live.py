"""Frames onto a real veth, packets out of a source, and tcpdump beside it."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.sources.live import LiveSource
from agent.sources.pcap import PcapSource
from agent.sources.ring import RingSource
from agent.sources.source import BatchBuffer, PacketSource
from tests.support.captures import Packet, read_capture
from tests.support.ebpf import programs
from tests.support.need import need
from tests.support.netns import Namespace, wait_for

FOREIGN_MAC = "02:00:00:00:77:77"  # nobody's: no stack answers, and only promiscuous capture sees it
SENDER_MAC = "02:00:00:00:77:01"


@dataclass(frozen=True)
class Taken:
    """A packet as a source gave it."""

    packet: Packet
    flags: int
    epoch: int


def packets_of(buffer: BatchBuffer) -> list[Taken]:
    """The content of a buffer, one object per packet (tests only: the agent never does this)."""
    columns, at, taken = buffer.columns(), 0, []
    times = struct.unpack(f"<{buffer.packets}Q", columns.timestamp_ns)
    captured = struct.unpack(f"<{buffer.packets}I", columns.captured_bytes)
    original = struct.unpack(f"<{buffer.packets}I", columns.original_bytes)
    flags = struct.unpack(f"<{buffer.packets}H", columns.flags)
    for i in range(buffer.packets):
        packet = Packet(times[i], original[i], buffer.link_type, bytes(columns.data[at : at + captured[i]]))
        taken.append(Taken(packet, flags[i], buffer.filter_epoch))
        at += captured[i]
    assert at == buffer.data_bytes
    return taken


def drain(source: PacketSource, *, buffer: BatchBuffer | None = None, quiet_ms: int = 150) -> list[Taken]:
    """Everything that has come, until nothing has for `quiet_ms`; the books must add up then."""
    buffer, taken = buffer or BatchBuffer(), []
    deadline = time.monotonic() + 20
    while source.read_batch(buffer, linger_ns=1_000_000, wait_ms=quiet_ms) or source.statistics().in_ring:
        taken += packets_of(buffer)
        assert time.monotonic() < deadline, source.statistics()
    return taken


def data_of(taken: list[Taken]) -> list[bytes]:
    return [each.packet.data for each in taken]


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def udp_frame(
    payload: bytes, *, port: int = 7, to: str = FOREIGN_MAC, tags: tuple[tuple[int, int], ...] = ()
) -> bytes:
    """An Ethernet frame with an IPv4 UDP packet 10.9.0.1:5000 → 10.9.0.2:port behind (tpid, tci) tags."""
    return ip_frame(17, struct.pack(">HHHH", 5000, port, 8 + len(payload), 0) + payload, to=to, tags=tags)


def icmp_frame(payload: bytes, *, to: str = FOREIGN_MAC, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    return ip_frame(1, b"\x08\0\0\0" + payload, to=to, tags=tags)


def ip_frame(
    protocol: int, body: bytes, *, to: str = FOREIGN_MAC, tags: tuple[tuple[int, int], ...] = ()
) -> bytes:
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0, b"\x0a\x09\0\1", b"\x0a\x09\0\2"
    )
    return ethernet(b"\x08\0" + ip + body, to=to, tags=tags)


def ethernet(type_and_body: bytes, *, to: str = FOREIGN_MAC, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    return mac(to) + mac(SENDER_MAC) + b"".join(struct.pack(">HH", *tag) for tag in tags) + type_and_body


class Opener(Protocol):
    """Opens the source that a test is run with; `kind` is "ring" or "pcap"."""

    kind: str

    def __call__(
        self,
        host: Namespace,
        filter_text: str = "",
        snaplen: int = 262144,
        *,
        interface: str = "veth0",
        promiscuous: bool = True,
        own_traffic: Sequence[tuple[str, int]] = (),
        ring_bytes: int = 1 << 25,
        block_bytes: int = 1 << 18,
    ) -> LiveSource:
        """In the namespace of `host`. `block_bytes` is the ring's only."""
        ...


class RingOpener:
    """The kernel's ring, judged by one of the ways of tests.support.ebpf."""

    kind = "ring"

    def __init__(self, way: str) -> None:
        self._way = way

    def __call__(
        self,
        host: Namespace,
        filter_text: str = "",
        snaplen: int = 262144,
        *,
        interface: str = "veth0",
        promiscuous: bool = True,
        own_traffic: Sequence[tuple[str, int]] = (),
        ring_bytes: int = 1 << 25,
        block_bytes: int = 1 << 18,
    ) -> LiveSource:
        """See `Opener`."""
        loaded = programs(self._way)
        with host.inside():
            return RingSource(
                interface,
                filter_text,
                snaplen,
                promiscuous,
                own_traffic,
                ring_bytes=ring_bytes,
                block_bytes=block_bytes,
                programs=loaded,
            )


class PcapOpener:
    """The system's libpcap."""

    kind = "pcap"

    def __call__(
        self,
        host: Namespace,
        filter_text: str = "",
        snaplen: int = 262144,
        *,
        interface: str = "veth0",
        promiscuous: bool = True,
        own_traffic: Sequence[tuple[str, int]] = (),
        ring_bytes: int = 1 << 25,
        block_bytes: int = 1 << 18,
    ) -> LiveSource:
        """See `Opener`."""
        with host.inside():
            return PcapSource(
                interface, filter_text, snaplen, promiscuous, own_traffic, buffer_bytes=ring_bytes
            )


class Sender:
    """A raw socket on a namespace's interface: frames leave exactly as given."""

    def __init__(self, host: Namespace, interface: str = "veth0") -> None:
        with host.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.bind((interface, 0))

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._socket.send(frame)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@contextlib.contextmanager
def tcpdump(host: Namespace, path: Path, *arguments: str, interface: str = "veth0") -> Iterator[None]:
    """tcpdump writes nanosecond stamps to `path` while the block runs, and has written all when it ends."""
    need("tcpdump")
    # Without immediate mode libpcap waits up to a second before it hands a block over.
    options = ("--immediate-mode", "-U", "--time-stamp-precision=nano", "-B", "32768", "-Z", "root")
    command = ("tcpdump", "-i", interface, "-w", str(path), *options, *arguments)
    with host.start(*command, stop_signal=signal.SIGINT) as process:
        wait_for(lambda: path.exists() and path.stat().st_size >= 24, "tcpdump has opened its file")
        yield
        settle(path)
        assert process.poll() is None, "tcpdump ended by itself"


def settle(path: Path) -> None:
    """Until the file hasn't grown for a while: what was sent before is written then."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 0.3:
        now = path.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        time.sleep(0.02)


def recorded(path: Path) -> list[Packet]:
    capture = read_capture(path)
    assert capture.complaint is None
    return capture.packets
