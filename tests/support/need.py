"""A missing component is a skip with its reason on a developer's machine, and a failure where all is required."""

import os
import shutil
from typing import NoReturn

import pytest

FOREIGN = {"tshark", "capinfos", "chromium"}
"""Programs that stand still with a sanitizer's runtime preloaded."""


def need(*programs: str) -> None:
    """Require programs on PATH (or the pseudo component "root").

    With WIREPOOL_REQUIRE_ALL=1, as `./wirepool test` sets it for root, a missing program fails the test instead of
    skipping it. Not being root is always a skip: nothing can be installed to change that.
    """
    if "root" in programs and os.geteuid() != 0:
        pytest.skip("needs root")
    if os.environ.get("WIREPOOL_SANITIZED") == "1" and (foreign := FOREIGN.intersection(programs)):
        pytest.skip(
            f"not under the sanitizers: {', '.join(sorted(foreign))} would inherit their runtime and hang"
        )
    missing = [program for program in programs if program != "root" and shutil.which(program) is None]
    if not missing:
        return
    without(f"missing: {', '.join(missing)}; `./wirepool test` as root installs what the tests need")


def without(reason: str) -> NoReturn:
    """What this test needs can't be had here: a failure where all is required, otherwise a skip that says why."""
    if os.environ.get("WIREPOOL_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
