"""Own traffic as a table for the capture kernel."""

from __future__ import annotations

import pytest

from agent import _tpacket
from agent.own_traffic import MAX_ENTRIES, own_traffic_table, that_fit


def test_an_entry_per_address_and_port() -> None:
    table = own_traffic_table([("192.0.2.1", 4222), ("2001:db8::1", 8443), ("192.0.2.1", 4222)])
    assert table == (
        bytes.fromhex("04 00 107e c0000201 000000000000000000000000")
        + bytes.fromhex("06 00 20fb 20010db8000000000000000000000001")
    )
    assert len(table) == 2 * _tpacket.OWN_ENTRY_BYTES


def test_a_mapped_address_stands_for_both_and_a_scope_for_nothing() -> None:
    assert len(own_traffic_table([("::ffff:192.0.2.1", 1)])) == 2 * _tpacket.OWN_ENTRY_BYTES
    assert own_traffic_table([("fe80::1%eth0", 1)]) == own_traffic_table([("[fe80::1]", 1)])


@pytest.mark.parametrize("wrong", [("hub.example", 1), ("192.0.2.1", 0), ("192.0.2.1", 65536), ("", 1)])
def test_what_is_no_address_is_refused(wrong: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=r"no port|not appear"):
        own_traffic_table([wrong])


def test_a_table_has_an_end() -> None:
    with pytest.raises(ValueError, match="at most"):
        own_traffic_table([("192.0.2.1", port) for port in range(1, MAX_ENTRIES + 2)])


def test_more_addresses_than_fit_are_cut_and_said(caplog: pytest.LogCaptureFixture) -> None:
    few = [("192.0.2.1", 1), ("192.0.2.1", 1), ("2001:db8::1", 2)]
    assert that_fit(few) == sorted(set(few))
    assert not caplog.records
    for many, fit in (
        ([(f"10.0.{n // 256}.{n % 256}", 1) for n in range(MAX_ENTRIES + 1)], MAX_ENTRIES),
        ([(f"::ffff:10.0.0.{n}", 1) for n in range(MAX_ENTRIES // 2 + 1)], MAX_ENTRIES // 2),
    ):
        caplog.clear()
        kept = that_fit(many)
        assert kept == sorted(many)[:fit]
        own_traffic_table(kept)
        assert f"only the first {fit} " in caplog.text
