"""What fuzz_observe.py feeds; the invariant stands there."""

from __future__ import annotations

from hub.observe.application import read_applications
from hub.observe.decode import observe
from hub.observe.observations import Application, Layers, Problem, Tunnel
from tests.hub.observe.made import CASES
from tests.hub.observe.reading import columns_of, rows

LINK_TYPES = (1, 1, 1, 1, 0, 12, 101, 108, 113, 228, 229, 276, 105)
PROBLEMS = frozenset(Problem)
HEADERS = (
    "ethertype", "vlan_outer", "arp_operation", "fragment_offset_bytes", "source_port", "destination_port", "tcp_flags",
    "tcp_window", "icmp_id", "icmp_sequence", "ip_version", "ttl", "dscp", "ecn", "icmp_type", "icmp_code",
    "source_mac", "destination_mac", "source_address", "destination_address", "tcp_sequence",
    "tcp_acknowledgement", "ip_total_bytes",
)  # fmt: skip
NOTHING = (0, "::", bytes(6))
NEIGHBOUR = CASES["vxlan"].frame


def check(data: bytes) -> None:
    """The target: the first byte chooses the link type, the second where the frame is cut, the rest is the frame."""
    if len(data) < 2:
        return
    link_type, frame = LINK_TYPES[data[0] % len(LINK_TYPES)], data[2:]
    (whole,) = seen(
        [frame], [len(frame)], link_type
    )  # alone in its buffer: the sanitizers see where that ends
    possible(whole, len(frame))
    before, among, after = seen(
        [NEIGHBOUR, frame, NEIGHBOUR], [len(NEIGHBOUR), len(frame), len(NEIGHBOUR)], link_type
    )
    assert among | {"packet_offset": 0} == whole
    assert before | {"packet_offset": 0} == after | {"packet_offset": 0}
    cut_frame = frame[: data[1]]
    (cut,) = seen([cut_frame], [len(frame)], link_type)
    possible(cut, len(cut_frame))
    if cut["network_offset"] == whole["network_offset"]:
        for column in HEADERS:
            assert cut[column] in (whole[column], *NOTHING), column


def seen(frames: list[bytes], original_bytes: list[int], link_type: int) -> list[dict[str, object]]:
    columns = columns_of(frames, original_bytes)
    observations = observe(columns, link_type)
    told = read_applications(columns, observations)
    read = len(told.dns) + len(told.tls) + len(told.http) + told.unreadable
    assert read == int((observations.application != Application.NONE).sum())
    for text in (name for found in (told.dns, told.tls, told.http) for one in found for name in texts(one)):
        assert text.isprintable()
        assert len(text) <= 1024
    return list(rows(observations))


def texts(found: object) -> list[str]:
    values = [getattr(found, name) for name in type(found).__slots__]  # type: ignore[attr-defined]
    values += [text for value in values if isinstance(value, tuple) for text in value]
    return [value for value in values if isinstance(value, str)]


def possible(row: dict[str, object], captured_bytes: int) -> None:
    """Whatever the bytes were, a row that nobody downstream has to check again."""
    number = {name: value for name, value in row.items() if isinstance(value, int)}
    layers = number["layers"]
    assert number["problem"] in PROBLEMS
    assert number["tunnel_kind"] in set(Tunnel)
    assert number["application"] in set(Application)
    assert number["ip_version"] in ((4, 6) if layers & Layers.IP else (0,))
    assert number["tunnels"] <= 4
    assert not number["outer_version"] or number["tunnels"]
    assert number["network_offset"] <= captured_bytes
    assert number["payload_captured_bytes"] <= number["payload_bytes"]
    if number["payload_captured_bytes"]:
        assert number["payload_offset"] + number["payload_captured_bytes"] <= captured_bytes
    assert bool(layers & Layers.FLOW) == (row["community_id"] != b"") == (number["flow_hash"] != 0)
    if layers & Layers.FLOW:
        assert layers & Layers.IP
        assert not number["fragment_offset_bytes"]
    if not layers & Layers.TCP:
        assert not number["tcp_flags"] | number["tcp_sequence"] | number["tcp_window"]
    else:
        extra = (number["tcp_flags"] & 1) + (number["tcp_flags"] >> 1 & 1)
        assert (number["tcp_sequence"] + number["payload_bytes"] + extra) % 2**32 == number[
            "tcp_sequence_end"
        ]
    if not layers & Layers.PORTS:
        assert not number["source_port"] | number["destination_port"]
    if number["application"]:
        assert number["payload_captured_bytes"]


def corpus() -> list[bytes]:
    """A frame of every kind, whole, cut and without its link header; payloads that are read further."""
    found = []
    for case in CASES.values():
        if len(case.frame) < 4096:
            link = bytes([LINK_TYPES.index(case.link_type)])
            found += [link + b"\xff" + case.frame, link + bytes([len(case.frame) // 2]) + case.frame]
            if case.link_type == 1:
                found.append(bytes([6, 255]) + case.frame[14:])
    return found + payloads()


def payloads() -> list[bytes]:
    from tests.hub.observe.made import ether, ip4, tcp, udp
    from tests.hub.observe.test_application import DNS_QUERY, HELLO, REQUEST

    frames = [ip4(17, udp(DNS_QUERY, ports=(5, 53))), ip4(6, tcp(HELLO)), ip4(6, tcp(REQUEST))]
    return [bytes([0, 255]) + ether(packet, 0x0800) for packet in frames]
