"""A conversation's stored packets, correlated once more for its lanes: what the conversation's row has no room for.

The pool keeps all that the correlation compares (addresses, sequence numbers, fingerprints, TTL, direction), so packet
by packet it is worked out when somebody looks, by the same functions, with the clocks as they are known now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

import numpy as np
import orjson

from hub.correlate.clock_constraints import NONE
from hub.correlate.clock_estimate import UNKNOWN, Offsets
from hub.correlate.conversations import evaluate
from hub.correlate.details import details
from hub.correlate.flows import FLOW, Flows, united
from hub.correlate.sightings import LATEST_NS, SIGHTING, Rows, Vantage, in_order
from hub.correlate.translation import find_joins
from hub.observe.observations import Layers
from hub.pool.store import OffsetRow, PacketRow, Value

_LAYERS = {"tcp": Layers.TCP | Layers.PORTS, "udp": Layers.UDP | Layers.PORTS}
_LAYERS |= {"icmp": Layers.ICMP, "ipv6-icmp": Layers.ICMP}
_SYN, _FIN = 2, 1
End = tuple[bytes, int]
"""(address in 16 octets, port)."""


def told_again(
    packets: Sequence[PacketRow], path: Sequence[tuple[str, str]], clocks: Sequence[OffsetRow]
) -> bytes:
    """Details of version 1 (hub.explore.details), or nothing where these packets don't make one conversation.

    path: (agent, interface) in the order that is known. clocks: stored offsets around the packets.
    """
    places = list(dict.fromkeys([*path, *map(_place, packets)]))
    agents = list(
        dict.fromkeys([agent for agent, _ in places] + [row.anchor for row in clocks if row.anchor])
    )
    vantages = [Vantage(agents.index(agent), agent, interface) for agent, interface in places]
    rows, flows = _sightings(packets, places)
    if not len(rows):
        return b""
    joins = find_joins(rows, flows)
    found = evaluate(rows, joins, np.array([one.clock for one in vantages], np.intp))
    if len(found) != 1:
        return b""
    offsets = _offsets(agents, clocks)
    return orjson.dumps(
        details(found, 0, offsets, vantages, lambda _, index: str(packets[index].observation))
    )


def _place(packet: PacketRow) -> tuple[str, str]:
    values = packet.values
    return str(values.get("agent_id", "")), str(values.get("observer.ingress.interface.name", ""))


def _sightings(packets: Sequence[PacketRow], places: Sequence[tuple[str, str]]) -> tuple[Rows, Flows]:
    """Of those that have an IP header and a flow; `index` is the place in `packets`."""
    number = {place: at for at, place in enumerate(places)}
    rows, tables = np.zeros(len(packets), SIGHTING), [np.zeros(0, FLOW)]
    kept = np.zeros(len(packets), np.bool_)
    for index, packet in enumerate(packets):
        try:
            ends = _ends(packet.values)
        except ValueError:
            continue
        flow = _flow(packet.values, ends)
        if flow is None:
            continue
        kept[index] = True
        tables.append(flow)
        rows[index] = _sighting(packet, ends, flow, index, number[_place(packet)])
    return in_order(rows[kept]), united(*tables)


def _flow(values: Mapping[str, Value], ends: Sequence[End]) -> Flows | None:
    community_id = values.get("network.community_id")
    if not isinstance(community_id, str) or not community_id:
        return None
    flow = np.zeros(1, FLOW)
    digest = hashlib.blake2b(community_id.encode(), digest_size=8).digest()
    (first, first_port), (second, second_port) = sorted(ends)
    flow["flow_hash"] = int.from_bytes(digest, "little") | 1
    flow["first_address"], flow["second_address"] = (np.frombuffer(one, np.uint8) for one in (first, second))
    flow["first_port"], flow["second_port"] = first_port, second_port
    flow["protocol"], flow["has_ports"] = _number(values, "network.iana_number"), "source.port" in values
    flow["community_id"] = community_id.encode()[:30]
    return flow


def _ends(values: Mapping[str, Value]) -> list[End]:
    """Source and destination; ValueError when one isn't known."""
    ends = []
    for end in ("source", "destination"):
        address = ip_address(str(values.get(f"{end}.ip", "")))
        octets = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
        ends.append((octets, _number(values, f"{end}.port")))
    return ends


def _sighting(packet: PacketRow, ends: Sequence[End], flow: Flows, index: int, vantage: int) -> Rows:
    values = packet.values
    row = np.zeros((), SIGHTING)
    transport = str(values.get("network.transport", ""))
    layers = Layers.IP | Layers.FLOW | _LAYERS.get(transport, Layers(0))
    fragment = values.get("ip.more_fragments") is True or _number(values, "ip.fragment_offset_bytes") > 0
    flags, payload = _number(values, "tcp.flags"), _number(values, "wirepool.payload_bytes")
    sequence = _number(values, "tcp.sequence")
    length = payload + bool(flags & _SYN) + bool(flags & _FIN)
    raw_ns = values.get("timestamp_ns")
    row["timestamp_ns"] = min(raw_ns if isinstance(raw_ns, int) else packet.time_ns, LATEST_NS)
    row["flow_hash"] = flow["flow_hash"][0]
    row["hop_hash"], row["nat_hash"] = (_hash(values, f"wirepool.{name}_hash") for name in ("hop", "nat"))
    row["index"], row["vantage"] = index, vantage
    row["sequence"], row["sequence_end"] = sequence, (sequence + length) % 2**32
    row["acknowledgement"] = _number(values, "tcp.acknowledgement")
    row["original_bytes"], row["payload_bytes"] = _number(values, "network.bytes"), payload
    row["ip_payload_bytes"] = payload + 8 * bool(layers & (Layers.UDP | Layers.ICMP))
    row["ip_id"], row["fragment_offset"] = (
        _number(values, f"ip.{n}") for n in ("id", "fragment_offset_bytes")
    )
    row["layers"] = layers | (Layers.FRAGMENT if fragment else 0)
    row["tcp_flags"], row["protocol"] = flags, _number(values, "network.iana_number")
    row["ip_version"] = 6 if values.get("network.type") == "ipv6" else 4
    row["ttl"] = _number(values, "ip.ttl")
    row["direction"] = {"ingress": 1, "egress": 2}.get(str(values.get("network.direction", "")), 0)
    row["reversed"] = list(ends) != sorted(ends)
    row["more_fragments"] = values.get("ip.more_fragments") is True
    row["tunnelled"] = "tunnel.type" in values
    return row


def _number(values: Mapping[str, Value], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else 0


def _hash(values: Mapping[str, Value], name: str) -> int:
    value = values.get(name)
    return int(value, 16) if isinstance(value, str) else 0


def _offsets(agents: Sequence[str], clocks: Sequence[OffsetRow]) -> Offsets:
    """As the store has them; without an anchor where it has none."""
    known = [row for row in clocks if row.agent in agents and row.anchor in agents]
    middle_ns = np.unique(np.array([row.at_ns for row in known], np.int64))
    shape = (len(agents), len(middle_ns))
    low, high = np.full(shape, -NONE), np.full(shape, NONE)
    estimate = np.full(shape, UNKNOWN)
    for row in known:
        at = agents.index(row.agent), int(np.searchsorted(middle_ns, row.at_ns))
        low[at] = -NONE if row.low_ns is None else row.low_ns
        high[at] = NONE if row.high_ns is None else row.high_ns
        estimate[at] = UNKNOWN if row.estimate_ns is None else row.estimate_ns
    rough = [np.median(one[one != UNKNOWN]) if (one != UNKNOWN).any() else 0 for one in estimate]
    anchor = agents.index(known[-1].anchor) if known else -1
    return Offsets(anchor, middle_ns, low, high, estimate, np.array(rough, np.float64).astype(np.int64))
