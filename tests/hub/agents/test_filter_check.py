"""The hub's own libpcap on filters."""

import pytest

from hub.agents.filter_check import MAX_TERMS, advice, filter_error


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


@pytest.mark.parametrize(
    ("text", "what_to_do"),
    [
        ("tcp prot 80", "tcp port 443 and host"),
        ("icmp and and", "tcp port 443 and host"),
        ("ip.addr == 10.0.0.1", "another language"),
        ("host nosuch.invalid", "write the address"),
        ("udp port no-such-service", "as a number"),
        ("port 99999", "65535"),
        ("net 10.0.0.1/8", "net 10.0.0.0/8"),
        ("wlan type mgt", "man pcap-filter"),
    ],
)
def test_what_libpcap_refuses_comes_with_what_to_do(text: str, what_to_do: str) -> None:
    error = filter_error(text)
    if error is None:
        pytest.skip("no libpcap on this host")
    assert what_to_do in advice(error)


def test_what_already_says_what_to_do_gets_no_advice() -> None:
    assert (
        advice("the filter joins 300 terms; at most 256 are taken. Use networks instead of lists of hosts")
        == ""
    )


def test_an_interface_that_is_not_there_is_no_matter_of_the_filter() -> None:
    assert "another interface" in advice("this host has no interface 'eth7'; it has lo, eth0")
