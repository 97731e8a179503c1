"""What correlation costs the hub: sightings per CPU second, `python -m perf.correlate`.

Everything that `hub.correlate` does with a batch's sightings: joins over address translation, witnesses, losses,
delays, pairs for the clocks, and the clocks themselves. Sightings are made beforehand: a path of routers, an agent at
each, TCP connections and datagrams in both directions, one in a hundred lost on the way.

- by agents: 2, 5, 10, 20 on one path, as many sightings each time: the rate must stay
- by sightings: a tenth, and all: the rate must stay
- in batches: through the correlator, in batches of 500 with an update after every twenty, as the hub does it, all
  sightings staying in hand: an update must cost at the end what it cost at the beginning. Once with connections of two
  seconds, once with such as last all the time, so that each update is of all of them.
- the clocks, out of all that the last one left in hand

CPU seconds are the process's own, user and system.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median

import numpy as np

from hub.correlate.clock_estimate import estimate_offsets
from hub.correlate.conversations import evaluate
from hub.correlate.correlator import Correlator
from hub.correlate.flows import FLOW, Flows
from hub.correlate.sightings import SIGHTING, Rows, in_order, mix
from hub.correlate.translation import find_joins
from hub.observe.observations import Layers
from perf import results

GOAL = 100_000
AGENTS = (2, 5, 10, 20)
BATCH, UPDATE_EVERY = 500, 20
LOSS = 0.01
SPAN_NS = 60_000_000_000


def made(sightings: int, agents: int, *, lasting_ns: int = SPAN_NS, seed: int = 1) -> tuple[Rows, Flows]:
    """About so many sightings by agents along one path within a minute, and their flows."""
    pick = np.random.default_rng(seed)
    packets = sightings // agents
    connections = max(2, packets // 50)
    connection = pick.integers(0, connections, packets)
    begins = pick.integers(0, SPAN_NS - lasting_ns + 1, connections)
    time_ns = begins[connection] + pick.integers(0, lasting_ns, packets)
    back = pick.random(packets) < 0.5
    tcp = connection % 3 > 0
    size = np.where(pick.random(packets) < 0.6, 1_448, 0)
    order = np.lexsort((time_ns, back, connection))
    sequence = np.zeros(packets, np.int64)
    grown = np.cumsum(size[order])
    sequence[order] = grown - size[order]
    flow = mix(np.arange(connections, dtype=np.uint64)) | np.uint64(1)
    parts = []
    reach = np.where(pick.random(packets) < LOSS, pick.integers(1, agents + 1, packets), agents)
    for agent in range(agents):
        place = np.where(back, agents - 1 - agent, agent)
        there = np.flatnonzero(place < reach)
        rows = np.zeros(len(there), SIGHTING)
        rows["timestamp_ns"] = (
            time_ns[there] + place[there] * 1_000_000 + pick.integers(0, 100_000, len(there))
        )
        rows["timestamp_ns"] += agent * 37_000_000
        rows["flow_hash"] = flow[connection[there]]
        rows["hop_hash"] = mix(there.astype(np.uint64), np.full(len(there), 7, np.uint64)) | np.uint64(1)
        rows["nat_hash"] = mix(there.astype(np.uint64), np.full(len(there), 9, np.uint64)) | np.uint64(1)
        rows["batch"], rows["index"] = agent, np.arange(len(there))
        rows["sequence"] = sequence[there]
        rows["sequence_end"] = sequence[there] + size[there]
        rows["original_bytes"], rows["payload_bytes"] = size[there] + 54, size[there]
        rows["ip_payload_bytes"] = size[there]
        rows["ip_id"] = there % 65_535 + 1
        rows["layers"] = Layers.IP | Layers.FLOW | Layers.PORTS
        rows["layers"] |= np.where(tcp[there], Layers.TCP, Layers.UDP).astype(np.uint16)
        rows["tcp_flags"] = np.where(tcp[there], 16, 0)
        rows["protocol"] = np.where(tcp[there], 6, 17)
        rows["ip_version"], rows["vantage"], rows["direction"] = 4, agent, 1
        rows["ttl"] = 64 - place[there]
        rows["reversed"] = back[there]
        parts.append(rows)
    flows = np.zeros(connections, FLOW)
    flows["flow_hash"], flows["protocol"] = np.sort(flow), 6
    return np.concatenate(parts), flows


def at_once(rows: Rows, flows: Flows, agents: int) -> None:
    ordered = in_order(rows)
    found = evaluate(ordered, find_joins(ordered, flows), np.arange(agents))
    estimate_offsets(found.samples, agents)


def in_batches(rows: Rows, flows: Flows, agents: int) -> tuple[list[float], float, float]:
    """CPU seconds of each update, of the last one of all, and of the clocks."""
    correlator = Correlator(most_rows=len(rows) + 1)
    for agent in range(agents):
        correlator.vantage(f"agent{agent}", "eth0", agent)
    rows = rows[np.argsort(rows["timestamp_ns"], kind="stable")]
    updates = []
    for at in range(0, len(rows), BATCH * UPDATE_EVERY):
        before = time.process_time()
        for begin in range(at, min(at + BATCH * UPDATE_EVERY, len(rows)), BATCH):
            some = rows[begin : begin + BATCH]
            named = flows[np.searchsorted(flows["flow_hash"], np.unique(some["flow_hash"]))]
            correlator.add(some, named)
        correlator.update()
        updates.append(time.process_time() - before)
    before = time.process_time()
    correlator.update(final=True)
    finally_s = time.process_time() - before
    assert correlator.held_rows == len(rows)
    before = time.process_time()
    correlator.offsets()
    return updates, finally_s, time.process_time() - before


def growing(name: str, sightings: int, lasting_ns: int) -> tuple[dict[str, float], list[str]]:
    """How the cost of an update grows with what is in hand; and a row of the table."""
    rows, flows = made(sightings, 5, lasting_ns=lasting_ns)
    updates, finally_s, clocks_s = in_batches(rows, flows, 5)
    part = max(1, len(updates) // 5)
    first, last = (median(some) for some in (updates[1 : 1 + part], updates[-1 - part : -1]))
    rate = len(rows) / (sum(updates) + finally_s + clocks_s)
    figures = {
        "per_cpu_second": round(rate),
        "update_ms_at_first": round(first * 1e3, 1),
        "update_ms_with_all_in_hand": round(last * 1e3, 1),
        "ratio": round(last / first, 2),
        "everything_anew_s": round(finally_s, 2),
        "clocks_s": round(clocks_s, 3),
    }
    return figures, [
        name,
        f"{len(rows):,}",
        f"{rate:,.0f}",
        f"{first * 1e3:.0f}",
        f"{last * 1e3:.0f}",
        f"{last / first:.2f}",
        f"{finally_s:.1f}",
        f"{clocks_s:.2f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sightings", type=int, default=500_000, help="default %(default)s")
    parser.add_argument("--in-hand", type=int, default=1_000_000, help="default %(default)s")
    parser.add_argument(
        "--rounds", type=int, default=3, help="default %(default)s; the median of them counts"
    )
    parser.add_argument("--shared", action="store_true", help="say in the record that the machine was shared")
    arguments = parser.parse_args()
    whole = arguments.sightings
    cases = [(f"{agents} agents", whole, agents) for agents in AGENTS]
    cases += [("5 agents, a tenth", whole // 10, 5)]
    found: dict[str, list[float]] = {name: [] for name, *_ in cases}
    sizes: dict[str, int] = {}
    for _ in range(arguments.rounds):  # one round after the other, so that a busy moment is nobody's alone
        for name, sightings, agents in cases:
            seen, flows = made(sightings, agents)
            before = time.process_time()
            at_once(seen, flows, agents)
            found[name].append(len(seen) / (time.process_time() - before))
            sizes[name] = len(seen)
    rates = {name: median(some) for name, some in found.items()}
    rows = [
        [
            name,
            f"{sizes[name]:,}",
            f"{rates[name]:,.0f}",
            f"{1e6 / rates[name]:.2f}",
            f"{rates[name] / rates['2 agents']:.2f}",
        ]
        for name in rates
    ]
    print(results.table(["at once", "sightings", "per CPU second", "s per million", "to 2 agents"], rows))
    slowest = min(rates[f"{agents} agents"] for agents in AGENTS)
    by_packets = rates["5 agents"] / rates["5 agents, a tenth"]
    print(f"\ngoal: {GOAL:,} a CPU second: {slowest:,.0f}; all against a tenth: × {by_packets:.2f}\n")
    batches: dict[str, dict[str, float]] = {}
    rows = []
    for name, lasting_ns in (("of 2 s", 2_000_000_000), ("of a minute", SPAN_NS)):
        batches[name], row = growing(f"connections {name}", arguments.in_hand, lasting_ns)
        rows.append(row)
    head = [
        "in batches",
        "in hand",
        "per CPU second",
        "ms/update first",
        "last",
        "ratio",
        "all anew s",
        "clocks s",
    ]
    print(results.table(head, rows))
    path = results.append(
        "correlate",
        {
            "sightings": whole,
            "rounds": arguments.rounds,
            "shared_machine": arguments.shared,
            "sightings_per_cpu_second": {name: round(rate) for name, rate in rates.items()},
            "ratio_to_2_agents": {
                agents: round(rates[f"{agents} agents"] / rates["2 agents"], 2) for agents in AGENTS
            },
            "ratio_to_a_tenth": round(by_packets, 2),
            "sightings_an_update": BATCH * UPDATE_EVERY,
            "in_batches": batches,
        },
    )
    print(f"\nadded to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
