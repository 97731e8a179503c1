"""The pages in a real browser: no CSP violation, no console error, nothing wider than a small screen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, ConsoleMessage, Page, async_playwright, expect

from tests.support.nats_backbone import until
from tests.support.need import need
from tests.web.fake_agent import udp_packet
from tests.web.site import Site
from tests.web.test_live import stage, watched

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def browser(width: int = 1440) -> AsyncIterator[tuple[BrowserContext, list[str]]]:
    """A Chromium and what its pages complained about."""
    need("chromium")
    complaints: list[str] = []
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        # The hub's own CA isn't in Chromium's store; that TLS is right is tested elsewhere.
        context = await chromium.new_context(
            ignore_https_errors=True, viewport={"width": width, "height": 900}
        )

        def note(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                complaints.append(message.text)

        def watch(page: Page) -> None:
            page.on("console", note)
            page.on("pageerror", lambda error: complaints.append(str(error)))

        context.on("page", watch)
        yield context, complaints
        await chromium.close()


async def log_in(page: Page, where: Site) -> None:
    await page.goto(f"{where.url}/agents")
    await page.get_by_label("User").fill("admin")
    await page.get_by_label("Password").fill(where.password)
    await page.get_by_test_id("login").click()
    await expect(page.get_by_test_id("agents")).to_be_visible()


@pytest.mark.slow
async def test_a_capture_from_the_login_to_its_end(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, _, agent), browser() as (context, complaints):
        page = await context.new_page()
        await log_in(page, where)
        await page.get_by_test_id("nav-agents").click()
        await page.get_by_test_id("agent-web1-capture").click()
        await expect(page.get_by_test_id("pick-web1")).to_be_checked()
        await expect(page.get_by_test_id("interface-web1")).to_have_value("eth0")
        await expect(page.get_by_test_id("why-web1")).to_have_text(
            "eth0: it carries the default route by way of 10.0.0.1"
        )
        await page.get_by_test_id("filter").press_sequentially("udp prt 9")
        await expect(page.get_by_test_id("filter-message")).to_contain_text("syntax error")
        await expect(page.get_by_test_id("filter")).to_have_attribute("aria-invalid", "true")
        await page.get_by_test_id("filter").fill("udp port 9")
        await page.get_by_test_id("filter").press("Enter")
        controls = page.get_by_test_id("controls")
        await expect(controls).to_have_attribute("data-state", "running", timeout=15_000)
        session = await controls.get_attribute("data-session") or ""

        rows = page.locator("#rows [role=row]")
        await agent.send(session, [udp_packet(number) for number in range(7)])
        await expect(rows).to_have_count(7)
        await page.get_by_test_id("freeze-view").click()
        await agent.send(session, [udp_packet(number) for number in range(5)])
        await expect(page.get_by_test_id("new-rows")).to_have_text("↓ 5 new")
        await expect(rows).to_have_count(7)
        await expect(controls).to_have_attribute("data-state", "running")
        await page.get_by_test_id("freeze-view").click()
        await expect(rows).to_have_count(12)

        await page.get_by_test_id("pause-capture").click()
        await expect(controls).to_have_attribute("data-state", "paused")
        await page.reload()
        await expect(controls).to_have_attribute("data-state", "paused")
        await expect(rows).to_have_count(12)  # a reload loses nothing
        await page.get_by_test_id("resume-capture").click()
        await expect(controls).to_have_attribute("data-state", "running")
        await page.get_by_test_id("change-filter").click()
        await page.get_by_test_id("change-filter-text").fill("udp port 10 and")
        await expect(page.get_by_test_id("change-filter-message")).to_contain_text("syntax error")
        await expect(page.get_by_test_id("change-filter-text")).to_be_focused()
        await page.get_by_test_id("change-filter-text").fill("udp port 10")
        await expect(page.get_by_test_id("change-filter-message")).to_contain_text("Valid")
        await page.get_by_test_id("apply-filter").click()
        await expect(page.get_by_test_id("session-filter")).to_have_text("udp port 10")
        await expect(page.get_by_test_id("filter-form")).to_be_hidden()

        # On the session's own page the state is fetched again and again, also while a question is open: the button that
        # was pressed is another one by the time it is answered.
        await page.goto(f"{where.url}/sessions/{session}")
        pressed = await page.get_by_test_id("stop-capture").element_handle()
        assert pressed is not None
        await page.get_by_test_id("stop-capture").click()
        await page.wait_for_function("(button) => !button.isConnected", arg=pressed)
        await page.get_by_test_id("confirm-yes").click()
        await expect(controls).to_have_attribute("data-state", "stopped", timeout=15_000)
        await expect(page.get_by_test_id("delete-session")).to_be_enabled(timeout=15_000)
        assert complaints == []


@pytest.mark.slow
async def test_the_end_of_a_capture_on_the_live_page(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, _, agent), browser() as (context, complaints):
        page = await context.new_page()
        await log_in(page, where)
        await page.get_by_test_id("agent-web1-capture").click()
        await page.get_by_test_id("start-capture").click()
        controls = page.get_by_test_id("controls")
        await expect(controls).to_have_attribute("data-state", "running", timeout=15_000)
        session = await controls.get_attribute("data-session") or ""
        await agent.send(session, [udp_packet(number) for number in range(7)])
        await expect(page.get_by_test_id("count-packets")).to_have_text("7")

        await page.get_by_test_id("stop-capture").click()
        await page.get_by_test_id("confirm-no").click()
        await expect(controls).to_have_attribute("data-state", "running")
        await page.get_by_test_id("stop-capture").click()
        await page.get_by_test_id("confirm-yes").click()
        await expect(controls).to_have_attribute("data-state", "stopped", timeout=15_000)
        await expect(page.get_by_test_id("count-pps")).to_have_text("0")
        await expect(page.get_by_test_id("count-packets")).to_have_text("7")
        async with page.expect_download() as download:
            await page.get_by_test_id("export-pcapng").click()
        assert (await download.value).suggested_filename.endswith(".pcapng")
        assert complaints == []


@pytest.mark.slow
async def test_the_list_follows_until_the_reader_scrolls_up(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, client, agent), browser() as (context, complaints):
        page = await context.new_page()
        await log_in(page, where)
        session = await watched(client, agent)
        await page.goto(f"{where.url}/live?session={session}")
        rows = page.get_by_test_id("packet-list")
        for first in range(0, 60, 6):
            await agent.send(session, [udp_packet(first + number) for number in range(6)])
            await expect(rows).to_have_attribute("aria-rowcount", str(first + 6 + 1))
        at_end = (
            "(e => e.scrollHeight - e.scrollTop - e.clientHeight < 24)(document.getElementById('scroll'))"
        )
        assert await page.evaluate(at_end)
        await page.get_by_label("Packet list").focus()
        await page.keyboard.press("Home")
        await agent.send(session, [udp_packet(number) for number in range(5)])
        await expect(page.get_by_test_id("new-rows")).to_have_text("↓ 5 new")
        assert not await page.evaluate(at_end)
        await page.get_by_test_id("new-rows").click()
        await expect(page.get_by_test_id("new-rows")).to_be_hidden()
        assert await page.evaluate(at_end)
        assert complaints == []


@pytest.mark.slow
async def test_every_page_fits_a_small_screen(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, client, _), browser(400) as (context, complaints):
        page = await context.new_page()
        await log_in(page, where)
        answer = await client.post_json(
            "/api/sessions", {"agent": "web1", "interface": "eth0", "filter": "udp"}
        )
        session = answer.json()["session"]["id"]
        for path in (
            "/agents",
            "/live",
            f"/live?session={session}",
            "/agents/web1",
            "/agents?q=nobody",
            "/connect?host=web1",
            "/connect?host=203.0.113.9",
            "/sessions",
            f"/sessions/{session}",
            "/password",
        ):
            await page.goto(where.url + path)
            await expect(page.locator("main")).to_be_visible()
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert await page.evaluate(overflow) <= 0, path
        assert complaints == []


@pytest.mark.slow
async def test_the_page_says_when_the_hub_is_away_and_asks_for_a_login_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, _, _), browser() as (context, _):
        page = await context.new_page()
        await log_in(page, where)
        await page.goto(f"{where.url}/agents")
        await expect(page.get_by_test_id("agent-web1")).to_be_visible()
        with where.hub.registry.transaction() as db:
            db.execute("DELETE FROM web_sessions")
        await page.wait_for_url("**/login?next=%2Fagents", timeout=30_000)


@pytest.mark.slow
async def test_one_notice_stands_while_the_hub_is_away_and_goes_when_it_is_back(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, client, agent), browser() as (context, _):
        page = await context.new_page()
        await log_in(page, where)
        session = await watched(client, agent)
        await page.goto(f"{where.url}/sessions/{session}")  # asks every two seconds how the session is
        notice, toasts = page.locator("#connection"), page.get_by_test_id("toast")
        await expect(page.get_by_test_id("pause-capture")).to_be_visible()
        await expect(notice).to_be_hidden()
        failed = []
        page.on("requestfailed", lambda request: failed.append(request.url))
        await context.set_offline(True)
        await expect(notice).to_be_visible(timeout=10_000)
        await until(lambda: sum(f"/sessions/{session}/state" in url for url in failed) >= 2, 15)
        await expect(toasts).to_have_count(0)
        # What somebody does now isn't done, and that is said, once however often it is tried.
        for _ in range(2):
            await page.get_by_test_id("pause-capture").click()
        await expect(toasts).to_have_count(1)
        await expect(toasts).to_contain_text("the hub doesn't answer")
        await context.set_offline(False)
        await expect(notice).to_be_hidden(timeout=15_000)
