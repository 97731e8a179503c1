"""Agents and sessions as a person meets them: the first packet, a host that must not capture, a hub that dies."""

from __future__ import annotations

import itertools
import os
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import chromium, need_browser
from tests.support.captures import read_capture
from tests.support.lab import HUB_ADDRESS, Lab
from tests.support.lan_traffic import ping
from tests.support.need import need
from tests.support.netns import wait_for
from tests.support.page import Curl, Driver
from tests.support.stand import Stand

pytestmark = [pytest.mark.root, pytest.mark.browser, pytest.mark.slow]


HUB_IS_AWAY = ("htmx:sendError", "htmx:responseError", "Failed to load resource", "net::ERR_")


class Clicks:
    """Counts what a newcomer has to press."""

    def __init__(self) -> None:
        self.made = 0

    def on(self, what: Locator) -> None:
        self.made += 1
        what.click()


def sums(page: Page) -> dict[str, int]:
    """The picture of the books as it stands on the page, each step checked against the next."""
    found: list[tuple[str, int, int]] = []
    for step in page.locator(".flow-step").all():
        name = step.get_attribute("data-testid") or ""
        packets = int(step.get_attribute("data-packets") or -1)
        leaves = [int(one.get_attribute("data-leaves") or 0) for one in step.locator("[data-leaves]").all()]
        joins = [int(one.get_attribute("data-joins") or 0) for one in step.locator("[data-joins]").all()]
        found.append((name.removeprefix("flow-"), packets, sum(joins) - sum(leaves)))
    for (name, packets, change), (_, following, _) in itertools.pairwise(found):
        if packets >= 0:
            assert packets + change == following, name
    return {name: packets for name, packets, _ in found}


def test_from_the_first_page_to_the_first_packet_in_two_clicks(tmp_path: Path) -> None:
    need("root", "ping")
    need_browser()
    with Lab(["web1"], tmp_path) as lab:
        stand = Stand(lab, tmp_path)
        stand.start()
        flood = lab["web1"].start("ping", "-q", "-n", "-i", "0.1", HUB_ADDRESS, log="ping.log")
        with chromium(lab.hub.net, tmp_path) as page:
            Driver(page, stand).log_in()
            clicks = Clicks()
            offered = page.get_by_test_id("first-capture").get_by_role("button").first
            expect(offered).to_be_visible(timeout=20_000)
            clicks.on(offered)
            expect(page.get_by_test_id("rows").get_by_role("row").first).to_be_attached(timeout=20_000)
            assert clicks.made <= 2
            page.goto(stand.url + "/agents")
            expect(page.get_by_test_id("agents")).to_be_visible()
            expect(page.get_by_test_id("first-capture")).to_have_count(0)  # a newcomer no longer
        flood.terminate()


def test_an_agent_is_looked_at_tested_disabled_and_enabled(tmp_path: Path) -> None:
    need("root", "ping")
    need_browser()
    with Lab(["web1", "db1"], tmp_path) as lab:
        stand = Stand(lab, tmp_path)
        stand.start("--no-agent")
        host = lab["web1"]
        stand.enrol(host)
        stand.start_agent(host)
        with chromium(lab.hub.net, tmp_path) as page:
            driver = Driver(page, stand)
            driver.log_in()
            expect(page.get_by_test_id("agent-web1")).to_have_attribute(
                "data-state", "online", timeout=20_000
            )
            # By the address of its interface, as somebody who knows only that would.
            page.get_by_test_id("connect-link").click()
            page.get_by_test_id("connect-host").fill(host.address)
            page.get_by_test_id("connect-go").click()
            page.get_by_test_id("start-web1-eth0").click()
            control = page.get_by_test_id("controls")
            expect(control).to_have_attribute("data-state", "running", timeout=20_000)
            session = control.get_attribute("data-session") or ""
            ping(lab["db1"], host.address, count=23)

            page.goto(stand.url + "/agents")
            page.get_by_test_id("agent-web1-open").click()
            expect(page.get_by_test_id("interface-eth0")).to_contain_text(host.address)
            expect(page.get_by_test_id("interface-eth0")).to_contain_text("pps", timeout=10_000)
            curl = Curl(stand)
            curl.log_in()
            wait_for(
                lambda: curl.session(session)["archived_packets"] >= 46,
                "both ways of 23 pings in the archive",
            )
            expect(page.get_by_test_id("flow-archived")).not_to_have_attribute(
                "data-packets", "0", timeout=10_000
            )

            page.get_by_test_id("test-connection").click()
            expect(page.get_by_test_id("verdict-bad")).to_have_count(0)
            expect(page.get_by_test_id("step-archive")).to_be_visible(timeout=15_000)
            for step in ("server", "streams", "agent", "interfaces", "filter"):
                expect(page.get_by_test_id(f"step-{step}")).to_have_attribute("data-state", "ok")
            page.get_by_test_id("close-panel").click()

            page.get_by_test_id("disable-agent").click()
            page.get_by_test_id("disable-reason").fill("<b>patch day</b>")
            page.get_by_test_id("disable-yes").click()
            expect(page.get_by_test_id("disabled-note")).to_contain_text(
                "disabled by admin: <b>patch day</b>"
            )
            curl.wait_balanced(session)
            page.reload()
            at_rest = sums(page)
            assert at_rest["archived"] == at_rest["acknowledged"] >= 46
            expect(page.get_by_text("unexplained")).to_have_count(0)
            page.goto(stand.url + "/live?new=1")
            expect(page.get_by_test_id("pick-web1")).to_be_disabled()
            page.goto(stand.url + "/agents/web1")
            page.get_by_test_id("enable-agent").click()
            expect(page.get_by_test_id("disable-agent")).to_be_visible()
            page.get_by_test_id("capture-eth0").click()
            expect(page.get_by_test_id("interface-web1")).to_have_value("eth0")


def test_a_hub_that_is_killed_takes_nothing_from_pages_and_downloads(tmp_path: Path) -> None:
    need("root", "ping", "curl")
    need_browser()
    with Lab(["web1", "db1"], tmp_path) as lab:
        stand = Stand(lab, tmp_path)
        stand.start("--no-agent")
        host = lab["web1"]
        stand.enrol(host)
        stand.start_agent(host)
        curl = Curl(stand)
        curl.log_in()
        curl.wait_online("web1")
        finished = curl.start("web1", "eth0", "icmp", name="before the crash")
        ping_many = ("ping", "-q", "-n", "-f", "-s", "1400", "-c", "6000", host.address)
        lab["db1"].run(*ping_many, timeout_s=120)
        curl.order(finished, "stop", "stopped")
        curl.wait_balanced(finished)
        running = curl.start("web1", "eth0", "icmp", name="across the crash")
        with chromium(lab.hub.net, tmp_path, expected=HUB_IS_AWAY) as page:
            driver = Driver(page, stand)
            driver.log_in_again()
            pages = (
                "/sessions?q=crash&state=active",
                f"/sessions/{running}",
                f"/agents/web1?session={running}",
                "/agents?q=web1&state=online",
            )
            for path in pages:
                page.goto(stand.url + path)
            page.go_back()
            expect(page).to_have_url(re.compile("/agents/web1"))

            jar, part = tmp_path / "cookies.txt", tmp_path / "part.pcapng"
            address = f"{stand.url}/sessions/{finished}/export.pcapng"
            get = ("curl", "-ksS", "--noproxy", "*", "-b", str(jar), "-o", str(part))
            slow = lab.hub.start(*get, "--limit-rate", "2M", address, log="curl.log")
            wait_for(lambda: part.exists() and part.stat().st_size > 1_000_000, "the first MB of a download")
            first_pid = stand.hub_pid()
            assert first_pid is not None
            os.kill(first_pid, signal.SIGKILL)
            wait_for(lambda: stand.hub_pid() not in (None, first_pid), "another hub")
            wait_for(lambda: stand.answers("/healthz"), "the page", timeout_s=40)
            assert slow.wait(30) != 0  # cut, and curl says so
            ping(lab["db1"], host.address, count=7)

            whole = curl.download(finished, tmp_path / "whole.pcapng")
            lab.hub.run(*get, "-C", "-", "--fail", address)
            assert part.read_bytes() == whole.read_bytes()
            assert len(read_capture(part).packets) >= 12_000

            curl.wait_online("web1")
            for path in pages:
                page.goto(stand.url + path)  # nobody has to log in again
                expect(page.locator("main")).to_contain_text("web1")
                expect(page).to_have_url(stand.url + path)
                page.reload()
                expect(page).to_have_url(stand.url + path)
            second = page.context.new_page()
            second.goto(f"{stand.url}/sessions?q=crash&state=active")
            expect(second.get_by_test_id(f"session-{running}")).to_have_attribute("data-state", "running")
            expect(second.get_by_test_id(f"session-{finished}")).to_have_count(0)
            second.get_by_test_id(f"session-{running}").get_by_role("link").first.click()
            second.get_by_test_id("stop-capture").click()
            second.get_by_test_id("confirm-yes").click()
            curl.wait_state(running, "stopped")
            curl.wait_balanced(running)
            page.goto(f"{stand.url}/sessions/{running}")
            at_rest = sums(page)
            assert at_rest["archived"] == at_rest["acknowledged"] >= 14
            expect(page.get_by_text("unexplained")).to_have_count(0)


def test_a_download_shows_how_far_it_is(tmp_path: Path) -> None:
    need("root", "ping")
    need_browser()
    with Lab(["web1", "db1"], tmp_path) as lab:
        stand = Stand(lab, tmp_path)
        stand.start("--no-agent")
        stand.enrol(lab["web1"])
        stand.start_agent(lab["web1"])
        curl = Curl(stand)
        curl.log_in()
        curl.wait_online("web1")
        session = curl.start("web1", "eth0", "icmp")
        lab["db1"].run(
            "ping", "-q", "-n", "-f", "-s", "1400", "-c", "3000", lab["web1"].address, timeout_s=120
        )
        curl.order(session, "stop", "stopped")
        curl.wait_balanced(session)
        with chromium(lab.hub.net, tmp_path) as page:
            Driver(page, stand).log_in_again()
            page.goto(f"{stand.url}/sessions/{session}")
            with page.expect_download() as started:
                page.get_by_test_id("export-pcapng-page").click()
            path = tmp_path / "session.pcapng"
            started.value.save_as(path)
            expect(page.get_by_test_id("download")).to_have_attribute(
                "data-state", "finished", timeout=15_000
            )
            assert len(read_capture(path).packets) >= 6000
            page.get_by_test_id("session-name").fill("ping flood")
            page.get_by_test_id("session-name").press("Enter")
            expect(page.locator("#session-name").get_by_text("Kept")).to_be_visible()
            page.goto(stand.url + "/sessions?q=flood")
            expect(page.get_by_test_id(f"session-{session}")).to_contain_text("ping flood")
            page.goto(f"{stand.url}/sessions/{session}")
            page.get_by_test_id("delete-session").click()
            expect(page.locator("#confirm-text")).to_contain_text("which frees about")
            page.get_by_test_id("confirm-yes").click()
            expect(page.get_by_test_id("freed").first).to_contain_text("deleted by admin", timeout=15_000)
