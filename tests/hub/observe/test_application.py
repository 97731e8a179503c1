"""Payloads that the columns pick: what is read of them, whole, cut and hostile; recorded ones as tshark reads them."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from hub.observe import application
from hub.observe.application import ApplicationData, read_applications
from hub.observe.decode import observe
from tests.hub.observe.made import ether, ip4, tcp, udp
from tests.hub.observe.reading import captured_packets, columns_of, of_packets
from tests.hub.observe.tshark_fields import write_pcapng
from tests.support.need import need

QUESTION = b"\3www\7example\3org\0\0\x1c\0\1"
DNS_QUERY = struct.pack(">6H", 0x1234, 0x0100, 1, 0, 0, 1) + QUESTION + b"\0\0\x29\x10\0\0\0\0\0\0\0"
DNS_ANSWER = struct.pack(">6H", 0x1234, 0x8183, 1, 2, 0, 0) + QUESTION + b"\xc0\x0c" + b"\xff" * 20
REQUEST = b"POST /a/b?c=d HTTP/1.1\r\nUser-Agent: x\r\nhost:  example.org:8080 \r\n\r\nbody"


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">HH", kind, len(data)) + data


SNI = extension(0, b"\0\x0e\0\0\x0bexample.org")
ALPN = extension(16, b"\0\x0c\2h2\x08http/1.1")


def hello(*extensions: bytes) -> bytes:
    shown = b"".join(extensions)
    body = b"\3\3" + bytes(32) + b"\x20" + bytes(32) + b"\0\4\x13\1\x13\2" + b"\1\0"
    body += struct.pack(">H", len(shown)) + shown
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack(">H", len(handshake)) + handshake


HELLO = hello(extension(51, bytes(1300)), SNI, ALPN)


def read(*packets: bytes) -> ApplicationData:
    columns = columns_of([ether(packet, 0x0800) for packet in packets])
    return read_applications(columns, observe(columns, 1))


def test_dns_over_udp_and_tcp() -> None:
    length = struct.pack(">H", len(DNS_QUERY))
    found = read(
        ip4(17, udp(DNS_QUERY, ports=(4000, 53))),
        ip4(6, tcp()),
        ip4(17, udp(DNS_ANSWER, ports=(53, 4000))),
        ip4(6, tcp(length + DNS_QUERY, ports=(4000, 53))),
        ip4(17, udp(DNS_QUERY, ports=(5353, 5353))),
    )
    assert [one.packet for one in found.dns] == [0, 2, 3, 4]
    assert {one.name for one in found.dns} == {"www.example.org"}
    assert {one.type for one in found.dns} == {28}
    assert [(one.response, one.rcode) for one in found.dns] == [(False, 0), (True, 3), (False, 0), (False, 0)]
    assert {one.transaction_id for one in found.dns} == {0x1234}
    assert (found.unreadable, found.unread) == (0, 0)


def test_dns_that_is_none() -> None:
    loop = struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1"
    for payload in (b"short", DNS_QUERY[:20], loop, DNS_QUERY[:12] + b"\x3f" * 400):
        found = read(ip4(17, udp(payload, ports=(4000, 53))))
        assert (found.dns, found.unreadable) == ([], 1)
    no_question = struct.pack(">6H", 1, 0x8005, 0, 9, 0, 0) + b"\xff" * 300
    (refused,) = read(ip4(17, udp(no_question, ports=(53, 4000)))).dns
    assert (refused.name, refused.type, refused.rcode) == ("", 0, 5)


def test_tls() -> None:
    (found,) = read(ip4(6, tcp(HELLO))).tls
    assert (found.server_name, found.alpn) == ("example.org", ("h2", "http/1.1"))
    (early,) = read(ip4(6, tcp(hello(SNI, ALPN)[: -len(ALPN)]))).tls
    assert (early.server_name, early.alpn) == ("example.org", ())
    (bare,) = read(ip4(6, tcp(hello()))).tls
    assert (bare.server_name, bare.alpn) == ("", ())
    assert read(ip4(6, tcp(HELLO[:30]))).unreadable == 1


def test_tls_at_every_length_raises_nothing() -> None:
    short = hello(SNI, ALPN)
    for size in range(len(short)):
        found = read(ip4(6, tcp(short[:size])))
        assert len(found.tls) + found.unreadable == (size >= 6)


def test_http() -> None:
    (found,) = read(ip4(6, tcp(REQUEST))).http
    assert (found.method, found.target, found.version) == ("POST", "/a/b?c=d", "HTTP/1.1")
    assert found.host == "example.org:8080"
    (cut,) = read(ip4(6, tcp(b"GET /" + b"x" * 5000))).http
    assert (cut.method, len(cut.target), cut.version, cut.host) == ("GET", 1024, "", "")
    assert read(ip4(6, tcp(b"GET it done\nby tomorrow"))).unreadable == 1
    late = read(ip4(6, tcp(b"GET / HTTP/1.0\r\n" + b"X: y\r\n" * 64 + b"Host: example.org\r\n\r\n")))
    assert late.http[0].host == "", "bounded"
    body = read(ip4(6, tcp(b"GET / HTTP/1.1\r\n\r\nHost: body\r\n")))
    assert body.http[0].host == ""


def test_text_is_made_visible() -> None:
    (found,) = read(ip4(6, tcp(b"GET /\x1b[31m HTTP/1.1\r\nHost: \x00\xe9<b>\r\n\r\n"))).http
    assert (found.target, found.host) == ("/\\x1b[31m", "\\x00é<b>")


def test_what_is_beyond_the_bound_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "MOST_READ", 3)
    found = read(*[ip4(17, udp(DNS_QUERY, ports=(4000, 53)))] * 5)
    assert (len(found.dns), found.unread) == (3, 2)


MESSAGE_CONTINUES = {("dns_tcp.pcapng", 10)}
"""A segment that begins within a message's length: tshark takes what follows for flags, we say unreadable."""


@pytest.mark.slow
def test_names_of_recorded_packets_as_tshark_reads_them(captures: Path, tmp_path: Path) -> None:
    need("tshark")
    named = [
        (name, number, packet)
        for name, packets in captured_packets(captures / "real")
        for number, packet in enumerate(packets, 1)
        if packet.link_type == 1
    ]
    packets = [packet for _, _, packet in named]
    path = tmp_path / "all.pcapng"
    write_pcapng(path, packets)
    fields = ("dns.qry.name", "dns.flags.rcode", "http.request.method", "http.request.uri", "http.host",
              "tls.handshake.extensions_server_name", "mdns")  # fmt: skip
    argv = ["tshark", "-n", "-r", str(path), "-T", "fields", "-o", "tcp.desegment_tcp_streams:FALSE"]
    argv += ["-o", "tcp.analyze_sequence_numbers:FALSE", "-o", "ip.defragment:FALSE", "-E", "occurrence=f"]
    for name in fields:
        argv += ["-e", name]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    theirs = [dict(zip(fields, line.split("\t"), strict=True)) for line in lines]
    columns = of_packets(packets)
    found = read_applications(columns, observe(columns, 1))
    names = {one.packet: one.name or "<Root>" for one in found.dns}
    rcodes = {one.packet: str(one.rcode) for one in found.dns if one.response}
    rcodes |= {at: "0" for at, (name, number, _) in enumerate(named) if (name, number) in MESSAGE_CONTINUES}
    assert {at: one["dns.qry.name"] for at, one in enumerate(theirs) if one["dns.qry.name"]} == {
        at: name for at, name in names.items() if theirs[at]["dns.qry.name"]
    }
    assert {at: one["dns.flags.rcode"] for at, one in enumerate(theirs) if one["dns.flags.rcode"]} == rcodes
    assert [(one.packet, one.method, one.target, one.host) for one in found.http] == [
        (at, one["http.request.method"], one["http.request.uri"][:1024], one["http.host"])
        for at, one in enumerate(theirs)
        if one["http.request.method"] and one["http.request.method"] not in ("M-SEARCH", "NOTIFY")
    ]
    assert len(names) > 100
    assert len(found.http) > 50
