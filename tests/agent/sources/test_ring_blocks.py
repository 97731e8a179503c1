"""The walk over ring memory that no kernel wrote: every field wrong in every way, and nothing outside is touched.

The same calls under the address sanitizer prove the second half; here the bytes around the ring are watched.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest

from agent import _tpacket
from agent.own_traffic import own_traffic_table
from agent.sources.source import BatchBuffer
from tests.agent.sources.live import Taken, data_of, packets_of, udp_frame
from wire.batch import CHECKSUM_NOT_READY, CHECKSUM_VALID, HARDWARE_STAMP, VLAN_REINSERTED

BLOCK = 4096
HEADER = struct.Struct("=IIIIIIHHIIHH8x")  # struct tpacket3_hdr
ADDRESS_AT, FRAME_AT = 48, 80
USER, CHECKSUM_LATER, VLAN, VLAN_TPID, CHECKSUM_GOOD = 1, 8, 16, 64, 128
SOFTWARE, RAW_HARDWARE = 1 << 29, 1 << 31


@pytest.fixture
def descriptors() -> Iterator[tuple[int, int]]:
    """Two event counters: the one stands for the socket (never readable), the other wakes."""
    pair = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    yield pair
    for descriptor in pair:
        os.close(descriptor)


def packet(
    frame: bytes,
    *,
    following: bool,
    status: int = USER,
    length: int | None = None,
    tci: int = 0,
    tpid: int = 0,
    time: tuple[int, int] = (5, 7),
    kind: int = 0,
) -> bytes:
    size = (FRAME_AT + len(frame) + 15) & ~15
    head = HEADER.pack(
        size if following else 0,
        *time,
        len(frame),
        len(frame) if length is None else length,
        status,
        FRAME_AT,
        FRAME_AT + 14,
        0,
        tci,
        tpid,
        0,
    )
    address = struct.pack("=HHiHBB8s", 17, 0, 1, 1, kind, 6, b"")
    return (head.ljust(ADDRESS_AT, b"\0") + address).ljust(FRAME_AT, b"\0") + frame.ljust(
        size - FRAME_AT, b"\0"
    )


def block(*packets: bytes, count: int | None = None, first: int = 48, status: int = USER) -> bytes:
    content = struct.pack("=IIIIII", 2, 0, status, len(packets) if count is None else count, first, 0).ljust(
        48, b"\0"
    )
    return (content + b"".join(packets)).ljust(BLOCK, b"\0")


def read(
    ring: _tpacket.Ring,
    descriptors: tuple[int, int],
    buffer: BatchBuffer,
    own: bytes = b"",
    linger_ns: int = 10_000_000,
) -> list[Taken]:
    target = (buffer.timestamp_ns, buffer.captured_bytes, buffer.original_bytes, buffer.flags, buffer.data)
    buffer.packets, buffer.data_bytes, _, buffer.filter_epoch, _ = ring.read(
        *descriptors, own, target, linger_ns, 0
    )
    return packets_of(buffer)


def ring_of(memory: bytearray | memoryview, snaplen: int = 65535, *, ethernet: bool = True) -> _tpacket.Ring:
    return _tpacket.Ring(memory, BLOCK, snaplen, ethernet, 0)


def status_of(memory: bytearray, number: int) -> int:
    return int.from_bytes(memory[number * BLOCK + 8 : number * BLOCK + 12], "little")


def test_packets_come_out_as_they_stand(descriptors: tuple[int, int]) -> None:
    frames = [udp_frame(bytes([n]) * n) for n in (0, 1, 60)]
    memory = bytearray(
        block(
            *(
                packet(frame, following=n < 2, time=(4_000_000_000, 999_999_999))
                for n, frame in enumerate(frames)
            )
        )
        + block(status=0)
    )
    taken = read(ring_of(memory), descriptors, BatchBuffer())
    assert data_of(taken) == frames
    assert {each.packet.timestamp_ns for each in taken} == {4_000_000_000_999_999_999}
    assert status_of(memory, 0) == 0  # given back to the kernel


def test_a_tag_is_put_back_and_states_become_flags(descriptors: tuple[int, int]) -> None:
    frame = udp_frame(b"x")
    cases = [
        (
            USER | VLAN | VLAN_TPID,
            0x88A8,
            0xE005,
            frame[:12] + b"\x88\xa8\xe0\x05" + frame[12:],
            VLAN_REINSERTED,
        ),
        (
            USER | VLAN,
            0x1234,
            0,
            frame[:12] + b"\x81\0\0\0" + frame[12:],
            VLAN_REINSERTED,
        ),  # before Linux 3.14
        (USER | CHECKSUM_LATER, 0, 0, frame, CHECKSUM_NOT_READY),
        (USER | CHECKSUM_GOOD, 0, 0, frame, CHECKSUM_VALID),
        (USER | RAW_HARDWARE, 0, 0, frame, HARDWARE_STAMP),
        (USER | SOFTWARE, 0, 0, frame, 0),
    ]
    parts = [
        packet(frame, following=n < len(cases) - 1, status=status, tpid=tpid, tci=tci)
        for n, (status, tpid, tci, _, _) in enumerate(cases)
    ]
    taken = read(ring_of(bytearray(block(*parts))), descriptors, BatchBuffer())
    assert data_of(taken) == [whole for *_, whole, _ in cases]
    assert [each.packet.original_bytes for each in taken] == [len(whole) for *_, whole, _ in cases]
    assert [each.flags & ~0x1F for each in taken] == [flag for *_, flag in cases]
    untagged = read(ring_of(bytearray(block(parts[0])), ethernet=False), descriptors, BatchBuffer())
    assert data_of(untagged) == [frame]  # no Ethernet header, no place for a tag


def test_a_half_read_block_goes_on_where_it_was(descriptors: tuple[int, int]) -> None:
    frames = [udp_frame(bytes([n])) for n in range(10)]
    memory = bytearray(block(*(packet(frame, following=n < 9) for n, frame in enumerate(frames))))
    ring, small, taken = ring_of(memory), BatchBuffer(3, 1000), []
    for size in (3, 3, 3, 1):
        assert status_of(memory, 0) == USER
        part = read(ring, descriptors, small)
        assert len(part) == size
        taken += part
    assert data_of(taken) == frames
    assert status_of(memory, 0) == 0
    assert ring.counters() == (10, 0, 0)


GOOD = packet(udp_frame(b"good"), following=True)
MALFORMED = {
    "frame beyond the block": packet(b"x" * 10, following=False).replace(
        struct.pack("=H", FRAME_AT), b"\xff\xff", 1
    ),
    "length beyond the block": HEADER.pack(0, 0, 0, 4000, 4000, 1, FRAME_AT, 94, 0, 0, 0, 0),
    "huge length": HEADER.pack(0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 1, FRAME_AT, 94, 0, 0, 0, 0),
    "captured more than there was": HEADER.pack(0, 0, 0, 100, 10, 1, FRAME_AT, 94, 0, 0, 0, 0),
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_packet_ends_its_block_and_is_counted(bad: bytes, descriptors: tuple[int, int]) -> None:
    memory = bytearray(block(GOOD, bad, count=5) + block(packet(b"n" * 20, following=False)))
    ring = ring_of(memory)
    assert [each[-4:] for each in data_of(read(ring, descriptors, BatchBuffer()))] == [b"good", b"nnnn"]
    assert ring.counters() == (2, 0, 4)
    assert (status_of(memory, 0), status_of(memory, 1)) == (0, 0)


@pytest.mark.parametrize("step", [1, 16, 67, 4080, 4096, 0x7FFFFFFF, 0xFFFFFFF0])
def test_a_malformed_step_ends_its_block(step: int, descriptors: tuple[int, int]) -> None:
    memory = bytearray(block(struct.pack("=I", step) + GOOD[4:], GOOD, count=1000))
    ring = ring_of(memory)
    assert len(read(ring, descriptors, BatchBuffer())) == 1
    assert ring.counters() == (1, 0, 999)


@pytest.mark.parametrize("first", [0, 1, 4016, 4080, 4096, 0x80000000, 0xFFFFFFFF])
def test_a_malformed_beginning(first: int, descriptors: tuple[int, int]) -> None:
    ring = ring_of(bytearray(block(GOOD, count=3, first=first)))
    read(ring, descriptors, BatchBuffer())
    captured, _, invalid = ring.counters()
    assert captured + invalid == 3


def test_random_memory_stays_inside(descriptors: tuple[int, int]) -> None:
    """Valid blocks with some bytes changed, and pure noise; what surrounds ring and columns stays as it was."""
    rng, own = random.Random(4711), own_traffic_table([("10.9.0.2", 7), ("::1", 7)])
    guard = b"\xa5" * BLOCK
    for _ in range(1500):
        parts = [
            packet(
                udp_frame(
                    rng.randbytes(rng.randrange(80)),
                    port=rng.choice((7, 8)),
                    tags=((0x8100, 5),) * rng.randrange(3),
                ),
                following=True,
                status=rng.randrange(256),
                tci=rng.randrange(65536),
                tpid=rng.randrange(65536),
                kind=rng.randrange(8),
                time=(rng.randrange(1 << 32), rng.randrange(1 << 32)),
            )
            for _ in range(rng.randrange(1, 12))
        ]
        body = bytearray(
            block(*parts)
            + (block(*parts, count=rng.randrange(40)) if rng.random() < 0.5 else rng.randbytes(BLOCK))
        )
        for _ in range(rng.randrange(1, 20)):
            at = rng.randrange(len(body))
            body[at : at + 2] = rng.choice((b"\xff\xff", b"\0\0", rng.randbytes(2)))[: len(body) - at]
        memory = bytearray(guard + body + guard)
        ring = ring_of(
            memoryview(memory)[BLOCK : 3 * BLOCK], rng.choice((1, 13, 60, 65535)), ethernet=rng.random() < 0.8
        )
        if rng.random() < 0.3:
            ring.swap(rng.randrange(1 << 62), rng.randrange(1, 200), 1)
            ring.swapped(rng.randrange(1 << 62))
        buffer = BatchBuffer(rng.randrange(1, 30), rng.randrange(1, 3000))
        for _ in range(40):
            before = ring.counters()
            taken = read(ring, descriptors, buffer, own, linger_ns=0)
            assert len(taken) == ring.counters()[0] - before[0]
            if not taken and ring.counters() == before:
                break
        ring.release()
        assert memory[:BLOCK] == guard
        assert memory[-BLOCK:] == guard


def test_columns_smaller_than_a_packet_cut_it(descriptors: tuple[int, int]) -> None:
    """The sources never offer such a buffer; the kernel still may not loop for ever or write beyond it."""
    ring = ring_of(bytearray(block(packet(udp_frame(b"x"), following=False))))
    assert data_of(read(ring, descriptors, BatchBuffer(10, 7))) == [udp_frame(b"x")[:7]]


def test_arguments_that_make_no_ring() -> None:
    for size, block_bytes in ((0, BLOCK), (BLOCK, 0), (BLOCK, 100), (BLOCK + 1, BLOCK), (BLOCK, 2 * BLOCK)):
        with pytest.raises(ValueError, match="whole blocks"):
            _tpacket.Ring(bytearray(size), block_bytes, 100, True, 0)
    with pytest.raises(BufferError):
        _tpacket.Ring(bytes(BLOCK), BLOCK, 100, True, 0)
    with pytest.raises(TypeError):
        _tpacket.Ring(None, BLOCK, 100, True, 0)  # type: ignore[arg-type]


def test_a_released_ring_reads_no_more(descriptors: tuple[int, int]) -> None:
    memory = bytearray(block(GOOD))
    ring = ring_of(memory)
    with pytest.raises(BufferError):
        memory.clear()  # the ring holds on to it
    ring.release()
    ring.release()
    memory.clear()
    with pytest.raises(RuntimeError, match="released"):
        read(ring, descriptors, BatchBuffer())
    assert ring.counters() == (0, 0, 0)


def test_columns_that_are_none(descriptors: tuple[int, int]) -> None:
    ring = ring_of(bytearray(block(GOOD)))
    for target in ((), (bytearray(8),) * 4, None, (bytes(8),) * 5):
        with pytest.raises((TypeError, BufferError)):
            ring.read(*descriptors, b"", target, 0, 0)  # type: ignore[arg-type]
    assert len(read(ring, descriptors, BatchBuffer())) == 1
