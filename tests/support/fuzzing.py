"""How every fuzzer of the tests runs: with atheris where there is a wheel of it, else (or with --runs) by plain
mutations.

A fuzzer is a module with its invariant in its first sentence, whose targets (`check` one input, `corpus` of seeds)
stand in a module of their own: atheris has to instrument what they import.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PLAIN_RUNS = 20_000


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


def plain(targets: str, runs: int, seed: int) -> None:
    """Feed `runs` mutations to the module `targets`; deterministic for a seed. An AssertionError holds the input."""
    check, seeds = _targets(targets)
    dice = random.Random(seed)
    for data in seeds:
        check(data)
    for run in range(runs):
        data = mutate(dice.choice(seeds), dice, seeds)
        try:
            check(data)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, run {run}: {error!r} for {data.hex()}") from error


def main(description: str | None, targets: str, *, instrument: str, most_bytes: int) -> None:
    """Choose the way by what is installed and asked for. instrument: the package whose coverage guides."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, help="plain mutation, this many inputs")
    parser.add_argument("--seed", type=int, default=1, help="of the plain mutation")
    chosen, rest = parser.parse_known_args()
    try:
        import atheris
    except ImportError:
        atheris = None
    if chosen.runs is not None or atheris is None:
        plain(targets, PLAIN_RUNS if chosen.runs is None else chosen.runs, chosen.seed)
        print("no finding")
        return
    with atheris.instrument_imports(include=[instrument]):
        check, seeds = _targets(targets)
    with tempfile.TemporaryDirectory() as directory:
        for number, data in enumerate(seeds):
            (Path(directory) / f"{number}").write_bytes(data)
        atheris.Setup([sys.argv[0], f"-max_len={most_bytes}", *rest, directory], check)
        atheris.Fuzz()


def _targets(name: str) -> tuple[Callable[[bytes], object], list[bytes]]:
    module = importlib.import_module(name)
    return module.check, module.corpus()
