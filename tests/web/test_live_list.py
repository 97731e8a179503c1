"""The live list with as many rows as it holds, in Chromium: what is drawn and kept, what the keyboard does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.support.nats_backbone import until
from tests.web.fake_agent import udp_packet
from tests.web.test_chromium import browser, log_in
from tests.web.test_live import stage, watched

HELD = 100_000
BLOCK = 256

FEED = """
([first, count]) => {
  const source = ["web1", "eth0", "web1/" + "0".repeat(32) + "/" + "a".repeat(26) + "/bulk"];
  for (let at = first; at < first + count; at += 40) {
    const rows = Array.from({ length: Math.min(40, first + count - at) }, (_, index) => [
      0, String(at), String(index), "17000000000" + String(at + index).padStart(8, "0"), "1700000000000000000",
      "10.0.0.7", "10.0.0.9", "TCP", 66,
      `${40000 + (at % 9000)} → 443 [ACK] Seq=1 Win=501 Len=0 row ${at + index}`, "tcp", "",
    ]);
    wirepool.live.take({ sources: [source], rows });
  }
}
"""
"""As the stream hands rows over: the hub's own reach the page in tests.web.test_live and in the tests below."""
OLDER = """
(ranges) => {
  const source = ["web2", "eth0", "web2/" + "0".repeat(32) + "/" + "b".repeat(26) + "/bulk"];
  const rows = ranges.flatMap(([first, end]) => Array.from({ length: end - first }, (_, at) => [
    0, "0", String(first + at), "17000000000" + String(first + at).padStart(8, "0"), "1700000000000000000",
    "10.0.0.7", "10.0.0.9", "TCP", 66, `older row ${first + at}`, "tcp", "",
  ]));
  wirepool.live.takeOlder({ sources: [source], rows, archived: 0 });
}
"""
DRAWN = """
() => {
  const box = document.getElementById("scroll").getBoundingClientRect();
  const head = document.getElementById("rows-head").offsetHeight;
  const seen = [...document.querySelectorAll("#rows [role=row]")].filter((row) => {
    const at = row.getBoundingClientRect();
    return at.top >= box.top + head - 1 && at.bottom <= box.bottom + 1;
  });
  const number = (row) => Number(row.lastChild.textContent.split("row ")[1]);
  return seen.map((row) => [Number(row.getAttribute("aria-rowindex")), number(row)]);
}
"""
STILL = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0))))"


@asynccontextmanager
async def live(directory: Path, width: int = 1440) -> AsyncIterator[Page]:
    """The live page of a session that captures nothing by itself; no complaint of the page is allowed."""
    async with stage(directory) as (where, client, agent), browser(width) as (context, complaints):
        page = await context.new_page()
        await log_in(page, where)
        session = await watched(client, agent)
        await page.goto(f"{where.url}/live?session={session}")
        yield page
        assert complaints == []


async def drawn(page: Page) -> list[list[int]]:
    """(row index, number of the row) of what can be seen, from above."""
    await page.evaluate(STILL)
    found: list[list[int]] = await page.evaluate(DRAWN)
    return found


async def feed(page: Page, first: int, count: int) -> None:
    await page.evaluate(FEED, [first, count])


async def state(page: Page) -> Any:
    return await page.evaluate(
        "() => { const s = wirepool.live.store; return {length: s.length, forgotten: s.forgotten, bytes: s.bytes}; }"
    )


@pytest.mark.slow
async def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    async with live(tmp_path) as page:
        grid, forgotten = page.get_by_test_id("packet-list"), page.get_by_test_id("forgotten")
        await feed(page, 0, HELD)
        held = await state(page)
        assert (held["length"], held["forgotten"]) == (HELD, 0)
        assert held["bytes"] < 200 * HELD, "what decision 13 says a row costs"
        assert (await drawn(page))[-1] == [HELD + 1, HELD - 1], "it follows the newest"
        await expect(grid).to_have_attribute("aria-rowcount", str(HELD + 1))
        assert await page.locator("#rows [role=row]").count() < 100

        # Anywhere in between: every row in sight is there, in order, each at its own place.
        await page.evaluate("() => { document.getElementById('scroll').scrollTop = 19 * 50_000; }")
        seen = await drawn(page)
        assert seen[0][1] == 50_000
        assert [number for _, number in seen] == list(range(50_000, 50_000 + len(seen)))
        assert all(index == number + 2 for index, number in seen)
        assert len(seen) > 20

        # Beyond the bound the oldest go, and what is looked at doesn't move.
        await feed(page, HELD, 2 * BLOCK)
        assert [number for _, number in await drawn(page)] == [number for _, number in seen]
        assert (await state(page))["length"] <= HELD
        await expect(page.get_by_test_id("new-rows")).to_have_text(f"↓ {2 * BLOCK} new")
        await page.get_by_test_id("new-rows").click()
        assert (await drawn(page))[-1][1] == HELD + 2 * BLOCK - 1
        await feed(page, HELD + 2 * BLOCK, BLOCK)
        after = await state(page)
        assert after["length"] + after["forgotten"] == HELD + 3 * BLOCK
        await expect(forgotten).to_contain_text("rows forgotten")
        await page.get_by_test_id("clear-view").click()
        await expect(page.locator("#rows [role=row]")).to_have_count(0)
        await expect(page.get_by_test_id("feed-message")).to_contain_text("List emptied")


@pytest.mark.slow
async def test_what_is_looked_at_stays_while_the_list_overflows(tmp_path: Path) -> None:
    async with live(tmp_path) as page:
        await feed(page, 0, HELD)
        await page.get_by_label("Packet list").focus()
        await page.keyboard.press("Home")
        seen = await drawn(page)
        assert seen[0] == [2, 0]
        await feed(page, HELD, HELD)
        assert await drawn(page) == seen
        held = await state(page)
        assert held["length"] + held["forgotten"] == 2 * HELD
        assert held["length"] <= HELD + 17 * BLOCK
        await page.keyboard.press("End")
        assert (await drawn(page))[-1][1] == 2 * HELD - 1

        # The same for a frozen picture, and the capture goes on meanwhile.
        await page.get_by_test_id("freeze-view").click()
        frozen = [number for _, number in await drawn(page)]
        await feed(page, 2 * HELD, HELD)
        assert [number for _, number in await drawn(page)] == frozen
        await expect(page.get_by_test_id("view-state")).to_have_text("view frozen")
        await expect(page.get_by_test_id("new-rows")).to_have_text("↓ 9999+ new")
        await page.get_by_test_id("freeze-view").click()
        assert (await drawn(page))[-1][1] == 3 * HELD - 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 400])
async def test_the_keyboard_walks_through_rows_that_are_no_elements_yet(tmp_path: Path, width: int) -> None:
    async with live(tmp_path, width) as page:
        grid = page.get_by_test_id("packet-list")
        chosen = page.locator("#rows [aria-selected=true]")
        await feed(page, 0, 5_000)
        await grid.focus()
        await page.keyboard.press("ArrowUp")
        await expect(chosen).to_have_attribute("aria-rowindex", "5001")
        await expect(grid).to_have_attribute("aria-activedescendant", "chosen-row")
        for _ in range(3):
            await page.keyboard.press("PageUp")
        index = int(await chosen.get_attribute("aria-rowindex") or 0)
        page_of_rows = (5001 - index) // 3
        assert 15 < page_of_rows < 60
        await page.keyboard.press("PageDown")
        await expect(chosen).to_have_attribute("aria-rowindex", str(index + page_of_rows))
        await page.keyboard.press("Home")
        await expect(chosen).to_have_attribute("aria-rowindex", "2")
        for number in range(60):
            await page.keyboard.press("ArrowDown")
            await expect(chosen).to_have_attribute("aria-rowindex", str(number + 3))
        assert [62, 60] in await drawn(page), "the chosen row is in sight"
        await page.keyboard.press("End")
        await expect(chosen).to_have_count(0)
        assert (await drawn(page))[-1] == [5001, 4999]
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await page.evaluate(overflow) <= 0


@pytest.mark.slow
async def test_every_number_explains_itself_to_the_keyboard(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, client, agent), browser() as (context, complaints):
        page = await context.new_page()
        await log_in(page, where)
        session = await watched(client, agent)
        await page.goto(f"{where.url}/live?session={session}")
        numbers = page.locator(".counter:visible")
        await expect(numbers).to_have_count(8)
        for name in ("packets", "pps", "bandwidth", "dropped", "lag", "spool", "own", "not-shown"):
            number, tip = page.locator(f"#counter-{name}"), page.locator(f"#tip-{name}")
            await expect(tip).not_to_be_visible()
            await number.focus()
            await expect(tip).to_be_visible()
            await expect(number).to_have_accessible_description(await tip.text_content() or "")
        # A number that changes leaves its explanation open and the focus where it is.
        await page.locator("#counter-packets").focus()
        await agent.send(session, [udp_packet(number) for number in range(7)])
        await agent.beat()
        await expect(page.get_by_test_id("count-packets")).to_have_text("7")
        await expect(page.locator("#counter-packets")).to_be_focused()
        await expect(page.locator("#tip-packets")).to_be_visible()
        await expect(page.locator("#counter-dropped")).to_contain_text(
            "ring 0 · newest 0 · oldest 0 · invalid 0"
        )
        await page.get_by_test_id("legend").click()
        rules = page.locator("[data-testid=legend] li")
        assert await rules.count() == 15
        assert complaints == []


@pytest.mark.slow
async def test_older_rows_go_in_by_their_times_under_the_readers_eyes(tmp_path: Path) -> None:
    async with live(tmp_path) as page:
        await expect(page.get_by_test_id("count-spool")).to_have_text("1.2 MB")  # the stream has begun
        await feed(page, 1000, 600)
        await page.get_by_label("Packet list").focus()
        await page.keyboard.press("Home")
        await page.keyboard.press("ArrowDown")
        for _ in range(8):
            await page.keyboard.press("PageDown")
        seen, chosen = await drawn(page), page.locator("#rows [aria-selected=true]")
        words = await chosen.text_content()
        assert 100 < seen[0][0] < 400
        # Some of another source belong between those that are there.
        await page.evaluate(OLDER, [[900, 1000], [1500, 1510]])
        assert await drawn(page) == [[index + 100, number] for index, number in seen]
        await expect(chosen).to_have_text(words or "")
        assert (await state(page))["length"] == 710
        times = await page.evaluate(
            "() => Array.from({length: 710}, (_, at) => wirepool.live.store.at(at).time.slice(-8))"
        )
        assert times == sorted(times)
        serials = await page.evaluate(
            "() => { const { store } = wirepool.live;"
            " return Array.from({length: 710}, (_, at) => store.positionOf(store.at(at).serial)); }"
        )
        assert serials == list(range(710))

        await page.get_by_test_id("freeze-view").click()
        frozen = [number for _, number in await drawn(page)]
        await page.evaluate(OLDER, [[800, 850], [1590, 1600]])
        assert [number for _, number in await drawn(page)] == frozen
        await page.keyboard.press("Escape")
        await page.get_by_test_id("freeze-view").click()
        assert (await drawn(page))[-1] == [771, 1599]


@pytest.mark.slow
async def test_a_stream_that_comes_back_repeats_nothing_and_misses_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, client, agent), browser() as (context, complaints):
        page = await context.new_page()
        await log_in(page, where)
        session = await watched(client, agent)
        await page.goto(f"{where.url}/live?session={session}")
        grid = page.get_by_test_id("packet-list")
        await agent.send(session, [udp_packet(number) for number in range(5)])
        await expect(grid).to_have_attribute("aria-rowcount", "6")
        await until(lambda: where.hub.live.viewers == 1)
        for viewer in list(where.hub.live._viewers):
            viewer.close()
        await until(lambda: where.hub.live.viewers == 0)
        await agent.send(session, [udp_packet(number) for number in range(5, 8)])
        await expect(grid).to_have_attribute("aria-rowcount", "9", timeout=15_000)
        await agent.send(session, [udp_packet(8)])
        await expect(grid).to_have_attribute("aria-rowcount", "10")
        infos = await page.evaluate(
            "() => Array.from({length: 9}, (_, at) => wirepool.live.store.at(at).info)"
        )
        assert [number for number in range(9) if str(40000 + number) in infos[number]] == list(range(9))
        # An emptied list stays empty; a reload shows what was there.
        await page.get_by_test_id("clear-view").click()
        await expect(grid).to_have_attribute("aria-rowcount", "1")
        await page.reload()
        await expect(grid).to_have_attribute("aria-rowcount", "10")
        await expect(page.get_by_test_id("archived")).to_be_hidden()
        await agent.send(session, [udp_packet(number) for number in range(600)])
        await until(lambda: where.hub.export.estimate([session]).packets == 609)
        await page.reload()
        await expect(page.get_by_test_id("archived")).to_have_text("209 older in the archive")
        await expect(grid).to_have_attribute("aria-rowcount", "401")
        assert complaints == []


CHART = """
() => {
  const canvas = document.querySelector("#rate-chart canvas");
  if (!canvas) return [0, 0];
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let ink = 0, red = 0;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 128) ink += 1;
    if (data[at + 3] > 128 && data[at] > data[at + 1] + 60 && data[at] > data[at + 2] + 60) red += 1;
  }
  return [ink, red];
}
"""


@pytest.mark.slow
async def test_the_chart_of_rates_draws_and_marks_drops(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, client, agent), browser() as (context, complaints):
        page = await context.new_page()
        await log_in(page, where)
        session = await watched(client, agent)
        await page.goto(f"{where.url}/live?session={session}")
        words = page.get_by_test_id("rates-words")
        await expect(words).to_contain_text("nothing dropped", timeout=10_000)
        ink, red = await page.evaluate(CHART)
        assert ink > 100
        assert red == 0
        books = agent.chains[session].books
        books.received += 5
        books.dropped_ring += 5
        await agent.send(session, [udp_packet(number) for number in range(7)])
        await agent.beat()
        await expect(words).to_contain_text("5 dropped", timeout=10_000)
        assert (await page.evaluate(CHART))[1] > 20
        await page.emulate_media(color_scheme="dark")
        await expect(page.locator("#rate-chart canvas")).to_have_count(1)
        await page.get_by_test_id("rates").locator("summary").click()
        await expect(page.get_by_test_id("rate-chart")).not_to_be_visible()
        await page.reload()
        await expect(page.get_by_test_id("count-packets")).to_be_visible()
        await expect(page.get_by_test_id("rate-chart")).not_to_be_visible()
        assert complaints == [], "uPlot keeps to the page's Content-Security-Policy"
