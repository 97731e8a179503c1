"""The tree keeps its own rules: what a reviewer would otherwise have to see each time."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 500
DRAWERS = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "core",
    "base",
    "misc",
    "manager",
    "service",
    "handler",
}
WORKPLACE = re.compile(r"(?<![\w.$}/])/(?:home|root|Users|work|tmp/[a-z]+)/\w")
"""An absolute path of the machine that somebody worked on."""
ADDRESS = re.compile(r"https?://|--(?:extra-)?index-url|--find-links|--trusted-host")


def tracked() -> list[Path]:
    """Every file of the repository, or of the copy when there is no repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        folders = ("wire", "agent", "bpf", "hub", "web", "tests", "perf", "docs")
        paths = [
            path
            for folder in folders
            for path in (ROOT / folder).rglob("*")
            if "__pycache__" not in path.parts
        ]
    return [path for path in paths if path.is_file()]


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data and "vectors" not in path.parts:
            found.append((path.relative_to(ROOT), data.decode(errors="replace")))
    return found


def ours(path: Path) -> bool:
    """Written here, not vendored."""
    return "vendor" not in path.parts and not path.name.endswith((".min.js", ".min.css", ".lock"))


def modules() -> list[Path]:
    return [path for path, _ in texts() if path.suffix == ".py"]


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path)
        for path in modules()
        if (source := (ROOT / path).read_text(encoding="utf-8")).strip()
        and not ast.get_docstring(ast.parse(source))
    ]
    assert not silent


def test_no_file_outgrows_its_reader() -> None:
    sizes = {
        str(path): text.count("\n")
        for path, text in texts()
        if path.suffix in {".py", ".c", ".h"} and ours(path)
    }
    assert {path: lines for path, lines in sizes.items() if lines > LONGEST} == {}


def test_no_module_is_a_drawer() -> None:
    assert [
        str(path) for path in modules() if path.stem.strip("_") in DRAWERS or path.parent.name in DRAWERS
    ] == []


def test_no_path_of_a_workplace_is_in_the_tree() -> None:
    allowed = {Path("tests/house/test_structure.py")}
    hits = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        if path not in allowed and ours(path)
        for number, line in enumerate(text.splitlines(), 1)
        if WORKPLACE.search(line)
    ]
    assert hits == []


def test_no_work_is_left_in_comments() -> None:
    marker = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    hits = [str(path) for path, text in texts() if ours(path) and marker.search(text)]
    assert hits == []


@pytest.mark.parametrize("name", ["requirements", "requirements-test", "build", "nats-server", "go"])
def test_a_lock_pins_by_hash_and_names_no_index(name: str) -> None:
    text = (ROOT / f"{name}.lock").read_text(encoding="utf-8")
    assert not ADDRESS.search(text)
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_nothing_that_is_made_is_committed() -> None:
    made = re.compile(r"\.(?:so|pyc|o|log|key|crt|creds|nk|sqlite3)$")
    assert [str(path.relative_to(ROOT)) for path in tracked() if made.search(path.name)] == []


def test_an_agent_listens_nowhere() -> None:
    """It dials out only: no call in agent/ could open a server."""
    opening = {
        "listen",
        "start_server",
        "start_unix_server",
        "create_server",
        "create_unix_server",
        "serve_forever",
    }
    calls = [
        f"{path}:{node.lineno}"
        for path in modules()
        if path.parts[0] == "agent"
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in opening
    ]
    assert calls == []
