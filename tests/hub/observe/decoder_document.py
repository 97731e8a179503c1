"""Generate the tables of docs/decoder.md from the code: `python -m tests.hub.observe.decoder_document`."""

from __future__ import annotations

import ast
import inspect
import re
from enum import IntEnum, IntFlag
from pathlib import Path

from hub.observe.observations import DTYPES, Application, Layers, Observations, Problem, Tunnel
from tests.hub.observe import tshark_differences
from tests.wire.format_document import table

PAGE = Path(__file__).parents[3] / "docs" / "decoder.md"
_KINDS = {"b": "yes or no", "S": "text"}


def string_under(kind: type) -> dict[str, str]:
    """The strings that stand under a class's members, `name: type` or `NAME = value`."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found, name = {}, None
    for node in definition.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name is not None:
            found[name] = " ".join(str(node.value.value).split())
            name = None
        else:
            target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
            target = node.targets[0] if isinstance(node, ast.Assign) else target
            name = target.id if isinstance(target, ast.Name) else None
    return found


def columns_table() -> str:
    """Every column, in its order."""
    words = string_under(Observations)
    rows = []
    for name, dtype in DTYPES.items():
        base = dtype.base
        shown = _KINDS.get(base.kind, f"u{8 * base.itemsize}")
        size = f" × {dtype.shape[0]}" if dtype.shape else f" of {base.itemsize}" if base.kind == "S" else ""
        rows.append((f"`{name}`", shown + size, words[name]))
    return table(("column", "type", "meaning"), rows)


def words_table(*kinds: type[IntEnum] | type[IntFlag]) -> str:
    """The members of enumerations; bits as numbers."""
    rows = []
    for kind in kinds:
        words = string_under(kind)
        rows += [(f"{member.value}", f"`{member.name}`", words.get(str(member.name), "")) for member in kind]
    return table(("value", "name", "meaning"), rows)


def differences_table() -> str:
    """Where tshark says something else, by reason."""
    words = string_under_variables()
    rows = []
    for reason, captures in tshark_differences.REASONS.items():
        (name,) = [name for name, value in vars(tshark_differences).items() if value is captures]
        shown = ", ".join(f"`{capture}`" for capture in captures)
        rows.append((reason, words[name], shown))
    links = ", ".join(f"{number} {name}" for number, name in tshark_differences.UNKNOWN_LINK_TYPES.items())
    rows.append(("link types", f"tshark reads these, we don't (BAD_LINK_TYPE): {links}.", "all of them"))
    return table(("about", "difference", "captures"), rows)


def string_under_variables() -> dict[str, str]:
    """The string under each variable of the list of differences."""
    source = Path(tshark_differences.__file__).read_text(encoding="utf-8")
    found = re.findall(r'^([A-Z0-9_]+)(?:: Found)? = \{.*?^\}\n"""(.*?)"""', source, re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def generated() -> dict[str, str]:
    """Part → its Markdown."""
    return {
        "columns": columns_table(),
        "layers": words_table(Layers),
        "problems": words_table(Problem),
        "tunnels": words_table(Tunnel),
        "applications": words_table(Application),
        "differences": differences_table(),
    }


def filled(page: str) -> str:
    """The page with each generated part replaced."""
    for name, text in generated().items():
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        assert begin in page, name
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
