"""Fuzz the decoder. The invariant, in a sentence:

    whatever a frame is, its row is one that nobody has to check again (lengths inside the frame, known words, columns
    only of headers that are there), it is the same alone and among others, a frame that the capture cut holds nothing
    that the whole one doesn't, and reading the payloads that the columns pick raises nothing.

Coverage can't be seen in C, so atheris only brings its mutations; test_fuzz.py runs this under the sanitizers too
(`./wirepool test`), which see what is read beyond a buffer. Elsewhere, or with --runs, plain mutations:

    python -m tests.hub.observe.fuzz_observe -runs=20000            libFuzzer's options
    python -m tests.hub.observe.fuzz_observe --runs 20000 --seed 1  plain mutation, deterministic
"""

from __future__ import annotations

from tests.support import fuzzing

TARGETS = "tests.hub.observe.observe_targets"

if __name__ == "__main__":
    fuzzing.main(__doc__, TARGETS, instrument="hub.observe", most_bytes=4096)
