"""How much an open tab of the live page grows: `python -m perf.open_tab --minutes 30`.

A real Chromium looks at a session of `--rate` packets a second. Every `--every` seconds its garbage is collected
(DevTools protocol) and two sizes are taken: the JavaScript heap in use, and what the tab's process has for itself
(Private of /proc/PID/smaps_rollup), in which the bytes of kept rows and the page's drawing are, too. The list fills
up within its first minutes; from then on it must stand still. Shown are the growth from the first look to the last,
and the slope of the second half in MB per half hour.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import CDPSession, Page

from perf import results
from perf.stand import INTERFACE, Bench, bench
from perf.traffic import write_capture
from tests.support.browser import chromium
from tests.support.lab import stop_process
from tests.support.page import Driver

GOAL_BYTES = 50e6
GOAL_S = 1800.0


@dataclass(frozen=True, slots=True)
class Look:
    """The tab at one moment."""

    second: float
    heap_bytes: int
    private_bytes: int
    rows: int


def private_bytes(whole: CDPSession) -> int:
    """What the browser's renderers share with nobody: the one tab's, and an idle one that Chromium keeps ready."""
    found = whole.send("SystemInfo.getProcessInfo")["processInfo"]
    sizes = []
    for pid in (int(one["id"]) for one in found if one["type"] == "renderer"):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        sizes += [int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE)]
    return 1024 * sum(sizes)


def look(page: Page, session: CDPSession, whole: CDPSession, second: float) -> Look:
    """Collect garbage, then measure."""
    session.send("HeapProfiler.collectGarbage")
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    rows = page.evaluate("() => wirepool.live.store.length + wirepool.live.store.forgotten")
    return Look(second, int(metrics["JSHeapUsedSize"]), private_bytes(whole), rows)


def slope(looks: list[Look]) -> float:
    """Private bytes per second, least squares."""
    seconds = [one.second for one in looks]
    sizes = [float(one.private_bytes) for one in looks]
    middle, mean = sum(seconds) / len(seconds), sum(sizes) / len(sizes)
    spread = sum((second - middle) ** 2 for second in seconds)
    return sum((s - middle) * (b - mean) for s, b in zip(seconds, sizes, strict=True)) / spread


def watch(here: Bench, page: Page, minutes: float, rate: int, every_s: float) -> list[Look]:
    """Open the page, send, and look at it until the time is over."""
    capture = here.directory / "load.pcap"
    with open(capture, "wb") as output:
        write_capture(output, rate * 60)
    session = here.curl.start("capturer", INTERFACE, promiscuous=True)
    page.goto(f"{here.stand.url}/live?session={session}")
    page.get_by_test_id("count-packets").wait_for()
    tab = page.context.new_cdp_session(page)
    tab.send("Performance.enable")
    argv = ("tcpreplay", "-q", "-i", INTERFACE, "--preload-pcap", "--loop=0", f"--pps={rate}", str(capture))
    sending = here.sender.start(*argv, log="sending.log")
    browser = page.context.browser
    assert browser is not None
    whole = browser.new_browser_cdp_session()
    begun = time.monotonic()
    time.sleep(5)  # its first rows are drawn, what is compiled is compiled
    looks = [look(page, tab, whole, time.monotonic() - begun)]
    while looks[-1].second < minutes * 60:
        page.wait_for_timeout(every_s * 1000)
        looks.append(look(page, tab, whole, time.monotonic() - begun))
    stop_process(sending)
    page.goto("about:blank")
    here.curl.order(session, "stop", "stopped")
    return looks


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="(default %(default)s)")
    parser.add_argument("--rate", type=int, default=2000, help="packets per second (default %(default)s)")
    parser.add_argument(
        "--every", type=float, default=15.0, help="seconds between looks (default %(default)s)"
    )
    arguments = parser.parse_args()
    with bench() as here, chromium(here.lab.hub.net, here.directory) as page:
        Driver(page, here.stand).log_in_again()
        looks = watch(here, page, arguments.minutes, arguments.rate, arguments.every)
    grown = looks[-1].private_bytes - looks[0].private_bytes
    heap = looks[-1].heap_bytes - looks[0].heap_bytes
    later = slope(looks[len(looks) // 2 :]) * GOAL_S
    figures = {
        "minutes": arguments.minutes,
        "rate": arguments.rate,
        "rows": looks[-1].rows,
        "grown_bytes": grown,
        "heap_grown_bytes": heap,
        "later_bytes_per_half_hour": round(later),
        "private_mb": [round(one.private_bytes / 1e6, 1) for one in looks],
    }
    picked = looks[:: max(1, len(looks) // 12)]
    rows = [
        [
            f"{one.second:.0f}",
            f"{one.rows:,}",
            f"{one.heap_bytes / 1e6:.1f}",
            f"{one.private_bytes / 1e6:.1f}",
        ]
        for one in picked
    ]
    print(results.table(["second", "rows so far", "heap, MB", "private, MB"], rows))
    print(f"\ngrown in {arguments.minutes:g} minutes: {grown / 1e6:.1f} MB (heap {heap / 1e6:+.1f} MB)")
    print(f"slope of the second half: {later / 1e6:+.1f} MB per half hour")
    print(f"goal: < {GOAL_BYTES / 1e6:.0f} MB in {GOAL_S / 60:.0f} minutes")
    print(f"added to {results.append('open_tab', figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
