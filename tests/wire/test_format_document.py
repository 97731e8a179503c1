"""The page about the format says what the code does."""

from __future__ import annotations

import dataclasses

from tests.wire.format_document import PAGE, filled, generated, member_docs
from wire import batch, body
from wire.clock import Clock


def test_the_generated_parts_are_fresh() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run: python -m tests.wire.format_document"


def test_every_member_is_documented() -> None:
    assert all(
        member.metadata["doc"] and member.metadata["type"] for member in dataclasses.fields(batch.Header)
    )
    assert set(member_docs(Clock)) == {member.name for member in dataclasses.fields(Clock)}
    parts = generated()
    for name in (*body.PACKET_COLUMNS, *batch.Header.__slots__):
        assert f"`{name}`" in parts["packets"] + parts["header"]


def test_the_flags_documented_are_the_flags_used() -> None:
    for name, (bits, _) in body.FLAGS.items():
        if bits.isdigit():
            assert getattr(batch, name) == 1 << int(bits)
