"""The hub's own libpcap on filters."""

import pytest

from hub.filter_check import MAX_TERMS, filter_error


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ""),
        ("tcp port 80 and not host 10.0.0.1", ""),
        ("tcp prot 80", "syntax error"),
        ("port 99999", "port"),
        ("x" * 20_000, "16384 bytes"),
        ("tcp\0udp", "NUL"),
        (" or ".join(["port 1"] * (MAX_TERMS + 1)), "256 terms"),
        ("wlan type mgt", "802.11"),
    ],
)
def test_verdicts(text: str, part: str) -> None:
    error = filter_error(text)
    if error is None:
        pytest.skip("no libpcap on this host")
    assert (error == "") if part == "" else part in error


def test_link_type_decides() -> None:
    if filter_error("") is None:
        pytest.skip("no libpcap on this host")
    assert filter_error("ip", link_type=101) == ""
    assert filter_error("ether host 00:00:00:00:00:01", link_type=101) != ""
