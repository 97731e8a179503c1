"""The flow's id against the reference implementation (PyPI `communityid`), and what makes two packets one flow."""

from __future__ import annotations

import base64
import random
import struct
from pathlib import Path

import communityid
import pytest

from hub.observe.decode import observe
from hub.observe.observations import Layers
from tests.hub.observe.reading import captured_packets, columns_of, observed, one, rows
from tests.support import frames

REFERENCE = communityid.CommunityID()


def reference(row: dict[str, object]) -> bytes:
    """The id that the reference gives to what the columns say."""
    layers = int(str(row["layers"]))
    if not layers & Layers.FLOW:
        return b""
    ends = row["protocol"], row["source_address"], row["destination_address"]
    if layers & Layers.ICMP:
        flow = communityid.FlowTuple(*ends, row["icmp_type"], row["icmp_code"])
    elif row["protocol"] in (6, 17, 132):
        flow = communityid.FlowTuple(*ends, row["source_port"], row["destination_port"])
    else:
        flow = communityid.FlowTuple(*ends)
    text: str = REFERENCE.calc(flow)
    return text.encode()


def test_every_recorded_packet(captures: Path) -> None:
    flows = set()
    compared = 0
    for name, packets in captured_packets(captures):
        for number, row in enumerate(observed(packets), 1):
            wanted = reference(row)
            assert row["community_id"] == wanted, f"{name}: packet {number}"
            compared += bool(wanted)
            flows.add(wanted)
    assert compared > 8_000
    assert len(flows) > 900


def test_more_flows_than_are_remembered() -> None:
    """The memory of flows is a cache: what it holds must never be told of another flow."""
    rng = random.Random(5)
    made = [frames.frame(rng, destination=bytes(6), source=bytes(6)) for _ in range(3_000)]
    made += [udp4(rng.randbytes(4), rng.randbytes(4), rng.randrange(65536), 53) for _ in range(5_000)]
    rng.shuffle(made)
    found = list(rows(observe(columns_of(made), 1)))
    assert [row["community_id"] for row in found] == [reference(row) for row in found]
    assert len({row["community_id"] for row in found}) > 5_000


@pytest.mark.parametrize("version", [4, 6])
def test_every_icmp_type(version: int) -> None:
    for kind in range(256):
        for there, back in ((1, 2), (2, 1)):
            row = one(icmp(version, kind, 3, there, back), 101)
            assert row["layers"] == Layers.IP | Layers.ICMP | Layers.FLOW
            assert row["community_id"] == reference(row)


def test_both_directions_are_one_flow_and_told_apart() -> None:
    there, back = (
        one(udp4(b"\x0a\0\0\1", b"\x0a\0\0\2", 5, 53)),
        one(udp4(b"\x0a\0\0\2", b"\x0a\0\0\1", 53, 5)),
    )
    assert there["community_id"] == back["community_id"] != b""
    assert there["flow_hash"] == back["flow_hash"] != 0
    assert (there["flow_reversed"], back["flow_reversed"]) == (False, True)
    request, reply = one(icmp(4, 8, 0, 2, 1), 101), one(icmp(4, 0, 0, 1, 2), 101)
    assert request["community_id"] == reply["community_id"] != b""
    assert request["flow_reversed"] != reply["flow_reversed"]


def test_the_hash_is_the_beginning_of_the_digest() -> None:
    row = one(udp4(b"\x0a\0\0\1", b"\x0a\0\0\2", 5, 53))
    assert isinstance(row["community_id"], bytes)
    digest = base64.b64decode(row["community_id"].removeprefix(b"1:"))
    assert row["flow_hash"] == int.from_bytes(digest[:8], "big")


def test_a_later_fragment_has_no_flow() -> None:
    first, later = udp4(bytes(4), bytes(4), 5, 53, 0x2000), udp4(bytes(4), bytes(4), 5, 53, 1)
    assert one(first)["community_id"] == reference(one(first)) != b""
    assert one(later)["community_id"] == b""
    assert one(later)["flow_hash"] == 0


def udp4(source: bytes, destination: bytes, port: int, to: int, fragment: int = 0) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28, 7, fragment, 64, 17, 0)
    return (
        bytes(12) + b"\x08\0" + head + source + destination + struct.pack(">HHHH", port, to, 8, 0) + bytes(18)
    )


def icmp(version: int, kind: int, code: int, source: int, destination: int) -> bytes:
    message = bytes([kind, code]) + bytes(6)
    if version == 4:
        return struct.pack(">BBHHHBBHII", 0x45, 0, 28, 0, 0, 64, 1, 0, source, destination) + message
    ends = source.to_bytes(16, "big") + destination.to_bytes(16, "big")
    return struct.pack(">IHBB", 0x60000000, 8, 58, 64) + ends + message
