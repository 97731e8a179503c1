"""Every page in every state, both themes, three widths: axe-core finds nothing, nothing is wider than the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.axe import findings
from tests.browser.layout import out_of_reach
from tests.browser.pool_stops import POOL
from tests.browser.tour import EVERY_DAY, FIRST_DAY, THEMES, Scene, Stop, busy_hub, empty_hub, looks, visit
from tests.web.test_chromium import browser

AXE: dict[tuple[int, str], tuple[str, ...]] = {
    (1440, "light"): (),
    (1440, "dark"): ("color-contrast",),
    (400, "dark"): (),
}
"""Where axe-core runs, and by which rules (none named: all). A theme changes colours only, and no place of anything; at
900 px stands what stands at 1440."""

pytestmark = [pytest.mark.browser, pytest.mark.slow]


async def judge(scene: Scene, stops: tuple[Stop, ...]) -> list[str]:
    """What is wrong, a line each with stop and look."""
    wrong: list[str] = []
    async with browser() as (context, complaints):
        for stop in stops:
            page = await visit(context, scene, stop)
            async for width, theme in looks(page):
                found = await out_of_reach(page) if theme == THEMES[0] else []
                if (rules := AXE.get((width, theme))) is not None:
                    found += await findings(page, *rules)
                wrong += [f"{stop.name} {width}-{theme}: {line}" for line in found]
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
        wrong = await judge(scene, EVERY_DAY + POOL)
    assert not wrong, "\n".join(wrong)
