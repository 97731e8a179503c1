"""Observations as a test reads them: packets in, one plain dictionary of Python values each out."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path

from hub.observe.decode import UNKEYED, observe
from hub.observe.observations import Observations
from tests.support.captures import Packet, read_capture
from wire.body import Columns


def columns_of(frames: Sequence[bytes], original_bytes: Sequence[int] | None = None) -> Columns:
    """Frames as a batch's columns, at time 0."""
    sizes = [len(frame) for frame in frames]
    return Columns(
        timestamp_ns=bytes(8 * len(frames)),
        captured_bytes=struct.pack(f"<{len(sizes)}I", *sizes),
        original_bytes=struct.pack(f"<{len(sizes)}I", *(original_bytes or sizes)),
        flags=bytes(2 * len(frames)),
        data=b"".join(frames),
    )


def of_packets(packets: Sequence[Packet]) -> Columns:
    """Packets that a capture's reader gave."""
    return columns_of([packet.data for packet in packets], [packet.original_bytes for packet in packets])


def rows(observations: Observations) -> Iterator[dict[str, object]]:
    """Each packet by column name; addresses as text (IPv4 as such), hardware addresses as bytes."""
    lists = {}
    for field in fields(observations):
        column = getattr(observations, field.name)
        if column.ndim == 2:
            lists[field.name] = [bytes(entry) for entry in column]
        else:
            lists[field.name] = column.tolist()
    for values in zip(*lists.values(), strict=True):
        row = dict(zip(lists, values, strict=True))
        for name in row:
            if name.endswith("_address"):
                row[name] = address_text(row[name])
        yield row


def address_text(octets: bytes) -> str:
    """An address column's entry; "::" also for none."""
    address = ipaddress.IPv6Address(octets)
    return str(address.ipv4_mapped or address)


def one(
    frame: bytes, link_type: int = 1, original_bytes: int | None = None, key: bytes = UNKEYED
) -> dict[str, object]:
    """The observation of a single frame."""
    columns = columns_of([frame], None if original_bytes is None else [original_bytes])
    (row,) = rows(observe(columns, link_type, key=key))
    return row


def captured_packets(captures: Path) -> list[tuple[str, list[Packet]]]:
    """(file name, packets) of every recorded capture that holds any."""
    found = []
    for path in sorted(captures.rglob("*.pcap*")):
        packets = read_capture(path).packets
        if packets:
            found.append((path.name, packets))
    return found


def observed(packets: Sequence[Packet]) -> list[dict[str, object]]:
    """Packets of any link types, in their order."""
    found: list[dict[str, object]] = []
    for link_type, group in groupby(packets, key=lambda packet: packet.link_type):
        found += rows(observe(of_packets(list(group)), link_type))
    return found
