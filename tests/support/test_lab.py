"""The laboratory itself: two tcpdumps beside each other must agree, or no comparison with them means
anything."""

from pathlib import Path

import pytest

from tests.support.captures import difference, read_capture
from tests.support.lab import Lab, Tcpdump
from tests.support.lan_traffic import MARKED_PACKETS, NEEDED, ORDINARY_FILTER, LanServers, all_kinds
from tests.support.need import need


@pytest.mark.root
def test_two_sockets_see_the_same_packets_with_the_same_stamps(tmp_path: Path) -> None:
    need("root", *NEEDED)
    mark = b"wirepool-lab-end"
    with Lab(["web1", "db1"], tmp_path) as lab:
        servers = LanServers(lab["web1"])
        first = Tcpdump(lab["db1"], "eth0", ORDINARY_FILTER, tmp_path / "first.pcap")
        second = Tcpdump(lab["db1"], "eth0", ORDINARY_FILTER, tmp_path / "second.pcap")
        with first, second:
            all_kinds(lab["db1"], servers, mark=mark)
            first.wait_for(mark, packets=MARKED_PACKETS)
            second.wait_for(mark, packets=MARKED_PACKETS)
    a, b = read_capture(first.path), read_capture(second.path)
    assert a.complaint is None
    assert (first.dropped, second.dropped) == (0, 0)
    assert difference(a.packets, b.packets) == ""
    ports = {
        protocol
        for packet in a.packets
        for protocol in (packet.data[23:24] if packet.data[12:14] == b"\x08\0" else b"6")
    }
    assert {1, 6, 17} <= ports
    assert any(packet.data[12:14] == b"\x86\xdd" for packet in a.packets)
