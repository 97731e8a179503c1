"""What we write as pcapng and pcap, read by the tools everybody uses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.captures import read_capture
from tests.support.need import need
from tests.wire import make
from wire import pcapng
from wire.books import Books


def whole_file() -> bytes:
    """Two interfaces with every option, packets, statistics."""
    columns = make.columns_of(make.packets(10))
    parts = [
        pcapng.section_header(hardware="KVM", os="Debian", comment="an export, über alles"),
        pcapng.interface_block(
            name="web1:eth0",
            description="agent web1",
            link_type=1,
            snaplen=96,
            filter="tcp port 443 or ip6",
            os="Linux 6.1",
            hardware="virtio",
            speed_bps=10**10,
            mac=bytes.fromhex("020000000001"),
            comment="first",
        ),
        pcapng.interface_block(name="db2:tun0", link_type=101, snaplen=262144),
        pcapng.packet_blocks(0, columns),
        pcapng.packet_blocks(1, make.columns_of([(make.START_NS, 40, 1, bytes.fromhex("45") + bytes(39))])),
        pcapng.statistics_block(
            0,
            make.START_NS,
            start_ns=make.START_NS,
            end_ns=make.START_NS + 5,
            os_dropped=4,
            comment="books balance",
            **pcapng.statistics_of(
                Books(received=98, dropped_ring=3, captured=95, filtered=11, sampled_out=1, cut_off=1)
            ),
        ),
        pcapng.statistics_block(1, make.START_NS),
    ]
    return b"".join(parts)


def test_an_independent_reader_finds_everything() -> None:
    capture = read_capture(whole_file())
    assert capture.complaint is None
    first, second = capture.interfaces
    assert (first.name, first.link_type, first.snaplen, first.units_per_second) == ("web1:eth0", 1, 96, 10**9)
    assert first.filter_text == "tcp port 443 or ip6"
    assert first.statistics == {4: 111, 5: 3, 6: 100, 7: 4, 8: 95}
    assert second.statistics == {}
    assert [packet.data for packet in capture.packets[:10]] == [packet[3] for packet in make.packets(10)]
    assert [packet.flags & 3 for packet in capture.packets[:10]] == [
        packet[2] & 3 for packet in make.packets(10)
    ]


def test_capinfos_and_tshark_agree(tmp_path: Path) -> None:
    need("tshark", "capinfos")
    path = tmp_path / "whole.pcapng"
    path.write_bytes(whole_file())
    facts = subprocess.run(["capinfos", "-M", str(path)], capture_output=True, text=True, check=True)
    assert "damaged" not in facts.stderr + facts.stdout
    for fact in (
        "Number of packets:   11",
        "Capture comment:     an export, über alles",
        "Name = web1:eth0",
        "Filter string = tcp port 443 or ip6",
        "Operating system = Linux 6.1",
        "Time resolution = 0x09",
        "Number of stat entries = 1",
    ):
        assert fact in facts.stdout, facts.stdout
    command = [
        "tshark",
        "-r",
        str(path),
        "-T",
        "fields",
        "-e",
        "frame.interface_id",
        "-e",
        "frame.packet_flags_direction",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["0"] * 10 + ["1"]
    assert int(rows[-1][1], 0) == 1
    assert "Malformed" not in done.stderr


def test_classic_pcap_in_nanoseconds_is_read_by_capinfos(tmp_path: Path) -> None:
    need("capinfos")
    path = tmp_path / "classic.pcap"
    columns = make.columns_of(make.packets(10))
    path.write_bytes(pcapng.pcap_header(link_type=1, snaplen=262144) + pcapng.pcap_records(columns))
    facts = subprocess.run(["capinfos", "-M", str(path)], capture_output=True, text=True, check=True)
    assert "Number of packets:   10" in facts.stdout
    assert "nanoseconds (9)" in facts.stdout


@pytest.mark.parametrize("text", ["é" * 40_000, "x" * 70_000, "", "a\0b"])
def test_texts_of_any_length_stay_within_an_option(text: str) -> None:
    file = pcapng.section_header(comment=text) + pcapng.interface_block(
        name=text[:100], link_type=1, snaplen=0, filter=text, description=text
    )
    capture = read_capture(file + pcapng.packet_blocks(0, make.columns_of(make.packets(1))))
    assert capture.complaint is None
    assert len(capture.packets) == 1
