"""The script sets a checkout up once, by one of several at a time, and recovers from being cut off anywhere."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.house.test_structure import tracked

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
MAKING = "making a Python environment"
INSTALLING = "installing the Python packages of requirements.lock"
BUILDING = "building the C extensions"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files with no environment yet; the tests below take it through its life in order."""
    copy = tmp_path_factory.mktemp("fresh") / "checkout"
    for path in tracked():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        target.chmod(path.stat().st_mode)
    return copy


def start(checkout: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "WIREPOOL_NATS_SERVER": "/bin/true"}  # its download is not the subject
    return subprocess.Popen(
        [str(checkout / "wirepool"), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """Its messages; it must have succeeded."""
    _, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    return messages


def test_cut_off_in_the_middle_of_an_install_it_starts_afresh(checkout: Path) -> None:
    first = start(checkout, "setup")
    assert first.stderr is not None
    for line in first.stderr:
        if INSTALLING in line:
            break
    # Not before a package has been unpacked: that is the state which pip would later take for a whole one.
    deadline = time.monotonic() + 120
    while not list(checkout.glob(".venv/lib/python3*/site-packages/cbor2*")):
        assert time.monotonic() < deadline
        assert first.poll() is None, "too fast to be cut off"
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    messages = end(start(checkout, "setup"))
    assert MAKING in messages
    assert BUILDING in messages


def test_a_second_time_it_does_nothing(checkout: Path) -> None:
    assert end(start(checkout, "setup")).splitlines()[:-1] == []
    assert end(start(checkout, "decode")) == ""


def test_an_edited_c_source_is_built_and_a_touched_one_is_not(checkout: Path) -> None:
    source = checkout / "wire" / "_columns.c"
    source.touch()
    assert BUILDING not in end(start(checkout, "setup"))
    source.write_text(source.read_text() + "\n")
    built = next(checkout.glob("wire/_columns*.so"))
    before = built.stat().st_mtime_ns
    messages = end(start(checkout, "setup"))
    assert BUILDING in messages
    assert MAKING not in messages
    assert built.stat().st_mtime_ns > before


def test_two_at_once_take_turns(checkout: Path) -> None:
    source = checkout / "agent" / "_tpacket.c"
    source.write_text(source.read_text() + "\n")
    both = [start(checkout, "setup"), start(checkout, "setup")]
    messages = [end(process) for process in both]
    assert sorted(BUILDING in text for text in messages) == [False, True]


def test_a_moved_checkout_is_set_up_again(checkout: Path) -> None:
    """A virtual environment knows its own place."""
    moved = checkout.with_name("moved")
    checkout.rename(moved)
    try:
        assert BUILDING in end(start(moved, "setup"))
        shown = start(moved, "decode", "--help")
        output, _ = shown.communicate(timeout=60)
        assert "usage: wirepool decode" in output
    finally:
        moved.rename(checkout)
