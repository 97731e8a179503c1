"""tshark's tree of one packet: the real program on real frames; its bounds with programs that break them."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest

from hub.dissect import tshark
from hub.dissect.tree import MAX_FIELDS, Field
from hub.dissect.tshark import Tshark, TsharkError, layers_of, one_packet_capture
from tests.support.captures import read_capture
from tests.support.need import need
from tests.web.fake_agent import udp_packet

TIME_NS = 1_700_000_000_123_456_789


def program(directory: Path, text: str) -> Tshark:
    """A stand-in that everybody may run."""
    path = directory / "stand-in"
    path.write_text(f"#!/bin/sh\n{text}\n")
    for folder in (path, directory, *directory.parents):
        if os.access(folder, os.W_OK) and folder != Path("/") and str(folder).count("/") > 1:
            folder.chmod(0o755)
    return Tshark(str(path))


def find(layers: list[Field], name: str) -> Field:
    waiting = list(layers)
    while waiting:
        one = waiting.pop(0)
        if one.name == name:
            return one
        waiting += one.parts
    raise AssertionError(name)


async def test_layers_fields_and_the_bytes_they_stand_in() -> None:
    need("tshark")
    query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\x0a<b>x</b>\xe2\xff\0\0\1\0\1"
    packet = udp_packet(1, query)
    packet = packet[:36] + b"\0\x35" + packet[38:]
    layers = await Tshark().dissect(packet, 1, TIME_NS, len(packet))
    names = [layer.name for layer in layers]
    assert names[1:] == [
        "Ethernet II",
        "Internet Protocol Version 4",
        "User Datagram Protocol",
        "Domain Name System (query)",
    ]
    assert find(layers, "Arrival Time").value.startswith("Nov 14, 2023 22:13:20.123456789")
    source = find(layers, "Source Address")
    assert (source.value, source.offset, source.length) == ("10.0.0.7", 26, 4)
    assert find(layers, "Transaction ID").value == "0x1234"
    assert find(layers, "Name").value.isprintable()


async def test_a_packet_that_ends_too_soon_has_what_is_there() -> None:
    need("tshark")
    layers = await Tshark().dissect(udp_packet(1)[:20], 1, TIME_NS, 60)
    assert find(layers, "Internet Protocol Version 4").offset == 14


async def test_bounds_of_time_memory_and_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tshark, "TIMEOUT_S", 0.3)
    with pytest.raises(TsharkError, match="no answer within"):
        await program(tmp_path, "exec sleep 60").dissect(b"", 1, 0, 0)
    monkeypatch.setattr(tshark, "TIMEOUT_S", 20.0)
    with pytest.raises(TsharkError, match="longer than 4 MB"):
        await program(tmp_path, "exec cat /dev/zero").dissect(b"", 1, 0, 0)
    with pytest.raises(TsharkError, match="longer than 4 MB"):
        await program(tmp_path, "exec cat /dev/zero >&2").dissect(b"", 1, 0, 0)
    with pytest.raises(TsharkError, match="status 7: it is broken"):
        await program(tmp_path, "echo it is broken >&2; exit 7").dissect(bytes(200_000), 1, 0, 0)
    with pytest.raises(TsharkError, match=r"isn't PDML|status"):
        await program(tmp_path, "echo '<pdml>'").dissect(b"", 1, 0, 0)
    limits = "ulimit -v; ulimit -f; ulimit -c; ulimit -t; id -u"
    with pytest.raises(TsharkError) as told:
        await program(tmp_path, f"cat >/dev/null; echo $({limits}) >&2; exit 1").dissect(b"", 1, 0, 0)
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    assert str(told.value).endswith(f": {tshark.MAX_MEMORY_BYTES >> 10} 0 0 {tshark.MAX_CPU_S} {user}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TsharkError, match="isn't installed"):
        await Tshark().dissect(b"", 1, 0, 0)


async def test_at_most_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tshark, "TIMEOUT_S", 0.4)
    slow = program(tmp_path, "exec sleep 60")
    answers = await asyncio.gather(*(slow.dissect(b"", 1, 0, 0) for _ in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TsharkError] * 5


def test_hostile_answers_stay_within_bounds() -> None:
    head = b"<pdml><packet>"
    deep = b"".join(b'<field name="a" showname="a: b">' for _ in range(5000))
    assert len(layers_of(head + deep + b"</field>" * 5000 + b"</packet></pdml>", b"")) == 1
    wide = b'<proto name="p">' + b'<field name="a" show="1"/>' * 5000 + b"</proto></packet></pdml>"
    layers = layers_of(head + wide, b"")
    assert layers[-1].wrong
    assert len(layers[0].parts) == MAX_FIELDS - 1
    far = b'<proto name="p" pos="99999999" size="88"/></packet></pdml>'
    assert [(one.offset, one.length) for one in layers_of(head + far, bytes(60))] == [(0, 0)]
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + head + b'<proto name="p" show="&a;"/></packet></pdml>'
    with pytest.raises(TsharkError, match="entities"):
        layers_of(bomb, b"")
    for broken in (b"", b"<pdml>", b"\0", head + b"</packet></pdml>"):
        with pytest.raises(TsharkError):
            layers_of(broken, b"")


def test_the_capture_is_one_that_others_read(tmp_path: Path) -> None:
    path = tmp_path / "one.pcap"
    path.write_bytes(one_packet_capture(udp_packet(3), 1, TIME_NS, 99))
    capture = read_capture(path)
    assert [(packet.timestamp_ns, packet.data) for packet in capture.packets] == [(TIME_NS, udp_packet(3))]
    assert struct.unpack("<I", path.read_bytes()[36:40]) == (99,)
