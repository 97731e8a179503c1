"""Make pictures of the pages.

`python -m tests.browser.screenshots`                       docs/images/*.png, of real hosts with real traffic
`python -m tests.browser.screenshots --states FOLDER [WORD]` every page in every state (whose name contains WORD), both
                                                            themes, three widths

The first needs root, Chromium and what the laboratory needs; the second a NATS server and Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.state_pictures import take_all
from tests.support.browser import chromium
from tests.support.lab import Lab
from tests.support.lan_traffic import LanServers, all_kinds, fetch, look_up, ping
from tests.support.netns import wait_for
from tests.support.page import Curl, Driver
from tests.support.stand import ROOT, Stand

IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1360, 800


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots", description=__doc__)
    parser.add_argument("--states", type=Path, metavar="FOLDER", help="every state of every page into FOLDER")
    parser.add_argument("word", nargs="?", default="", help="only states whose name contains this")
    arguments = parser.parse_args()
    if arguments.states is None:
        return documentation()
    arguments.states.mkdir(parents=True, exist_ok=True)
    prefix = "wirepool-pictures-"
    with tempfile.TemporaryDirectory(prefix=prefix) as one, tempfile.TemporaryDirectory(prefix=prefix) as two:
        taken = asyncio.run(take_all(arguments.states, (Path(one), Path(two)), arguments.word))
    print(f"{taken} pictures in {arguments.states}")
    return 0 if taken else 1


def documentation() -> int:
    """The pictures of README.md and docs/."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="wirepool-pictures-") as name,
        Lab(["web1", "db1"], Path(name)) as lab,
    ):
        stand = Stand(lab, Path(name))
        stand.start("--no-agent")
        servers = LanServers(lab["web1"])
        client, server = lab["db1"], lab["web1"]
        for host in lab.hosts:
            stand.enrol(host)
            stand.start_agent(host)
        with chromium(lab.hub.net, Path(name), width=WIDTH, height=HEIGHT) as page:
            driver = Driver(page, stand)
            driver.log_in()
            curl = Curl(stand)
            curl.log_in()
            for host in lab.hosts:
                expect(page.get_by_test_id(f"agent-{host.name}")).to_have_attribute(
                    "data-state", "online", timeout=20_000
                )
            sessions = driver.start_capture(
                {host.name: "eth0" for host in lab.hosts}, "icmp or icmp6 or tcp or udp"
            )
            flood = client.start("ping", "-q", "-n", "-i", "0.2", server.address, log="pictures.log")
            all_kinds(client, servers)
            rows = page.get_by_test_id("rows")
            for _ in range(3):
                look_up(client, servers, "www")
                fetch(client, server.address, "index.html")
                fetch(client, server.address6, "index.html", tls=True)
                ping(client, server.address6, count=2)
            fetch(client, server.address, "index.html")
            expect(rows.get_by_role("gridcell").filter(has_text="HTTP").first).to_be_attached()
            wait_for(
                lambda: page.get_by_test_id("count-packets").get_attribute("data-value") not in (None, "0"),
                "counters",
            )
            page.screenshot(path=IMAGES / "live.png")
            flood.terminate()  # the list follows: what is to be clicked must stay in sight
            fetch(client, server.address, "index.html")
            rows.get_by_role("row").filter(has=page.locator(".c-protocol", has_text="HTTP")).first.click()
            page.get_by_role("treeitem", name="Start line").click()
            page.screenshot(path=IMAGES / "packet.png")
            page.keyboard.press("Escape")
            page.goto(stand.url + "/agents")
            expect(page.get_by_test_id("agent-web1")).to_have_attribute("data-state", "online")
            page.screenshot(path=IMAGES / "agents.png")
            for session in sessions.values():
                curl.order(session, "stop", "stopped")
                curl.wait_balanced(session)
            page.goto(f"{stand.url}/sessions/{sessions['web1']}")
            page.screenshot(path=IMAGES / "session.png", full_page=True)
            page.goto(stand.url + "/live?new=1")
            page.get_by_test_id("pick-web1").check()
            page.screenshot(path=IMAGES / "new-capture.png")
    for path in sorted(IMAGES.glob("*.png")):
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
