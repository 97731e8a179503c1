"""Generate the tables of docs/pool.md from the table of fields: `python -m tests.hub.pool.fields_document`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hub.pool.fields import CONVERSATION_FIELDS, PACKET_FIELDS, Field
from tests.wire.format_document import table

PAGE = Path(__file__).parents[3] / "docs" / "pool.md"


def _rows(fields: Sequence[Field]) -> str:
    rows = [
        (f"`{one.name}`", ", ".join(f"`{alias}`" for alias in one.aliases), one.type.value, one.meaning)
        for one in fields
    ]
    return table(("field", "also", "type", "meaning"), rows)


def filled(page: str) -> str:
    """The page with its generated parts as they must be."""
    for name, fields in (("packets", PACKET_FIELDS), ("conversations", CONVERSATION_FIELDS)):
        begin = f"<!-- generated: {name} -->\n"
        body = f"{begin}\n{_rows(fields)}\n\n<!-- end -->"
        before, found, rest = page.partition(begin)
        assert found, name
        page = before + body + rest.partition("<!-- end -->")[2]
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
