"""Programs and maps as the tests here are given them, by each way of loading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.ebpf.programs import ProgramSet
from tests.support.ebpf import programs


@pytest.fixture(params=[pytest.param("bcc", marks=pytest.mark.slow), "object"])
def loaded(request: pytest.FixtureRequest) -> Iterator[ProgramSet]:
    found = programs(str(request.param))
    assert found is not None
    with found:
        yield found
