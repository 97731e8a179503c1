"""Filters as text: libpcap's own words for what it refuses, and bounds before it is asked."""

from __future__ import annotations

import threading

import pytest

from agent import _tpacket
from agent.bpf_filter import FilterError, compile_filter


def test_everything_passes_an_empty_filter_up_to_the_snaplen() -> None:
    program = compile_filter("", 1, 77)
    assert program.instructions == 1
    assert _tpacket.run_filter(program.code, bytes(60), 60, 0, -1) == 77


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("udp port", "syntax error"),
        ("port http3000", "unknown port"),
        ("udp and tcp", "rejects all packets"),
        ("((((((", "syntax error"),
        ("udp\0tcp", "NUL"),
        ("é" * 9000, "at most 16384"),
        (" or ".join(f"port {n}" for n in range(1, 300)), "at most 256"),
        ("ip6 protochain 6", "loop"),
        ("\ud800", "syntax error|illegal|parse"),
    ],
)
def test_a_refusal_says_why(text: str, said: str) -> None:
    with pytest.raises(FilterError, match=said):
        compile_filter(text, 1, 100)


@pytest.mark.parametrize("snaplen", [0, -1, 262145, 2**40])
def test_a_snaplen_has_bounds(snaplen: int) -> None:
    with pytest.raises(FilterError, match="snaplen"):
        compile_filter("", 1, snaplen)


def test_a_link_type_has_its_own_offsets() -> None:
    ethernet, raw = compile_filter("udp", 1, 100), compile_filter("udp", 101, 100)
    packet = b"\x45" + bytes(8) + b"\x11" + bytes(10)
    assert _tpacket.run_filter(raw.code, packet, 20, 0, -1)
    assert not _tpacket.run_filter(ethernet.code, packet, 20, 0, -1)
    with pytest.raises(FilterError, match="no VLAN support"):
        compile_filter("vlan", 101, 100)


def test_threads_compile_at_once() -> None:
    wrong: list[object] = []
    expected = {
        port: compile_filter(f"port {port} or (host 10.0.0.1 and tcp)", 1, 100).code for port in range(1, 9)
    }

    def compile_many(port: int) -> None:
        for _ in range(50):
            try:
                if compile_filter(f"port {port} or (host 10.0.0.1 and tcp)", 1, 100).code != expected[port]:
                    wrong.append(port)
                compile_filter("(", 1, 100)
                wrong.append("no error")
            except FilterError as error:
                if "syntax error" not in str(error):
                    wrong.append(error)

    threads = [threading.Thread(target=compile_many, args=(port,)) for port in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
