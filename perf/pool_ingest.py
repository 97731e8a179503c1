"""What it costs the hub to keep packets so that they can be asked for: `python -m perf.pool_ingest`.

The same batches (512 KB as agents send them, 24 a put as the ingest takes them) into new files, in interleaved rounds:

- the embedded store: columns into DuckDB, durable at each put, log and tables and all
- the same columns as rows of SQLite with an index on time, durable at each put: what it would be without DuckDB
  (Community IDs and what recognises a batch left out, which the store above writes too)
- what comes before: the message opened, its signature checked, unpacked, decoded, payloads read

Then questions to what was written, five times each. CPU seconds are user and system of this process; bytes are those
of the files once everything is in their tables.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from hub.pool.embedded import questions
from hub.pool.embedded.columns import SPOKEN_TYPES, TYPES, gather, spoken
from hub.pool.embedded.compile import compile_packets
from hub.pool.embedded.packets import Packets
from hub.pool.observed import ObservedBatch
from hub.pool.query import Compare, Or
from perf import results
from perf.pool import batches_of
from perf.traffic import FIRST_TIMESTAMP_NS, write_capture
from wire.batch import NO_HASH, Body, Books, Clock, Kind, Lane, encode_body, open_batch, seal_batch, sums_of
from wire.keys import SigningKey

A_PUT = 24
HOUR_NS = 3_600 * 10**9
ROW_QUESTIONS = {
    "count of a port": "SELECT count(*) FROM packets WHERE source_port = 443 OR destination_port = 443",
    "the 100 newest of a port": "SELECT * FROM packets WHERE destination_port = 443 ORDER BY time_ns DESC LIMIT 100",
    "timeline of 100": "SELECT time_ns / 1000000000 AS second, count(*), sum(original_bytes) FROM packets GROUP BY 1",
}


def messages_of(path: Path, key: SigningKey, boot: bytes) -> list[bytes]:
    """A capture as the messages an agent would send."""
    found = []
    for number, columns in enumerate(batches_of(path)):
        sums = sums_of(columns)
        header = {
            "kind": Kind.PACKETS,
            "agent": "web1",
            "session": "a" * 26,
            "lane": Lane.BULK,
            "boot": boot,
            "sequence": number,
            "previous": NO_HASH,
            "link_type": 1,
            "interface": "eth0",
            "filter_revision": 1,
            "snaplen": 262144,
            "clock": Clock(),
            "books": Books(),
        } | {name: getattr(sums, name) for name in sums.__slots__}
        found.append(seal_batch(header, Body.of(encode_body(columns)), key)[0])
    return found


def puts_of(batches: Sequence[ObservedBatch]) -> list[list[ObservedBatch]]:
    return [list(batches[at : at + A_PUT]) for at in range(0, len(batches), A_PUT)]


def into_duckdb(path: Path, batches: Sequence[ObservedBatch]) -> Packets:
    packets = Packets(path)
    for put in puts_of(batches):
        packets.put(put)
    packets.connection.execute("CHECKPOINT")
    return packets


def into_sqlite(path: Path, batches: Sequence[ObservedBatch]) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"CREATE TABLE packets({', '.join(TYPES)})")
    db.execute("CREATE INDEX packets_time ON packets(time_ns)")
    db.execute(f"CREATE TABLE spoken({', '.join(SPOKEN_TYPES)})")
    for number, put in enumerate(puts_of(batches)):
        ids = range(number * A_PUT, number * A_PUT + len(put))
        db.execute("BEGIN")
        for table, arrays in (("packets", gather(put, ids, [1] * len(put))), ("spoken", spoken(put, ids))):
            lists = [
                a.view(np.int64).tolist() if a.dtype == np.uint64 else a.tolist() for a in arrays.values()
            ]
            marks = ", ".join("?" * len(arrays))
            rows = zip(*lists, strict=True)
            if arrays:
                db.executemany(f"INSERT INTO {table}({', '.join(arrays)}) VALUES({marks})", rows)
        db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return db


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    before = time.process_time()
    done = work()
    return time.process_time() - before, done


def milliseconds(work: Callable[[], Any]) -> float:
    taken = []
    for _ in range(5):
        before = time.perf_counter()
        work()
        taken.append((time.perf_counter() - before) * 1000)
    return median(taken)


def ask_duckdb(packets: Packets) -> dict[str, float]:
    cursor = packets.connection.cursor()
    port = compile_packets(Or((Compare("source.port", "=", 443), Compare("destination.port", "=", 443))))
    to_port = compile_packets(Compare("destination.port", "=", 443))
    window: dict[str, Any] = {"since_ns": FIRST_TIMESTAMP_NS, "until_ns": FIRST_TIMESTAMP_NS + HOUR_NS}
    names = list(ROW_QUESTIONS)
    return {
        names[0]: milliseconds(lambda: questions.count(cursor, port, **window)),
        names[1]: milliseconds(
            lambda: questions.packets(cursor, to_port, **window, limit=100, after=None, newest_first=True)
        ),
        names[2]: milliseconds(
            lambda: questions.histogram(cursor, compile_packets(None), **window, buckets=100)
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packets", type=int, default=300_007, metavar="N", help="default %(default)s")
    parser.add_argument(
        "--rounds", type=int, default=3, help="default %(default)s; the median of them counts"
    )
    parser.add_argument("--mix", default="imix", choices=("imix", "tls", "text"))
    parser.add_argument("--shared", action="store_true", help="say in the record that the machine was shared")
    arguments = parser.parse_args()
    key = SigningKey.generate()
    rates: dict[str, list[float]] = {"opened and decoded": [], "into DuckDB": [], "into SQLite": []}
    sizes: dict[str, float] = {}
    asked: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        with (here / "whole.pcap").open("wb") as output:
            write_capture(output, arguments.packets, mix=arguments.mix)
        messages = messages_of(here / "whole.pcap", key, bytes(16))
        for number in range(arguments.rounds):
            taken, batches = cpu(
                lambda: [ObservedBatch.of(open_batch(m, public=key.public), stored_ns=1) for m in messages]
            )
            rates["opened and decoded"].append(arguments.packets / taken)
            path = here / f"{number}.duckdb"
            taken, packets = cpu(partial(into_duckdb, path, batches))
            rates["into DuckDB"].append(arguments.packets / taken)
            asked["DuckDB"] = ask_duckdb(packets)
            packets.close()
            sizes["DuckDB"] = path.stat().st_size / arguments.packets
            path = here / f"{number}.sqlite"
            taken, rows = cpu(partial(into_sqlite, path, batches))
            rates["into SQLite"].append(arguments.packets / taken)
            asked["SQLite"] = {
                name: milliseconds(lambda sql=sql, rows=rows: rows.execute(sql).fetchall())  # type: ignore[misc]
                for name, sql in ROW_QUESTIONS.items()
            }
            rows.close()
            sizes["SQLite"] = path.stat().st_size / arguments.packets
    ours = median(rates["into DuckDB"])
    shared = ", on a machine that others used meanwhile" if arguments.shared else ""
    print(f"{arguments.packets:,} packets, mix {arguments.mix}, {arguments.rounds} rounds{shared}\n")
    table = [
        [name, f"{median(found):,.0f}", f"{min(found):,.0f}", f"{max(found):,.0f}"]
        for name, found in rates.items()
    ]
    print(results.table(["packets per CPU second", "median", "least", "most"], table))
    print()
    print(results.table(["bytes per packet", "on disk"], [[n, f"{size:.0f}"] for n, size in sizes.items()]))
    print()
    table = [[name, *(f"{asked[store][name]:.1f}" for store in asked)] for name in ROW_QUESTIONS]
    print(results.table(["milliseconds", *asked], table))
    ratio = ours / median(rates["into SQLite"])
    print(f"\n{ratio:.1f} × as many packets per CPU second as SQLite takes")
    path = results.append(
        "pool",
        {
            "stage": "ingest",
            "mix": arguments.mix,
            "packets": arguments.packets,
            "rounds": arguments.rounds,
            "shared_machine": arguments.shared,
            "packets_per_cpu_second": {name: round(median(found)) for name, found in rates.items()},
            "bytes_per_packet": {name: round(size, 1) for name, size in sizes.items()},
            "milliseconds": {s: {n: round(t, 1) for n, t in found.items()} for s, found in asked.items()},
            "ratio_to_sqlite": round(ratio, 1),
        },
    )
    print(f"\nadded to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
