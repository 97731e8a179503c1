"""Make the frozen vectors of wire version 1, once: `python -m tests.wire.make_vectors`.

It makes those that aren't there yet and overwrites none. A vector is never edited and never made again: every later
version of the program decodes these bytes to the values in the JSON beside them. A new version of the format gets a
directory of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

from tests.wire import make
from tests.wire.describe import describe
from wire.batch import Body, Kind, Lane, seal_batch
from wire.books import Books
from wire.clock import Clock
from wire.control import Domain, seal, seal_certificate
from wire.evidence import WpzWriter
from wire.payload import PayloadPolicy
from wire.report import Heartbeat, InterfaceReport, LaneHead, Report, SessionBeat, SessionReport
from wire.session import Desired, Replay, SessionSpec

DIRECTORY = Path(__file__).parent / "vectors" / "v1"


def batches() -> dict[str, bytes]:
    """Batches of every kind and compression."""
    made = {
        f"batch-{compressor}.bin": make.packets_batch(12, compressor=compressor, lane=lane)[0]
        for compressor, lane in (("none", Lane.BULK), ("zstd", Lane.BULK), ("gzip", Lane.PRIO))
    }
    _, first_hash = make.packets_batch(3)
    dropped = make.chain(5, close=False)[1:4]
    made["batch-one-packet.bin"] = make.packets_batch(1, link_type=101, interface="tun0", snaplen=96)[0]
    made["batch-after-boot.bin"] = make.packets_batch(
        2, previous=bytes(range(32)), previous_boot=bytes(16), boot=bytes(range(16))
    )[0]
    made["tombstone.bin"] = make.tombstone(make.replaced_of(dropped), first_hash)[0]
    made["tombstone-itself.bin"] = seal_batch(
        make.fields(
            kind=Kind.TOMBSTONE,
            sequence=7,
            last_sequence=7,
            previous=first_hash,
            reason="drop_newest",
            packets=1234,
        ),
        Body.empty(),
        make.AGENT_KEY,
    )[0]
    made["batch-payload.bin"] = make.packets_batch(
        3, payload=PayloadPolicy("masked", 64, ((443, 443), (8000, 8100)))
    )[0]
    made["batch-flows.bin"] = make.flows_batch(
        6,
        books=Books(
            received=4,
            captured=4,
            spooled=4,
            acknowledged=4,
            filtered=9,
            sampled_out=0,
            cut_off=0,
            flows_counted=12,
            flows_unattributed=1,
            flows_own=2,
            flows_shipped=10,
        ),
    )[0]
    made["closing.bin"] = make.closing(9, first_hash)[0]
    made["stream.bin"] = b"\n".join(make.chain(4)) + b"\n"
    return made


def envelopes() -> dict[str, bytes]:
    """An envelope of every domain."""
    now = make.START_NS
    clock = Clock("ntp", "unsynchronized", 5, None, -7)
    spec = SessionSpec(
        id=make.SESSION, interface="eth0", filter="tcp port 443", max_packets=1000, requested_by="ann"
    )
    replay = SessionSpec(id="z" * 26, source="replay", replay=Replay("/tmp/a.pcap", 1000.0), state="paused")
    desired = Desired(
        revision=7, sessions=(spec, replay), user_jwt="ey.J.x", own_traffic=(("10.0.0.9", 4222),)
    )
    session = SessionReport(
        id=make.SESSION,
        state="running",
        filter_swap_ns=(now, now + 5),
        interface="eth0",
        boot=make.BOOT,
        started_ns=now,
        lanes={"bulk": LaneHead(3, bytes(range(32)))},
    )
    report = Report(
        agent="web1",
        version="0.1.0",
        wire_version=1,
        hostname="web1.example",
        os="Debian GNU/Linux 12",
        kernel="6.1.0",
        machine="x86_64",
        boot=make.BOOT,
        started_ns=now,
        report_revision=2,
        desired_revision=7,
        capture_path="af_packet+cbpf",
        capture_path_reason="no BTF",
        capabilities=("ring", "replay"),
        interfaces=(
            InterfaceReport(
                name="eth0", index=2, state="up", addresses=("10.0.0.1/24",), mac="02:00:00:00:00:01"
            ),
        ),
        clock=clock,
        sessions=(session,),
    )
    beat = Heartbeat(
        agent="web1",
        boot=make.BOOT,
        sequence=4,
        sent_ns=now,
        uptime_s=12.5,
        cpu_seconds=0.75,
        resident_bytes=40_000_000,
        spool_bytes=0,
        spool_limit_bytes=1 << 30,
        clock=clock,
        sessions={
            make.SESSION: SessionBeat(
                books=Books(received=10, captured=10),
                packets_per_second=2.5,
                bits_per_second=1e6,
                in_flight=1,
            )
        },
        report_revision=2,
    )
    bodies = {
        Domain.DESIRED: (desired.to_map(), make.HUB_KEY),
        Domain.REPORT: (report.to_map(), make.AGENT_KEY),
        Domain.HEARTBEAT: (beat.to_map(), make.AGENT_KEY),
        Domain.CONTROL: ({"verb": "ping"}, make.HUB_KEY),
        Domain.REPLY: ({"time_ns": now, "version": "0.1.0"}, make.AGENT_KEY),
        Domain.WATCH: ({"session": make.SESSION, "until_ns": now + 10**10}, make.HUB_KEY),
    }
    made = {
        f"envelope-{domain.name.lower()}.bin": seal(
            domain,
            agent="web1",
            body=body,
            key=key,
            issued_ns=now,
            expires_ns=now + 10**10,
            nonce=bytes(range(16)),
        )
        for domain, (body, key) in bodies.items()
    }
    made["envelope-certificate.bin"] = certificate()
    return made


def certificate() -> bytes:
    """The hub's word for the test agent's key."""
    return seal_certificate(
        "web1",
        make.AGENT_KEY.public,
        not_before_ns=make.START_NS,
        not_after_ns=make.START_NS + 10**17,
        issued_ns=make.START_NS,
        key=make.HUB_KEY,
    )


def evidence() -> bytes:
    """An evidence file with a declared drop and a duplicate."""
    messages = make.chain(6)
    drop = make.tombstone(make.replaced_of(messages[2:4]), make.replaced_of(messages[1:2])[0].header_hash)[0]
    out = io.BytesIO()
    writer = WpzWriter(out, hub_public=make.HUB_KEY.public, created_ns=make.START_NS, sessions=[make.SESSION])
    for message in [*messages[:2], drop, *messages[4:], messages[0]]:
        writer.add_message(message)
    writer.finish([("web1", certificate())])
    return out.getvalue()


def main() -> int:
    """Write each new vector, what it must decode to, and its place in the list of hashes."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    made = batches() | envelopes() | {"evidence.wpz": evidence()}
    new = {name: data for name, data in made.items() if not (DIRECTORY / name).exists()}
    if not new:
        print(f"{DIRECTORY} has them all: vectors are frozen", file=sys.stderr)
        return 1
    hashes = []
    for name, data in sorted(new.items()):
        (DIRECTORY / name).write_bytes(data)
        expected = json.dumps(describe(name, data), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (DIRECTORY / f"{name}.json").write_text(expected, encoding="utf-8")
        for path in (name, f"{name}.json"):
            hashes.append(f"{hashlib.sha256((DIRECTORY / path).read_bytes()).hexdigest()}  {path}\n")
    with (DIRECTORY / "SHA256SUMS").open("a") as list_of_hashes:
        list_of_hashes.writelines(hashes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
