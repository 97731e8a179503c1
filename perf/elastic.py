"""What the pool in Elasticsearch sustains on this machine, `python -m perf.elastic`.

A real node of each version, started for it, beside everything else on the same processors:

- **visible**: 10,000 packets of 5 agents as they come (batches of 20), put as the ingest does, until a search finds all
  of them, refresh included: once on a node that has just started (cold), and again and again after the sustained part
  (warm); and warm with one put after the other, for comparison. How much of it the puts took stands beside it
  (confirmed): the rest is the refresh
- **sustained**: packets a second that are confirmed while puts follow each other without a pause, and the hub's CPU
  seconds for a million of them, decoding left out; above this rate the pool lags, and capture goes on

Goals: visible in 5 s cold and 2.5 s warm.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from hub.pool.elastic.connection import Access
from hub.pool.elastic.indices import Indices
from hub.pool.elastic.store import ElasticStore
from hub.pool.ingest import MAX_FETCH as ROUND
from hub.pool.ingest import ROUNDS
from hub.pool.observed import ObservedBatch
from perf import results
from perf.pool import batches_of
from perf.traffic import write_capture
from tests.hub.pool.made import Made
from tests.support.elasticsearch import SUMS, elasticsearch_node
from tests.support.nats_backbone import until
from wire.body import Columns

AGENTS, PACKETS, SMALL = 5, 10_000, 20
GOAL_COLD_S, GOAL_WARM_S = 5.0, 2.5
ALL = {"since_ns": 0, "until_ns": 2**63}


def traffic(packets: int) -> list[Columns]:
    """As agents send it, in batches of 512 KB."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "imix.pcap"
        with path.open("wb") as output:
            write_capture(output, packets)
        return batches_of(path)


def small_batches(whole: list[Columns], packets: int) -> list[Columns]:
    """The same in batches of so many packets."""
    found = []
    for columns in whole:
        sizes = memoryview(columns.captured_bytes).cast("I")
        at = 0
        for first in range(0, len(columns), packets):
            some = range(first, min(first + packets, len(columns)))
            end = at + sum(sizes[n] for n in some)
            cut = [
                bytes(part[width * some.start : width * some.stop])
                for part, width in zip(
                    (columns.timestamp_ns, columns.captured_bytes, columns.original_bytes, columns.flags),
                    (8, 4, 4, 2),
                    strict=True,
                )
            ]
            found.append(Columns(cut[0], cut[1], cut[2], cut[3], bytes(columns.data[at:end])))
            at = end
    return found


async def put_all(store: ElasticStore, batches: list[ObservedBatch], at_once: int) -> int:
    """In puts as the ingest's, so many at a time; packets stored."""
    free = asyncio.Semaphore(at_once)

    async def put(some: list[ObservedBatch]) -> int:
        async with free:
            return sum(one.stored for one in await store.put(some))

    puts = [put(batches[at : at + ROUND]) for at in range(0, len(batches), ROUND)]
    return sum(await asyncio.gather(*puts))


async def visible(
    store: ElasticStore, small: list[Columns], number: int, at_once: int = ROUNDS
) -> tuple[float, float]:
    """Seconds from the first put to when all are found, and to when the last was confirmed."""
    agents = [Made(agent=f"agent{agent}", boot=bytes([number]) * 16) for agent in range(AGENTS)]
    batches = [agents[place % AGENTS].columns(columns) for place, columns in enumerate(small)]
    wanted = await store.count(None, **ALL) + sum(map(len, batches))
    started = time.monotonic()
    await put_all(store, batches, at_once)
    confirmed = time.monotonic()

    async def found() -> bool:
        return await store.count(None, **ALL) >= wanted

    await until(found, 60)
    return time.monotonic() - started, confirmed - started


async def sustained(store: ElasticStore, whole: list[Columns], seconds: float) -> tuple[float, float]:
    """(packets a second, CPU seconds of the hub for a million)."""
    done, spent, took, number = 0, 0.0, 0.0, 0
    while took < seconds:
        made = Made(boot=bytes([255, number]) * 8)
        batches: list[ObservedBatch] = [made.columns(columns) for columns in whole]
        started, cpu = time.monotonic(), time.process_time()
        done += await put_all(store, batches, ROUNDS)
        took, spent = took + time.monotonic() - started, spent + time.process_time() - cpu
        number += 1
    return done / took, spent / done * 1e6


async def ready(store: ElasticStore) -> bool:
    return (await store.stats()).ready


async def measure(url: str, rounds: int, seconds: float) -> dict[str, float]:
    whole, small = traffic(100_003), small_batches(traffic(PACKETS), SMALL)
    store = ElasticStore(Access([url]), Indices("perf", replicas=0))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(store.run())
        await until(lambda: ready(store), 60)
        cold = await visible(store, small, 0)
        rate, cpu = await sustained(store, whole, seconds)
        warm = [await visible(store, small, 1 + n) for n in range(rounds)]
        one_by_one = [await visible(store, small, 101 + n, 1) for n in range(rounds)]
        running.cancel()
    return {
        "visible_cold_s": round(cold[0], 2),
        "visible_warm_s": round(median(all_s for all_s, _ in warm), 2),
        "visible_warm_most_s": round(max(warm)[0], 2),
        "confirmed_warm_s": round(median(confirmed_s for _, confirmed_s in warm), 2),
        "one_by_one_s": round(median(all_s for all_s, _ in one_by_one), 2),
        "packets_per_second": round(rate),
        "hub_cpu_s_per_million": round(cpu, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="warm ones; default %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=30, help="of the sustained part; default %(default)s"
    )
    parser.add_argument("--shared", action="store_true", help="say in the record that the machine was shared")
    arguments = parser.parse_args()
    found = {}
    for version in sorted(SUMS):
        with elasticsearch_node(version, heap="1g") as node:
            found[version] = asyncio.run(measure(node.url, arguments.rounds, arguments.seconds))
    names = list(next(iter(found.values())))
    shared = ", on a machine that others used meanwhile" if arguments.shared else ""
    print(
        f"{PACKETS:,} packets of {AGENTS} agents; then 512 KB batches for {arguments.seconds:.0f} s{shared}\n"
    )
    print(
        results.table(["Elasticsearch", *names], [[v, *(f"{found[v][n]:,}" for n in names)] for v in found])
    )
    print(f"\ngoals: visible in {GOAL_COLD_S} s cold, {GOAL_WARM_S} s warm")
    path = results.append(
        "elastic", {"rounds": arguments.rounds, "shared_machine": arguments.shared, "elasticsearch": found}
    )
    print(f"\nadded to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
