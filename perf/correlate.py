"""What correlation costs the hub: sightings per CPU second, `python -m perf.correlate`.

Everything that `hub.correlate` does with a batch's sightings: joins over address translation, witnesses, losses,
delays, pairs for the clocks, and the clocks themselves. Sightings are made beforehand: a path of routers, an agent at
each, TCP connections and datagrams in both directions, one in a hundred lost on the way.

- by agents: 2, 5, 10, 20 on one path, as many sightings each time: the rate must stay
- by sightings: a tenth, and all: the rate must stay
- by batches: through the correlator, in batches of 500 with an update after every twenty, as the hub does it

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


def made(sightings: int, agents: int, *, seed: int = 1) -> tuple[Rows, Flows]:
    """About so many sightings by agents along one path, and their flows."""
    pick = np.random.default_rng(seed)
    packets = sightings // agents
    connections = max(2, packets // 50)
    connection = pick.integers(0, connections, packets)
    time_ns = np.sort(pick.integers(0, 60_000_000_000, packets))
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


def in_batches(rows: Rows, flows: Flows, agents: int) -> None:
    correlator = Correlator()
    for agent in range(agents):
        correlator.vantage(f"agent{agent}", "eth0", agent)
    rows = rows[np.argsort(rows["timestamp_ns"], kind="stable")]
    for number, at in enumerate(range(0, len(rows), BATCH)):
        correlator.add(rows[at : at + BATCH], flows)
        if number % UPDATE_EVERY == UPDATE_EVERY - 1:
            correlator.update()
    correlator.update(final=True)
    correlator.offsets()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sightings", type=int, default=500_000, help="default %(default)s")
    parser.add_argument(
        "--rounds", type=int, default=3, help="default %(default)s; the median of them counts"
    )
    parser.add_argument("--shared", action="store_true", help="say in the record that the machine was shared")
    arguments = parser.parse_args()
    whole = arguments.sightings
    cases = [(f"{agents} agents", at_once, whole, agents) for agents in AGENTS]
    cases += [
        ("5 agents, a tenth", at_once, whole // 10, 5),
        ("5 agents, in batches", in_batches, whole // 5, 5),
    ]
    rates: dict[str, float] = {}
    rows = []
    for name, work, sightings, agents in cases:
        seen, flows = made(sightings, agents)
        found = []
        for _ in range(arguments.rounds):
            before = time.process_time()
            work(seen, flows, agents)
            found.append(len(seen) / (time.process_time() - before))
        rates[name] = median(found)
        rows.append(
            [name, f"{len(seen):,}", f"{median(found):,.0f}", f"{min(found):,.0f}", f"{max(found):,.0f}"]
        )
    print(results.table(["case", "sightings", "per CPU second", "least", "most"], rows))
    slowest = min(rates[f"{agents} agents"] for agents in AGENTS)
    by_agents = rates["20 agents"] / rates["2 agents"]
    by_packets = rates["5 agents"] / rates["5 agents, a tenth"]
    print(f"\ngoal: {GOAL:,} a CPU second: {slowest:,.0f}; 20 agents against 2: × {by_agents:.2f}", end="")
    print(f"; all against a tenth: × {by_packets:.2f}")
    path = results.append(
        "pool",
        {
            "stage": "correlate",
            "sightings": whole,
            "rounds": arguments.rounds,
            "shared_machine": arguments.shared,
            "sightings_per_cpu_second": {name: round(rate) for name, rate in rates.items()},
            "ratio_20_to_2_agents": round(by_agents, 2),
            "ratio_to_a_tenth": round(by_packets, 2),
        },
    )
    print(f"\nadded to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
