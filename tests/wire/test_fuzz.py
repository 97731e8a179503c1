"""The fuzz target, bounded and seeded, as part of every run; coverage-guided when atheris is there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import fuzzing
from tests.wire import fuzz_batch, fuzz_targets

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(8))
def test_mutations_of_the_vectors_raise_nothing_but_wire_errors(seed: int) -> None:
    fuzzing.plain(fuzz_batch.TARGETS, 1500, seed)


def test_the_target_reaches_every_reader_with_input_it_accepts() -> None:
    """A target whose inputs are all refused at the door would find nothing."""
    accepted = set()
    for data in fuzz_targets.corpus():
        fuzz_targets.READERS[data[0] % len(fuzz_targets.READERS)](data[1:])
        accepted.add(data[0])
    assert accepted == set(range(len(fuzz_targets.READERS)))


@pytest.mark.slow
def test_coverage_guided_for_a_bounded_number_of_runs(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this Python: the plain mutations above ran instead")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.wire.fuzz_batch",
            "-runs=4000",
            "-seed=7",
            f"-artifact_prefix={tmp_path}/",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
