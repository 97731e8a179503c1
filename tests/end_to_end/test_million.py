"""1,000,003 packets, a prime count, at full speed: each arrives once, and every place's sum says so."""

import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import expect

from perf.traffic import write_capture
from tests.support.browser import chromium, need_browser
from tests.support.captures import difference, read_capture
from tests.support.need import need
from tests.support.page import Curl, Driver
from tests.support.stand import HUB, WIRE, Stand

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.browser]

PACKETS = 1_000_003


def test_a_million_packets_arrive_once_and_the_books_balance(
    stand: Stand, curl: Curl, tmp_path: Path
) -> None:
    need("capinfos")
    need_browser()
    source = tmp_path / "million.pcap"
    with open(source, "wb") as output:
        write_capture(output, PACKETS)
    stand.in_hub(*HUB, "import", str(source), "--as", "million", timeout_s=900)
    session = next(one["id"] for one in curl.get("/sessions")["sessions"] if one["agent"] == "million")
    told = curl.wait_balanced(session, timeout_s=300)
    books = told["books"]
    assert books["received"] == books["captured"] == books["spooled"] == books["acknowledged"] == PACKETS
    assert told["archived_packets"] == PACKETS
    assert set(told["differences"].values()) == {0}
    assert (told["missing_batches"], told["broken_links"], told["quarantined"], told["lost_at_end"]) == (
        0,
        0,
        0,
        0,
    )

    evidence = curl.download(session, tmp_path / "million.wpz", timeout_s=900)
    assert "intact" in stand.in_hub(*WIRE, "verify", str(evidence), timeout_s=900)

    exported = curl.download(session, tmp_path / "million.pcapng", timeout_s=900)
    assert difference(read_capture(source).packets, read_capture(exported).packets) == ""
    counted = subprocess.run(
        ["capinfos", "-cMr", str(exported)], capture_output=True, text=True, timeout=600, check=True
    )
    assert str(PACKETS) in counted.stdout

    with chromium(stand.lab.hub.net, tmp_path) as page:
        driver = Driver(page, stand)
        driver.log_in_again()
        page.goto(f"{stand.url}/sessions/{session}")
        for name in ("received", "captured", "spooled", "archived", "declared"):
            expect(page.get_by_test_id(f"difference-{name}")).to_have_attribute("data-value", "0")
