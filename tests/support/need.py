"""A missing component is a counted skip with its reason on a developer's machine and a failure where all is required."""

import os
import shutil

import pytest


def need(*programs: str) -> None:
    """Require programs on PATH (or the pseudo component "root").

    With WIREPOOL_REQUIRE_ALL=1, as `./wirepool test` sets it, what is missing fails the test instead of skipping it.
    """
    missing = [p for p in programs if (os.geteuid() != 0 if p == "root" else shutil.which(p) is None)]
    if not missing:
        return
    reason = f"missing: {', '.join(missing)}; `./wirepool test` installs what the tests need"
    if os.environ.get("WIREPOOL_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
