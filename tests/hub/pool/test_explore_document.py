"""The page about queries says what the code does, and its examples are queries."""

from __future__ import annotations

import re

import pytest

from hub.pool.query.parse import parse
from tests.hub.pool.explore_document import PAGE, filled


def test_the_generated_parts_are_fresh() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run: python -m tests.hub.pool.explore_document"


def examples() -> list[str]:
    page = PAGE.read_text(encoding="utf-8")
    rows = page.partition("| write | finds |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [row.removeprefix("| ").split(" | ")[0] for row in rows[:-1]]
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("text", examples())
def test_each_example_is_a_query(text: str) -> None:
    parse(text)
