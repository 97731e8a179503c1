"""How old a packet is when the hub has it and when the browser shows it: `python -m perf.latency`.

Receipt: kernel's stamp → the message's arrival at a subscriber with the hub's own credentials, for every
packet. Row: kernel's stamp → the row is in the page (a MutationObserver's callback), in a real Chromium, for
every row that is shown; at high rates the hub shows a part and counts the rest. All on one machine and one
clock. The page is open in both cases, so the agent's linger is the one for a watched session.
"""

from __future__ import annotations

import argparse
import asyncio
import calendar
import sys
import threading
import time
from pathlib import Path

import nats
from nats.aio.msg import Msg

from hub.backbone import pki
from perf import results
from perf.stand import INTERFACE, Bench, bench
from perf.traffic import write_capture
from tests.support.browser import chromium
from tests.support.lab import HUB_ADDRESS
from tests.support.netns import wait_for
from tests.support.page import Driver
from wire.batch import Kind, decode_columns, open_batch
from wire.names import inbox_prefix

GOAL_RECEIPT_MS = 20.0
GOAL_ROW_MS = 100.0
PARTS = (0.50, 0.95, 0.99)

WATCH_ROWS = """
() => {
  window.seenRows = [];
  new MutationObserver((changes) => {
    const now = performance.timeOrigin + performance.now();
    for (const change of changes)
      for (const row of change.addedNodes)
        if (row.nodeName === "TR") window.seenRows.push([row.cells[0].title, now]);
  }).observe(document.getElementById("rows"), {childList: true});
}
"""


class Receipts:
    """A core subscription like the hub's live feed, in a thread; keeps each message with its arrival time."""

    def __init__(self, here: Bench, session: str) -> None:
        self._here = here
        self._subject = f"cap.capturer.{session}.>"
        self._messages: list[tuple[int, bytes]] = []
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Receipts:
        self._thread.start()
        if not self._ready.wait(20):
            raise RuntimeError("no subscription with the hub's credentials")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._here.lab.hub.net.inside():
            asyncio.run(self._subscribe())

    async def _subscribe(self) -> None:
        state = self._here.stand.state
        connection = await nats.connect(
            f"tls://{HUB_ADDRESS}:{state.settings().nats_port}",
            tls=pki.client_context(state.ca_certificate),
            tls_handshake_first=True,
            user_credentials=str(state.hub_credentials),
            inbox_prefix=inbox_prefix("hub"),
        )

        async def keep(message: Msg) -> None:
            self._messages.append((time.time_ns(), message.data))

        await connection.subscribe(self._subject, cb=keep, pending_bytes_limit=1 << 30)
        await connection.flush()
        self._ready.set()
        await asyncio.to_thread(self._stop.wait)
        await connection.close()

    def forget(self) -> None:
        """Begin anew."""
        self._messages = []

    def latencies_ms(self) -> list[float]:
        """Ascending, one per packet."""
        found: list[float] = []
        for arrived_ns, data in self._messages:
            batch = open_batch(data, public=None)
            if batch.header.kind is Kind.PACKETS:
                stamps = memoryview(bytes(decode_columns(batch).timestamp_ns)).cast("Q")
                found += [(arrived_ns - stamp) / 1e6 for stamp in stamps]
        return sorted(found)


def _row_latency_ms(title: str, shown_ms: float) -> float:
    """From a row's title, "YYYY-MM-DD HH:MM:SS.nnnnnnnnn UTC …", and the page's clock."""
    date, clock, *_ = title.split(" ")
    whole, _, fraction = clock.partition(".")
    seconds = time.strptime(f"{date} {whole} UTC", "%Y-%m-%d %H:%M:%S %Z")
    return shown_ms - calendar.timegm(seconds) * 1000.0 - int(fraction[:9]) / 1e6


def measure(
    here: Bench, driver: Driver, rate: int, seconds: float
) -> tuple[list[float], list[float], int, int]:
    """One rate: (receipt latencies, row latencies, packets sent, packets dropped), latencies in ms
    ascending."""
    capture = here.directory / f"rate-{rate}.pcap"
    with open(capture, "wb") as output:
        write_capture(output, max(1, int(rate * seconds)))
    session = here.curl.start("capturer", INTERFACE, promiscuous=True)
    page = driver.page
    page.goto(f"{here.stand.url}/live?session={session}")
    page.get_by_test_id("count-packets").wait_for()
    page.evaluate(WATCH_ROWS)
    with Receipts(here, session) as receipts:
        # The first packets find the watch notice still on its way: they warm the way up and are not counted.
        _warm_up(here, driver)
        receipts.forget()
        sent, _ = here.replay(capture, rate)
        wait_for(
            lambda: here.curl.session(session)["archived_packets"] >= sent,
            "all packets stored",
            timeout_s=120,
        )
        rows = page.evaluate("() => window.seenRows")
    books = here.curl.order(session, "stop", "stopped")["books"]
    capture.unlink()
    shown = sorted(_row_latency_ms(title, shown_ms) for title, shown_ms in rows)
    return receipts.latencies_ms(), shown, sent, books["dropped_ring"]


def _warm_up(here: Bench, driver: Driver) -> None:
    """Packets until the page shows one; then the page's list of seen rows begins anew."""
    small = here.directory / "warm.pcap"
    with open(small, "wb") as output:
        write_capture(output, 50)

    def shown() -> bool:
        here.replay(small, 500)
        return bool(driver.page.evaluate("() => window.seenRows.length") > 0)

    wait_for(shown, "a first row", timeout_s=30)
    driver.page.evaluate("() => { window.seenRows = []; }")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", default="100,5000,50000", help="packets per second (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of sending at each rate (default %(default)s)"
    )
    arguments = parser.parse_args()
    rates = [int(part) for part in arguments.rates.split(",")]
    table: list[list[str]] = []
    figures: dict[str, object] = {}
    with bench() as here, chromium(here.lab.hub.net, Path(here.directory)) as page:
        driver = Driver(page, here.stand)
        driver.log_in_again()
        for rate in rates:
            receipt, row, sent, dropped = measure(here, driver, rate, arguments.seconds)
            for what, values in (("receipt", receipt), ("row", row)):
                parts = [results.percentile(values, part) for part in PARTS]
                table.append(
                    [
                        f"{rate:,} pps, {what}",
                        *(f"{ms:.1f}" for ms in parts),
                        f"{len(values):,}",
                        f"{dropped:,}",
                    ]
                )
                figures[f"{what}_ms_at_{rate}_pps"] = [round(ms, 2) for ms in parts]
            figures[f"sent_at_{rate}_pps"], figures[f"dropped_at_{rate}_pps"] = sent, dropped
    print(
        results.table(
            ["milliseconds since the kernel's stamp", "p50", "p95", "p99", "measured", "dropped"], table
        )
    )
    print(f"\ngoals: receipt p95 < {GOAL_RECEIPT_MS:.0f} ms, row p95 < {GOAL_ROW_MS:.0f} ms")
    print(f"added to {results.append('latency', figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
