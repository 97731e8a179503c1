"""A real path of real kernels, whose truth is known because the stamps are shifted afterwards.

    client ── nat (masquerades) ── router (delays by a TUN forwarder, loses by nftables) ── server

All run on one clock, the kernel's; each host's captures are then given a clock of its own (offset, drift). tcpdump
captures each interface once in and once out, so that directions are known as the agent's ring knows them. Traffic:
HTTP over TCP, TLS, DNS, with the offloads that veth pairs have.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hub.correlate.clock_estimate import UNKNOWN, estimate_offsets
from hub.correlate.conversations import Conversations, evaluate
from hub.correlate.flows import FLOW, Flows, flows_of, united, with_fragments
from hub.correlate.sightings import Rows, Vantage, in_order, joined, sightings_of
from hub.correlate.translation import Joins, find_joins
from hub.observe.decode import observe
from tests.support import netns
from tests.support.need import need
from tests.support.netns import Namespace, wait_for
from wire.body import DIRECTION_IN, DIRECTION_OUT, Columns
from wire.capture_file import CaptureReader

pytestmark = [pytest.mark.slow, pytest.mark.root]

PLACES = [
    ("client", "c0", 0),
    ("nat", "lan", 1),
    ("nat", "wan", 1),
    ("router", "in", 2),
    ("router", "out", 2),
    ("server", "s0", 3),
]
VANTAGES = [Vantage(clock, agent, interface) for agent, interface, clock in PLACES]
CLOCKS = [(-3_000_000_000, 50e-6), (2_000_000_000, -50e-6), (731_000_000, 20e-6), (-1_234_567_890, -35e-6)]
IN, OUT = 3, 4
QUESTIONS = 60


@dataclass(frozen=True, slots=True)
class Lab:
    client: Namespace
    nat: Namespace
    router: Namespace
    server: Namespace

    def host(self, name: str) -> Namespace:
        found: Namespace = getattr(self, name)
        return found


@contextlib.contextmanager
def laboratory(there_ns: int, back_ns: int) -> Iterator[Lab]:
    need("root", "ip", "nft", "tcpdump")
    with contextlib.ExitStack() as stack:
        lab = Lab(
            *[stack.enter_context(netns.namespace(name)) for name in ("client", "nat", "router", "server")]
        )
        for (left, one, a), (right, other, b) in (
            ((lab.client, "c0", "10.1.0.2"), (lab.nat, "lan", "10.1.0.1")),
            ((lab.nat, "wan", "10.2.0.1"), (lab.router, "in", "10.2.0.2")),
            ((lab.router, "out", "10.3.0.1"), (lab.server, "s0", "10.3.0.2")),
        ):
            netns._ip(
                "-n",
                left.name,
                "link",
                "add",
                one,
                "type",
                "veth",
                "peer",
                "name",
                other,
                "netns",
                right.name,
            )
            for host, interface, address in ((left, one, a), (right, other, b)):
                netns._ip("-n", host.name, "address", "add", f"{address}/24", "dev", interface)
                netns._ip("-n", host.name, "link", "set", interface, "up")
        for host in (lab.nat, lab.router):
            for key in (
                "net.ipv4.ip_forward=1",
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
            ):
                host.run("sysctl", "-qw", key)
        lab.client.run("ip", "route", "add", "default", "via", "10.1.0.1")
        lab.nat.run("ip", "route", "add", "default", "via", "10.2.0.2")
        lab.server.run("ip", "route", "add", "default", "via", "10.3.0.1")
        lab.nat.run(
            "nft",
            "add table ip t; add chain ip t p { type nat hook postrouting priority 100; }; "
            "add rule ip t p oifname wan masquerade",
        )
        forwarder = subprocess.Popen(
            lab.router.command(
                sys.executable,
                str(Path(__file__).parents[1] / "support/delaying_tun.py"),
                "delay",
                "10.3.0",
                str(there_ns),
                str(back_ns),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        stack.callback(_end, forwarder)
        assert forwarder.stdout is not None
        assert forwarder.stdout.readline() == b"ready\n"
        lab.router.run("ip", "link", "set", "delay", "up")
        lab.router.run("sysctl", "-qw", "net.ipv4.conf.delay.rp_filter=0")
        for interface in ("in", "out"):
            lab.router.run("ip", "rule", "add", "iif", interface, "table", "77")
        lab.router.run("ip", "route", "add", "default", "dev", "delay", "table", "77")
        # Loss of what is routed on behind the delay, counted by the kernel: the truth.
        lab.router.run(
            "nft",
            "add table ip l; add chain ip l f { type filter hook forward priority 0; }; "
            "add rule ip l f iifname delay oifname out numgen random mod 100 < 2 counter drop; "
            "add rule ip l f iifname delay oifname in numgen random mod 100 < 2 counter drop",
        )
        yield lab


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.communicate(timeout=10)


@contextlib.contextmanager
def captured(lab: Lab, directory: Path) -> Iterator[None]:
    """tcpdump at each place, in and out."""
    running = []
    for agent, interface, _ in PLACES:
        for way in ("in", "out"):
            running.append(
                subprocess.Popen(
                    lab.host(agent).command(
                        "tcpdump",
                        "-i",
                        interface,
                        "-Q",
                        way,
                        "-U",
                        "-B",
                        "8192",
                        "-s",
                        "0",
                        "--time-stamp-precision=nano",
                        "-w",
                        str(directory / f"{agent}-{interface}-{way}.pcap"),
                        "ip",
                    ),
                    stderr=subprocess.PIPE,
                )
            )
    try:
        for process in running:
            assert process.stderr is not None
            while b"listening on" not in (line := process.stderr.readline()):
                assert line, "tcpdump ended"
        yield
        _quiet(directory)
    finally:
        for process in running:
            process.terminate()
            process.communicate(timeout=20)


def _quiet(directory: Path) -> None:
    """Until the files stop growing."""
    sizes: list[int] = []

    def settled() -> bool:
        nonlocal sizes
        before, sizes = sizes, [path.stat().st_size for path in sorted(directory.glob("*.pcap"))]
        time.sleep(0.5)
        return before == sizes

    wait_for(settled, "captures stop growing", timeout_s=30)


def _serve(sock: socket.socket, tls: ssl.SSLContext | None, stop: threading.Event) -> None:
    sock.settimeout(0.2)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            plain, _ = sock.accept()
            plain.settimeout(30)
            with (
                contextlib.suppress(OSError),
                tls.wrap_socket(plain, server_side=True) if tls else plain as talk,
            ):
                talk.recv(4_096)
                talk.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(40_000))
            plain.close()


def _answer(sock: socket.socket, stop: threading.Event) -> None:
    sock.settimeout(0.2)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            question, who = sock.recvfrom(2_048)
            sock.sendto(question[:2] + b"\x81\x80" + question[4:] + b"\0" * 20, who)


def traffic(lab: Lab, directory: Path) -> None:
    key, certificate = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=server",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    client_context = ssl.create_default_context(cafile=str(certificate))
    client_context.check_hostname = False
    stop = threading.Event()
    with lab.server.inside():
        web, secure = (socket.create_server(("10.3.0.2", port)) for port in (80, 443))
        names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        names.bind(("10.3.0.2", 53))
    threads = [
        threading.Thread(target=_serve, args=(web, None, stop)),
        threading.Thread(target=_serve, args=(secure, context, stop)),
        threading.Thread(target=_answer, args=(names, stop)),
    ]
    for thread in threads:
        thread.start()
    try:
        begun = time.monotonic()
        for number in range(QUESTIONS):
            with lab.client.inside():
                asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with asking:
                asking.connect(("10.3.0.2", 53))
                asking.settimeout(0.3)
                name = f"host-{number}".encode()
                asking.send(
                    struct.pack(">HHHHHH", 1_000 + 37 * number, 0x100, 1, 0, 0, 0)
                    + bytes([len(name)])
                    + name
                    + b"\0\0\1\0\1"
                )
                with contextlib.suppress(TimeoutError):
                    asking.recv(512)
            if number % 5 < 2:
                with lab.client.inside():
                    plain = socket.create_connection(("10.3.0.2", (80, 443)[number % 5]), timeout=30)
                with client_context.wrap_socket(plain) if number % 5 else plain as talk:
                    talk.sendall(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
                    while talk.recv(65_536):
                        pass
                plain.close()
            time.sleep(max(0.0, begun + number * 0.2 - time.monotonic()))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for sock in (web, secure, names):
            sock.close()


def shifted(raw: NDArray[np.int64], clock: int, start_ns: int) -> NDArray[np.int64]:
    offset, drift = CLOCKS[clock]
    return np.asarray(raw + offset + ((raw - start_ns) * drift).astype(np.int64))


def read(directory: Path) -> tuple[Rows, Flows, int]:
    """All captures as sightings with shifted stamps; and when they begin, unshifted."""
    batches: list[tuple[int, int, Columns]] = []
    for vantage, (agent, interface, _) in enumerate(PLACES):
        for way, direction in (("in", DIRECTION_IN), ("out", DIRECTION_OUT)):
            with (directory / f"{agent}-{interface}-{way}.pcap").open("rb") as file:
                reader = CaptureReader(file.read)
                while True:
                    room = [bytearray(width * 4_096) for width in (8, 4, 4, 2)] + [bytearray(8 << 20)]
                    filled = reader.read_into(*room, max_packets=4_096, snaplen=262_144)
                    if filled is None:
                        break
                    sizes = [width * filled.packets for width in (8, 4, 4, 2)] + [filled.data_bytes]
                    columns = Columns(
                        *[bytes(column[:size]) for column, size in zip(room, sizes, strict=True)]
                    )
                    batches.append((vantage, direction, columns))
    stamps = [np.frombuffer(columns.timestamp_ns, np.uint64).astype(np.int64) for _, _, columns in batches]
    start = min(int(one.min()) for one in stamps)
    parts, tables = [], [np.zeros(0, FLOW)]
    for number, ((vantage, direction, columns), raw) in enumerate(zip(batches, stamps, strict=True)):
        seen = observe(columns, 1, key=b"0123456789abcdef")
        mine = shifted(raw, VANTAGES[vantage].clock, start).astype(np.uint64)
        original = np.frombuffer(columns.original_bytes, np.uint32)
        flags = np.full(len(raw), direction, np.uint16)
        parts.append(sightings_of(seen, mine, original, flags, vantage=vantage, batch=number + 1))
        tables.append(flows_of(seen))
    return joined(parts), united(*tables), start


def dropped(lab: Lab) -> tuple[int, int]:
    """Packets that nftables dropped, there and back."""
    lines = lab.router.run("nft", "list", "chain", "ip", "l", "f").stdout.splitlines()
    there, back = (int(line.split("packets ")[1].split()[0]) for line in lines if "counter packets" in line)
    return there, back


@pytest.mark.parametrize(
    ("there_ms", "back_ms"), [(5, 5), (6, 5), (25, 5)], ids=["even", "1 ms apart", "20 ms apart"]
)
def test_the_truth_of_a_real_path(tmp_path: Path, there_ms: int, back_ms: int) -> None:
    with laboratory(there_ms * 1_000_000, back_ms * 1_000_000) as lab:
        with captured(lab, tmp_path):
            traffic(lab, tmp_path)
        lost = dropped(lab)
    rows, flows, start = read(tmp_path)
    rows = in_order(with_fragments(in_order(rows)))
    joins = find_joins(rows, flows)
    found = evaluate(rows, joins, np.array([one.clock for one in VANTAGES], np.intp))
    _clocks_are_right(found, start, near=there_ms - back_ms <= 1)
    _translation_is_right(joins, flows, found)
    hops, places = found.hops, found.places
    counted: dict[tuple[str, ...], int] = {}
    for at in np.flatnonzero(hops.lost).tolist():
        ends = tuple(VANTAGES[int(places.vantage[one[at]])].interface for one in (hops.near, hops.far))
        counted[ends] = counted.get(ends, 0) + int(hops.lost[at])
    # What never came through at all has no further place that could have missed it: nothing is claimed of it.
    entered, left = (np.unique(places.stream[places.vantage == one]) for one in (IN, OUT))
    undecided = int(found.undecided.sum()) + len(np.setxor1d(entered, left))
    assert set(counted) <= {("in", "out"), ("out", "in")}, counted
    assert not found.unclear.any()
    for ends, truth in zip([("in", "out"), ("out", "in")], lost, strict=True):
        assert counted.get(ends, 0) <= truth
        assert truth - counted.get(ends, 0) <= undecided
    assert undecided <= 10
    assert sum(lost) > 10


def _clocks_are_right(found: Conversations, start_ns: int, *, near: bool) -> None:
    offsets = estimate_offsets(found.samples, len(CLOCKS))
    anchor, anchor_drift = CLOCKS[offsets.anchor]
    elapsed = (offsets.middle_ns - start_ns - anchor) / (1 + anchor_drift)
    total = held = 0
    for clock, (offset, drift) in enumerate(CLOCKS):
        truth = offset - anchor + elapsed * (drift - anchor_drift)
        low, high, estimate = offsets.low_ns[clock], offsets.high_ns[clock], offsets.estimate_ns[clock]
        told = estimate != UNKNOWN
        assert told.sum() >= 10
        total += len(truth)
        held += int(((low <= truth + 1) & (truth - 1 <= high)).sum())
        if near:
            assert np.abs(estimate[told] - truth[told]).max() < 1_000_000
    assert held >= 0.99 * total
    assert not offsets.steps


def _translation_is_right(joins: Joins, flows: Flows, found: Conversations) -> None:
    """Each flow of the client's network has its twin outside: the same server, the port that masquerading keeps."""
    table = {int(one["flow_hash"]): one for one in flows}
    for near, far in zip(joins.near.tolist(), joins.far.tolist(), strict=True):
        ports = [
            {
                (bytes(one["first_address"]), int(one["first_port"])),
                (bytes(one["second_address"]), int(one["second_port"])),
            }
            for one in (table[near], table[far])
        ]
        assert len(ports[0] & ports[1]) == 1, "the server's end is common"
        ours = [
            {port for address, port in ends if address[-4:-1] in (b"\x0a\x01\x00", b"\x0a\x02\x00")}
            for ends in ports
        ]
        assert ours[0] == ours[1], "masquerading kept the client's port"
    inside = [
        flow
        for flow in table
        if any(
            bytes(table[flow][end])[-4:] == b"\x0a\x01\x00\x02" for end in ("first_address", "second_address")
        )
    ]
    # A question that was lost, or whose answer was, has one packet on one side: too little to be sure of
    assert len(joins) >= 0.9 * len(inside)
    assert len(found) == len(table) - len(joins)
