"""Explore in a real browser: completion, what is wrong while it is written, a time by dragging and by keys, lanes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from hub.pool.observed import ClockOffset
from tests.web.fake_agent import udp_packet
from tests.web.pooled import pooled, tcp_packet
from tests.web.test_chromium import browser, log_in
from tests.web.test_explore import conversation

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

pytestmark = pytest.mark.slow


async def test_a_query_is_completed_corrected_and_its_packet_opened(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool, browser() as (context, complaints):
        await pool.send([udp_packet(1), udp_packet(2), tcp_packet(2)], ClockOffset(5_000, 4_000, 7_000))
        page = await context.new_page()
        await log_in(page, pool.where)
        await page.get_by_test_id("nav-explore").click()
        rows = page.locator("#rows tr")
        await expect(rows).to_have_count(3)
        field, options = page.get_by_test_id("query"), page.get_by_test_id("query-options").locator("li")
        await page.keyboard.press("/")
        await expect(field).to_be_focused()
        await page.keyboard.type("prot")
        await expect(options.first).to_contain_text("proto")
        await page.keyboard.press("ArrowDown")
        await expect(field).to_have_attribute("aria-activedescendant", "query-option-0")
        await page.keyboard.press("Enter")
        await expect(field).to_have_value("proto ")
        await page.keyboard.type("== ud")
        await expect(options.first).to_contain_text("udp")
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Tab")
        await expect(field).to_have_value("proto == udp")
        await page.keyboard.press("Enter")
        await expect(rows).to_have_count(2)
        assert "q=proto+%3D%3D+udp" in page.url

        # What can't become right any more is said while it is written; what is only unfinished is not.
        await field.fill("proto == tpc and agent")
        await expect(page.get_by_test_id("query-message")).to_contain_text("did you mean tcp?")
        await expect(field).to_have_attribute("aria-invalid", "true")
        await field.fill("proto == udp and")
        await expect(page.get_by_test_id("query-message")).to_have_text("")
        await page.keyboard.press("Escape")

        await rows.nth(1).click()
        await expect(page.get_by_test_id("packet-tree")).to_contain_text("User Datagram")
        await page.get_by_test_id("follow").click()
        await expect(rows).to_have_count(1)
        assert "community_id" in page.url
        assert complaints == []


async def test_a_time_is_chosen_by_keyboard_and_by_dragging(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool, browser() as (context, complaints):
        await pool.send([udp_packet(1), udp_packet(2)])
        page = await context.new_page()
        await log_in(page, pool.where)
        await page.goto(f"{pool.where.url}/explore?last=5m")
        rows = page.locator("#rows tr")
        await expect(rows).to_have_count(2)
        line = page.get_by_test_id("timeline")
        await line.focus()
        await page.keyboard.press("Home")
        await page.keyboard.press("Shift+ArrowRight")
        await expect(page.get_by_test_id("timeline-status")).to_contain_text("Enter shows this time")
        await page.keyboard.press("Enter")
        await expect(page.get_by_test_id("nothing-found")).to_be_visible()
        assert re.search(r"since=\d+&until=\d+", page.url)
        assert "last=" not in page.url
        await page.go_back()
        await expect(rows).to_have_count(2)
        box = await line.bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"] * 0.98, box["y"] + 40)
        await page.mouse.up()
        await page.wait_for_url(re.compile(r"since=\d+"))
        await expect(rows).to_have_count(2)
        await page.get_by_test_id("wider").click()
        await expect(page.get_by_test_id("since")).to_have_value(re.compile(r"^\d{4}-.*Z$"))
        assert complaints == []


async def test_lanes_by_keyboard_and_on_a_small_screen(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool, browser() as (context, complaints):
        batches = await pool.send([tcp_packet(2), tcp_packet(16, payload=b"data", sequence=1001)])
        flow = bytes(batches[0].seen.community_id[0]).decode()
        await pool.store.put_conversations([conversation(community_id=flow)])
        page = await context.new_page()
        await log_in(page, pool.where)
        await page.goto(f"{pool.where.url}/explore?what=conversations")
        await page.get_by_test_id("conversation").click()
        await page.get_by_label("Lanes. Arrow keys").focus()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowDown")
        await expect(page.get_by_test_id("lane-status")).to_contain_text("web1 eth0")
        await page.keyboard.press("Enter")
        await expect(page.get_by_test_id("packet-tree")).to_contain_text("Transmission Control")
        await page.keyboard.press("Escape")
        await expect(page.get_by_test_id("packet")).to_be_hidden()
        await page.set_viewport_size({"width": 400, "height": 800})
        for path in ("/explore", "/explore?what=conversations", "/explore/conversations/c1", "/clocks"):
            await page.goto(pool.where.url + path)
            await expect(page.locator("main")).to_be_visible()
            assert await page.evaluate(OVERFLOW) <= 0, path
        assert complaints == []
