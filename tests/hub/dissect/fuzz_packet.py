"""Fuzz the protocol tree of an opened packet. The invariant, in a sentence:

whatever the bytes are, the tree of them comes back without an error, within its bounds of fields, depth and text,
every field inside the packet and every byte of the packet inside a layer.

python -m tests.hub.dissect.fuzz_packet -runs=20000            libFuzzer's options
python -m tests.hub.dissect.fuzz_packet --runs 20000 --seed 1  plain mutation, deterministic
"""

from __future__ import annotations

from tests.support import fuzzing

TARGETS = "tests.hub.dissect.packet_targets"

if __name__ == "__main__":
    fuzzing.main(__doc__, TARGETS, instrument="hub.dissect", most_bytes=4096)
