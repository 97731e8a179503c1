"""A real Chromium in a namespace of the laboratory, driven by playwright."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.need import need
from tests.support.netns import Namespace

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",  # Chromium refuses its sandbox to root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CALLED_OFF = ("htmx:sendAbort", "htmx:afterRequest")

try:
    from playwright.sync_api import Page, sync_playwright
except ImportError:  # pragma: no cover - a counted skip below
    sync_playwright = None  # type: ignore[assignment]


def need_browser() -> None:
    """Require Chromium and playwright."""
    need("chromium")
    if sync_playwright is None:
        pytest.skip("missing: playwright; `./wirepool test` installs what the tests need")


@contextlib.contextmanager
def chromium(
    namespace: Namespace,
    directory: Path,
    *,
    width: int = 1440,
    height: int = 900,
    expected: tuple[str, ...] = (),
) -> Iterator[Page]:
    """A page of a fresh browser in the namespace; the hub's own certificate authority is not in its store.

    Whatever the page's scripts complain about ends the test: errors of a page are errors. What htmx says of a
    request that the page itself called off (a filter check, when the form is sent) is none, nor is what contains one of
    the texts `expected` (of a hub that is killed, for instance).
    """
    complaints: list[str] = []
    # The driver and with it the browser are children of this thread, and children are born in its namespace.
    with namespace.inside(), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, downloads_path=directory)
        try:
            context = browser.new_context(
                ignore_https_errors=True, accept_downloads=True, viewport={"width": width, "height": height}
            )
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on(
                "console",
                lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None,
            )
            yield page
        finally:
            browser.close()
    complaints = [
        text
        for text in complaints
        if not text.startswith(CALLED_OFF) and not any(part in text for part in expected)
    ]
    assert complaints == [], f"the page complained: {complaints}"
