"""Real packets of two real agents, asked for on the page Explore: found, followed, taken away as one file."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chromium, need_browser
from tests.support.captures import read_capture
from tests.support.lab import Lab
from tests.support.lan_traffic import NEEDED, ORDINARY_FILTER, LanServers, fetch, look_up
from tests.support.need import need
from tests.support.page import Curl, Driver
from tests.support.stand import Stand

pytestmark = [pytest.mark.root, pytest.mark.browser, pytest.mark.slow]


def ask(page: Page, stand: Stand, query: str) -> None:
    page.goto(f"{stand.url}/explore")
    page.get_by_test_id("query").fill(query)
    page.keyboard.press("Escape")
    page.get_by_test_id("ask").click()


def test_two_hosts_are_asked_together(tmp_path: Path) -> None:
    need("root", *NEEDED)
    need_browser()
    with Lab(["web1", "db1"], tmp_path) as lab:
        stand = Stand(lab, tmp_path)
        stand.start("--no-agent")
        servers = LanServers(lab["web1"])
        client, server = lab["db1"], lab["web1"]
        for host in lab.hosts:
            stand.enrol(host)
            stand.start_agent(host)
        with chromium(lab.hub.net, tmp_path) as page:
            driver = Driver(page, stand)
            driver.log_in()
            for host in lab.hosts:
                expect(page.get_by_test_id(f"agent-{host.name}")).to_have_attribute(
                    "data-state", "online", timeout=20_000
                )
            sessions = driver.start_capture({"web1": "eth0", "db1": "eth0"}, ORDINARY_FILTER)
            look_up(client, servers, "www")
            fetch(client, server.address, "index.html")
            driver.stop_capture(sessions.values())

            rows = page.get_by_test_id("rows").locator("tr")
            ask(page, stand, "url contains index.html")
            expect(rows).to_have_count(2, timeout=20_000)
            seen_by = {row.locator("td").nth(2).inner_text() for row in rows.all()}
            assert seen_by == {"web1", "db1"}, "both hosts saw the request"
            ask(page, stand, "dns and agent:web1 and dns.type:query")
            assert rows.count() >= 1
            assert {row.locator("td").nth(2).inner_text() for row in rows.all()} == {"web1"}

            ask(page, stand, "url contains index.html and agent:db1")
            rows.first.click()
            expect(page.get_by_test_id("packet-tree")).to_contain_text("Hypertext Transfer Protocol")
            page.get_by_test_id("follow").click()
            expect(rows.first).to_be_attached()
            assert {row.locator("td").nth(2).inner_text() for row in rows.all()} == {"web1", "db1"}
            with page.expect_download() as download:
                page.get_by_test_id("as-pcapng").click()
            path = tmp_path / "conversation.pcapng"
            download.value.save_as(path)
            capture = read_capture(path)
            assert capture.complaint is None
            assert len(capture.packets) == rows.count()
            assert {one.name for one in capture.interfaces} == {"web1/eth0", "db1/eth0"}
            times = [packet.timestamp_ns for packet in capture.packets]
            assert times == sorted(times)
            curl = Curl(stand)
            curl.log_in()
            exported = {
                packet.data
                for session in sessions.values()
                for packet in read_capture(curl.download(session, tmp_path / f"{session}.pcapng")).packets
            }
            assert {packet.data for packet in capture.packets} <= exported
