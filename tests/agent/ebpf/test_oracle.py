"""libpcap is the oracle: its own verdict on whole frames, against what the kernel makes of the translated filter.

In bulk by the kernel's test run of a loaded program, and on real packets through a real ring, which alone puts a tag
beside the frame.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator

import pytest

from agent import _tpacket
from agent.bpf_filter import FilterError, Program, compile_filter
from agent.ebpf.programs import ProgramSet, Settings
from agent.sources.ring import RingSource
from agent.sources.source import FlowRules
from agent.tag_filter import for_socket
from tests.agent.sources.live import FOREIGN_MAC, SENDER_MAC, Sender, data_of, drain, mac
from tests.agent.test_tag_filter import verdict_of_libpcap
from tests.support import frames, netns
from tests.support.ebpf import verdict

pytestmark = pytest.mark.root
LINKTYPE_ETHERNET = 1
KEPT = Settings(kept_bytes=128)


def filters(rng: random.Random, count: int) -> Iterator[tuple[str, Program]]:
    """Each filter, and `count` combinations of them that libpcap takes (some reject or accept all packets)."""
    for text in frames.FILTERS:
        yield text, compile_filter(text, LINKTYPE_ETHERNET, 96)
    while count:
        text = frames.combined(rng)
        with contextlib.suppress(FilterError):
            yield text, compile_filter(text, LINKTYPE_ETHERNET, 96)
            count -= 1


def some_frame(rng: random.Random) -> bytes:
    return frames.frame(rng, destination=mac(FOREIGN_MAC), source=mac(SENDER_MAC))


def has_tag(frame: bytes) -> bool:
    return frame[12:14] in (b"\x81\0", b"\x88\xa8")


def arrives(frame: bytes) -> bool:
    """A frame whose tag is cut off is dropped by the kernel before any socket sees it (skb_vlan_untag)."""
    return not has_tag(frame) or len(frame) >= 20


def test_the_kernels_verdict_is_libpcaps(loaded: ProgramSet) -> None:
    rng = random.Random(4)
    judged = passed = direct = 0
    for text, program in filters(rng, 150):
        chosen = loaded.filter_of(for_socket(program, loopback=False), KEPT)
        loaded.use(chosen)
        forms = {loaded.entry, loaded.attached or loaded.entry}  # by way of its slot, and by itself
        direct += len(forms) == 2
        seen_before, passed_before, *_ = loaded.counters()
        kept = 0
        for _ in range(40):
            frame = some_frame(rng)
            wanted = verdict_of_libpcap(program, frame, len(frame))
            for form in forms:
                assert verdict(form, frame) == (128 if wanted else 0), (text, frame.hex())
            kept += wanted > 0
        seen, let_through, *_ = loaded.counters()
        counted = seen - seen_before, let_through - passed_before
        assert counted == (40 * len(forms), kept * len(forms)), text
        judged, passed = judged + 40, passed + kept
        chosen.close()
    assert judged >= 8_000
    assert direct * 40 >= 2_000
    assert judged // 10 < passed < judged * 9 // 10


def test_any_valid_program_means_the_same(loaded: ProgramSet) -> None:
    """Programs that libpcap would never write: every instruction, odd constants, jumps anywhere."""
    rng = random.Random(11)
    codes = [
        0x00,
        0x01,
        0x20,
        0x28,
        0x30,
        0x40,
        0x48,
        0x50,
        0x60,
        0x61,
        0x80,
        0x81,
        0xB1,
        0x02,
        0x03,
        0x07,
        0x87,
        0x84,
    ]
    codes += [0x04, 0x0C, 0x14, 0x1C, 0x24, 0x2C, 0x34, 0x3C, 0x44, 0x4C, 0x54, 0x5C, 0x64, 0x6C, 0x74, 0x7C]
    codes += [0x94, 0x9C, 0xA4, 0xAC, 0x05, 0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D, 0x45, 0x4D, 0x06, 0x16]
    constants = (0, 1, 2, 3, 12, 14, 15, 31, 60, 1 << 31, 0x7FFFFFFF, 0xFFFFFF00, 0xFFFFFFFF)
    loads = {0x20, 0x28, 0x30, 0xB1}
    ran = kept = 0
    while ran < 1500:
        program = b""
        for _ in range(rng.randrange(1, 16)):
            code = rng.choice(codes)
            k = rng.choice(constants[:9] if code in loads or code & 7 == 5 else constants)
            program += struct.pack("=HBBI", code, rng.randrange(4), rng.randrange(4), k)
        program += struct.pack("=HBBI", 0x16, 0, 0, 0)
        frame = some_frame(rng)
        try:
            wanted = _tpacket.run_filter(program, frame, len(frame), 0, -1)
        except ValueError:
            continue
        chosen = loaded.filter_of(program, KEPT)
        loaded.use(chosen)
        for form in (loaded.entry, loaded.attached):
            assert form is not None
            assert bool(verdict(form, frame)) == bool(wanted), (program.hex(), frame.hex())
        chosen.close()
        ran += 1
        kept += wanted > 0
    assert kept > 300


def test_real_packets_through_a_real_ring(loaded: ProgramSet) -> None:
    """Tagged frames arrive with their tag beside them: the same meaning as for the whole frame. Every other filter
    stands behind `entry`, which counts flows then."""
    rng = random.Random(21)
    judged = passed = tagged = 0
    with netns.pair() as (left, right), Sender(right) as sender:
        with left.inside():
            ring = RingSource("veth0", "", 96, True, programs=loaded)
        for number, (text, program) in enumerate(filters(rng, 10)):
            ring.apply(text, 96, FlowRules(counted=bool(number % 2)))
            assert (loaded.attached == loaded.entry) >= number % 2
            before = ring.statistics()
            sent = [frame for frame in (some_frame(rng) for _ in range(27)) if arrives(frame)][:25]
            sender.send(*sent)
            wanted = [frame[:96] for frame in sent if verdict_of_libpcap(program, frame, len(frame))]
            assert data_of(drain(ring, quiet_ms=20)) == wanted, text
            after = ring.statistics()
            assert after.received - before.received == len(wanted)
            assert before.filtered is not None
            assert after.filtered is not None
            assert after.filtered - before.filtered == len(sent) - len(wanted), text
            judged, passed = judged + len(sent), passed + len(wanted)
            tagged += sum(map(has_tag, sent))
        ring.close()
    assert judged >= 2_000
    assert tagged > judged // 4
    assert judged // 10 < passed < judged * 9 // 10


def test_a_load_beyond_the_end_counts_as_turned_away(loaded: ProgramSet) -> None:
    chosen = loaded.filter_of(for_socket(compile_filter("ether[500] = 0", 1, 96), loopback=False), KEPT)
    loaded.use(chosen)
    for form in (loaded.entry, loaded.attached):
        assert form is not None
        assert verdict(form, bytes(60)) == 0
        assert verdict(form, bytes(600)) == 128
    assert loaded.attached != loaded.entry
    assert loaded.counters() == (4, 2, 0, 0, 0, 0)
    chosen.close()
