"""How old a packet is when the hub has it and when the browser shows it: `python -m perf.latency`.

Receipt: kernel's stamp → the message's arrival at a subscriber with the hub's own credentials, for every
packet. Row: kernel's stamp → the row is in the page (a MutationObserver's callback), in a real Chromium, for
every row that is shown; at high rates the hub shows a part and counts the rest. All on one machine and one
clock. The page is open in both cases, so the agent's linger is the one for a watched session.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nats
from nats.aio.msg import Msg
from playwright.sync_api import Page

from hub.backbone import pki
from perf import results
from perf.stand import INTERFACE, Bench, bench
from perf.traffic import write_capture
from tests.support.browser import chromium
from tests.support.lab import HUB_ADDRESS, stop_process
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
  const { list } = wirepool.live;
  const rows = document.getElementById("rows");
  let last = -1; // serial of the newest row that was drawn
  new MutationObserver(() => {
    const now = performance.timeOrigin + performance.now();
    for (const element of rows.children) {
      const row = list.rowOf(element);
      if (row && row.serial > last) window.seenRows.push([row.time, now]);
    }
    last = Math.max(last, list.rowOf(rows.lastElementChild)?.serial ?? -1);
  }).observe(rows, {childList: true, characterData: true, subtree: true});
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


def _row_latency_ms(time_ns: str, shown_ms: float) -> float:
    """From a row's capture time and the page's clock."""
    seconds, fraction_ns = divmod(int(time_ns), 10**9)
    return shown_ms - seconds * 1000.0 - fraction_ns / 1e6


def measure_receipt(here: Bench, capture: Path, rate: int) -> tuple[list[float], int]:
    """(latencies in ms ascending, packets dropped by the ring), while curl watches the session as a page
    would.

    Not with Chromium: its drawing would compete with the agent for this machine's processors, and in life it
    runs elsewhere.
    """
    session = here.curl.start("capturer", INTERFACE, promiscuous=True)
    log = f"watch-{session}.log"
    watcher = here.lab.hub.start(*here.curl.stream(f"/events/live?session={session}"), log=log)
    with Receipts(here, session) as receipts:
        # The first packets find the notice that somebody watches still on its way: they aren't counted.
        _send_until(here, lambda: "event: rows" in here.lab.hub.log(log))
        receipts.forget()
        _replay_and_store(here, session, capture, rate)
    stop_process(watcher)
    dropped: int = here.curl.order(session, "stop", "stopped")["books"]["dropped_ring"]
    return receipts.latencies_ms(), dropped


def measure_rows(here: Bench, page: Page, capture: Path, rate: int) -> tuple[list[float], int]:
    """(latencies in ms ascending, packets dropped by the ring), in Chromium on this same machine."""
    session = here.curl.start("capturer", INTERFACE, promiscuous=True)
    page.goto(f"{here.stand.url}/live?session={session}")
    page.get_by_test_id("count-packets").wait_for()
    page.evaluate(WATCH_ROWS)
    _send_until(here, lambda: bool(page.evaluate("() => window.seenRows.length")))
    page.evaluate("() => { window.seenRows = []; }")
    _replay_and_store(here, session, capture, rate)
    rows = page.evaluate("() => window.seenRows")
    page.goto("about:blank")
    dropped: int = here.curl.order(session, "stop", "stopped")["books"]["dropped_ring"]
    return sorted(_row_latency_ms(time_ns, shown_ms) for time_ns, shown_ms in rows), dropped


def _replay_and_store(here: Bench, session: str, capture: Path, rate: int) -> None:
    before = here.curl.session(session)["archived_packets"]
    sent, _ = here.replay(capture, rate)
    wait_for(
        lambda: here.curl.session(session)["archived_packets"] >= before + sent, "all stored", timeout_s=120
    )


def _send_until(here: Bench, seen: Callable[[], bool]) -> None:
    """A few packets again and again, until they are seen."""
    small = here.directory / "warm.pcap"
    with open(small, "wb") as output:
        write_capture(output, 50)

    def sent_and_seen() -> bool:
        here.replay(small, 500)
        return seen()

    wait_for(sent_and_seen, "a first packet", timeout_s=30)


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
    with bench() as here:
        captures = {}
        for rate in rates:
            captures[rate] = here.directory / f"rate-{rate}.pcap"
            with open(captures[rate], "wb") as output:
                write_capture(output, max(1, int(rate * arguments.seconds)))

        def note(what: str, rate: int, values: list[float], dropped: int) -> None:
            parts = [results.percentile(values, part) for part in PARTS]
            shown = [f"{ms:.1f}" for ms in parts]
            table.append([f"{what} at {rate:,} pps", *shown, f"{len(values):,}", f"{dropped:,}"])
            figures[f"{what}_ms_at_{rate}_pps"] = [round(ms, 2) for ms in parts]
            figures[f"{what}_dropped_at_{rate}_pps"] = dropped

        for rate in rates:
            note("receipt", rate, *measure_receipt(here, captures[rate], rate))
        with chromium(here.lab.hub.net, here.directory) as page:
            Driver(page, here.stand).log_in_again()
            for rate in rates:
                note("row", rate, *measure_rows(here, page, captures[rate], rate))
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
