"""Flow records: what was counted of each flow since the batch of flow records before, as columns of a body.

A flow is two addresses, protocol and ports, both directions together, whatever of it was kept. Its two ends are A and
B, in an order that says nothing (not who began, and another host may name them the other way round). Counts are
differences: the sum over all records is what was counted, however often the counters' table forgot a flow in between.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from wire.body import MAX_BODY_BYTES, TAG_U16, TAG_U64, Buffer, decode_map, encode_map
from wire.errors import WireError

MAX_FLOWS = 8192
"""Flow records in a batch: 86 bytes each."""
MAX_FLOW_COUNT = 2**53 - 1
"""Packets, and bytes, of one direction in one record."""
MAX_FLOW_TIME_NS = 2**63 - 1

FLOW_COLUMNS: dict[str, tuple[int | None, str]] = {
    "version": (None, "4 or 6, a byte each."),
    "protocol": (None, "IP protocol, a byte each; behind IPv6 extension headers."),
    "address_a": (None, "One end's address, 16 bytes each; IPv4 in the first four, zeros behind."),
    "address_b": (None, "The other end's."),
    "port_a": (TAG_U16, "A's port; 0 without ports and in every fragment."),
    "port_b": (TAG_U16, "B's port."),
    "packets_a": (TAG_U64, "Packets that A sent to B since the records before; below 2^53."),
    "packets_b": (TAG_U64, "Packets that B sent to A."),
    "bytes_a": (TAG_U64, "Bytes of A's packets as they were on the wire, link header included; below 2^53."),
    "bytes_b": (TAG_U64, "Bytes of B's packets."),
    "first_timestamp_ns": (
        TAG_U64,
        "First packet of the flow since the table of flows knows it: nanoseconds since 1970, UTC, raw.",
    ),
    "last_timestamp_ns": (TAG_U64, "Last packet."),
}
_WIDTHS = {"version": 1, "protocol": 1, "address_a": 16, "address_b": 16, "port_a": 2, "port_b": 2}
WIDTHS = {name: _WIDTHS.get(name, 8) for name in FLOW_COLUMNS}
"""Bytes of one record in each column."""

assert MAX_FLOWS * (sum(WIDTHS.values()) + 1) < MAX_BODY_BYTES


@dataclass(slots=True)
class FlowColumns:
    """Flow records as columns, each any buffer of bytes; the numbers in it are little endian."""

    version: Buffer
    protocol: Buffer
    address_a: Buffer
    address_b: Buffer
    port_a: Buffer
    port_b: Buffer
    packets_a: Buffer
    packets_b: Buffer
    bytes_a: Buffer
    bytes_b: Buffer
    first_timestamp_ns: Buffer
    last_timestamp_ns: Buffer

    def __len__(self) -> int:
        """How many records."""
        return memoryview(self.version).nbytes


class FlowRecord(NamedTuple):
    """One flow's counts."""

    version: int
    protocol: int
    address_a: bytes
    """4 or 16 bytes."""
    address_b: bytes
    port_a: int
    port_b: int
    packets_a: int
    packets_b: int
    bytes_a: int
    bytes_b: int
    first_timestamp_ns: int
    last_timestamp_ns: int

    @property
    def addresses(self) -> tuple[str, str]:
        """A's and B's, as people write them."""
        return address_text(self.address_a), address_text(self.address_b)

    @property
    def ends(self) -> str:
        """Protocol and both ends: "udp 10.0.0.1:53 10.0.0.2:4711"."""
        a, b = end_text(self.address_a, self.port_a), end_text(self.address_b, self.port_b)
        return f"{protocol_name(self.protocol)} {a} {b}"


def address_text(address: bytes) -> str:
    """4 or 16 bytes as people write them."""
    import ipaddress  # late: it takes a while, and `wirepool decode` starts for each message

    return str(ipaddress.ip_address(address))


def end_text(address: bytes, port: int) -> str:
    """10.0.0.1:80, [2001:db8::1]:80, or the address alone without a port."""
    text = address_text(address)
    return f"{f'[{text}]' if len(address) == 16 else text}:{port}" if port else text


_PROTOCOLS = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmp6",
}
_PROTOCOLS |= {89: "ospf", 112: "vrrp", 132: "sctp", 136: "udplite"}


def protocol_name(protocol: int) -> str:
    """The usual name of an IP protocol, or "ip-<number>"."""
    return _PROTOCOLS.get(protocol, f"ip-{protocol}")


def encode_flows(columns: FlowColumns) -> bytes:
    """The columns as one plain body. ValueError when there are none or too many."""
    if not 1 <= len(columns) <= MAX_FLOWS:
        raise ValueError(f"{len(columns)} flow records; a batch holds 1 to {MAX_FLOWS}")
    return encode_map(FLOW_COLUMNS, [getattr(columns, name) for name in FLOW_COLUMNS])


def decode_flow_columns(plain: bytes) -> FlowColumns:
    """The columns of a plain body, as views of it. WireError when they aren't there or one is of another length."""
    found = decode_map(plain, FLOW_COLUMNS)
    flows = len(found["version"])
    if not 1 <= flows <= MAX_FLOWS:
        raise WireError(f"{flows} flow records; a batch holds 1 to {MAX_FLOWS}")
    for name, width in WIDTHS.items():
        if len(found[name]) != width * flows:
            raise WireError(f"{name}: {len(found[name])} bytes for {flows} flow records")
    return FlowColumns(**found)


def records_of(columns: FlowColumns) -> Iterator[FlowRecord]:
    """Each record, checked. WireError at the first that can't be."""
    flows = len(columns)
    numbers = [
        struct.unpack(f"<{flows}{'H' if WIDTHS[name] == 2 else 'Q'}", getattr(columns, name))
        for name in list(FLOW_COLUMNS)[4:]
    ]
    ends = [bytes(memoryview(column)) for column in (columns.address_a, columns.address_b)]
    families = zip(bytes(memoryview(columns.version)), bytes(memoryview(columns.protocol)), strict=True)
    for index, ((version, protocol), values) in enumerate(
        zip(families, zip(*numbers, strict=True), strict=True)
    ):
        a, b = (end[16 * index : 16 * index + 16] for end in ends)
        if version == 4:
            if any(a[4:]) or any(b[4:]):
                raise WireError("address: an IPv4 address of more than four bytes")
            a, b = a[:4], b[:4]
        elif version != 6:
            raise WireError(f"version: {version} is neither 4 nor 6")
        if max(values[2:6]) > MAX_FLOW_COUNT:
            raise WireError(f"a flow record with a count above {MAX_FLOW_COUNT}")
        first_ns, last_ns = values[6:]
        if not first_ns <= last_ns <= MAX_FLOW_TIME_NS:
            raise WireError("last_timestamp_ns: before first_timestamp_ns, or beyond 2^63")
        yield FlowRecord(version, protocol, a, b, *values)
