"""The decoder under mutations of frames made here and of recorded ones; `./wirepool test` runs it sanitized, too."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.hub.observe import fuzz_observe
from tests.hub.observe.observe_targets import LINK_TYPES, check, possible
from tests.hub.observe.reading import captured_packets, observed
from tests.support import fuzzing
from tests.support.mutations import bend_packets


@pytest.mark.parametrize("seed", range(4))
def test_mutations_of_frames_of_every_kind(seed: int) -> None:
    fuzzing.plain(fuzz_observe.TARGETS, 1000, seed)


def test_every_recorded_packet_and_mutations_of_it(captures: Path) -> None:
    dice = random.Random(20261126)
    total = 0
    for name, packets in captured_packets(captures):
        for shown in (packets, bend_packets(packets, dice)):
            for number, (packet, row) in enumerate(zip(shown, observed(shown), strict=True), 1):
                try:
                    possible(row, len(packet.data))
                except AssertionError as error:
                    raise AssertionError(f"{name}: packet {number}: {packet.data[:200].hex()}") from error
                total += 1
    assert total > 24_000


def test_some_recorded_packets_as_the_fuzzer_looks_at_them(captures: Path) -> None:
    dice = random.Random(7)
    packets = [packet for _, packets in captured_packets(captures) for packet in packets]
    known = [packet for packet in packets if packet.link_type in LINK_TYPES and len(packet.data) < 2000]
    for packet in dice.sample(known, 800):
        link = bytes([LINK_TYPES.index(packet.link_type), dice.randrange(1, 80)])
        check(link + packet.data)
        check(
            fuzzing.mutate(
                link + packet.data, dice, [other.data for other in dice.sample(known, 3) if other.data]
            )
        )
