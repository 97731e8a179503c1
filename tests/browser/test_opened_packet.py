"""Packets of real traffic, opened in the list: the tree names their layers, and the bytes are those of the export."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chromium, need_browser
from tests.support.captures import read_capture
from tests.support.lab import Lab
from tests.support.lan_traffic import NEEDED, ORDINARY_FILTER, LanServers, fetch, look_up, ping
from tests.support.need import need
from tests.support.page import Driver
from tests.support.stand import Stand

pytestmark = [pytest.mark.root, pytest.mark.browser, pytest.mark.slow]

OPENED = (
    ("DNS", "Domain Name System", "Transaction id"),
    ("HTTP", "Hypertext Transfer Protocol", "Start line"),
    ("TLS", "Transport Layer Security", "Content type"),
    ("ICMPv6", "Internet Control Message Protocol v6", "Type"),
)
"""(protocol column, uppermost layer, a field of it)"""


def shown_bytes(page: Page) -> bytes:
    return bytes.fromhex("".join(page.locator(".bytes .x").all_text_contents()))


def test_bytes_and_layers_of_real_packets(tmp_path: Path) -> None:
    need("root", *NEEDED)
    need_browser()
    with Lab(["web1", "db1"], tmp_path) as lab:
        stand = Stand(lab, tmp_path)
        stand.start("--no-agent")
        servers = LanServers(lab["web1"])
        client, server = lab["db1"], lab["web1"]
        stand.enrol(server)
        stand.start_agent(server)
        with chromium(lab.hub.net, tmp_path) as page:
            driver = Driver(page, stand)
            driver.log_in()
            expect(page.get_by_test_id("agent-web1")).to_have_attribute(
                "data-state", "online", timeout=20_000
            )
            sessions = driver.start_capture({"web1": "eth0"}, ORDINARY_FILTER)
            rows, tree = page.get_by_test_id("rows"), page.get_by_test_id("packet-tree")
            opened: list[bytes] = []
            send: dict[str, Callable[[], object]] = {
                "DNS": lambda: look_up(client, servers, "www"),
                "HTTP": lambda: fetch(client, server.address, "index.html"),
                "TLS": lambda: fetch(client, server.address6, "index.html", tls=True),
                "ICMPv6": lambda: ping(client, server.address6, count=1),
            }
            for protocol, layer, field in OPENED:
                page.keyboard.press("Escape")
                page.get_by_role("grid").focus()
                page.keyboard.press("End")  # only rows in sight are in the page: follow the newest
                send[protocol]()
                row = rows.get_by_role("row").filter(has=page.locator(".c-protocol", has_text=protocol)).first
                expect(row).to_be_attached(timeout=10_000)
                row.click()
                expect(tree.locator(".level-1 .n", has_text=layer).first).to_be_visible()
                line = tree.locator(".leaf:visible", has_text=field).first
                line.click()
                expect(line).to_have_attribute("aria-selected", "true")
                expect(page.locator(".bytes .x mark").first).to_be_visible()
                opened.append(shown_bytes(page))
            page.keyboard.press("Escape")
            driver.stop_capture(sessions.values())
            exported = {
                packet.data for packet in read_capture(driver.download(sessions["web1"], tmp_path)).packets
            }
            assert len(set(opened)) == len(OPENED)
            for data in opened:
                assert data in exported
