"""Ring or libpcap, and that the reason is said."""

from __future__ import annotations

import subprocess
import sys

from agent.ebpf.loading import CapturePath
from agent.sources.choice import ON_A_RING, ring_or_libpcap


def test_a_system_with_af_packet_takes_the_ring() -> None:
    for wanted in ("auto", "classic", "bcc", "object"):
        assert ring_or_libpcap(wanted) == (ON_A_RING, "")
    assert CapturePath("classic").capabilities == ("ring",)


def test_libpcap_is_taken_where_the_configuration_asks_for_it() -> None:
    path = CapturePath("pcap")
    assert (path.name, path.capabilities) == ("libpcap+cbpf", ("libpcap",))
    assert path.reason.startswith("capture.path asks for it; libpcap version 1.")
    path.probe()
    assert path.name == "libpcap+cbpf"
    assert path.open() is None


_ELSEWHERE = """
import ctypes, socket, sys
from agent.ebpf.loading import CapturePath
from agent.intake import Order
from agent.sources.opening import open_source
from agent.settings import Config
from agent.sources.choice import ring_or_libpcap
from agent.sources.source import SourceError
from wire.session import SessionSpec

del socket.AF_PACKET  # as on a system that has none
print(ring_or_libpcap("auto"))
ctypes.CDLL = lambda name: (_ for _ in ()).throw(OSError(name))  # nor libpcap
import agent.libpcap
agent.libpcap.load.cache_clear()
print(ring_or_libpcap("auto"))
print(ring_or_libpcap("pcap"))
try:
    spec = SessionSpec(id="a" * 26, interface="lo")
    open_source(spec, "lo", Order.declared(spec), [], Config(), CapturePath("auto"))
except SourceError as error:
    print(error)
"""


def test_without_af_packet_libpcap_and_without_both_an_error_that_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], capture_output=True, text=True, check=True, timeout=60
    )
    automatic, neither, asked, error = done.stdout.splitlines()
    assert "libpcap+cbpf" in automatic
    assert "AF_PACKET is Linux's" in automatic
    assert "'none'" in neither
    assert "AF_PACKET is Linux's" in neither
    assert "Install libpcap0.8" in asked
    assert "AF_PACKET" not in asked
    assert error.startswith("this host has no way to capture")
    assert "Install libpcap0.8" in error
