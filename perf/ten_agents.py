"""Ten agents that stream at once, and whether the pool keeps up: `python -m perf.ten_agents --minutes 10`.

A real NATS server; ledger, ingest, correlation and the embedded store as in the hub, in this process; the agents' side
in another one: signed and chained batches as agents send them (60 ms of packets each, the mix of `perf/traffic.py`,
each agent at another place of the same capture), published as each agent's user with eight on their way at a time.

- **lag**: from stored in the archive to confirmed by the pool, as the page shows it: the 95th percentile of the latest
  4,096 batches, looked at each second, and of these the worst. Goal: below 1 s
- **books**: sent = archived = pooled + left out + refused, and what the store counts, for each session at the end
- what passed the correlation by (pooled, in no conversation), and CPU seconds of the hub's side a million packets
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import secrets
import struct
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import nats.errors

from hub.bus import Bus, running
from hub.ledger.ledger import Ledger
from hub.ledger.session_books import session_books
from hub.pool.books import session_pool
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.pool import Pool
from hub.pool.query import Compare
from hub.registry import Registry
from perf import results
from perf.elastic import small_batches, traffic
from tests.hub import parts as hub_parts
from tests.support.nats_backbone import Backbone, until
from wire.batch import NO_HASH, Body, Books, Clock, Kind, Lane, encode_body, seal_batch
from wire.body import Columns
from wire.keys import SigningKey
from wire.names import batch_subject, inbox_prefix, message_id, new_session_id

GOAL_LAG_S = 1.0
LINGER_S = 0.06
IN_FLIGHT = 8
CAPTURE = 50_000
"""Packets of the capture that goes round."""
DRAIN_S = 60


@dataclass(frozen=True, slots=True)
class Sender:
    """What an agent has on its host."""

    name: str
    session: str
    seed: bytes
    credentials: Path
    ca: Path
    url: str


def enrol(backbone: Backbone, registry: Registry, count: int) -> list[Sender]:
    """Agents that the registry knows, each with a session."""
    found = []
    for number in range(count):
        keys, session = backbone.agent(f"web{number + 1}"), new_session_id()
        registry.agents.add(
            keys.name,
            user_public=keys.request.user_public,
            signing_public=keys.signing.public,
            label=keys.name,
            user_jwt=keys.enrolment.user_jwt,
            jwt_issued_ns=keys.jwt.issued_s * 10**9,
            jwt_expires_ns=keys.jwt.expires_s * 10**9,
            certificate=keys.enrolment.certificate,
        )
        registry.sessions.observe(session, keys.name, "", time.time_ns())
        path = backbone.scratch / f"{keys.name}.creds"
        path.touch(0o600)
        path.write_bytes(keys.credentials())
        found.append(
            Sender(keys.name, session, keys.signing.seed, path, backbone.state.ca_certificate, backbone.url)
        )
    return found


@dataclass(slots=True)
class Chain:
    """The next batch of one agent's bulk lane."""

    sender: Sender
    key: SigningKey
    boot: bytes
    sequence: int = 0
    previous: bytes = NO_HASH
    packets: int = 0

    def seal(self, columns: Columns) -> tuple[bytes, str]:
        """(message, its id): these packets, stamped as if they had come evenly over the linger until now."""
        count, now_ns = len(columns), time.time_ns()
        step_ns = int(LINGER_S * 1e9) // count
        first_ns = now_ns - step_ns * (count - 1)
        times = struct.pack(f"<{count}Q", *range(first_ns, now_ns + 1, step_ns))
        columns = Columns(times, columns.captured_bytes, columns.original_bytes, columns.flags, columns.data)
        originals = sum(memoryview(columns.original_bytes).cast("I"))
        self.packets += count
        header: dict[str, Any] = {
            "kind": Kind.PACKETS,
            "agent": self.sender.name,
            "session": self.sender.session,
            "lane": Lane.BULK,
            "boot": self.boot,
            "sequence": self.sequence,
            "previous": self.previous,
            "first_timestamp_ns": first_ns,
            "last_timestamp_ns": first_ns + step_ns * (count - 1),
            "packets": count,
            "captured_bytes": len(columns.data),
            "original_bytes": originals,
            "link_type": 1,
            "interface": "eth0",
            "filter_revision": 1,
            "snaplen": 262_144,
            "clock": Clock("chrony", "synchronized", 0, 1000, None),
            "books": Books(received=self.packets, captured=self.packets, spooled=self.packets),
        }
        message, digest = seal_batch(header, Body.of(encode_body(columns)), self.key)
        name = message_id(self.boot, self.sender.session, Lane.BULK, self.sequence)
        self.sequence, self.previous = self.sequence + 1, digest
        return message, name


async def stream(sender: Sender, batches: Sequence[Columns], first: int, seconds: float) -> int:
    """Send at an even pace; packets that the archive acknowledged."""
    lane = Chain(sender, SigningKey.from_seed(sender.seed), secrets.token_bytes(16))
    subject = batch_subject(sender.name, sender.session, Lane.BULK)
    bus = Bus(
        [sender.url],
        credentials=sender.credentials,
        ca_certificate=sender.ca,
        name=sender.name,
        inbox_prefix=inbox_prefix(sender.name),
    )
    free = asyncio.Semaphore(IN_FLIGHT)

    async def publish(message: bytes, name: str) -> None:
        try:
            while True:  # as an agent does, until it is acknowledged
                try:
                    jetstream = await bus.jetstream()
                    await jetstream.publish(subject, message, headers={"Nats-Msg-Id": name}, timeout=5)
                except (nats.errors.Error, TimeoutError):
                    continue
                return
        finally:
            free.release()

    async with running(bus), asyncio.TaskGroup() as tasks:
        began_s = time.monotonic()
        while (due_s := lane.sequence * LINGER_S) < seconds:
            await asyncio.sleep(max(0.0, began_s + due_s - time.monotonic()))
            await free.acquire()
            columns = batches[(first + lane.sequence) % len(batches)]
            tasks.create_task(publish(*lane.seal(columns)))
    return lane.packets


def send(senders: Sequence[Sender], rate: int, seconds: float) -> dict[str, int]:
    """The agents' process: session → packets sent and acknowledged."""
    batches = small_batches(traffic(CAPTURE), max(1, round(rate * LINGER_S)))

    async def all_of_them() -> list[int]:
        apart = len(batches) // len(senders)
        return await asyncio.gather(
            *(stream(one, batches, n * apart, seconds) for n, one in enumerate(senders))
        )

    return dict(zip((one.session for one in senders), asyncio.run(all_of_them()), strict=True))


async def watch(pool: Pool, lags: list[float], percentiles: list[float], began_s: float) -> None:
    """Look at the lag, as the page does, and say it."""
    while True:
        await asyncio.sleep(1.0)
        status = pool.ingest.status
        lags.append(status.lag_s)
        percentiles.append(status.lag_p95_s)
        if len(lags) % 10 == 0:
            print(
                f"{time.monotonic() - began_s:5.0f} s  lag {status.lag_s:.2f} s, p95 {status.lag_p95_s:.2f} s, "
                f"{status.pending} messages wait",
                flush=True,
            )


async def unbalanced(registry: Registry, pool: Pool, sent: dict[str, int]) -> list[str]:
    """What doesn't add up."""
    found = []
    for session, packets in sent.items():
        archived, fate = session_books(registry, session).archived_packets, session_pool(registry, session)
        kept = await pool.store.count(Compare("wirepool.session", "=", session), since_ns=0, until_ns=2**62)
        if not packets == archived == fate.pooled + fate.left_out + fate.refused or kept != fate.pooled:
            found.append(f"{session}: {packets} sent, {archived} archived, {fate}, {kept} in the store")
    return found


async def measure(agents: int, rate: int, seconds: float) -> dict[str, Any]:
    budget_bytes = (1 << 30) + int(agents * rate * seconds * 512)
    with tempfile.TemporaryDirectory(prefix="wirepool-perf-") as directory:
        async with hub_parts.parts(Path(directory), budget_bytes=budget_bytes) as here:
            senders = enrol(here.backbone, here.registry, agents)
            bus = here.bus()
            ledger = Ledger(here.registry, bus)
            pool = Pool(here.registry, bus, EmbeddedStore(Path(directory) / "pool"), bytes(16))
            lags: list[float] = []
            percentiles: list[float] = []
            async with hub_parts.running(bus.run(), ledger.run(), pool.run()):
                cpu_s, began_s = time.process_time(), time.monotonic()
                async with hub_parts.running(watch(pool, lags, percentiles, began_s)):
                    spawn = multiprocessing.get_context("spawn")
                    with ProcessPoolExecutor(1, mp_context=spawn) as other:
                        loop = asyncio.get_running_loop()
                        sent = await loop.run_in_executor(other, send, senders, rate, seconds)
                    behind_s = time.monotonic()
                    total = sum(sent.values())

                    def all_in() -> bool:
                        fates = [session_pool(here.registry, session) for session in sent]
                        return sum(fate.pooled + fate.left_out + fate.refused for fate in fates) >= total

                    await until(all_in, DRAIN_S)
                    behind_s = time.monotonic() - behind_s
                cpu_s = time.process_time() - cpu_s
                trouble = await unbalanced(here.registry, pool, sent)
            correlation = pool.correlation
            assert correlation is not None
            return {
                "packets": total,
                "lag_p95_worst_s": round(max(percentiles), 3),
                "lag_p95_median_s": round(median(percentiles), 3),
                "lag_most_s": round(max(lags), 3),
                "drained_s": round(behind_s, 2),
                "not_correlated": correlation.counts.passed_over,
                "hub_cpu_s_per_million": round(cpu_s / total * 1e6, 2),
                "unbalanced": trouble,
            }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="default %(default)s")
    parser.add_argument("--agents", type=int, default=10, help="default %(default)s")
    parser.add_argument(
        "--rate", type=int, default=1_000, help="packets a second of each agent; default %(default)s"
    )
    parser.add_argument("--shared", action="store_true", help="say in the record that the machine was shared")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.agents, arguments.rate, arguments.minutes * 60))
    shared = ", on a machine that others used meanwhile" if arguments.shared else ""
    print(f"\n{arguments.agents} agents, {arguments.rate} packets/s each, {arguments.minutes} min{shared}\n")
    print(
        results.table(
            ["", "found"],
            [[name, f"{value:,}"] for name, value in found.items() if not isinstance(value, list)],
        )
    )
    print(f"\ngoal: lag below {GOAL_LAG_S} s (p95): {found['lag_p95_worst_s']} s")
    for line in found["unbalanced"] or ["the books balance"]:
        print(line)
    options = {"agents": arguments.agents, "rate": arguments.rate, "minutes": arguments.minutes}
    path = results.append("ten_agents", {**options, "shared_machine": arguments.shared, **found})
    print(f"\nadded to {path}")
    return 1 if found["unbalanced"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
