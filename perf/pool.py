"""What the pool costs the hub: packets per CPU second to observations, `python -m perf.pool`.

Readers of the same packets, in interleaved rounds so that whatever else the machine does hits all alike; the
ratios are the claim, the figures belong to the machine.

- the decoder: `hub.observe.decode` over columns, in batches of 512 KB as agents send them, with Community IDs and
  fingerprints; and once more with the payloads read that the columns pick (DNS, TLS hellos, HTTP/1)
- dpkt: each packet parsed and the same fields taken (addresses, ports, lengths, TTL, DSCP, id, fragment, TCP fields,
  payload), without Community ID, fingerprints or tunnels, which it would have to be given in Python
- bulk lines: the same packets, observed, as lines of a bulk request for Elasticsearch (`hub/pool/elastic/lines.py`)
- tshark -T ek: its documents thrown away; its start is measured with one packet and taken off

CPU seconds are user and system, of the process or the child.
"""

from __future__ import annotations

import argparse
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import dpkt

from hub.observe.application import read_applications
from hub.observe.decode import observe
from hub.pool.elastic.lines import prepare
from hub.pool.observed import ObservedBatch
from perf import results
from perf.traffic import write_capture
from tests.hub.pool.made import Made
from wire.body import Columns
from wire.capture_file import CaptureReader

GOAL_DPKT, GOAL_TSHARK, GOAL_LINES = 20, 100, 250_000
BATCH_BYTES = 512 * 1024
TSHARK_SHARE = 20
"""tshark reads one packet of so many: it needs as long for these as the decoder for all."""


def batches_of(path: Path) -> list[Columns]:
    """A capture's packets as batches of about BATCH_BYTES."""
    found: list[Columns] = []
    most = 4096
    with path.open("rb") as file:
        reader = CaptureReader(file.read)
        while True:
            room = [bytearray(width * most) for width in (8, 4, 4, 2)] + [bytearray(BATCH_BYTES)]
            filled = reader.read_into(*room, max_packets=most, snaplen=65_536)
            if filled is None:
                return found
            sizes = [width * filled.packets for width in (8, 4, 4, 2)] + [filled.data_bytes]
            found.append(Columns(*[bytes(column[:size]) for column, size in zip(room, sizes, strict=True)]))


def frames_of(batches: Sequence[Columns]) -> list[bytes]:
    frames = []
    for batch in batches:
        at = 0
        for (size,) in struct.iter_unpack("<I", batch.captured_bytes):
            frames.append(bytes(batch.data[at : at + size]))
            at += size
    return frames


def by_decoder(batches: Sequence[Columns]) -> None:
    for batch in batches:
        observe(batch, 1)


def by_decoder_with_names(batches: Sequence[Columns]) -> None:
    for batch in batches:
        read_applications(batch, observe(batch, 1))


def by_bulk_lines(observed: Sequence[ObservedBatch]) -> None:
    for batch in observed:
        prepare(batch, "wirepool-packets-2026.11.26").lines(0, len(batch))


def by_dpkt(frames: Sequence[bytes]) -> None:
    for frame in frames:
        ethernet = dpkt.ethernet.Ethernet(frame)
        ip = ethernet.data
        row: list[object] = [ethernet.type, ethernet.src, ethernet.dst]
        if isinstance(ip, dpkt.ip.IP):
            row += [ip.src, ip.dst, ip.p, ip.ttl, ip.tos >> 2, ip.tos & 3, ip.id, ip.offset, ip.mf, ip.len]
        elif isinstance(ip, dpkt.ip6.IP6):
            row += [ip.src, ip.dst, ip.p, ip.hlim, ip.fc >> 2, ip.fc & 3, ip.plen]
        above = getattr(ip, "data", None)
        if isinstance(above, dpkt.tcp.TCP):
            row += [above.sport, above.dport, above.seq, above.ack, above.flags, above.win, len(above.data)]
            row.append(above.seq + len(above.data))
        elif isinstance(above, dpkt.udp.UDP):
            row += [above.sport, above.dport, len(above.data)]


def by_tshark(path: Path) -> None:
    argv = ("tshark", "-n", "-r", str(path), "-T", "ek")
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def own_seconds(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def child_seconds(work: Callable[[], None]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packets", type=int, default=100_003, metavar="N", help="packets (default %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="default %(default)s; the median of them counts"
    )
    parser.add_argument("--mix", default="imix", choices=("imix", "tls", "text"))
    parser.add_argument("--shared", action="store_true", help="say in the record that the machine was shared")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        whole, some, single = (Path(directory) / name for name in ("whole.pcap", "some.pcap", "one.pcap"))
        share = max(1, arguments.packets // TSHARK_SHARE)
        for path, packets in ((whole, arguments.packets), (some, share), (single, 1)):
            with path.open("wb") as output:
                write_capture(output, packets, mix=arguments.mix)
        batches = batches_of(whole)
        frames = frames_of(batches)
        made = Made()
        observed = [made.columns(batch) for batch in batches]
        rates: dict[str, list[float]] = {
            "decoder": [],
            "decoder, payloads read": [],
            "bulk lines": [],
            "dpkt": [],
            "tshark -T ek": [],
        }
        for _ in range(arguments.rounds):
            rates["decoder"].append(len(frames) / own_seconds(lambda: by_decoder(batches)))
            rates["decoder, payloads read"].append(
                len(frames) / own_seconds(lambda: by_decoder_with_names(batches))
            )
            rates["bulk lines"].append(len(frames) / own_seconds(lambda: by_bulk_lines(observed)))
            rates["dpkt"].append(len(frames) / own_seconds(lambda: by_dpkt(frames)))
            start = child_seconds(lambda: by_tshark(single))
            rates["tshark -T ek"].append(share / max(1e-3, child_seconds(lambda: by_tshark(some)) - start))
    average = sum(map(len, frames)) / len(frames)
    ours = median(rates["decoder"])
    rows = [
        [
            name,
            f"{median(found):,.0f}",
            f"{min(found):,.0f}",
            f"{max(found):,.0f}",
            f"{ours / median(found):.1f}",
        ]
        for name, found in rates.items()
    ]
    shared = ", on a machine that others used meanwhile" if arguments.shared else ""
    print(
        f"{len(frames):,} packets of {average:.0f} B, mix {arguments.mix}, {arguments.rounds} rounds{shared}\n"
    )
    print(results.table(["packets per CPU second", "median", "least", "most", "decoder is × as fast"], rows))
    to_dpkt, to_tshark = ours / median(rates["dpkt"]), ours / median(rates["tshark -T ek"])
    print(f"\ngoals: {GOAL_DPKT} × dpkt: {to_dpkt:.1f}; {GOAL_TSHARK} × tshark -T ek: {to_tshark:.1f}")
    print(f"goal: {GOAL_LINES:,} bulk lines a CPU second: {median(rates['bulk lines']):,.0f}")
    path = results.append(
        "pool",
        {
            "stage": "decode",
            "mix": arguments.mix,
            "packets": len(frames),
            "rounds": arguments.rounds,
            "shared_machine": arguments.shared,
            "packets_per_cpu_second": {name: round(median(found)) for name, found in rates.items()},
            "ratio_to_dpkt": round(to_dpkt, 1),
            "ratio_to_tshark_ek": round(to_tshark, 1),
        },
    )
    print(f"\nadded to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
