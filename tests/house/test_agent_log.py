"""What the agent logs reaches the local file, from the chosen level on; a file that can't be written is an error."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ["debug", "info", "warning", "error"]
PROGRAM = """
import logging, sys
from pathlib import Path
from agent import cli
from agent.config import load_config
cli._log_to(load_config(Path(sys.argv[1])))
for level in sys.argv[2:]:
    getattr(logging.getLogger("agent.link"), level)("an event of level " + level)
"""


@pytest.mark.parametrize("chosen", LEVELS)
def test_the_file_holds_what_the_level_lets_through(tmp_path: Path, chosen: str) -> None:
    settings = tmp_path / "agent.yaml"
    settings.write_text(f"log: {{level: {chosen}, file: agent.log}}\n")
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(settings), *LEVELS], cwd=ROOT, check=True, capture_output=True
    )
    lines = (tmp_path / "agent.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == LEVELS[LEVELS.index(chosen) :]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    settings = tmp_path / "agent.yaml"
    settings.write_text("log: {file: nowhere/agent.log}\n")
    state = ["--state", str(tmp_path / "state")]
    command = [sys.executable, "-m", "agent.cli", "run", "--config", str(settings), *state]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "log.file" in refused.stderr
    assert "Name a file that can be written" in refused.stderr
