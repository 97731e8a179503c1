"""What reports gained since they were frozen is optional: older agents and hubs go on without it."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest

from wire.clock import Clock
from wire.errors import WireError
from wire.report import InterfaceReport, Report

ADDED = {"best_interface", "best_interface_reason"}
REPORT = Report(
    agent="web1",
    version="0.1.0",
    wire_version=1,
    hostname="web1",
    os="Debian",
    kernel="6.1",
    machine="x86_64",
    boot=bytes(16),
    started_ns=1,
    desired_revision=0,
    capture_path="af_packet+cbpf",
    interfaces=(InterfaceReport(name="eth0", index=2, state="up"),),
    clock=Clock(),
)


def test_without_them_the_map_is_the_frozen_one() -> None:
    assert not ADDED & REPORT.to_map().keys()
    assert "driver" not in REPORT.to_map()["interfaces"][0]
    assert Report.from_map(REPORT.to_map()) == REPORT


def test_with_them_a_report_comes_back() -> None:
    (interface,) = REPORT.interfaces
    more = replace(
        REPORT,
        interfaces=(replace(interface, driver="igb"),),
        best_interface="eth0",
        best_interface_reason="it carries the default route",
    )
    assert Report.from_map(cbor2.loads(cbor2.dumps(more.to_map()))) == more


@pytest.mark.parametrize("key", sorted(ADDED))
@pytest.mark.parametrize("value", ["x" * 2000, 7, b"eth0"])
def test_what_is_hostile_in_them_is_refused(key: str, value: object) -> None:
    with pytest.raises(WireError, match=key):
        Report.from_map(REPORT.to_map() | {key: value})
