"""Every page in every state, both themes, three widths: axe-core finds nothing, nothing is wider than the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.axe import findings
from tests.browser.layout import out_of_reach
from tests.browser.tour import EVERY_DAY, FIRST_DAY, Scene, Stop, busy_hub, empty_hub, looks, visit
from tests.web.test_chromium import browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]


async def judge(scene: Scene, stops: tuple[Stop, ...]) -> list[str]:
    """What is wrong, a line each with stop and look."""
    wrong: list[str] = []
    async with browser() as (context, complaints):
        for stop in stops:
            page = await visit(context, scene, stop)
            async for look in looks(page):
                found = await findings(page) + await out_of_reach(page)
                wrong += [f"{stop.name} {look}: {line}" for line in found]
            await page.close()
            # The browser itself writes a line for an answer that isn't 2xx.
            heard = [text for text in complaints if "Failed to load resource" not in text]
            wrong += [f"{stop.name}: {text}" for text in heard]
            complaints.clear()
    return wrong


async def test_the_pages_of_the_first_day(tmp_path: Path) -> None:
    async with empty_hub(tmp_path) as scene:
        wrong = await judge(scene, FIRST_DAY)
    assert not wrong, "\n".join(wrong)


async def test_the_pages_of_every_day(tmp_path: Path) -> None:
    async with busy_hub(tmp_path) as scene:
        wrong = await judge(scene, EVERY_DAY)
    assert not wrong, "\n".join(wrong)
