"""The frozen vectors: bytes nobody edits decode to the values that were written down when they were made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.wire import make_vectors
from tests.wire.describe import describe, plain
from wire.payload import FULL

DIRECTORY = Path(__file__).parent / "vectors" / "v1"
VECTORS = sorted(path.name for path in DIRECTORY.iterdir() if path.suffix in (".bin", ".wpz"))


def test_there_are_vectors_of_every_kind() -> None:
    assert len(VECTORS) >= 17
    assert {
        "batch-none.bin",
        "batch-zstd.bin",
        "batch-gzip.bin",
        "tombstone.bin",
        "closing.bin",
        "evidence.wpz",
    } <= set(VECTORS)


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_decodes_to_what_it_was_made_of(name: str) -> None:
    expected = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    described = json.loads(json.dumps(describe(name, (DIRECTORY / name).read_bytes())))
    assert without_later_members(described, expected) == expected


def says_nothing(value: Any) -> bool:
    """Empty, off, or made of nothing else."""
    if isinstance(value, dict):
        return all(map(says_nothing, value.values()))
    return value is False or value is None or value in ("", [])


def without_later_members(described: Any, expected: Any) -> Any:
    """Leave out what a record got after the vector was frozen: an old message reads as if it were empty."""
    if isinstance(described, dict) and isinstance(expected, dict):
        return {
            key: without_later_members(value, expected.get(key))
            for key, value in described.items()
            if key in expected or not (says_nothing(value) or value == plain(FULL))
        }
    if isinstance(described, list) and isinstance(expected, list) and len(described) == len(expected):
        return [without_later_members(a, b) for a, b in zip(described, expected, strict=True)]
    return described


def test_no_vector_was_touched() -> None:
    listed = {}
    for line in (DIRECTORY / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        listed[name] = digest
    assert listed == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in DIRECTORY.iterdir()
        if path.name != "SHA256SUMS"
    }


def test_the_script_refuses_to_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_vectors.main() == 1
    assert "frozen" in capsys.readouterr().err
