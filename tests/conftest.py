"""What all tests share: captures to replay, namespaces of dead runs swept, and no process left behind.

This sees the children that pytest itself still has at the end; `tests.run` sees what they in turn left behind.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support import descent, netns

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def captures() -> Path:
    """A folder of captures, `real/` and `odd/`: WIREPOOL_CAPTURES, or one beside the checkout.

    It isn't part of the repository, so its absence is a skip even where all else is required.
    """
    named = os.environ.get("WIREPOOL_CAPTURES")
    folder = Path(named) if named else ROOT.parent / "shared" / "captures"
    if not folder.is_dir():
        pytest.skip("no folder of captures: set WIREPOOL_CAPTURES to one with real/ and odd/")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked `root` is a counted skip for everybody else."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root (namespaces, AF_PACKET)"))


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.geteuid() == 0 and shutil.which("ip"):
        netns.sweep()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Processes still running are a failure of the session: something that promised to stop did not."""
    left = descent.children()
    if not left:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for pid, command in left.items():
        if reporter is not None:
            reporter.write_line(f"left running: {pid} {command}", red=True)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
