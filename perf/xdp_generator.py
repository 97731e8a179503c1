"""Put packets on a veth at rates that no socket reaches: `python -m perf.xdp_generator --interface load0 --pps 800000`.

BPF_PROG_TEST_RUN with live frames (Linux 5.18, net/bpf/test_run.c) runs an XDP program on frames that the kernel makes
itself; the program redirects each to the interface, whose peer receives it like any other. sendmmsg and PACKET_TX_RING
end near 0.6 million packets a second and core, this beyond 4.

The rate is kept from outside: every `TICK_S` as many frames as are due by then, and sleep until the next. So the
processor's time is what the packets cost, and the whole machine's use means something.

Frames are UDP over IPv4 of a foreign sender to a foreign receiver (nobody's stack answers), their source ports going
round, so that they belong to as many flows as asked for. One payload repeats: of compression this says nothing. With
`--mix` the frames are those of perf/traffic.py instead, whose sizes and entropy are real; they stand in a map.

The receiving end needs `ethtool -K INTERFACE gro on`: only then does a veth take frames that aren't socket buffers yet
(rq->napi in drivers/net/veth.c). Only for namespaces of one's own: it refuses an interface with hardware behind it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from perf.traffic import DISTINCT, MIXES, make_packets

# linux/bpf.h
_SYSCALL = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_TEST_RUN = 5, 0, 1, 2, 10
_PROG_TYPE_XDP, _MAP_TYPE_ARRAY, _PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 6, 2, 1, 2
_TEST_XDP_LIVE_FRAMES = 1 << 1
_MAP_LOOKUP_ELEM, _REDIRECT, _ADJUST_TAIL, _STORE_BYTES = 1, 23, 65, 190
_XDP_DROP = 1

TICK_S = 0.001
BATCH = 64
LONGEST = 1514
IMIX = ((7, 60), (4, 590), (1, 1514))
"""(share of twelve, bytes of the frame without its check sum): the simple Internet mix."""
FLOWS = 1024
FULL = "full"
_FIRST_PORT = 16384


def frame(length: int) -> bytes:
    """An Ethernet frame with a UDP datagram in it; `length` counts from the Ethernet header on."""
    noise = bytearray()
    state = 88172645463325252
    while len(noise) < length:  # xorshift64: no compressor's friend
        state ^= state << 13 & (1 << 64) - 1
        state ^= state >> 7
        state ^= state << 17 & (1 << 64) - 1
        noise += state.to_bytes(8, "little")
    udp = struct.pack("!HHHH", _FIRST_PORT, 8080, length - 34, 0)
    return (ETHERNET + ip_header(length) + udp + bytes(noise))[:length]


ETHERNET = bytes.fromhex("020000000099 020000000001 0800")


def ip_header(length: int) -> bytes:
    """Of a frame that long: 10.1.0.1 → 10.1.0.2, UDP."""
    plain = struct.pack("!BBHHHBBH4B4B", 0x45, 0, length - 14, 0, 0, 64, 17, 0, 10, 1, 0, 1, 10, 1, 0, 2)
    total = sum(struct.unpack("!10H", plain))
    total = (total >> 16) + (total & 0xFFFF)
    check = ~(total + (total >> 16)) & 0xFFFF
    return plain[:10] + struct.pack("!H", check) + plain[12:]


class _Program:
    """Just enough of an assembler: instructions as struct bpf_insn has them, jumps by label."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, str]] = []
        self._labels: dict[str, int] = {}

    def put(self, code: int, register: int = 0, offset: int = 0, value: int = 0, *, to: str = "") -> None:
        """`register`: destination | source << 4."""
        self._code.append((code, register, offset, value, to))

    def here(self, label: str) -> None:
        self._labels[label] = len(self._code)

    def assemble(self) -> bytes:
        return b"".join(
            struct.pack("<BBhi", code, register, self._labels[to] - at - 1 if to else offset, value)
            for at, (code, register, offset, value, to) in enumerate(self._code)
        )


def _count_and_redirect(code: _Program, interface_index: int) -> None:
    """How each program ends: r6 = &sent, r9 = sent. Behind it stands the label `drop`."""
    code.put(0x07, 9, 0, 1)
    code.put(0x7B, 6 | 9 << 4)
    code.put(0xB7, 1, 0, interface_index)
    code.put(0xB7, 2, 0, 0)
    code.put(0x85, 0, 0, _REDIRECT)
    code.put(0x95)
    code.here("drop")
    code.put(0xB7, 0, 0, _XDP_DROP)
    code.put(0x95)


def program(interface_index: int, lengths: tuple[tuple[int, int], ...], flows: int, map_fd: int) -> bytes:
    """Cut the frame to its length, give it its flow's port, count it, redirect it."""
    code = _Program()
    code.put(0xBF, 8 | 1 << 4)  # r8 = the context
    code.put(0x18, 6 | _PSEUDO_MAP_VALUE << 4, 0, map_fd)  # r6 = &sent
    code.put(0, 0, 0, 0)
    code.put(0x79, 9 | 6 << 4)  # r9 = sent
    code.put(0xBF, 7 | 9 << 4)
    code.put(0x97, 7, 0, sum(share for share, _ in lengths))  # r7 = sent % 12
    bound = 0
    for number, (share, length) in enumerate(lengths):
        bound += share
        code.put(0x35, 7, 0, bound, to=f"longer{number}")  # r7 >= bound: one of the longer ones
        if length < LONGEST:
            code.put(0xBF, 1 | 8 << 4)
            code.put(0xB7, 2, 0, length - LONGEST)
            code.put(0x85, 0, 0, _ADJUST_TAIL)
        code.put(0x61, 1 | 8 << 4, 0)  # r1 = data, r2 = its end
        code.put(0x61, 2 | 8 << 4, 4)
        code.put(0xBF, 3 | 1 << 4)
        code.put(0x07, 3, 0, 42)
        code.put(0x2D, 3 | 2 << 4, to="drop")
        header = ip_header(length)
        for at, two in ((16, header[2:4]), (24, header[10:12]), (38, struct.pack("!H", length - 34))):
            code.put(0x6A, 1, at, int.from_bytes(two, "little"))  # lengths and check sum
        code.put(0x05, to="port")
        code.here(f"longer{number}")
    code.put(0x05, to="drop")
    code.here("port")
    code.put(0xBF, 4 | 9 << 4)
    code.put(0x97, 4, 0, flows)
    code.put(0x07, 4, 0, _FIRST_PORT)
    code.put(0xDC, 4, 0, 16)  # to network order
    code.put(0x6B, 1 | 4 << 4, 34)
    _count_and_redirect(code, interface_index)
    return code.assemble()


FRAME_ENTRY = struct.Struct(f"<Q{LONGEST + 6}s")
"""A value of the map of frames: length, then the bytes."""


def program_of_mix(interface_index: int, frames: int, counter_fd: int, frames_fd: int) -> bytes:
    """Look the next frame up, write it over the one the kernel made, count it, redirect it."""
    code = _Program()
    code.put(0xBF, 8 | 1 << 4)  # r8 = the context
    code.put(0x18, 6 | _PSEUDO_MAP_VALUE << 4, 0, counter_fd)  # r6 = &sent
    code.put(0, 0, 0, 0)
    code.put(0x79, 9 | 6 << 4)  # r9 = sent
    code.put(0xBF, 7 | 9 << 4)
    code.put(0x97, 7, 0, frames)
    code.put(0x63, 10 | 7 << 4, -4)  # the stack: sent % frames
    code.put(0x18, 1 | _PSEUDO_MAP_FD << 4, 0, frames_fd)
    code.put(0, 0, 0, 0)
    code.put(0xBF, 2 | 10 << 4)
    code.put(0x07, 2, 0, -4)
    code.put(0x85, 0, 0, _MAP_LOOKUP_ELEM)
    code.put(0x15, 0, 0, 0, to="drop")
    code.put(0xBF, 7)  # r7 = the frame's entry
    code.put(0x79, 2 | 7 << 4)  # r2 = its length
    code.put(0x25, 2, 0, LONGEST, to="drop")
    code.put(0x07, 2, 0, -LONGEST)
    code.put(0xBF, 1 | 8 << 4)
    code.put(0x85, 0, 0, _ADJUST_TAIL)
    code.put(0x79, 4 | 7 << 4)
    code.put(0x25, 4, 0, LONGEST, to="drop")  # the verifier wants to see both bounds
    code.put(0x15, 4, 0, 0, to="drop")
    code.put(0xBF, 1 | 8 << 4)
    code.put(0xB7, 2, 0, 0)
    code.put(0xBF, 3 | 7 << 4)
    code.put(0x07, 3, 0, 8)
    code.put(0x85, 0, 0, _STORE_BYTES)
    code.put(0x55, 0, 0, 0, to="drop")
    _count_and_redirect(code, interface_index)
    return code.assemble()


def _map_of(bpf: Callable[[int, bytes], int], frames: list[bytes]) -> int:
    """A map that holds the frames; its descriptor."""
    fd = bpf(_MAP_CREATE, struct.pack("<IIII", _MAP_TYPE_ARRAY, 4, FRAME_ENTRY.size, len(frames)))
    key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(FRAME_ENTRY.size)
    update = struct.pack("<IIQQQ", fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
    for number, data in enumerate(frames):
        struct.pack_into("<I", key, 0, number)
        FRAME_ENTRY.pack_into(value, 0, len(data), data)
        bpf(_MAP_UPDATE, update)
    return fd


def _bpf_syscall() -> Callable[[int, bytes], int]:
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SYSCALL[platform.machine()]

    def bpf(command: int, attributes: bytes) -> int:
        buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
        result: int = libc.syscall(number, command, buffer, 128)
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"bpf command {command}: {os.strerror(error)}")
        return result

    return bpf


def run(
    interface: str,
    lengths: tuple[tuple[int, int], ...],
    pps: float,
    seconds: float,
    flows: int,
    mix: list[bytes] | None = None,
) -> dict[str, float]:
    """Send (with `mix` these frames, else of these lengths); what was sent, how long it took and what it cost this
    process."""
    bpf = _bpf_syscall()
    map_fd = bpf(_MAP_CREATE, struct.pack("<IIII", _MAP_TYPE_ARRAY, 4, 8, 1))
    index = socket.if_nametoindex(interface)
    played = program_of_mix(index, len(mix), map_fd, _map_of(bpf, mix)) if mix else b""
    code = played or program(index, lengths, flows, map_fd)
    code_buffer = ctypes.create_string_buffer(code, len(code))
    licence, log = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(65536)
    load = (_PROG_TYPE_XDP, len(code) // 8, ctypes.addressof(code_buffer), ctypes.addressof(licence))
    try:
        fd = bpf(_PROG_LOAD, struct.pack("<IIQQIIQ", *load, 1, len(log), ctypes.addressof(log)))
    except OSError as error:
        raise SystemExit(f"the kernel refused the program: {error}\n{log.value.decode()}") from None
    data = frame(LONGEST)
    frame_buffer = ctypes.create_string_buffer(data, len(data))

    def send(count: int) -> None:
        # prog_fd, retval, data_size_in, data_size_out, data_in, data_out, repeat, duration, ctx…(4), flags, cpu, batch
        attributes = struct.pack(
            "<IIIIQQIIIIQQIII",
            *(fd, 0, len(data), 0, ctypes.addressof(frame_buffer), 0, count, 0, 0, 0, 0, 0),
            *(_TEST_XDP_LIVE_FRAMES, 0, BATCH),
        )
        while True:
            try:
                bpf(_PROG_TEST_RUN, attributes)
                return
            except InterruptedError:
                continue

    started = time.monotonic()
    asked = 0
    while (elapsed := time.monotonic() - started) < seconds:
        due = int(elapsed * pps) - asked
        if due > 0:
            send(due)
            asked += due
        left = TICK_S - (time.monotonic() - started - elapsed)
        if left > 0:
            time.sleep(left)
    took = time.monotonic() - started
    key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(8)
    look = struct.pack("<IIQQ", map_fd, 0, ctypes.addressof(key), ctypes.addressof(value))
    bpf(_MAP_LOOKUP, look)
    used = resource.getrusage(resource.RUSAGE_SELF)
    sent = int.from_bytes(value.raw, "little")
    return {
        "sent": sent,
        "asked": asked,
        "seconds": took,
        "pps": sent / took,
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }


def parse_size(text: str) -> tuple[tuple[int, int], ...]:
    """ "imix" or a frame's length."""
    if text == "imix":
        return IMIX
    if not text.isdigit() or not 60 <= int(text) <= LONGEST:
        raise argparse.ArgumentTypeError(f"imix or a length from 60 to {LONGEST}")
    return ((1, int(text)),)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interface", required=True, help="a veth, in the namespace this runs in")
    parser.add_argument("--size", type=parse_size, default=IMIX, help="60 to 1514 bytes, or imix (default)")
    parser.add_argument(
        "--mix",
        choices=(*MIXES, FULL),
        help="real sizes and entropy instead of --size; full: imix's full packets",
    )
    parser.add_argument("--pps", type=float, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--flows", type=int, default=FLOWS, help="at most 40000 (default %(default)s)")
    arguments = parser.parse_args()
    if not 1 <= arguments.flows <= 40_000:
        parser.error("--flows: 1 to 40000")
    device = Path("/sys/class/net") / arguments.interface
    if (device / "device").exists() or not (device / "iflink").exists():
        parser.error(f"{arguments.interface} is no veth of this namespace")
    mix = None
    if arguments.mix:
        full = arguments.mix == FULL
        frames = make_packets(DISTINCT, "imix" if full else arguments.mix, seed=7)
        mix = [data[:LONGEST] for data, _ in frames if not full or len(data) >= LONGEST]
    load = (arguments.size, arguments.pps, arguments.seconds, arguments.flows, mix)
    told = run(arguments.interface, *load)
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
