"""Fuzz the readers of what comes from elsewhere. The invariant, in a sentence:

    whatever the bytes, a decoder returns a value that keeps every stated bound or raises WireError, and nothing else;
    and what it returns for a stream is the same when it comes whole or in pieces.

Coverage-guided with atheris where there is a wheel of it; elsewhere (or with --runs) the same targets are fed with
bounded, seeded mutations of the vectors, so that every Python runs them:

    python tests/wire/fuzz_batch.py -max_total_time=30        coverage-guided, libFuzzer's options
    python tests/wire/fuzz_batch.py --runs 20000 --seed 1     plain mutation, deterministic

A finding is an exception; atheris leaves the input in a file crash-*.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def mutate(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    """One to four changes: bits, bytes, numbers of interest, cuts, copies, splices."""
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(1, len(changed)) if len(changed) > 1 else 0
        choice = dice.randrange(7)
        if choice == 0 and at:
            changed[at] ^= 1 << dice.randrange(8)
        elif choice == 1 and at:
            changed[at] = dice.choice(
                (0, 1, 0x17, 0x18, 0x1B, 0x3B, 0x5B, 0x7B, 0x9B, 0xBB, 0xC2, 0xF6, 0xFB, 0xFF)
            )
        elif choice == 2:
            del changed[at : at + dice.randrange(1, 9)]
        elif choice == 3:
            changed[at:at] = dice.randbytes(dice.randrange(1, 9))
        elif choice == 4:
            changed[at : at + 8] = dice.choice((2**60, 2**63, 2**64 - 1, 0)).to_bytes(8, "big")
        elif choice == 5:
            changed[at:at] = changed[max(1, at - 16) : at]
        else:
            other = dice.choice(others)
            changed[at:] = other[dice.randrange(len(other)) :]
    return bytes(changed[: 1 << 16]) or b"\0"


def plain(runs: int, seed: int) -> None:
    """Feed `runs` mutations; deterministic for a seed. An AssertionError's message holds the input."""
    from tests.wire.fuzz_targets import check, corpus

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
    with atheris.instrument_imports(include=["wire"]):
        from tests.wire.fuzz_targets import check, corpus
    with tempfile.TemporaryDirectory() as directory:
        for number, data in enumerate(corpus()):
            (Path(directory) / f"{number}").write_bytes(data)
        atheris.Setup([sys.argv[0], "-max_len=8192", *rest, directory], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
