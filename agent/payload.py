"""The payload policy, enforced on a batch before it is encoded: what is cut here never leaves the host.

Two voices are heard, the session's order and the host's owner (`payload.*` in the agent's file), and the stricter wins.
While an order changes, so do the one before and the one after: a batch of packets captured under "headers only" isn't
shipped whole because the order has been lifted since, nor the other way round.
"""

from __future__ import annotations

import functools

from agent import _payload
from agent.settings import Config
from wire.batch import Columns
from wire.payload import FULL, PayloadPolicy, Ranges

PORT_MAP_BYTES = 65536 // 8


def owners_policy(config: Config) -> PayloadPolicy:
    """What the host's owner lets out at most (`agent.config` has checked that it is one)."""
    if config.payload_policy == "masked":
        return PayloadPolicy("masked", config.payload_keep_bytes, tuple(config.payload_ports_without))
    return PayloadPolicy("headers") if config.payload_policy == "headers" else FULL


def enforce(columns: Columns, link_type: int, policy: PayloadPolicy) -> Columns:
    """The columns with what the policy withholds cut out of them, in place; only what is returned may be used.

    `columns` must be writable unless the policy is full. Captured lengths become smaller, TRUNCATED is set, original
    lengths stay. ValueError for columns that contradict each other.
    """
    if policy.full:
        return columns
    limit = -1 if policy.limit_bytes is None else policy.limit_bytes
    data_bytes, _ = _payload.cut(
        link_type,
        limit,
        _port_map(policy.ports_without),
        columns.captured_bytes,
        columns.original_bytes,
        columns.flags,
        columns.data,
    )
    return Columns(
        timestamp_ns=columns.timestamp_ns,
        captured_bytes=columns.captured_bytes,
        original_bytes=columns.original_bytes,
        flags=columns.flags,
        data=memoryview(columns.data)[:data_bytes],
    )


@functools.lru_cache(maxsize=64)
def _port_map(ranges: Ranges) -> bytes:
    if not ranges:
        return b""
    ports = bytearray(PORT_MAP_BYTES)
    for first, last in ranges:
        for port in range(first, last + 1):
            ports[port >> 3] |= 1 << (port & 7)
    return bytes(ports)
