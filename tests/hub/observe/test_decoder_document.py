"""The page about the decoder says what the code does."""

from __future__ import annotations

from hub.observe.observations import DTYPES
from tests.hub.observe.decoder_document import PAGE, filled, string_under_variables
from tests.hub.observe.tshark_differences import REASONS


def test_the_generated_parts_are_fresh() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run: python -m tests.hub.observe.decoder_document"


def test_every_column_and_reason_is_in_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in DTYPES if f"| `{name}` |" not in page] == []
    assert len(string_under_variables()) >= len(REASONS)
