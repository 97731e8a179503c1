"""The second opinion must itself agree with a third: tshark."""

import random
import subprocess
from pathlib import Path

import pytest

from tests.support.captures import Packet, difference, read_capture
from tests.support.mutations import bend_file, bend_packets, write_pcap
from tests.support.need import need


def test_difference_names_what_is_missing_and_what_only_has_another_stamp() -> None:
    one = Packet(1_000, 60, 1, b"a" * 60)
    later = Packet(1_500, 60, 1, b"a" * 60)
    assert difference([one, one], [one, one]) == ""
    assert "1 missing" in difference([one, one], [one])
    assert "same bytes at +500 ns" in difference([one], [later])


@pytest.mark.slow
def test_reads_what_tshark_reads(captures: Path) -> None:
    need("tshark")
    argv = ["-T", "fields", "-e", "frame.time_epoch", "-e", "frame.cap_len", "-e", "frame.len"]
    for path in sorted((captures / "real").iterdir())[::4]:
        done = subprocess.run(
            ["tshark", "-n", "-r", str(path), *argv], capture_output=True, text=True, timeout=60, check=False
        )
        listed = [line.split("\t") for line in done.stdout.splitlines()]
        capture = read_capture(path)
        assert capture.complaint is None, path.name
        assert [(str(len(p.data)), str(p.original_bytes)) for p in capture.packets] == [
            (c, o) for _, c, o in listed
        ], path.name
        for packet, (stamp, _, _) in zip(capture.packets, listed, strict=True):
            seconds, _, fraction = stamp.partition(".")
            assert packet.timestamp_ns == int(seconds) * 10**9 + int(fraction.ljust(9, "0")), path.name


@pytest.mark.parametrize("seed", range(20))
def test_mutations_are_repeatable_and_what_is_written_reads_back(seed: int) -> None:
    rng = random.Random(seed)
    packets = [Packet(10**18 + i, 60, 1, rng.randbytes(60)) for i in range(50)]
    bent = bend_packets(packets, random.Random(seed))
    assert bent == bend_packets(packets, random.Random(seed))
    assert bent != packets
    whole = write_pcap(bent, link_type=1)
    back = read_capture(whole)
    assert back.complaint is None
    assert difference(bent, back.packets) == ""
    assert bend_file(whole, random.Random(seed)) == bend_file(whole, random.Random(seed))
    read_capture(bend_file(whole, random.Random(seed)))
