"""Documents name only what exists, leave no requirement out, and keep their form."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = (ROOT / "docs" / "requirements.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

POINTS = {
    **dict.fromkeys(("FR-1.1", "FR-1.2", "FR-2.1", "FR-4.2", "FR-5.3"), 5),
    **dict.fromkeys(
        ("FR-2.2", "FR-3.1", "FR-3.2", "FR-4.1", "FR-5.1", "FR-5.2", "FR-6.1", "FR-6.2", "FR-7.1"), 4
    ),
    "FR-7.2": 3,
}
"""How many points a functional requirement has."""

KINDS = {"P": 6, "S": 4, "R": 4, "SEC": 6, "M": 5, "O": 4, "C": 4}
"""How many non-functional requirements of a kind there are."""

WANTED = [
    *(f"{item}{chr(ord('a') + number)}" for item in sorted(POINTS) for number in range(POINTS[item])),
    *(f"NFR-{kind}1.{number}" for kind, count in KINDS.items() for number in range(1, count + 1)),
]
STATES = {"done", "part", "not yet"}


def rows() -> dict[str, list[str]]:
    """Item → [requirement, state, where, proof]."""
    found: dict[str, list[str]] = {}
    for line in REQUIREMENTS.splitlines():
        if re.match(r"\| N?FR-", line):
            item, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            assert item not in found, f"{item} stands there twice"
            assert len(cells) == 4, line
            found[item] = cells
    return found


def test_every_requirement_has_its_row() -> None:
    assert list(rows()) == WANTED


@pytest.mark.parametrize("item", WANTED)
def test_a_row_says_where_and_what_proves_it(item: str) -> None:
    _, state, where, proof = rows()[item]
    assert state in STATES
    places, proofs = re.findall(r"`([^`]+)`", where), re.findall(r"`([^`]+)`", proof)
    for named in (*places, *proofs):
        exists(named)
    if state == "done":
        assert places, "done where?"
        assert proofs, "proved by what?"
        for named in proofs:
            assert named.startswith(("tests/", "perf/")), named
            assert (ROOT / named.partition("::")[0]).is_file(), f"{named} is a folder: which test?"
    elif state == "part":
        assert places, "which part is there?"
        assert "not yet" in where or "not yet" in proof, "and which part isn't?"
    else:
        assert not proofs, "what is not yet can't be proved"


def exists(named: str) -> None:
    """`path` or `path::test` is really there."""
    path, _, test = named.partition("::")
    assert (ROOT / path).exists(), f"{path} does not exist"
    if test:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(?:async )?def {re.escape(test)}\(", source, re.MULTILINE), (
            f"{path} has no {test}"
        )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (document.parent / target.partition("#")[0]).exists(), target


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    for version in versions[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version)
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_architecture_can_be_read_in_one_sitting() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    for named in re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|c|h|sh))`", text):
        assert (ROOT / named).exists(), named


def test_decisions_are_numbered_and_whole() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. ")
        assert "**Chosen.**" in text, page.name
        assert "**It costs.**" in text, page.name
