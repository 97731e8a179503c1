"""A field's values of one batch, as arrays: what stores write, without a Python object per packet."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.observe.observations import Bools, Layers, Problem, Tunnel
from hub.pool.observed import ObservedBatch
from wire.body import DIRECTION_MASK


@dataclass(frozen=True, slots=True)
class Values:
    """One value per packet of a batch."""

    array: NDArray[Any]
    """By the field's type: integers of any width; i64 (TIME); u64 (HASH); bool; (packets, 16) octets (IP, IPv4 as
    ::ffff:a.b.c.d); (packets, 6) octets (MAC); (packets, 2) u64, begin and end in the batch's `columns.data` (BYTES).
    KEYWORD: indices into `words`, or, where `words` is empty, 0-terminated ASCII."""
    present: Bools | None = None
    """Which packets have a value; None: all."""
    words: tuple[str, ...] = ()
    """Each is used by a packet or not, none twice."""


Reader = Callable[[ObservedBatch], Values]

DIRECTIONS = ("unknown", "ingress", "egress")
"""As wirepool's flags number them; 3 isn't used, and unknown."""
NETWORKS = ("ipv4", "ipv6", "arp")
TRANSPORTS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 51: "ah"}
TRANSPORTS |= {58: "ipv6-icmp", 89: "ospf", 103: "pim", 112: "vrrp", 132: "sctp", 136: "udplite"}
"""IP protocol number → ECS' name of it."""
_TRANSPORT_WORDS = tuple(TRANSPORTS.values())
_TRANSPORT_INDEX = np.full(256, 255, np.uint8)
for _position, _number in enumerate(TRANSPORTS):
    _TRANSPORT_INDEX[_number] = _position
PROBLEMS = {int(problem): problem.name.lower() for problem in Problem if problem}
"""hub.observe's number → its name."""
TUNNELS = tuple(kind.name.lower() for kind in Tunnel)
_PROBLEM_INDEX = np.zeros(256, np.uint8)
for _position, _problem in enumerate(PROBLEMS):
    _PROBLEM_INDEX[_problem] = _position


def constant(word: Callable[[ObservedBatch], str]) -> Reader:
    """The same word for the whole batch; no value where it is empty."""

    def read(batch: ObservedBatch) -> Values:
        text = word(batch)
        index = np.zeros(len(batch), np.uint8)
        return Values(index, None if text else np.zeros(len(batch), np.bool_), (text,))

    return read


def address(text: Callable[[ObservedBatch], str]) -> Reader:
    """The same address for the whole batch; no value where the text is none."""

    def read(batch: ObservedBatch) -> Values:
        try:
            parsed = ipaddress.ip_address(text(batch))
        except ValueError:
            return Values(np.zeros((len(batch), 16), np.uint8), np.zeros(len(batch), np.bool_))
        octets = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
        return Values(np.broadcast_to(np.frombuffer(octets, np.uint8), (len(batch), 16)))

    return read


def number(value: Callable[[ObservedBatch], int | None]) -> Reader:
    """The same number for the whole batch."""

    def read(batch: ObservedBatch) -> Values:
        found = value(batch)
        if found is None:
            return Values(np.zeros(len(batch), np.int64), np.zeros(len(batch), np.bool_))
        return Values(np.full(len(batch), found, np.int64))

    return read


def column(name: str, layers: Layers | None = None) -> Reader:
    """A column of the observations, where one of these headers was read; None: of all packets."""

    def read(batch: ObservedBatch) -> Values:
        return Values(getattr(batch.seen, name), _with(batch, layers) if layers else None)

    return read


def where(name: str, present: str) -> Reader:
    """A column of the observations, where another one isn't 0 (or no text)."""

    def read(batch: ObservedBatch) -> Values:
        other = getattr(batch.seen, present)
        return Values(getattr(batch.seen, name), other != (b"" if other.dtype.kind == "S" else 0))

    return read


def own(name: str) -> Reader:
    """A column of the batch itself."""
    return lambda batch: Values(getattr(batch, name))


def _with(batch: ObservedBatch, layers: Layers) -> Bools:
    found: Bools = (batch.seen.layers & np.uint16(layers)) != 0
    return found


def index(batch: ObservedBatch) -> Values:
    """The packet's place in its batch."""
    return Values(np.arange(len(batch), dtype=np.uint32))


def time(batch: ObservedBatch) -> Values:
    """The time by the pool's clock, as known when the batch was pooled."""
    return Values(batch.corrected_ns())


def raw_time(batch: ObservedBatch) -> Values:
    """As the agent's source gave it."""
    return Values(batch.timestamp_ns.astype(np.int64))


def flag(bit: int) -> Reader:
    """A bit of wire.body.FLAGS."""
    return lambda batch: Values((batch.flags & np.uint16(bit)) != 0)


def direction(batch: ObservedBatch) -> Values:
    """Seen from the agent's host."""
    return Values(((batch.flags & np.uint16(DIRECTION_MASK)) % 3).astype(np.uint8), None, DIRECTIONS)


def network(batch: ObservedBatch) -> Values:
    """ipv4, ipv6 or arp."""
    arp = _with(batch, Layers.ARP)
    found = np.where(arp, 2, np.where(batch.seen.ip_version == 6, 1, 0)).astype(np.uint8)
    return Values(found, arp | _with(batch, Layers.IP), NETWORKS)


def transport(batch: ObservedBatch) -> Values:
    """The protocol's name, where it has a common one."""
    found = _TRANSPORT_INDEX[batch.seen.protocol]
    present = _with(batch, Layers.IP) & (found != 255)
    return Values(np.where(present, found, 0), present, _TRANSPORT_WORDS)


def problem(batch: ObservedBatch) -> Values:
    """What kept the packet from being read further."""
    return Values(_PROBLEM_INDEX[batch.seen.problem], batch.seen.problem != 0, tuple(PROBLEMS.values()))


def tunnel(batch: ObservedBatch) -> Values:
    """What the packet came in."""
    return Values(batch.seen.tunnel_kind, batch.seen.tunnel_kind != 0, TUNNELS)


def payload(batch: ObservedBatch) -> Values:
    """Where the captured payload stands."""
    seen = batch.seen
    begin = seen.packet_offset + seen.payload_offset
    end = begin + seen.payload_captured_bytes
    return Values(np.stack((begin, end), axis=1), seen.payload_captured_bytes != 0)


def spoken(pick: Callable[[ObservedBatch], Iterable[tuple[int, str]]]) -> Reader:
    """Words that few packets have: (packet, word); no word where it is empty."""

    def read(batch: ObservedBatch) -> Values:
        codes = np.zeros(len(batch), np.uint32)
        present = np.zeros(len(batch), np.bool_)
        words: dict[str, int] = {}
        for packet, word in pick(batch):
            if word:
                codes[packet] = words.setdefault(word, len(words))
                present[packet] = True
        return Values(codes, present, tuple(words))

    return read


def counted(pick: Callable[[ObservedBatch], Iterable[tuple[int, int]]]) -> Reader:
    """Numbers that few packets have: (packet, number)."""

    def read(batch: ObservedBatch) -> Values:
        found = np.zeros(len(batch), np.int64)
        present = np.zeros(len(batch), np.bool_)
        for packet, value in pick(batch):
            found[packet], present[packet] = value, True
        return Values(found, present)

    return read
