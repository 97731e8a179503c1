"""Fuzz the writer of bulk lines. The invariant, in a sentence:

whatever columns are given, the lines are valid JSON, two per packet, each where `ends` says, or a ValueError tells
what contradicts what; nothing is read beyond a column (which the sanitizers see).

python -m tests.hub.pool.elastic.fuzz_bulk -runs=20000            libFuzzer's options
python -m tests.hub.pool.elastic.fuzz_bulk --runs 20000 --seed 1  plain mutation, deterministic
"""

from __future__ import annotations

from tests.support import fuzzing

TARGETS = "tests.hub.pool.elastic.bulk_targets"

if __name__ == "__main__":
    fuzzing.main(__doc__, TARGETS, instrument="hub.pool.elastic", most_bytes=4096)
