"""Fuzz the kernel that cuts payload. The invariant, in a sentence:

    whatever a frame is, what is kept is a beginning of it; keeping N bytes of payload keeps N more than keeping none
    (or all there are); a frame that the snaplen cut keeps no more than the whole one; and frames before and after it
    in the batch are not touched.

Coverage can't be seen in C, so atheris only brings its mutations; test_payload.py runs this under the sanitizers too
(`./wirepool test`), which see what is read beyond a buffer. Elsewhere, or with --runs, plain mutations:

    python tests/agent/fuzz_payload.py -runs=20000            libFuzzer's options
    python tests/agent/fuzz_payload.py --runs 20000 --seed 1  plain mutation, deterministic
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def plain(runs: int, seed: int) -> None:
    """Feed `runs` mutations; deterministic for a seed. An AssertionError's message holds the input."""
    from tests.agent.payload_targets import check, corpus
    from tests.wire.fuzz_batch import mutate

    seeds = corpus()
    dice = random.Random(seed)
    for data in seeds:
        check(data)
    for run in range(runs):
        data = mutate(dice.choice(seeds), dice, seeds)
        try:
            check(data)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, run {run}: {error!r} for {data.hex()}") from error


def main() -> None:
    """Choose the way by what is installed and asked for."""
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, help="plain mutation, this many inputs")
    parser.add_argument("--seed", type=int, default=1, help="of the plain mutation")
    chosen, rest = parser.parse_known_args()
    try:
        import atheris
    except ImportError:
        atheris = None
    if chosen.runs is not None or atheris is None:
        plain(chosen.runs if chosen.runs is not None else 20_000, chosen.seed)
        print("no finding")
        return
    with atheris.instrument_imports(include=["agent.payload"]):
        from tests.agent.payload_targets import check, corpus
    with tempfile.TemporaryDirectory() as directory:
        for number, data in enumerate(corpus()):
            (Path(directory) / f"{number}").write_bytes(data)
        atheris.Setup([sys.argv[0], "-max_len=4096", *rest, directory], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
