"""Frames of every kind, whole, cut and contradicting themselves: what their columns hold."""

from __future__ import annotations

import struct
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from hub.observe.decode import observe
from hub.observe.observations import DTYPES, ROW_BYTES, Application, Observations, Problem, Tunnel
from tests.hub.observe.made import A4, CASES, DATA, Case, arp, ether, geneve, ip4, ip6, tcp, udp, vxlan
from tests.hub.observe.reading import columns_of, one, rows
from wire.body import Columns
from wire.errors import WireError

DERIVED = {
    "packet_offset",
    "hop_hash",
    "nat_hash",
    "flow_hash",
    "community_id",
    "flow_reversed",
    "application",
}
"""Columns with tests of their own."""


@pytest.mark.parametrize("name", CASES)
def test_what_a_frame_holds(name: str) -> None:
    case = CASES[name]
    found = {
        column: value for column, value in one(case.frame, case.link_type).items() if column not in DERIVED
    }
    empty: dict[str, object] = dict.fromkeys(found, 0)
    empty |= {column: "::" for column in found if column.endswith("_address")}
    empty |= {column: bytes(6) for column in found if column.endswith("_mac")}
    assert found == empty | {"problem": Problem.NONE} | case.columns


@pytest.mark.parametrize("name", CASES)
def test_a_frame_among_others_is_as_it_is_alone(name: str) -> None:
    case = CASES[name]
    others = [other.frame for other in CASES.values() if other.link_type == case.link_type]
    found = list(rows(observe(columns_of([*others, case.frame, *others]), case.link_type)))[len(others)]
    assert found | {"packet_offset": 0} == one(case.frame, case.link_type)
    assert found["packet_offset"] == sum(map(len, others))


@pytest.mark.parametrize("name", CASES)
def test_a_cut_frame_says_so_and_keeps_what_came_before(name: str) -> None:
    """Every length: by the capture, when the header was longer, and by the packet itself."""
    case = CASES[name]
    whole = one(case.frame, case.link_type)
    headers = int(str(case.columns["payload_offset"]))
    for size in range(min(headers, len(case.frame))):
        cut = one(case.frame[:size], case.link_type, len(case.frame))
        short = one(case.frame[:size], case.link_type)
        assert Problem(int(str(cut["problem"]))).name.startswith("CUT_") or not cut["problem"], size
        assert (
            Problem(int(str(short["problem"]))).name.startswith(("SHORT_", "BAD_IP_TOTAL"))
            or not short["problem"]
        )
        assert cut["payload_captured_bytes"] == 0 or cut["network_offset"] != whole["network_offset"]
        if cut["network_offset"] == whole["network_offset"]:
            for column in (
                "source_address",
                "destination_address",
                "ttl",
                "ip_id",
                "tcp_sequence",
                "source_port",
            ):
                assert cut[column] in (whole[column], 0, "::"), (column, size)
    if len(DATA) == whole["payload_bytes"]:
        cut = one(case.frame[: headers + 3], case.link_type, len(case.frame))
        assert (cut["problem"], cut["payload_bytes"], cut["payload_captured_bytes"]) == (0, 16, 3)


SELF_CONTRADICTING = {
    "link type": (Case(DATA, {}, 147), Problem.BAD_LINK_TYPE),
    "nine tags": (Case(ether(ip4(6, tcp()), 0x0800, *[(0x8100, 1)] * 9), {}), Problem.BAD_TAGS),
    "labels without end": (Case(ether(bytes(4) * 17, 0x8847), {}), Problem.BAD_TAGS),
    "version": (Case(ether(ip6(6, tcp()), 0x0800), {}), Problem.BAD_IP_VERSION),
    "version 6": (Case(ether(ip4(6, tcp()), 0x86DD), {}), Problem.BAD_IP_VERSION),
    "header of 16": (Case(ether(b"\x44" + ip4(6, tcp())[1:], 0x0800), {}), Problem.BAD_IP_HEADER_LENGTH),
    "shorter than its header": (
        Case(ether(ip4(6, tcp(), total=19), 0x0800), {}),
        Problem.BAD_IP_TOTAL_LENGTH,
    ),
    "longer than its frame": (Case(ether(ip4(6, tcp(), total=57), 0x0800), {}), Problem.BAD_IP_TOTAL_LENGTH),
    "ipv6 longer than its frame": (
        Case(ether(ip6(6, tcp(), length=37), 0x86DD), {}),
        Problem.BAD_IP_TOTAL_LENGTH,
    ),
    "extension longer than its packet": (
        Case(ether(ip6(0, bytes([6, 9]) + bytes(6) + tcp()), 0x86DD), {}),
        Problem.BAD_EXTENSION,
    ),
    "thirteen extensions": (
        Case(ether(ip6(60, (bytes([60, 0]) + bytes(6)) * 13 + tcp()), 0x86DD), {}),
        Problem.BAD_EXTENSION,
    ),
    "authentication header of 8": (
        Case(ether(ip4(51, bytes([6, 0]) + bytes(6) + tcp()), 0x0800), {}),
        Problem.BAD_EXTENSION,
    ),
    "tcp header of 16": (
        Case(ether(ip4(6, tcp()[:12] + b"\x40" + tcp()[13:]), 0x0800), {}),
        Problem.BAD_TCP_HEADER_LENGTH,
    ),
    "tcp header longer than its packet": (
        Case(ether(ip4(6, tcp(b"")[:12] + b"\x60" + tcp(b"")[13:]), 0x0800), {}),
        Problem.BAD_TCP_HEADER_LENGTH,
    ),
    "udp of 7": (Case(ether(ip4(17, udp(length=7)), 0x0800), {}), Problem.BAD_UDP_LENGTH),
    "udp longer than its packet": (Case(ether(ip4(17, udp(length=25)), 0x0800), {}), Problem.BAD_UDP_LENGTH),
}


@pytest.mark.parametrize("name", SELF_CONTRADICTING)
def test_a_contradiction_has_its_name(name: str) -> None:
    case, problem = SELF_CONTRADICTING[name]
    row = one(case.frame, case.link_type)
    assert Problem(int(str(row["problem"]))) is problem


def test_after_a_contradiction_what_was_known_stays() -> None:
    longer = one(ether(ip4(6, tcp(), total=57), 0x0800))
    assert (longer["source_port"], longer["payload_bytes"]) == (50000, 16)
    claims = one(ether(ip4(17, udp(length=25)), 0x0800))
    assert (claims["source_port"], claims["payload_bytes"]) == (50000, 16)
    header = one(ether(ip4(6, tcp()[:12] + b"\x40" + tcp()[13:]), 0x0800))
    assert (header["tcp_sequence"], header["payload_bytes"]) == (0xFFFFFFFA, 0)


def test_a_tunnel_whose_inside_cannot_be_read_leaves_the_outside() -> None:
    for inside in (b"\x55" + ip4(6, tcp())[1:], ip4(6, tcp())[:19]):
        row = one(ether(ip4(17, vxlan(ether(inside, 0x0800))), 0x0800))
        assert row["problem"] in (Problem.BAD_IP_VERSION, Problem.SHORT_IP)
        assert (row["source_address"], row["destination_port"]) == (A4, 4789)
        assert (row["tunnels"], row["tunnel_id"], row["outer_version"]) == (1, 5001, 0)
    frame = one(ether(ip4(17, vxlan(ether(DATA, 0x88B5))), 0x0800))
    assert (frame["problem"], frame["destination_port"], frame["payload_bytes"]) == (0, 4789, 16)


def test_four_tunnels_are_followed_and_no_more() -> None:
    packet = tcp()
    protocol = 6
    for _ in range(4):
        packet, protocol = ip4(protocol, packet), 4
    deep = one(ether(ip4(4, packet), 0x0800))
    assert (deep["problem"], deep["tunnels"], deep["source_port"]) == (0, 4, 50000)
    deeper = one(ether(ip4(4, ip4(4, packet)), 0x0800))
    assert (deeper["problem"], deeper["tunnels"], deeper["source_port"]) == (Problem.BAD_TUNNELS, 4, 0)
    assert (deeper["protocol"], deeper["ip_version"]) == (4, 4)


def test_a_tunnel_in_a_first_fragment_may_say_more_than_it_holds() -> None:
    inner = ether(ip4(6, tcp(bytes(2000))), 0x0800)
    row = one(ether(ip4(17, udp((struct.pack(">II", 0x08000000, 256) + inner)[:400], ports=(1, 4789), length=2100),
                        fragment=0x2000), 0x0800))  # fmt: skip
    assert (row["problem"], row["source_port"], row["tunnel_id"]) == (0, 50000, 1)
    assert row["ip_total_bytes"] == 2040
    assert row["payload_bytes"] == row["payload_captured_bytes"] == 400 - 8 - 14 - 40


def test_geneve_with_a_frame() -> None:
    inside = one(ether(ip4(17, geneve(ether(arp(), 0x0806), 0x6558)), 0x0800))
    assert (inside["arp_operation"], inside["outer_destination_port"]) == (1, 6081)


def test_a_client_on_a_tunnels_port_has_no_tunnel() -> None:
    frame = ether(ip4(6, tcp()), 0x0800)
    for port in (4789, 8472):
        for head in ("00000000 00000100", "08000001 00000100", "08000000 00000101", "0c000000 00000100"):
            row = one(ether(ip4(17, udp(bytes.fromhex(head) + frame, ports=(9, port))), 0x0800))
            assert (row["tunnels"], row["destination_port"], row["problem"]) == (0, port, 0), head
            assert row["payload_bytes"] == 8 + len(frame)
    for head in ("40000800 00000100", "00010800 00000100", "00001234 00000100", "00000800 00000101"):
        row = one(ether(ip4(17, udp(bytes.fromhex(head) + ip4(6, tcp()), ports=(9, 6081))), 0x0800))
        assert (row["tunnels"], row["destination_port"], row["problem"]) == (0, 6081, 0), head
    for port in (4789, 6081, 8472):
        assert one(ether(ip4(17, udp(b"short", ports=(9, port))), 0x0800))["problem"] == 0
        answer = one(
            ether(ip4(17, udp(bytes.fromhex("080081800001000000000000") + DATA, ports=(53, port))), 0x0800)
        )
        assert (answer["tunnels"], answer["application"]) == (0, Application.DNS)


def test_a_group_policy_is_vxlan() -> None:
    inside = ether(ip4(6, tcp()), 0x0800)
    row = one(ether(ip4(17, udp(bytes.fromhex("88000007 00000200") + inside, ports=(9, 4789))), 0x0800))
    assert (row["tunnel_kind"], row["tunnel_id"], row["source_port"]) == (Tunnel.VXLAN, 2, 50000)


def test_columns_that_contradict_each_other_are_refused() -> None:
    good = columns_of([CASES["tcp"].frame])
    for bad in (
        replace(good, data=bytes(good.data)[:-1]),
        replace(good, data=bytes(good.data) + b"x"),
        replace(good, original_bytes=bytes(8)),
        replace(good, captured_bytes=b"\xff\xff\xff\xff"),
        replace(good, captured_bytes=bytes(3)),
        replace(good, timestamp_ns=bytes(16)),
    ):
        with pytest.raises(WireError):
            observe(bad, 1)
    with pytest.raises(ValueError, match="16 are needed"):
        observe(good, 1, key=b"short")


def test_other_threads_run_meanwhile() -> None:
    """The interpreter's lock is released: with it held, nobody else would get a turn within one call."""
    packets = 300_000
    frame = CASES["tcp"].frame
    columns = columns_of([frame])
    many = Columns(
        timestamp_ns=bytes(8 * packets),
        captured_bytes=bytes(columns.captured_bytes) * packets,
        original_bytes=bytes(columns.original_bytes) * packets,
        flags=bytes(2 * packets),
        data=frame * packets,
    )
    turns, between = 0, []
    done = threading.Event()

    def decode() -> None:
        before = turns
        observe(many, 1)
        between.append(turns - before)
        done.set()

    thread = threading.Thread(target=decode)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.5)  # otherwise a turn may come before the call, or behind it
    try:
        thread.start()
        while not done.is_set():
            turns += 1
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert between[0] > 0


def test_none_and_empty_packets() -> None:
    assert len(observe(columns_of([]), 1)) == 0
    row = one(b"")
    assert (row["problem"], row["payload_bytes"]) == (Problem.SHORT_LINK, 0)


def test_a_length_on_the_wire_that_cannot_be() -> None:
    """Shorter than what was captured, or as long as the column can say: no length wraps."""
    frame = CASES["before offload"].frame[:100]
    assert one(frame, 1, 3)["payload_bytes"] == 46
    assert one(frame, 1, 2**32 - 1)["payload_bytes"] == 2**31 - 1 - 54


def test_columns_are_contiguous_and_of_the_stated_types() -> None:
    found = observe(columns_of([case.frame for case in CASES.values() if case.link_type == 1]), 1)
    assert isinstance(found, Observations)
    for name, dtype in DTYPES.items():
        column = getattr(found, name)
        assert column.dtype == dtype.base
        assert column.shape == (len(found), *dtype.shape)
        assert column.flags.c_contiguous
        assert column.flags.aligned
    assert sum(dtype.itemsize for dtype in DTYPES.values()) == ROW_BYTES == 223
    assert np.array_equal(
        found.packet_offset[1:], np.cumsum([len(c.frame) for c in CASES.values() if c.link_type == 1])[:-1]
    )
