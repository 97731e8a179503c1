"""Fuzz the readers of what comes from elsewhere. The invariant, in a sentence:

    whatever the bytes, a decoder returns a value that keeps every stated bound or raises WireError, and nothing else;
    and what it returns for a stream is the same when it comes whole or in pieces.

Coverage-guided with atheris where there is a wheel of it; elsewhere (or with --runs) the same targets are fed with
bounded, seeded mutations of the vectors, so that every Python runs them:

    python -m tests.wire.fuzz_batch -max_total_time=30        coverage-guided, libFuzzer's options
    python -m tests.wire.fuzz_batch --runs 20000 --seed 1     plain mutation, deterministic

A finding is an exception; atheris leaves the input in a file crash-*.
"""

from __future__ import annotations

from tests.support import fuzzing

TARGETS = "tests.wire.fuzz_targets"

if __name__ == "__main__":
    fuzzing.main(__doc__, TARGETS, instrument="wire", most_bytes=8192)
