"""The runner finds what a test leaves behind, however indirectly, and buries what ended."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import subprocess, sys
from tests.support import descent
descent.adopt_orphans()
# A child that leaves two grandchildren: one that has ended by then, one that stays.
script = "(true &) ; (sleep 1000 &) ; exit 3"
process = subprocess.Popen(["sh", "-c", script])
print(descent.wait([process], 60), process.returncode)
print(sorted(descent.end_children().values()))
print(descent.children())
"""


def test_orphans_are_found_ended_and_buried() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["True 3", "['sleep 1000']", "{}"]
