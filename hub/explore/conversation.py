"""A conversation as lanes: one per vantage point, one line per packet with its time at each, by the pool's clock.

The pool's packets are correlated once more (hub.explore.sighted), with the clocks as they are known now. Where that
doesn't make them the one conversation that the row says, those with the same fingerprint are one packet, their n-th
sighting at one place belongs to the n-th at another. Then nothing is called lost: a packet that has no time at a place
"was not seen here".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

from hub.explore.details import delays_of, places_of, segments_of, unknown_of
from hub.explore.lanes import Delay, Lane, Segment, Sight
from hub.explore.rows import shown
from hub.explore.sighted import told_again
from hub.pool.query import And, Compare, In, Or, Query
from hub.pool.query.text import to_text
from hub.pool.store import ConversationRow, PacketRow, Store

MAX_SEGMENTS = 300
"""Lines of the page; the rest is a link to the packets."""
MAX_PACKETS = 3_000
"""Read from the pool to make lanes."""
MAX_CLOCKS = 20_000
CLOCKS_NS = 60 * 10**9
"""Clocks are looked at this much around the conversation: short ones may fall between two windows."""
SLACK_NS = 10**9
"""Packets are looked for this much around the conversation: its times are estimates."""


@dataclass(frozen=True, slots=True)
class ConversationView:
    """What the page shows."""

    row: ConversationRow
    lanes: Sequence[Lane]
    segments: Sequence[Segment]
    delays: Sequence[Delay]
    unknown: Sequence[str]
    """What could not be decided."""
    correlated: bool
    """By the correlation; else lanes were made from fingerprints alone."""
    cut: bool
    """There are more segments than shown."""
    query: str
    """Its packets."""


async def conversation_view(store: Store, row: ConversationRow) -> ConversationView:
    """Read what is needed of the store. Errors as of Store.packets."""
    query = packets_query(row)
    path = places_of(row.details)
    page = await store.packets(
        query,
        since_ns=max(0, row.first_ns - SLACK_NS),
        until_ns=row.last_ns + SLACK_NS + 1,
        limit=MAX_PACKETS,
    )
    names = [(lane.agent, lane.interface) for lane in path]
    clocks = await store.offsets(
        since_ns=max(0, row.first_ns - CLOCKS_NS), until_ns=row.last_ns + CLOCKS_NS, limit=MAX_CLOCKS
    )
    told = await asyncio.to_thread(told_again, page.rows, names, clocks)
    lanes = places_of(told)
    segments = segments_of(told, len(lanes))
    correlated = bool(segments)
    if correlated:
        segments = _in_words(segments, page.rows)
    else:
        lanes, segments = _from_packets(page.rows, row, names)
    lanes = _with_details(lanes, path)
    cut = page.after is not None or len(segments) > MAX_SEGMENTS
    segments = segments[:MAX_SEGMENTS]
    return ConversationView(
        row,
        lanes,
        segments,
        delays_of(row.details, lanes) or _delays(lanes, segments),
        unknown_of(told) or unknown_of(row.details),
        correlated,
        cut,
        to_text(query),
    )


def _in_words(segments: Sequence[Segment], rows: Sequence[PacketRow]) -> list[Segment]:
    """With what the list of packets says of each, as it was seen first."""
    told = {packet.observation: packet for packet in map(shown, rows)}
    return [
        segment
        if (packet := told.get(segment.sights[0].observation)) is None
        else replace(segment, label=packet.info, bytes=packet.length, rule=packet.rule)
        for segment in segments
    ]


def packets_query(row: ConversationRow) -> Query:
    """Its packets, of all sides of any address translation."""
    ids = tuple(filter(None, row.community_ids))
    if ids:
        return (
            In("network.community_id", ids) if len(ids) > 1 else Compare("network.community_id", "=", ids[0])
        )
    pairs = [(row.source, row.destination), (row.destination, row.source)]
    return Or(
        tuple(
            And((Compare("source.ip", "=", ip_address(a)), Compare("destination.ip", "=", ip_address(b))))
            for a, b in pairs
        )
    )


@dataclass(slots=True)
class _Group:
    """One packet at all places."""

    label: str
    bytes: int
    forward: bool
    rule: str
    sights: dict[int, Sight] = field(default_factory=dict)


def _from_packets(
    rows: Sequence[PacketRow], conversation: ConversationRow, path: Sequence[tuple[str, str]]
) -> tuple[list[Lane], list[Segment]]:
    """path: (agent, interface) in the order that is known; the others follow by their TTL."""
    places: dict[tuple[str, str], int] = {}
    ttls: dict[int, int] = {}
    seen: dict[tuple[object, int], int] = {}
    groups: dict[tuple[object, int], _Group] = {}
    for row in rows:
        packet = shown(row)
        place = places.setdefault((packet.agent, packet.interface), len(places))
        key = row.values.get("wirepool.nat_hash") or row.values.get("wirepool.hop_hash") or packet.observation
        time = seen[key, place] = seen.get((key, place), -1) + 1
        forward = _is_forward(row, conversation)
        group = groups.setdefault((key, time), _Group(packet.info, packet.length, forward, packet.rule))
        half = packet.uncertainty_ns
        low, high = (None, None) if half is None else (packet.time_ns - half, packet.time_ns + half)
        group.sights[place] = Sight(place, packet.time_ns, low, high, packet.observation, 1)
        if forward and isinstance(ttl := row.values.get("ip.ttl"), int):
            ttls.setdefault(place, ttl)
    names = list(places)
    known = {name: number for number, name in enumerate(path)}
    order = sorted(
        range(len(places)), key=lambda place: (known.get(names[place], len(path)), -ttls.get(place, 0))
    )
    position = {place: number for number, place in enumerate(order)}
    lanes = [_lane(number, *names[place], rows) for number, place in enumerate(order)]
    segments = [
        Segment(
            group.forward,
            group.label,
            group.bytes,
            group.rule,
            "again" if (key_time[1] > 0) else "",
            tuple(
                sorted(
                    (
                        Sight(
                            position[s.place],
                            s.time_ns,
                            s.low_ns,
                            s.high_ns,
                            s.observation,
                            s.copies,
                        )
                        for s in group.sights.values()
                    ),
                    key=lambda sight: sight.place,
                )
            ),
            (),
            None,
        )
        for key_time, group in groups.items()
    ]
    segments.sort(key=lambda segment: min(sight.time_ns for sight in segment.sights))
    return lanes, segments


def _is_forward(row: PacketRow, conversation: ConversationRow) -> bool:
    source, port = row.values.get("source.ip"), row.values.get("source.port")
    if port is not None and conversation.source_port != conversation.destination_port:
        return port != conversation.destination_port
    return source != conversation.destination


def _lane(number: int, agent: str, interface: str, rows: Sequence[PacketRow]) -> Lane:
    mine = [
        row
        for row in rows
        if row.values.get("agent_id") == agent
        and row.values.get("observer.ingress.interface.name", "") == interface
    ]
    size = sum(value for row in mine if isinstance(value := row.values.get("network.bytes"), int))
    return Lane(
        number,
        agent,
        interface,
        None,
        len(mine),
        size,
        min((row.time_ns for row in mine), default=None),
        max((row.time_ns for row in mine), default=None),
        None,
        "",
    )


def _with_details(lanes: list[Lane], told: Sequence[Lane]) -> list[Lane]:
    """The lanes made here, with what the correlation says of the same places."""
    by_name = {(lane.agent, lane.interface): lane for lane in told}
    return [
        lane
        if (known := by_name.get((lane.agent, lane.interface))) is None
        else Lane(
            lane.number,
            lane.agent,
            lane.interface,
            known.hop,
            known.packets or lane.packets,
            known.bytes or lane.bytes,
            known.first_ns or lane.first_ns,
            known.last_ns or lane.last_ns,
            known.missing,
            known.note,
        )
        for lane in lanes
    ]


def _delays(lanes: Sequence[Lane], segments: Sequence[Segment]) -> list[Delay]:
    """Between neighbours, per direction: the median of those packets that both saw, with its interval."""
    found = []
    for near, far in pairwise(lanes):
        for forward in (True, False):
            pairs = [
                (by[near.number], by[far.number])
                for segment in segments
                if segment.forward == forward and not segment.kind
                for by in [{sight.place: sight for sight in segment.sights}]
                if near.number in by and far.number in by
            ]
            if not pairs:
                continue
            sign = 1 if forward else -1
            deltas = sorted(sign * (b.time_ns - a.time_ns) for a, b in pairs)
            median = deltas[len(deltas) // 2]
            half = max((_half(a) or 0) + (_half(b) or 0) for a, b in pairs)
            known = all(_half(a) is not None and _half(b) is not None for a, b in pairs)
            low, high = (median - half, median + half) if known else (None, None)
            found.append(Delay(near.number, far.number, forward, low, high, median, len(pairs), None))
    return found


def _half(sight: Sight) -> int | None:
    if sight.low_ns is None or sight.high_ns is None:
        return None
    return max(sight.time_ns - sight.low_ns, sight.high_ns - sight.time_ns)


def view_map(view: ConversationView) -> Mapping[str, Any]:
    """As JSON."""
    return {
        "correlated": view.correlated,
        "complete": not view.cut,
        "unknown": list(view.unknown),
        "lanes": [
            {
                "agent": lane.agent,
                "interface": lane.interface,
                "hop": lane.hop,
                "packets": lane.packets,
                "bytes": lane.bytes,
                "missing": lane.missing,
            }
            for lane in view.lanes
        ],
        "delays": [
            {
                "from": delay.near,
                "to": delay.far,
                "forward": delay.forward,
                "median_ns": delay.median_ns,
                "low_ns": delay.low_ns,
                "high_ns": delay.high_ns,
                "packets": delay.packets,
                "lost": delay.lost,
            }
            for delay in view.delays
        ],
        "segments": [
            {
                "forward": segment.forward,
                "label": segment.label,
                "bytes": segment.bytes,
                "kind": segment.kind,
                "missing": list(segment.missing),
                "lost_after": segment.lost_after,
                "seen": [
                    {
                        "lane": sight.place,
                        "time_ns": str(sight.time_ns),
                        "low_ns": None if sight.low_ns is None else str(sight.low_ns),
                        "high_ns": None if sight.high_ns is None else str(sight.high_ns),
                        "observation": sight.observation,
                        "copies": sight.copies,
                    }
                    for sight in segment.sights
                ],
            }
            for segment in view.segments
        ],
    }
