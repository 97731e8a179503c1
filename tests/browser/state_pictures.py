"""Pictures of every page in every state, both themes, three widths: to be looked at by people who judge the design."""

from __future__ import annotations

from pathlib import Path

from tests.browser.pool_stops import POOL
from tests.browser.tour import EVERY_DAY, FIRST_DAY, Scene, Stop, busy_hub, empty_hub, looks, visit
from tests.web.test_chromium import browser


async def _take(scene: Scene, stops: tuple[Stop, ...], folder: Path, wanted: str) -> int:
    taken = 0
    async with browser() as (context, _):
        for stop in stops:
            if wanted not in stop.name:
                continue
            page = await visit(context, scene, stop)
            async for width, theme in looks(page):
                await page.screenshot(path=folder / f"{stop.name}-{width}-{theme}.png", full_page=True)
                taken += 1
            await page.close()
    return taken


async def take_all(folder: Path, scratch: tuple[Path, Path], wanted: str = "") -> int:
    """Write FOLDER/STATE-WIDTH-THEME.png for every state whose name contains `wanted`; how many. `scratch`: for the two
    hubs."""
    taken = 0
    for directory, hub, stops in zip(
        scratch, (empty_hub, busy_hub), (FIRST_DAY, EVERY_DAY + POOL), strict=True
    ):
        if any(wanted in stop.name for stop in stops):
            async with hub(directory) as scene:
                taken += await _take(scene, stops, folder, wanted)
    return taken
