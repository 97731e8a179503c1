"""Fuzz the kernel that cuts payload. The invariant, in a sentence:

    whatever a frame is, what is kept is a beginning of it; keeping N bytes of payload keeps N more than keeping none
    (or all there are); a frame that the snaplen cut keeps no more than the whole one; and frames before and after it
    in the batch are not touched.

Coverage can't be seen in C, so atheris only brings its mutations; test_payload.py runs this under the sanitizers too
(`./wirepool test`), which see what is read beyond a buffer. Elsewhere, or with --runs, plain mutations:

    python -m tests.agent.fuzz_payload -runs=20000            libFuzzer's options
    python -m tests.agent.fuzz_payload --runs 20000 --seed 1  plain mutation, deterministic
"""

from __future__ import annotations

from tests.support import fuzzing

TARGETS = "tests.agent.payload_targets"

if __name__ == "__main__":
    fuzzing.main(__doc__, TARGETS, instrument="agent.payload", most_bytes=4096)
