"""The main job, as a person does it: two hosts, real traffic, one page, and a capture file that is tcpdump's
own.

Where two sockets on one interface may differ: in the order of packets that two processors handled at once (so
order isn't compared), and in the stamps of what the kernel left to each socket to stamp (the laboratory sees
to it that it doesn't: tests/support/lab.py, tests/support/wire_like_veth.py). Everything else has to be
equal.
"""

import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.browser import chromium, need_browser
from tests.support.captures import Packet, difference, read_capture
from tests.support.lab import Lab, Tcpdump
from tests.support.lan_traffic import (
    MARKED_PACKETS,
    NEEDED,
    ORDINARY_FILTER,
    LanServers,
    all_kinds,
    fetch,
    look_up,
    ping,
)
from tests.support.need import need
from tests.support.page import Driver
from tests.support.stand import Stand

pytestmark = [pytest.mark.root, pytest.mark.browser]

IN_PAUSE, AFTER_PAUSE = b"wirepool-paused!", b"wirepool-the-end"


def _check_with_other_tools(path: Path) -> None:
    """tshark reads it to its end without a word, capinfos finds nothing to complain of."""
    read = subprocess.run(
        ["tshark", "-n", "-r", str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    complaints = [line for line in read.stderr.splitlines() if "Running as user" not in line]
    assert (read.returncode, complaints) == (0, [])
    info = subprocess.run(
        ["capinfos", "-M", str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert info.returncode == 0, info.stderr
    assert "nanoseconds" in info.stdout


def _without_pause(packets: list[Packet]) -> list[Packet]:
    """tcpdump's packets without those of the pause: everything from its first marked echo to its last."""
    marked = [packet.timestamp_ns for packet in packets if IN_PAUSE in packet.data]
    return [packet for packet in packets if not min(marked) <= packet.timestamp_ns <= max(marked)]


@pytest.mark.slow
def test_two_hosts_one_page_and_the_capture_equals_tcpdumps(tmp_path: Path) -> None:
    need("root", "tshark", "capinfos", *NEEDED)
    need_browser()
    with Lab(["web1", "db1"], tmp_path) as lab:
        stand = Stand(lab, tmp_path)
        stand.start()
        servers = LanServers(lab["web1"])
        client, server = lab["db1"], lab["web1"]
        for host in lab.hosts:
            stand.enrol(host)
            stand.start_agent(host)
        dumps = {
            host.name: Tcpdump(host, "eth0", ORDINARY_FILTER, tmp_path / f"{host.name}.pcap")
            for host in lab.hosts
        }
        with chromium(lab.hub.net, tmp_path) as page:
            driver = Driver(page, stand)
            driver.log_in()
            for host in lab.hosts:
                expect(page.get_by_test_id(f"agent-{host.name}")).to_have_attribute(
                    "data-state", "online", timeout=20_000
                )
            sessions = driver.start_capture({host.name: "eth0" for host in lab.hosts}, ORDINARY_FILTER)
            with dumps["web1"], dumps["db1"]:
                # One kind after the other: of a burst the page shows a part and counts the rest.
                rows = page.get_by_test_id("rows")
                for kind, word in (
                    (lambda: look_up(client, servers, "www"), "DNS"),
                    (lambda: fetch(client, server.address, "index.html"), "HTTP"),
                    (lambda: fetch(client, server.address6, "index.html", tls=True), "TLS"),
                    (lambda: ping(client, server.address6), "ICMPv6"),
                ):
                    kind()
                    expect(rows.get_by_role("gridcell").filter(has_text=word).first).to_be_visible(
                        timeout=10_000
                    )
                all_kinds(client, servers)
                for host in lab.hosts:
                    expect(rows.get_by_role("gridcell").filter(has_text=host.name).first).to_be_visible()
                driver.pause(sessions.values())
                ping(client, server.address, mark=IN_PAUSE)
                all_kinds(client, servers, mark=IN_PAUSE)
                driver.resume(sessions.values())
                all_kinds(client, servers, mark=AFTER_PAUSE)
                for dump in dumps.values():
                    dump.wait_for(AFTER_PAUSE, packets=MARKED_PACKETS)
            driver.stop_capture(sessions.values())
            for name, dump in dumps.items():
                assert dump.dropped == 0
                seen = read_capture(dump.path)
                exported = driver.download(sessions[name], tmp_path)
                _check_with_other_tools(exported)
                capture = read_capture(exported)
                assert capture.complaint is None
                assert difference(_without_pause(seen.packets), capture.packets) == ""
                assert {interface.name for interface in capture.interfaces if interface.name}, name
