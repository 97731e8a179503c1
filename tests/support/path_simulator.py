"""A path with known truth: client – translating router – router – server, seen at six vantage points of five clocks.

    client.eth0 ─ nat.lan │ nat.wan ─(mirror)─ router.in │ router.out ─ server.eth0

Packets are sightings with hashes made from what a decoder would hash, so that hundreds of thousands are made fast; the
decoder itself is tested elsewhere, and the whole in tests/end_to_end. Everything follows from the seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hub.correlate.flows import FLOW, Flows
from hub.correlate.sightings import SIGHTING, Rows, Vantage, in_order
from hub.observe.observations import Layers

VANTAGES = [
    Vantage(0, "client", "eth0"),
    Vantage(1, "nat", "lan"),
    Vantage(1, "nat", "wan"),
    Vantage(2, "mirror", "span"),
    Vantage(3, "router", "in"),
    Vantage(3, "router", "out"),
    Vantage(4, "server", "eth0"),
]
CLIENT, LAN, WAN, MIRROR, IN, OUT, SERVER = range(7)
CLOCKS = 5
START_NS = 1_700_000_000_000_000_000
MSS = 1448


@dataclass(frozen=True, slots=True)
class Clock:
    """offset at START_NS, and what it gains."""

    offset_ns: int = 0
    drift: float = 0.0
    step_at_s: float | None = None
    step_ns: int = 0

    def offset_at(self, time_ns: float) -> float:
        """True offset."""
        stepped = self.step_at_s is not None and time_ns >= START_NS + self.step_at_s * 1e9
        return self.offset_ns + (time_ns - START_NS) * self.drift + (self.step_ns if stepped else 0)


@dataclass(frozen=True, slots=True)
class Path:
    """What the network does. Delays are of the links client–nat, nat–router, router–server."""

    clocks: tuple[Clock, ...] = (
        Clock(),
        Clock(-3_000_000_000, 50e-6),
        Clock(2_000_000_000, -50e-6),
        Clock(730_000_000, 20e-6),
        Clock(-1_234_567_890, -35e-6),
    )
    there_ns: tuple[int, int, int] = (200_000, 2_000_000, 500_000)
    back_ns: tuple[int, int, int] = (200_000, 2_000_000, 500_000)
    jitter_ns: int = 100_000
    loss: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mss_merge: int = 1
    """Segments that the sender's card splits and the receiver's merges."""
    fragments: bool = False
    """The router's way out carries only 600 bytes: larger datagrams are cut."""
    missing: frozenset[int] = frozenset()
    """Vantage points that don't capture."""
    capture_loss: dict[int, float] = field(default_factory=dict)
    """Share of packets that a vantage point doesn't catch though they pass."""


@dataclass(slots=True)
class Truth:
    """What really happened; arrays have an entry per row of the rows."""

    time_ns: NDArray[np.float64]
    packet: NDArray[np.int64]
    lost: dict[tuple[int, str, int], int]
    """(connection, "there" or "back", link) → packets on the wire that vanished there."""
    missed: dict[int, int]
    flows: list[tuple[int, int]]
    """Per connection its flow hash inside and outside of translation."""
    connection: NDArray[np.int64]
    """Per row."""
    there: NDArray[np.bool_]
    content: NDArray[np.int64]
    """Per row a number of what was sent: a segment that is sent again has the same, every other packet its own."""


class Simulator:
    """Makes traffic, then `rows()`."""

    def __init__(self, path: Path, seed: int = 1) -> None:
        self.path = path
        self.random = random.Random(seed)
        self._rows: list[tuple[object, ...]] = []
        self._times: list[float] = []
        self._packets: list[int] = []
        self._packet = 0
        self._sent: list[tuple[int, bool, int]] = []
        self._contents: dict[object, int] = {}
        self._flows: dict[int, tuple[int, str, str, int, int, int]] = {}
        self.truth_flows: list[tuple[int, int]] = []
        self.lost: dict[tuple[int, str, int], int] = {}
        self.missed: dict[int, int] = {}

    # What is sent

    def connection(self, protocol: int = 6, *, ipv6: bool = False) -> Connection:
        """A new one, from a client's port that is used once."""
        number = len(self.truth_flows)
        inside, outside = self.random.getrandbits(63) | 1, self.random.getrandbits(63) | 1
        self.truth_flows.append((inside, outside))
        port = 20_000 + number % 40_000
        turned = bool(self.random.getrandbits(1))
        self._flows[inside] = (protocol, "10.0.0.2", "198.51.100.9", port, 443, False)
        ends = ("192.0.2.1", "198.51.100.9", port + 1, 443)
        self._flows[outside] = (protocol, *ends, turned)
        return Connection(self, number, protocol, inside, outside, turned, 6 if ipv6 else 4)

    def send(self, what: Wire, time_ns: float, *, ends: bool = True) -> float | None:
        """One packet along the path from `time_ns` at its sender; when it arrived, None: it was lost.

        ends: whether the sender and the receiver see it like this (offloading shows them something else).
        """
        links = [0, 1, 2] if what.there else [2, 1, 0]
        delays = self.path.there_ns if what.there else self.path.back_ns
        self._packet += 1
        stops = _STOPS_THERE if what.there else _STOPS_BACK
        if ends:
            self._see(stops[0], what, time_ns, 64)
        ttl = 64
        for step, link in enumerate(links):
            if self.random.random() < self.path.loss[link]:
                key = (what.connection.number, "there" if what.there else "back", link)
                self.lost[key] = self.lost.get(key, 0) + 1
                return None
            travelled = delays[link] + self.random.expovariate(1.0) * self.path.jitter_ns
            if link == 1:
                near = travelled * (0.01 if what.there else 0.99)  # it stands beside the translating router
                self._see([(MIRROR, 1)], what, time_ns + near, ttl, outside=True)
            time_ns += travelled
            if step < 2 or ends:
                self._see(stops[step + 1][:1], what, time_ns, ttl)
            if step < 2:
                ttl -= 1
                time_ns += 20_000 + self.random.random() * 10_000
                self._see(stops[step + 1][1:], what, time_ns, ttl)
        return time_ns

    def show_sent(self, what: Wire, time_ns: float) -> None:
        """What the sender sees before its card splits it."""
        self._see((_STOPS_THERE if what.there else _STOPS_BACK)[0], what, time_ns, 64)

    def show_received(self, what: Wire, time_ns: float) -> None:
        """What the receiver sees after merging."""
        self._see((_STOPS_THERE if what.there else _STOPS_BACK)[-1], what, time_ns, 62)

    def _see(
        self,
        stops: list[tuple[int, int]],
        what: Wire,
        time_ns: float,
        ttl: int,
        *,
        outside: bool | None = None,
    ) -> None:
        for vantage, direction in stops:
            if vantage in self.path.missing:
                continue
            if self.random.random() < self.path.capture_loss.get(vantage, 0.0):
                self.missed[vantage] = self.missed.get(vantage, 0) + 1
                continue
            outside_here = vantage not in (CLIENT, LAN) if outside is None else outside
            cut = self.path.fragments and (vantage == SERVER if what.there else False)
            for shown in what.fragments() if cut else [what]:
                self._row(vantage, direction, shown, time_ns, ttl, outside_here)

    def _row(self, vantage: int, direction: int, what: Wire, time_ns: float, ttl: int, outside: bool) -> None:
        clock = self.path.clocks[VANTAGES[vantage].clock]
        connection = what.connection
        flow = connection.outside if outside else connection.inside
        turned = (not what.there) ^ (connection.turned if outside else False)
        stamp = int(time_ns + clock.offset_at(time_ns))
        if what.offset or what.more:
            nat, later = 0, what.offset > 0
        else:
            nat, later = hash((what.content, what.protocol)) & 0xFFFFFFFFFFFFFFFF | 1, False
        ip_id = what.ip_id if connection.version == 4 else 0
        hop = hash((what.content, ip_id, flow, what.offset, what.size, what.there)) & 0xFFFFFFFFFFFFFFFF | 1
        datagram = hash((flow, ip_id, what.there)) & 0xFFFFFFFFFFFFFFFF | 1 if connection.version == 4 else 0
        layers = Layers.IP
        if what.offset or what.more:
            layers |= Layers.FRAGMENT
        if not later:
            layers |= Layers.FLOW | Layers.PORTS | (Layers.TCP if what.protocol == 6 else Layers.UDP)
        payload = what.size - 8 if what.protocol == 17 and not later else what.size
        self._rows.append(
            (
                stamp,
                0 if later else flow,
                hop,
                nat,
                datagram,
                vantage,
                len(self._rows),
                what.sequence & 0xFFFFFFFF,
                what.sequence_end & 0xFFFFFFFF,
                what.acknowledgement & 0xFFFFFFFF,
                what.size + 54,
                what.size,
                payload,
                ip_id,
                what.offset,
                int(layers),
                what.flags,
                vantage,
                what.protocol,
                connection.version,
                ttl,
                direction,
                turned and not later,
                what.more,
                False,
                0,
            )
        )
        self._times.append(time_ns)
        self._packets.append(self._packet)
        sent = (connection.number, what.there, what.content, what.protocol != 6 and what.ip_id)
        content = self._contents.setdefault(sent, len(self._contents))
        self._sent.append((connection.number, what.there, content))

    def rows(self) -> tuple[Rows, Truth]:
        """All sightings in order, and the truth of each."""
        rows = np.array(self._rows, SIGHTING)
        ordered = in_order(rows)
        at = ordered["index"]
        return ordered, Truth(
            np.array(self._times)[at],
            np.array(self._packets)[at],
            self.lost,
            self.missed,
            self.truth_flows,
            *[np.array(column)[at] for column in zip(*self._sent, strict=True)],
        )

    def flows(self) -> Flows:
        """The table of all flows."""
        table = np.zeros(len(self._flows), FLOW)
        for number, (flow, (protocol, a, b, port, other, turned)) in enumerate(sorted(self._flows.items())):
            ends = [(_address(a), port), (_address(b), other)]
            if turned:
                ends.reverse()
            table[number] = (
                flow,
                ends[0][0],
                ends[1][0],
                ends[0][1],
                ends[1][1],
                protocol,
                True,
                b"1:%d" % number,
            )
        return table


_STOPS_THERE = [[(CLIENT, 2)], [(LAN, 1), (WAN, 2)], [(IN, 1), (OUT, 2)], [(SERVER, 1)]]
_STOPS_BACK = [[(SERVER, 2)], [(OUT, 1), (IN, 2)], [(WAN, 1), (LAN, 2)], [(CLIENT, 1)]]


def _address(text: str) -> NDArray[np.uint8]:
    octets = bytes(10) + b"\xff\xff" + bytes(int(part) for part in text.split("."))
    return np.frombuffer(octets, np.uint8)


@dataclass(frozen=True, slots=True)
class Wire:
    """A packet on the wire."""

    connection: Connection
    there: bool
    protocol: int
    content: object
    size: int
    """Behind the IP header (TCP: the payload)."""
    ip_id: int
    sequence: int = 0
    sequence_end: int = 0
    acknowledgement: int = 0
    flags: int = 0
    offset: int = 0
    more: bool = False

    def fragments(self) -> list[Wire]:
        """As a link for 600 bytes carries it."""
        if self.protocol == 6 or self.size <= 576:
            return [self]
        return [
            replace(self, offset=at, size=min(576, self.size - at), more=at + 576 < self.size)
            for at in range(0, self.size, 576)
        ]


class Connection:
    """A client and its server talking."""

    def __init__(
        self,
        simulator: Simulator,
        number: int,
        protocol: int,
        inside: int,
        outside: int,
        turned: bool,
        version: int,
    ) -> None:
        self.simulator, self.number, self.protocol = simulator, number, protocol
        self.inside, self.outside, self.turned, self.version = inside, outside, turned, version
        pick = simulator.random
        self.sequence = {True: pick.getrandbits(32), False: pick.getrandbits(32)}
        self.ip_id = {True: pick.getrandbits(16), False: pick.getrandbits(16)}

    def _next_id(self, there: bool) -> int:
        self.ip_id[there] = self.ip_id[there] % 65_535 + 1
        return self.ip_id[there]

    def tcp(self, there: bool, time_ns: float, size: int, *, flags: int = 16, attempts: int = 8) -> float:
        """Segments until they arrive; when the last one did. size: payload; SYN and FIN count by the flags."""
        wire = self.simulator
        begin, content = self.sequence[there], wire.random.getrandbits(60)
        space = size + (flags >> 1 & 1) + (flags & 1)
        self.sequence[there] = (begin + space) & 0xFFFFFFFF

        def packet(at: int, length: int) -> Wire:
            return Wire(
                self,
                there,
                6,
                (content, at, length, flags, begin),
                length,
                self._next_id(there),
                begin + at,
                begin + at + length + (space - size if at + length == size else 0),
                self.sequence[not there] if flags & 16 else 0,
                flags,
            )

        cuts = [(at, min(MSS, size - at)) for at in range(0, size, MSS)] or [(0, 0)]
        arrived = time_ns
        most = wire.path.mss_merge
        for group in [cuts[at : at + most] for at in range(0, len(cuts), most)]:
            merged = len(group) > 1
            whole = (group[0][0], sum(length for _, length in group))
            if merged:
                wire.show_sent(packet(*whole), time_ns)
            run: list[tuple[int, int]] = []
            again: list[tuple[int, int]] = []
            last = 0.0
            for at, length in group:
                reached = wire.send(packet(at, length), time_ns, ends=not merged)
                time_ns += 12_000
                if reached is not None:
                    arrived = max(arrived, reached)
                    last = max(last, reached)
                if merged and reached is not None:
                    run.append((at, length))
                if (reached is None or at == group[-1][0]) and run:
                    wire.show_received(packet(run[0][0], sum(length for _, length in run)), last + 5_000)
                    run = []
                if reached is None and length + space > 0:
                    again.append((at, length))
            for at, length in again:
                for _attempt in range(attempts):
                    time_ns += 200_000_000
                    reached = wire.send(packet(at, length), time_ns)
                    if reached is not None:
                        arrived = max(arrived, reached)
                        break
        return arrived

    def exchange(self, time_ns: float, request: int, answer: int) -> float:
        """A whole connection: opening, a request, an answer, the end."""
        now = self.tcp(True, time_ns, 0, flags=2)
        now = self.tcp(False, now + 30_000, 0, flags=18)
        now = self.tcp(True, now + 30_000, 0)
        now = self.tcp(True, now + 50_000, request, flags=24)
        now = self.tcp(False, now + 400_000, answer, flags=24)
        now = self.tcp(True, now + 30_000, 0)
        now = self.tcp(True, now + 50_000, 0, flags=17)
        now = self.tcp(False, now + 30_000, 0, flags=17)
        return self.tcp(True, now + 30_000, 0)

    def datagram(self, there: bool, time_ns: float, size: int, content: object = None) -> float | None:
        """One datagram; content: to make two that are alike."""
        content = content if content is not None else self.simulator.random.getrandbits(60)
        return self.simulator.send(
            Wire(self, there, self.protocol, (content, size), size + 8, self._next_id(there)), time_ns
        )
