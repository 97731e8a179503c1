"""The writer of bulk lines under mutations; `./wirepool test` runs it sanitized, too."""

from __future__ import annotations

import pytest

from tests.hub.pool.elastic import fuzz_bulk
from tests.support import fuzzing


@pytest.mark.parametrize("seed", range(2))
def test_mutations_of_columns_of_every_kind(seed: int) -> None:
    fuzzing.plain(fuzz_bulk.TARGETS, 2_000, seed)
