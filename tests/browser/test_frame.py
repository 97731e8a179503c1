"""What stands around every page: light or dark without a flash, the menu and the way past it, by keyboard alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from hub.web.pages import THEME_COOKIE
from tests.browser.tour import Scene, empty_hub, log_in
from tests.web.test_chromium import browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]

GROUND = "getComputedStyle(document.body).backgroundColor"


async def _html(page: Page, scene: Scene) -> str:
    """The page as the hub sends it, before any script has run."""
    answer = await page.request.get(f"{scene.site.url}/agents", headers={"accept": "text/html"})
    return (await answer.text())[:200]


async def test_light_or_dark_by_keyboard_and_for_good(tmp_path: Path) -> None:
    async with empty_hub(tmp_path) as scene, browser() as (context, complaints):
        page = await context.new_page()
        await page.emulate_media(color_scheme="light")
        await log_in(page, scene.site)
        light = await page.evaluate(GROUND)
        assert "data-theme" not in await _html(page, scene)
        menu = page.get_by_test_id("account")
        await menu.locator("summary").focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.get_by_test_id("theme-system")).to_be_focused()
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("ArrowRight")
        await expect(page.get_by_test_id("theme-dark")).to_be_checked()
        dark = await page.evaluate(GROUND)
        assert dark != light
        await page.keyboard.press("Escape")
        await expect(page.get_by_test_id("logout")).to_be_hidden()
        await expect(menu.locator("summary")).to_be_focused()

        assert 'data-theme="dark"' in await _html(page, scene), "the hub writes it: nothing flashes"
        await page.reload()
        assert await page.evaluate(GROUND) == dark
        await page.goto(f"{scene.site.url}/nothing-here")
        assert await page.evaluate(GROUND) == dark
        await page.goto(f"{scene.site.url}/sessions")
        await menu.locator("summary").click()
        await expect(page.get_by_test_id("theme-dark")).to_be_checked()
        await page.get_by_test_id("theme-system").check()
        assert await page.evaluate(GROUND) == light
        assert "data-theme" not in await _html(page, scene)
        await page.emulate_media(color_scheme="dark")
        assert await page.evaluate(GROUND) == dark, "now the system says"
        await page.locator("h1").click()
        await expect(page.get_by_test_id("logout")).to_be_hidden()
        assert [text for text in complaints if "Failed to load resource" not in text] == []


async def test_a_cookie_of_another_hand_is_not_written_into_the_page(tmp_path: Path) -> None:
    async with empty_hub(tmp_path) as scene, scene.site.client() as client:
        for value in ('dark"><script>alert(1)</script>', "x" * 3000, "DARK", ""):
            answer = await client.get("/login", cookie=f"{THEME_COOKIE}={value}")
            assert answer.status_code == 200
            assert "data-theme" not in answer.text
        answer = await client.get("/login", cookie=f"{THEME_COOKIE}=dark")
        assert 'data-theme="dark"' in answer.text


async def test_past_the_menu_by_one_key_and_through_the_page_by_tab(tmp_path: Path) -> None:
    async with empty_hub(tmp_path) as scene, browser() as (context, _):
        page = await context.new_page()
        await log_in(page, scene.site)
        await page.goto(f"{scene.site.url}/sessions")
        await page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        await expect(skip).to_be_focused()
        await expect(skip).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await page.keyboard.press("/")
        await expect(page.get_by_test_id("session-search")).to_be_focused()
        outline = "getComputedStyle(document.activeElement).outline"
        assert "solid 2px" in await page.evaluate(outline), "where the keyboard is can be seen"
