"""The generated tables of docs/explore.md: `python -m tests.hub.pool.explore_document` writes them anew."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hub.pool.fields import CONVERSATION_FIELDS, PACKET_FIELDS, Field, Type
from tests.wire.format_document import table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "explore.md"


def fields_table(fields: Iterable[Field]) -> str:
    """One row per field that can be asked for."""
    rows = [
        (
            f"`{field.name}`",
            ", ".join(f"`{alias}`" for alias in field.aliases),
            field.type.value + (", text" if field.text else ""),
            field.meaning,
        )
        for field in fields
        if field.type is not Type.BYTES
    ]
    return table(("field", "also", "type", "meaning"), rows)


def filled(page: str) -> str:
    """The page with each generated part replaced."""
    for name, fields in (("packets", PACKET_FIELDS), ("conversations", CONVERSATION_FIELDS)):
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        assert begin in page, name
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n\n{fields_table(fields)}\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
