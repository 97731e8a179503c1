"""How long a packet takes to open: `python -m perf.opened_packet`.

From the click on its row to the first moment after the frame that draws its tree and bytes, in a real Chromium:
out of the batches that the hub still holds, on a silent session and while packets come; then, by a hub that was killed
and has come back, out of the archive. Everything on one machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from playwright.sync_api import Page

from perf import results
from perf.stand import INTERFACE, Bench, bench
from perf.traffic import write_capture
from tests.support.browser import chromium
from tests.support.lab import stop_process
from tests.support.netns import wait_for
from tests.support.page import Driver

GOAL_MS = 100.0
PARTS = (0.50, 0.95, 1.0)

OPEN = """
(number) => new Promise((done) => {
  const box = document.getElementById("scroll").getBoundingClientRect();
  const rows = [...document.querySelectorAll("#rows [role=row]")].filter((row) => {
    const at = row.getBoundingClientRect();
    return at.top > box.top + 30 && at.bottom <= box.bottom;
  });
  const row = rows[rows.length - 1 - number % rows.length];
  const begin = performance.now();
  document.addEventListener("wirepool:packet", () => requestAnimationFrame(() =>
    setTimeout(() => {
      const loaded = performance.getEntriesByType("resource").filter((one) => one.name.includes("/live/packet")).at(-1);
      performance.clearResourceTimings();
      done([performance.now() - begin, loaded?.duration ?? 0, document.querySelectorAll("[role=treeitem]").length]);
    }, 0)),
    { once: true });
  row.click();
})
"""


def measure(page: Page, opened: int) -> tuple[list[float], list[float]]:
    """(milliseconds in all, of those the hub's answer with its way), each ascending."""
    whole, answered = [], []
    for number in range(opened):
        took_ms, answer_ms, fields = page.evaluate(OPEN, number)
        if not fields:
            raise RuntimeError("the packet was not there")
        whole.append(took_ms)
        answered.append(answer_ms)
    return sorted(whole), sorted(answered)


def restart_hub(here: Bench) -> None:
    """Kill the hub; what starts it again is wirepool's own supervisor."""
    victim = here.stand.hub_pid()
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: here.stand.hub_pid() not in (None, victim), "another hub", timeout_s=30)
    wait_for(lambda: here.stand.answers("/healthz"), "its page", timeout_s=30)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--opened", type=int, default=100, help="packets of each kind (default %(default)s)")
    parser.add_argument("--rate", type=int, default=1000, help="packets per second (default %(default)s)")
    arguments = parser.parse_args()
    table: list[list[str]] = []
    figures: dict[str, object] = {}

    def note(what: str, measured: tuple[list[float], list[float]]) -> None:
        for part_of_it, times in zip(("", ", the answer"), measured, strict=True):
            shown = [results.percentile(times, part) for part in PARTS]
            table.append([what + part_of_it, *(f"{ms:.1f}" for ms in shown), str(len(times))])
            figures[f"{what}{part_of_it}_ms".replace(",", "").replace(" ", "_")] = [
                round(ms, 2) for ms in shown
            ]

    with bench() as here:
        small, large = here.directory / "small.pcap", here.directory / "large.pcap"
        for path, packets in ((small, 200), (large, arguments.rate * 120)):
            with open(path, "wb") as output:
                write_capture(output, packets)
        with chromium(here.lab.hub.net, here.directory) as page:
            Driver(page, here.stand).log_in_again()
            session = here.curl.start("capturer", INTERFACE, promiscuous=True)
            page.goto(f"{here.stand.url}/live?session={session}")
            page.get_by_test_id("count-packets").wait_for()
            rows = page.locator("#rows [role=row]")

            def sent_and_shown() -> bool:
                here.replay(small, 500)
                return rows.count() > 30

            wait_for(sent_and_shown, "rows", timeout_s=30)
            measure(page, 5)  # the templates' and the browser's first time
            note("recent, silent", measure(page, arguments.opened))
            argv = (
                "tcpreplay",
                "-q",
                "-i",
                INTERFACE,
                "--preload-pcap",
                f"--pps={arguments.rate}",
                str(large),
            )
            sending = here.sender.start(*argv, log="sending.log")
            note(f"recent, {arguments.rate} a second", measure(page, arguments.opened))
            stop_process(sending)
            # The page is away while the hub is, or its stream's errors would be complaints.
            page.goto("about:blank")
            here.curl.order(session, "pause", "paused")
            here.curl.wait_balanced(session)
            restart_hub(here)
            page.goto(f"{here.stand.url}/live?session={session}")
            rows.first.wait_for()
            note("archived", measure(page, arguments.opened))
            page.goto("about:blank")
            here.curl.order(session, "stop", "stopped")
    print(results.table(["milliseconds from click to drawn", "p50", "p95", "worst", "measured"], table))
    print(f"\ngoal: every one < {GOAL_MS:.0f} ms")
    print(f"added to {results.append('opened_packet', figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
