"""The sources of live packets: what holds for one holds for the others."""

from __future__ import annotations

import pytest

from tests.agent.sources.live import Opener, PcapOpener, RingOpener


@pytest.fixture(params=[pytest.param("classic", marks=pytest.mark.slow), "object", "pcap"])
def open_source(request: pytest.FixtureRequest) -> Opener:
    """Each test that asks for this runs with a ring judged by classic BPF, one judged by eBPF, and with libpcap."""
    return opener_of(request.param)


def opener_of(way: str) -> Opener:
    """`way`: "pcap", or one of tests.support.ebpf.ALL_WAYS."""
    return PcapOpener() if way == "pcap" else RingOpener(way)
