"""An opened packet: what the hub answers, and how the page is used by keyboard and pointer in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from hub.dissect.tshark import Tshark
from tests.support.need import need
from tests.web.fake_agent import FakeAgent, udp_packet
from tests.web.site import Browser, Site
from tests.web.test_chromium import browser, log_in
from tests.web.test_live import Events, stage, watched
from tests.web.test_pages import HOSTILE

FIRST_BYTES = "02 00 00 00 00 09 02 00"


def dns_packet(name: bytes) -> bytes:
    """A question for a name of one label."""
    packet = udp_packet(1, b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name + b"\0\0\1\0\1")
    return packet[:36] + b"\0\x35" + packet[38:]


async def test_the_hub_answers_with_tree_and_bytes(tmp_path: Path) -> None:
    async with stage(tmp_path) as (_, client, agent):
        session = await watched(client, agent)
        hostile = b"<img src=x onerror=alert(1)>\xe2\x80\xae"
        async with client.http.stream("GET", f"/events/live?session={session}") as response:
            events = Events(response)
            await events.until("counters")  # from now on every packet is seen
            await agent.send(session, [udp_packet(1), dns_packet(hostile), udp_packet(3, bytes(5000))])
            names: list[tuple[str, str]] = []
            while len(names) < 3:
                update = json.loads(await events.until("rows"))
                for source, sequence, index, _, heard, *_ in update["rows"]:
                    names.append((f"{update['sources'][source][2]}/{sequence}/{index}", heard))
        texts = []
        for observation, heard in names:
            answer = await client.http.get(
                "/live/packet", params={"observation": observation, "heard": heard}
            )
            assert answer.status_code == 200
            texts.append(answer.text)
        assert FIRST_BYTES in texts[0]
        assert 'data-offset="26" data-length="4"' in texts[0], "the IPv4 source's bytes"
        assert "10.0.0.7" in texts[0]
        assert "<img" not in texts[1]
        assert "&lt;img src=x onerror=alert(1)&gt;" in texts[1]
        assert "\u202e" not in texts[1]
        assert "more bytes were captured" in texts[2]
        assert texts[2].count("byte-row") == 256

        boot = agent.boot.hex()
        gone = await client.http.get(f"/live/packet?observation=web1/{boot}/{session}/bulk/0/77")
        assert (gone.status_code, "there is none of that number" in gone.text) == (200, True)
        for query, status in (
            ("observation=nonsense", 422),
            ("", 422),
            (f"observation=web1/{boot}/{'a' * 26}/bulk/0/0", 404),
            (f"observation=web2/{boot}/{session}/bulk/0/0", 404),
        ):
            answer = await client.http.get(f"/live/packet?{query}")
            assert answer.status_code == status, query
            assert HOSTILE not in answer.text


async def opened(page: Page, where: Site, client: Browser, agent: FakeAgent) -> str:
    """The live page with four packets in its list; the session."""
    await log_in(page, where)
    session = await watched(client, agent)
    await page.goto(f"{where.url}/live?session={session}")
    await agent.send(session, [udp_packet(0), dns_packet(b"example"), udp_packet(2), udp_packet(3)])
    await expect(page.locator("#rows [role=row]")).to_have_count(4)
    return session


@pytest.mark.slow
async def test_opening_by_keyboard_and_marks_both_ways(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, client, agent), browser() as (context, complaints):
        page = await context.new_page()
        await opened(page, where, client, agent)
        pane, tree = page.get_by_test_id("packet"), page.get_by_role("tree", name="Protocol layers")
        chosen, marked = page.locator("#rows [role=row][aria-selected=true]"), page.locator(".bytes .x mark")
        await expect(pane).to_be_hidden()
        await page.get_by_label("Packet list").focus()
        await page.keyboard.press("ArrowUp")
        await expect(chosen).to_contain_text("40003")
        await page.keyboard.press("ArrowUp")
        await page.keyboard.press("ArrowUp")
        await expect(chosen).to_contain_text("example")
        await expect(pane).to_be_hidden()
        await page.keyboard.press("Enter")
        await expect(tree.get_by_role("treeitem", selected=True)).to_contain_text("Ethernet II")
        await expect(tree.get_by_role("treeitem", selected=True)).to_be_focused()
        await expect(marked).to_have_text([f"{FIRST_BYTES}  00 00 00 07 08 00"])
        # Closed until it is asked for; a field marks its bytes in both columns.
        await expect(tree.get_by_role("treeitem", name="Total length")).to_be_hidden()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("ArrowRight")
        await expect(tree.get_by_role("treeitem", selected=True)).to_contain_text("Version 4")
        await expect(marked).to_have_text(["45"])
        await expect(page.locator(".bytes .t mark")).to_have_text(["E"])
        await page.keyboard.press("ArrowLeft")
        await page.keyboard.press("ArrowLeft")
        await expect(tree.get_by_role("treeitem", name="Total length")).to_be_hidden()

        # A byte marks its field, which is opened to be seen. The first key enters at the marked bytes (IPv4's: 14).
        await page.get_by_test_id("packet-bytes").focus()
        for _ in range(2):
            await page.keyboard.press("ArrowDown")
        await expect(page.locator("#byte-status")).to_contain_text("Byte 30: Destination 10.0.0.9")
        selected = tree.get_by_role("treeitem", selected=True)
        await expect(selected).to_be_visible()
        await expect(page.locator(".bytes mark.at").first).to_have_text("0a")
        row = page.locator(".byte-row").nth(1).locator(".x")
        box = await row.bounding_box()
        assert box is not None
        await page.mouse.click(box["x"] + box["width"] * 31.5 / 48, box["y"] + box["height"] / 2)
        await expect(page.locator("#byte-status")).to_contain_text("Byte 26: Source 10.0.0.7")
        await expect(selected).to_contain_text("Source 10.0.0.7")
        await expect(marked).to_have_text(["0a", "00 00 07"])

        # Escape closes and gives the focus back; the next packet shows what was left open.
        await page.keyboard.press("Escape")
        await expect(pane).to_be_hidden()
        await expect(page.get_by_test_id("packet-list")).to_be_focused()
        await expect(chosen).to_have_id("chosen-row")
        await page.keyboard.press("Enter")
        await expect(tree.get_by_role("treeitem", name="Total length")).to_be_visible()
        await page.get_by_test_id("close-packet").click()
        await expect(pane).to_be_hidden()
        assert complaints == []


@pytest.mark.slow
async def test_with_the_pane_open_arrows_go_from_packet_to_packet_and_the_list_holds_still(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as (where, client, agent), browser() as (context, complaints):
        page = await context.new_page()
        session = await opened(page, where, client, agent)
        rows, source = page.locator("#rows [role=row]"), page.get_by_role("treeitem", name="Source port")
        await rows.nth(2).click()
        await expect(source).to_contain_text("40002")
        await page.keyboard.press("ArrowDown")
        await expect(source).to_contain_text("40003")
        await agent.send(session, [udp_packet(number) for number in range(100, 105)])
        await expect(rows).to_have_count(9)
        await expect(page.get_by_test_id("new-rows")).to_have_text("↓ 5 new")
        await expect(rows.nth(3)).to_have_attribute("aria-selected", "true")
        await expect(page.get_by_test_id("packet-list")).to_be_focused()
        for _ in range(5):
            await page.keyboard.press("ArrowDown")
        await expect(source).to_contain_text("40104")
        # The address names the packet: a reload shows it again.
        await page.reload()
        await expect(source).to_contain_text("40104")
        await page.keyboard.press("Escape")
        assert "packet=" not in page.url
        assert complaints == []


@pytest.mark.slow
async def test_tsharks_tree_when_it_is_asked_for(tmp_path: Path) -> None:
    need("tshark")
    async with stage(tmp_path) as (where, client, agent), browser() as (context, complaints):
        page = await context.new_page()
        session = await opened(page, where, client, agent)
        tree, button = page.get_by_test_id("packet-tree"), page.get_by_test_id("by-tshark")
        await page.locator("#rows [role=row]").nth(1).click()
        await expect(tree.locator(".level-1 .n").first).to_have_text("Ethernet II")
        await button.click()
        await expect(tree.locator(".level-1 .n").first).to_have_text("Frame 1")
        await expect(button).to_have_attribute("aria-pressed", "true")
        line = tree.get_by_role("treeitem", name="Transaction ID")
        await line.click()
        await expect(page.locator(".bytes .x mark")).to_have_text(["12 34"])
        await button.click()
        await expect(tree.locator(".level-1 .n").first).to_have_text("Ethernet II")
        await expect(page.locator(".bytes mark")).to_have_count(0)
        name = f"web1/{agent.boot.hex()}/{session}/bulk/0/1"
        answer = await client.http.get("/api/packet", params={"observation": name, "by": "tshark"})
        assert answer.json()["packet"]["fields"][0]["name"] == "Frame 1"
        # Where it isn't installed there is no button, and the API says how to get it.
        where.hub.tshark = Tshark("/nonexistent/tshark")
        answer = await client.http.get("/api/packet", params={"observation": name, "by": "tshark"})
        assert answer.status_code == 503
        await button.click()
        await expect(page.get_by_test_id("no-tree")).to_contain_text("tshark ended with status 127")
        assert complaints == []


@pytest.mark.slow
async def test_a_packet_that_is_gone_says_so_and_a_small_screen_holds_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, client, agent), browser(400) as (context, complaints):
        page = await context.new_page()
        session = await opened(page, where, client, agent)
        await page.locator("#rows [role=row]").first.click()
        await expect(page.get_by_test_id("packet-tree")).to_be_visible()
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await page.evaluate(overflow) <= 0
        box = await page.get_by_test_id("packet").bounding_box()
        assert box is not None
        assert (box["x"], box["width"]) == (0, 400)
        name = f"web1/{agent.boot.hex()}/{session}/bulk/99/0"
        await page.goto(f"{where.url}/live?session={session}&packet={name}&heard=1")
        await expect(page.get_by_test_id("packet-gone")).to_contain_text("no longer holds this packet")
        await page.get_by_test_id("close-packet").click()
        await expect(page.get_by_test_id("packet")).to_be_hidden()
        assert complaints == []
