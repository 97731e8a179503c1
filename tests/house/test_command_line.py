"""The command teaches: every verb is listed and explains itself; the script runs from anywhere and through links."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hub import cli

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "wirepool"
VERBS = sorted(cli.verbs())


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def need_setup() -> None:
    """A test of the script must not start an install by itself."""
    if not (ROOT / ".cache" / "setup.stamp").exists():
        pytest.skip("this checkout was not set up by ./wirepool")


def test_help_names_every_verb_of_the_hub() -> None:
    shown = run(SCRIPT, "--help")
    assert shown.returncode == 0
    for verb in [*VERBS, "agent", "decode", "verify", "test"]:
        assert re.search(rf"wirepool {verb}\b", shown.stdout), f"--help is silent about {verb}"


def test_help_names_no_verb_that_is_not_there() -> None:
    named = set(re.findall(r"^  (?:\./)?wirepool ([a-z]+)", run(SCRIPT, "--help").stdout, re.MULTILINE))
    assert named - set(VERBS) <= {"agent", "decode", "verify", "test", "setup", "perf", "lock"}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_explains_itself(verb: str) -> None:
    shown = run(sys.executable, "-P", "-m", "hub.cli", verb, "--help")
    assert shown.returncode == 0, shown.stderr
    assert f"usage: wirepool {verb}" in shown.stdout
    assert len(shown.stdout.splitlines()) > 3


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_its_line_in_the_listing(verb: str) -> None:
    line = cli.summary(cli.verbs()[verb])
    assert 10 < len(line) < 120, line


def test_an_unknown_verb_is_a_clear_error() -> None:
    refused = run(SCRIPT, "captrue")
    assert refused.returncode == 1
    assert "there is no command 'captrue'" in refused.stderr
    assert run(sys.executable, "-P", "-m", "hub.cli", "captrue").returncode == 2


def test_the_script_runs_through_links_from_anywhere(tmp_path: Path) -> None:
    need_setup()
    (tmp_path / "bin").mkdir()
    (tmp_path / "direct").symlink_to(SCRIPT)
    (tmp_path / "bin" / "wirepool").symlink_to("../direct")
    (tmp_path / "wire").mkdir()  # a folder with one of our names is not ours
    (tmp_path / "wire" / "__init__.py").write_text("raise SystemExit('the wrong wire')\n")
    shown = run(tmp_path / "bin" / "wirepool", "decode", "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "usage: wirepool decode" in shown.stdout


def test_nothing_to_do_says_nothing() -> None:
    need_setup()
    assert run(SCRIPT, "decode", "--help").stderr == ""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy of the script on a machine with a shell, a few tools, no Python and no apt-get."""
    for tool in (
        "sh",
        "dirname",
        "readlink",
        "id",
        "mkdir",
        "cat",
        "ls",
        "xargs",
        "cksum",
        "find",
        "flock",
        "sed",
    ):
        found = shutil.which(tool)
        assert found, tool
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / tool).symlink_to(found)
    (tmp_path / "wirepool").write_bytes(SCRIPT.read_bytes())
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("chosen", "answer"),
    [
        ("", "Install your distribution's packages for: python3 python3-venv python3-dev"),
        ("/nonexistent/python", "WIREPOOL_PYTHON=/nonexistent/python is not a Python 3.11 or later"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(bare: Path, chosen: str, answer: str) -> None:
    environment = {"PATH": str(bare / "bin"), "WIREPOOL_PYTHON": chosen}
    refused = subprocess.run(
        ["sh", str(bare / "wirepool"), "setup"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert answer in refused.stderr


@pytest.mark.parametrize("verb", ["setup", "perf", "lock", "test"])
def test_asking_for_help_does_nothing_else(verb: str) -> None:
    shown = run(SCRIPT, verb, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"usage: wirepool {verb}")


@pytest.mark.parametrize("verb", ["setup", "lock"])
def test_a_verb_of_the_checkout_refuses_what_it_does_not_know(verb: str) -> None:
    shown = run(SCRIPT, verb, "--nonsense")
    assert shown.returncode == 1
    assert "--nonsense" in shown.stderr


def test_both_spellings_of_enrolling_are_understood() -> None:
    need_setup()
    assert run(SCRIPT, "enrol", "--help").stdout.startswith("usage: wirepool enroll")
    assert run(SCRIPT, "agent", "enroll", "--help").stdout.startswith("usage: wirepool agent enrol")
