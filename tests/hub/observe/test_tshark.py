"""Every recorded packet against tshark's fields: what differs is listed, with its reason, and nothing else may."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from hub.observe.observations import Problem
from tests.hub.observe import tshark_fields
from tests.hub.observe.reading import captured_packets, observed
from tests.hub.observe.tshark_differences import UNKNOWN_LINK_TYPES, expected
from tests.support.need import need

LEAST_COMPARED = {
    "source_address": 10_000, "destination_address": 10_000, "protocol": 8_000, "ttl": 8_000, "dscp": 800,
    "ip_total_bytes": 8_000, "ip_id": 6_000, "fragment_offset_bytes": 150, "more_fragments": 100,
    "source_port": 7_000, "payload_bytes": 3_000, "tcp_flags": 5_000, "tcp_sequence": 5_000,
    "tcp_acknowledgement": 3_000, "tcp_window": 5_000, "community_id": 7_500, "arp_operation": 2_000,
    "icmp_type": 150, "icmp_id": 50, "icmp_sequence": 50, "vlan_outer": 50, "vlan_inner": 2, "tunnel_id": 50,
    "source_mac": 10_000,
}  # fmt: skip
"""So many values other than 0 tshark has to have given, or the comparison would be of nothing."""


@pytest.mark.slow
def test_every_field_of_every_recorded_packet(captures: Path, tmp_path: Path) -> None:
    need("tshark")
    version = subprocess.run(["tshark", "--version"], check=True, capture_output=True, text=True).stdout
    if not version.startswith("TShark (Wireshark) 4.0."):
        pytest.skip(f"the list is that of tshark 4.0, this is {version.splitlines()[0]}")
    files = captured_packets(captures)
    names = [name for name, packets in files for _ in packets]
    packets = [packet for _, packets in files for packet in packets]
    different: Counter[tuple[str, str]] = Counter()
    compared: Counter[str] = Counter()
    examples = {}
    unknown_links = set()
    for name, packet, theirs, ours in zip(
        names, packets, tshark_fields.ask(packets, tmp_path), observed(packets), strict=True
    ):
        if ours["problem"] == Problem.BAD_LINK_TYPE:
            assert packet.link_type not in (0, 1, 12, 14, 101, 108, 113, 228, 229, 276)
            assert not ours["layers"]
            if any(theirs.values()):
                unknown_links.add(packet.link_type)
            continue
        for column, value in theirs.items():
            compared[column] += bool(value)
            if ours[column] != value:
                different[name, column] += 1
                examples[name, column] = f"tshark {value!r}, here {ours[column]!r}, problem {ours['problem']}"
    print(f"{sum(compared.values())} values compared, {different.total()} differ in {len(different)} places")
    listed = expected()
    assert {
        place: (count, examples[place]) for place, count in different.items() if listed.get(place) != count
    } == {}
    assert set(listed) - set(different) == set(), "listed, but there is no difference any more"
    assert unknown_links == set(UNKNOWN_LINK_TYPES)
    assert {
        column: compared[column] for column, least in LEAST_COMPARED.items() if compared[column] < least
    } == {}
