"""Who talks in a flow: one row per flow hash, and the bounded table of them."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.correlate.sightings import Rows
from hub.observe.observations import Layers, Observations

Flows = NDArray[np.void]
"""Of dtype FLOW, sorted by flow_hash, each once."""

FLOW = np.dtype(
    [
        ("flow_hash", "<u8"),
        ("first_address", "u1", 16),  # first and second as the Community ID orders them
        ("second_address", "u1", 16),
        ("first_port", "<u2"),
        ("second_port", "<u2"),
        ("protocol", "u1"),
        ("has_ports", "?"),
        ("community_id", "S30"),
    ]
)


def flows_of(seen: Observations) -> Flows:
    """The flows of one batch."""
    hashes, where = np.unique(seen.flow_hash, return_index=True)
    hashes, where = hashes[hashes != 0], where[hashes != 0]
    flows = np.zeros(len(where), FLOW)
    turned = seen.flow_reversed[where]
    source, destination = seen.source_address[where], seen.destination_address[where]
    flows["flow_hash"], flows["protocol"] = hashes, seen.protocol[where]
    flows["first_address"] = np.where(turned[:, None], destination, source)
    flows["second_address"] = np.where(turned[:, None], source, destination)
    ports = seen.source_port[where], seen.destination_port[where]
    flows["first_port"] = np.where(turned, ports[1], ports[0])
    flows["second_port"] = np.where(turned, ports[0], ports[1])
    flows["has_ports"] = (seen.layers[where] & Layers.PORTS) != 0
    flows["community_id"] = seen.community_id[where]
    return flows


def united(*tables: Flows) -> Flows:
    """Several tables as one."""
    whole = np.concatenate(tables)
    _, where = np.unique(whole["flow_hash"], return_index=True)
    return whole[where]


def find(flows: Flows, hashes: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Where each flow is in the table, -1: it isn't."""
    if not len(flows):
        return np.full(len(hashes), -1, np.intp)
    at = np.minimum(np.searchsorted(flows["flow_hash"], hashes), len(flows) - 1)
    return np.where(flows["flow_hash"][at] == hashes, at, -1)


def address_text(octets: NDArray[Any]) -> str:
    """An address as people write it; IPv4 without its prefix."""
    address = ipaddress.IPv6Address(octets.tobytes())
    return str(address.ipv4_mapped or address)


def with_fragments(rows: Rows) -> Rows:
    """Later fragments given the flow of their datagram's first one; those whose first wasn't seen keep 0.

    Where two datagrams with one identification could be meant (the 16 bits came round), nothing is given.
    """
    fragment = (rows["layers"] & Layers.FRAGMENT) != 0
    later = fragment & (rows["flow_hash"] == 0) & (rows["datagram"] != 0)
    if not later.any():
        return rows
    firsts = rows[fragment & (rows["flow_hash"] != 0) & (rows["datagram"] != 0)]
    keys, where = np.unique(firsts["datagram"], return_index=True)
    if not len(keys):
        return rows
    lowest, highest = firsts["flow_hash"][where].copy(), firsts["flow_hash"][where].copy()
    number = np.searchsorted(keys, firsts["datagram"])
    np.minimum.at(lowest, number, firsts["flow_hash"])
    np.maximum.at(highest, number, firsts["flow_hash"])
    at = np.flatnonzero(later)
    found = np.minimum(np.searchsorted(keys, rows["datagram"][at]), len(keys) - 1)
    sure = (keys[found] == rows["datagram"][at]) & (lowest == highest)[found]
    rows = rows.copy()
    rows["flow_hash"][at[sure]] = lowest[found[sure]]
    rows["reversed"][at[sure]] = firsts["reversed"][where][found[sure]]
    return rows
