"""What many viewers of one busy session cost, and how old their rows are: `python -m perf.viewers`.

Each viewer is a connection of its own that follows the page's event stream over TLS 1.3 and takes each event's time
as it arrives; what they got is read afterwards, so that they take little of the machine that the hub is measured on.
Row: from the kernel's stamp of a packet to the arrival of its row at a viewer, over all rows of all viewers. The
hub's CPU per viewer is the difference to a run with one viewer, by the number of the others. `--unread` viewers never
read: they must change nothing for the others.

That a browser then draws a row in one frame is perf/latency.py's figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

from perf import results
from perf.stand import INTERFACE, Bench, bench
from perf.traffic import write_capture
from tests.support.netns import wait_for
from tests.support.processes import cpu_seconds, resident_bytes

GOAL_ROW_MS = 100.0
PARTS = (0.50, 0.95, 0.99)
ROWS = b"event: rows\n"
UNREAD_BUFFER_BYTES = 4096


def _cookies(jar: Path) -> str:
    """The Cookie header of curl's jar (Netscape's format)."""
    lines = (line.removeprefix("#HttpOnly_").split("\t") for line in jar.read_text().splitlines())
    return "; ".join(f"{fields[5]}={fields[6]}" for fields in lines if len(fields) == 7)


class Viewers:
    """`count` viewers that read and `unread` that don't, in a thread of their own."""

    def __init__(self, here: Bench, session: str, count: int, unread: int) -> None:
        self._here = here
        self._request = (
            f"GET /events/live?session={session} HTTP/1.1\r\nhost: hub\r\naccept: text/event-stream\r\n"
            f"cookie: {_cookies(here.directory / 'cookies.txt')}\r\n\r\n"
        ).encode()
        self._count, self._unread = count, unread
        self._chunks: list[list[tuple[int, bytes]]] = [[] for _ in range(count)]
        self._connected = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Viewers:
        self._thread.start()
        wait_for(lambda: self._connected == self._count + self._unread, "all viewers", timeout_s=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._here.lab.hub.net.inside():
            asyncio.run(self._watch())

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(self._follow(chunks)) for chunks in self._chunks]
            idle = [await self._connect(UNREAD_BUFFER_BYTES) for _ in range(self._unread)]
            await asyncio.to_thread(self._stop.wait)
            for reader in readers:
                reader.cancel()
            for _, writer in idle:
                writer.transport.abort()

    async def _connect(self, buffer_bytes: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._here.stand.url.removeprefix("https://").rsplit(":", 1)
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        opened = socket.create_connection((host.strip("[]"), int(port)))
        if buffer_bytes:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        opened.setblocking(False)
        limit = buffer_bytes or 1 << 20
        reader, writer = await asyncio.open_connection(
            sock=opened, ssl=trust, server_hostname="hub", limit=limit
        )
        writer.write(self._request)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")
        self._connected += 1
        return reader, writer

    async def _follow(self, chunks: list[tuple[int, bytes]]) -> None:
        reader, writer = await self._connect()
        try:
            while data := await reader.read(1 << 20):
                chunks.append((time.time_ns(), data))
        finally:
            writer.transport.abort()

    def row_ages_ms(self, since_ns: int) -> list[list[float]]:
        """For each viewer the ages of its rows on arrival, of those that came after `since_ns`."""
        return [_ages_ms(chunks, since_ns) for chunks in self._chunks]


def _ages_ms(chunks: list[tuple[int, bytes]], since_ns: int) -> list[float]:
    """The time of an event is that of its last byte."""
    ages: list[float] = []
    text = b""
    for arrived_ns, data in chunks:
        text += data
        *events, text = text.split(b"\n\n")
        for event in events:
            if arrived_ns < since_ns or ROWS not in event:
                continue
            # What stands between two events is the length of a chunk (HTTP/1.1), and ends with the line before.
            update = json.loads(event.split(ROWS, 1)[1].removeprefix(b"data: "))
            ages += [(arrived_ns - int(row[3])) / 1e6 for row in update["rows"]]
    return ages


def measure(
    here: Bench, capture: Path, rate: int, count: int, unread: int
) -> tuple[list[list[float]], float, int]:
    """(ages in ms of the rows of each viewer, the hub's CPU seconds per second, its resident bytes)."""
    session = here.curl.start("capturer", INTERFACE, promiscuous=True)
    hub = here.stand.hub_pid()
    assert hub is not None
    with Viewers(here, session, count, unread) as viewers:
        time.sleep(1.0)  # the agents know by then that somebody watches
        before, begun_ns = cpu_seconds(hub), time.time_ns()
        here.replay(capture, rate)
        seconds = (time.time_ns() - begun_ns) / 1e9
        spent, resident = cpu_seconds(hub) - before, resident_bytes(hub)
    here.curl.order(session, "stop", "stopped")
    return viewers.row_ages_ms(begun_ns), spent / seconds, resident


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--viewers", type=int, default=10, help="that read (default %(default)s)")
    parser.add_argument("--unread", type=int, default=5, help="that never read (default %(default)s)")
    parser.add_argument("--rate", type=int, default=20_000, help="packets per second (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of sending (default %(default)s)")
    arguments = parser.parse_args()
    table: list[list[str]] = []
    figures: dict[str, object] = {"rate": arguments.rate, "seconds": arguments.seconds}
    spent: dict[str, float] = {}
    with bench() as here:
        capture = here.directory / "load.pcap"
        with open(capture, "wb") as output:
            write_capture(output, max(1, int(arguments.rate * arguments.seconds)))
        for count, unread in ((1, 0), (arguments.viewers, 0), (arguments.viewers, arguments.unread)):
            name = f"{count} viewers" + (f" and {unread} that never read" if unread else "")
            each, spent[name], resident = measure(here, capture, arguments.rate, count, unread)
            ages = sorted(age for one in each for age in one)
            parts = [results.percentile(ages, part) for part in PARTS]
            rows = sorted(len(one) for one in each)
            shown = [f"{ms:.1f}" for ms in parts]
            table.append(
                [name, *shown, f"{rows[0]:,}", f"{spent[name] * 100:.1f} %", f"{resident / 1e6:.0f} MB"]
            )
            key = f"{count}_viewers_{unread}_unread"
            figures[f"{key}_row_ms"] = [round(ms, 2) for ms in parts]
            figures[f"{key}_hub_cpu"] = round(spent[name], 4)
            figures[f"{key}_hub_resident_bytes"] = resident
    one, many, _ = spent.values()
    each_viewer = (many - one) / max(1, arguments.viewers - 1)
    figures["hub_cpu_per_viewer"] = round(each_viewer, 4)
    head = ["row's age at the viewer, ms", "p50", "p95", "p99", "rows of one", "hub's CPU", "its memory"]
    print(results.table(head, table))
    print(
        f"\nhub's CPU per viewer at {arguments.rate:,} packets a second: {each_viewer * 100:.2f} % of a core"
    )
    print(f"goal: row p95 < {GOAL_ROW_MS:.0f} ms")
    print(f"added to {results.append('viewers', figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
