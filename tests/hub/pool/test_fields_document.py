"""The page about the pool lists the fields that there are."""

from tests.hub.pool.fields_document import PAGE, filled


def test_the_generated_tables_are_fresh() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run: python -m tests.hub.pool.fields_document"
