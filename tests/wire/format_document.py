"""Generate the tables and the example of docs/wire-format.md from the code: `python -m tests.wire.format_document`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wire import batch, body, books, control, cose, flows
from wire.clock import Clock
from wire.compression import decompress_body
from wire.payload import PayloadPolicy
from wire.strict_cbor import read_head

PAGE = Path(__file__).parents[2] / "docs" / "wire-format.md"
VECTOR = Path(__file__).parent / "vectors" / "v1" / "batch-one-packet.bin"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def member_docs(kind: Any) -> dict[str, str]:
    """The strings that stand under a dataclass's members."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found, name = {}, None
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name is not None:
            found[name] = " ".join(str(node.value.value).split())
            name = None
        else:
            name = None
    return found


def header_table() -> str:
    """Every key of the header."""
    rows = [("`version`", "integer", f"{batch.WIRE_VERSION}. First of all: another version is refused.")]
    rows += [
        (f"`{member.name}`", member.metadata["type"], member.metadata["doc"])
        for member in dataclasses.fields(batch.Header)
    ]
    return table(("key", "type", "meaning"), rows)


def columns_table(columns: dict[str, tuple[int | None, str]]) -> str:
    """The columns of a body."""
    names = {69: "tag 69, u16", 70: "tag 70, u32", 71: "tag 71, u64", None: "bytes"}
    return table(
        ("key", "type", "meaning"), [(f"`{name}`", names[tag], text) for name, (tag, text) in columns.items()]
    )


def bounds_table() -> str:
    """Every bound, by its name in the code."""
    bounds = (
        ("MAX_MESSAGE_BYTES", "a message"),
        ("MAX_HEADER_BYTES", "a header"),
        ("MAX_BODY_BYTES", "a body, uncompressed"),
        ("MAX_PACKETS", "packets in a batch"),
        ("MAX_CAPTURED_BYTES", "captured bytes of one packet"),
        ("MAX_ORIGINAL_BYTES", "original bytes of one packet; a header's sum is at most that × `packets`"),
        (
            "MAX_REPLACED",
            "batches in a tombstone; its sums, and each of its entries, are at most what such batches can hold",
        ),
        ("MAX_FLOWS", "flow records in a batch"),
        ("MAX_TURNED_AWAY", "packets in a tombstone without a list"),
        ("TARGET_BODY_BYTES", "where an agent closes a batch (not a limit for readers)"),
    )
    return table(
        ("constant", "value", "of"), [(f"`{name}`", f"{getattr(batch, name):,}", of) for name, of in bounds]
    )


def domains_table() -> str:
    """What envelopes are for."""
    who = {
        control.Domain.DESIRED: ("hub", "all that an agent shall do, in its key of the bucket `desired`"),
        control.Domain.REPORT: ("agent", "its state, on `rep.<agent>`"),
        control.Domain.HEARTBEAT: ("agent", "its numbers every 5 s, on `hb.<agent>`"),
        control.Domain.CONTROL: ("hub", "a request on `ctl.<agent>.<verb>`"),
        control.Domain.REPLY: ("agent", "its answer"),
        control.Domain.WATCH: ("hub", "somebody watches a session, on `ctl.<agent>.watch`"),
        control.Domain.CERTIFICATE: ("hub", "an agent's signing key, for enrolment and evidence"),
    }
    return table(
        ("domain", "signed by", "what"), [(f"`{domain.value}`", *who[domain]) for domain in control.Domain]
    )


def example() -> str:
    """The vector, cut where its parts begin."""
    message = VECTOR.read_bytes()
    begin, end, behind = cose.span1(message, 1, len(message))
    _, _, body_begin = read_head(message, behind, len(message))
    opened = batch.open_batch(message, public=None)
    parts: list[tuple[int, int, str]] = [
        (0, 1, "array of 2"),
        (1, 2, "tag 18: COSE_Sign1"),
        (2, 3, "array of 4"),
        (3, 7, "protected header: bytes of {1: -8}"),
        (7, 8, "unprotected header: {}"),
        (8, begin, f"payload: {end - begin} bytes, the header"),
        (begin, begin + 1, f"  map of {message[begin] & 31} pairs"),
    ]
    at = begin + 1
    import cbor2

    for name, value in opened.header.to_map().items():
        size = len(cbor2.dumps(name)) + len(cbor2.dumps(value))
        shown = value.hex() if isinstance(value, bytes) else str(value)
        parts.append((at, at + size, f"  {name}: {shown if len(shown) < 50 else shown[:47] + '...'}"))
        at += size
    assert at == end
    parts += [(end, end + 2, "signature: 64 bytes"), (end + 2, behind, "  Ed25519 signature")]
    parts.append(
        (behind, body_begin, f"body: {len(message) - body_begin} bytes, {opened.header.compression}")
    )
    parts.append((body_begin, len(message), "  (see above)"))
    lines = ["```"]
    for first, last, text in parts:
        shown = message[first:last].hex(" ")
        shown = shown if len(shown) <= 47 else shown[:44] + "..."
        lines.append(f"{first:04x}  {shown:<47}  {text}")
    lines += ["```", "", "The body, uncompressed:", "", "```"]
    plain = decompress_body(opened.body_compressed, opened.header.compression, opened.header.body_bytes)
    lines.append(f"0000  {plain[:1].hex():<47}  map of {plain[0] & 31} pairs")
    columns = batch.decode_columns(opened)
    at = 1
    for name, (tag, _) in body.PACKET_COLUMNS.items():
        value = bytes(getattr(columns, name))
        found = plain.index(value, at + len(name))
        shown = plain[at : found + len(value)].hex(" ")
        shown = shown if len(shown) <= 47 else shown[:44] + "..."
        number = "" if tag is None else f" = {int.from_bytes(value, 'little')}"
        lines.append(f"{at:04x}  {shown:<47}  {name}{number}")
        at = found + len(value)
    assert at == len(plain)
    return "\n".join([*lines, "```"])


def generated() -> dict[str, str]:
    """Every generated part of the page by its name."""
    clock_docs = member_docs(Clock)
    return {
        "header": header_table(),
        "clock": table(("key", "meaning"), [(f"`{name}`", text) for name, text in clock_docs.items()]),
        "payload": table(
            ("key", "meaning"),
            [
                (
                    "`policy`",
                    "`headers`: no payload; `masked`: a part of it; `full`: all (an agent leaves the map out)",
                ),
                *((f"`{name}`", text) for name, text in member_docs(PayloadPolicy).items()),
            ],
        ),
        "books": table(
            ("key", "meaning"), [(f"`{name}`", text) for name, text in books.DOCUMENTATION.items()]
        ),
        "packets": columns_table(body.PACKET_COLUMNS),
        "flow-records": columns_table(flows.FLOW_COLUMNS),
        "tombstone": columns_table(body.TOMBSTONE_COLUMNS),
        "flags": table(
            ("bits", "flag", "meaning"), [(bits, name, text) for name, (bits, text) in body.FLAGS.items()]
        ),
        "bounds": bounds_table(),
        "domains": domains_table(),
        "example": example(),
    }


def filled(page: str) -> str:
    """The page with its generated parts fresh."""
    for name, text in generated().items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        page, count = pattern.subn(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)  # type: ignore[misc]
        if count != 1:
            raise AssertionError(f"the page has {count} parts named {name}")
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
