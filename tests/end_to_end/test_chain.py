"""The chain without a browser: capture, export, evidence, the stock NATS CLI."""

import csv
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.captures import difference, read_capture
from tests.support.lab import Tcpdump, stop_process
from tests.support.lan_traffic import ORDINARY_FILTER, LanServers, all_kinds, ping, sentinel
from tests.support.need import need
from tests.support.netns import wait_for
from tests.support.page import Curl
from tests.support.processes import find_below
from tests.support.stand import HUB, WIRE, Stand
from wire.batch import open_batch
from wire.framing import split_messages
from wire.names import Lane

pytestmark = pytest.mark.root

LAST = b"wirepool-the-end"


def test_what_tcpdump_saw_is_what_is_exported_and_verified(
    stand: Stand, curl: Curl, servers: LanServers, tmp_path: Path
) -> None:
    host = stand.lab["web1"]
    session = curl.start("web1", "eth0", ORDINARY_FILTER)
    with Tcpdump(host, "eth0", ORDINARY_FILTER, tmp_path / "web1.pcap") as dump:
        for _ in range(5):
            all_kinds(stand.lab["db1"], servers)
        sentinel(stand.lab["db1"], host, LAST)
        dump.wait_for(LAST, packets=2)
    curl.order(session, "stop", "stopped")
    told = curl.wait_balanced(session)
    exported = read_capture(curl.download(session, tmp_path / "web1.pcapng"))
    seen = read_capture(dump.path)
    assert exported.complaint is None
    assert difference(seen.packets, exported.packets) == ""
    assert told["books"]["received"] == told["archived_packets"] == len(seen.packets)
    assert told["verdict"] == "intact"
    evidence = curl.download(session, tmp_path / "web1.wpz")
    assert "intact" in stand.in_hub(*WIRE, "verify", str(evidence))


def test_a_changed_filter_loses_nothing_that_both_filters_take(
    stand: Stand, curl: Curl, servers: LanServers, tmp_path: Path
) -> None:
    host, client = stand.lab["web1"], stand.lab["db1"]
    session = curl.start("web1", "eth0", "icmp")
    with Tcpdump(host, "eth0", "icmp", tmp_path / "icmp.pcap") as dump:
        flood = client.start("ping", "-q", "-n", "-i", "0.002", host.address, log="flood.log")
        for text in ("icmp or udp", "icmp or tcp", "icmp"):
            answer = curl.post(f"/sessions/{session}/filter", {"filter": text})
            wanted = answer["session"]["filter_revision"]
            wait_for(
                lambda wanted=wanted: curl.session(session)["applied_filter_revision"] == wanted,  # type: ignore[misc]
                f"filter revision {wanted}",
            )
        flood.send_signal(signal.SIGINT)
        flood.wait(20)
        sentinel(client, host, LAST)
        dump.wait_for(LAST, packets=2)
    curl.order(session, "stop", "stopped")
    curl.wait_balanced(session)
    exported = read_capture(curl.download(session, tmp_path / "icmp.pcapng"))
    icmp = [packet for packet in exported.packets if packet.data[12:14] == b"\x08\0" and packet.data[23] == 1]
    seen = read_capture(dump.path)
    first = seen.packets[0].timestamp_ns
    assert difference(seen.packets, [packet for packet in icmp if packet.timestamp_ns >= first]) == ""
    assert {interface.filter_text for interface in exported.interfaces} >= {
        "icmp",
        "icmp or udp",
        "icmp or tcp",
    }


def test_what_is_turned_away_and_cut_off_is_in_the_books(stand: Stand, curl: Curl) -> None:
    host, client = stand.lab["web1"], stand.lab["db1"]
    (told,) = [one for one in curl.get("/agents")["agents"] if one["id"] == "web1"]
    assert told["capture_path"] == "af_packet+ebpf"
    requests = "icmp[icmptype] = icmp-echo"
    session = curl.start("web1", "eth0", requests, flow_cutoff_bytes=500)
    ping(client, host.address, count=50, mark=LAST)
    rules = {"filter": requests, "flow_cutoff_bytes": 0}
    wanted = curl.post(f"/sessions/{session}/filter", rules)["session"]["filter_revision"]
    wait_for(lambda: curl.session(session)["applied_filter_revision"] == wanted, "the cut-off is gone")
    ping(client, host.address, count=3, mark=LAST)
    curl.order(session, "stop", "stopped")
    books = curl.wait_balanced(session)["books"]
    assert books["filtered"] >= 53, "the answers, at least"
    # 162 bytes each: three are below the cut-off, the fourth reaches it.
    assert (books["received"], books["cut_off"], books["sampled_out"]) == (4 + 3, 50 - 4, 0)


def test_the_filter_judges_what_the_kernels_own_tunnel_carries(
    stand: Stand, curl: Curl, tmp_path: Path
) -> None:
    """Pings through a VXLAN of the kernel: by the outer packet none of them is ICMP, by the inner one all are."""
    ends = ((stand.lab["web1"], stand.lab["db1"], "1"), (stand.lab["db1"], stand.lab["web1"], "2"))
    for here, there, number in ends:
        vxlan = ("type", "vxlan", "id", "77", "remote", there.address, "dstport", "4789", "dev", "eth0")
        here.run("ip", "link", "add", "vx0", *vxlan)
        here.run("ip", "addr", "add", f"192.168.77.{number}/24", "dev", "vx0")
        here.run("ip", "link", "set", "vx0", "up")
    session = curl.start("web1", "eth0", "icmp", filter_inside_tunnels=True)
    ping(stand.lab["db1"], "192.168.77.1", count=7, mark=LAST)
    wanted = curl.post(f"/sessions/{session}/filter", {"filter": "icmp", "filter_inside_tunnels": False})
    revision = wanted["session"]["filter_revision"]
    wait_for(
        lambda: curl.session(session)["applied_filter_revision"] == revision, "the outer packet is judged"
    )
    ping(stand.lab["db1"], "192.168.77.1", count=5, mark=LAST)
    curl.order(session, "stop", "stopped")
    books = curl.wait_balanced(session)["books"]
    assert books["received"] == 2 * 7
    assert books["filtered"] >= 2 * 5
    exported = read_capture(curl.download(session, tmp_path / "tunnel.pcapng"))
    inside = [packet.data[14 + 20 + 8 + 8 :] for packet in exported.packets]
    assert {(packet[12:14], packet[23]) for packet in inside} == {(b"\x08\0", 1)}
    for here, _, _ in ends:
        here.run("ip", "link", "del", "vx0")


def test_priority_packets_are_shown_and_exported_among_the_others(
    stand: Stand, curl: Curl, tmp_path: Path
) -> None:
    """Two lanes and two streams, one list: rows, export and evidence hold both."""
    host, client = stand.lab["web1"], stand.lab["db1"]
    session = curl.start("web1", "eth0", "udp portrange 5050-5060", priority="port 5053\nport 5054")
    watching = stand.lab.hub.start(*curl.stream(f"/events/live?session={session}"), log="events.log")
    wait_for(lambda: "event: session" in stand.lab.hub.log("events.log"), "the page watches")
    ports = [5050 + number % 11 for number in range(220)]
    script = "import socket, sys, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    script += f"for port in {ports}: s.sendto(b'mark', ('{host.address}', port)); time.sleep(0.005)"
    client.run(sys.executable, "-c", script)
    wait_for(lambda: curl.session(session)["archived_packets"] == len(ports), "all are archived")
    shown = stand.lab.hub.log("events.log")
    stop_process(watching, how=signal.SIGKILL)
    for port in (5050, 5053, 5054, 5060):
        assert f"→ {port} " in shown, f"a row of port {port}"
    curl.order(session, "stop", "stopped")
    curl.wait_balanced(session)
    wait_for(lambda: curl.session(session)["verdict"] == "intact", "both lanes' closing batches are there")
    exported = read_capture(curl.download(session, tmp_path / "both.pcapng"))
    in_time = sorted(exported.packets, key=lambda packet: packet.timestamp_ns)
    assert [int.from_bytes(packet.data[36:38], "big") for packet in in_time] == ports
    evidence = curl.download(session, tmp_path / "both.wpz")
    assert "intact" in stand.in_hub(*WIRE, "verify", str(evidence))
    with zipfile.ZipFile(evidence) as archive:
        stored = [archive.read("messages.wp")]
    batches = [open_batch(message, public=None) for message in split_messages(stored)]
    packets = {lane: sum(one.header.packets for one in batches if one.header.lane is lane) for lane in Lane}
    assert packets == {Lane.PRIO: len(ports) * 2 // 11, Lane.BULK: len(ports) * 9 // 11}


def test_what_two_hosts_saw_of_one_exchange_is_one_conversation(stand: Stand, curl: Curl) -> None:
    host, client = stand.lab["web1"], stand.lab["db1"]
    sessions = [curl.start(name, "eth0", "udp port 7777") for name in ("web1", "db1")]
    script = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    script += f"for n in range(30): s.sendto(b'question %d' % n, ('{host.address}', 7777)); time.sleep(0.01)"
    client.run(sys.executable, "-c", script)
    found: list[dict[str, Any]] = []

    def correlated() -> bool:
        found[:] = curl.get("/explore/conversations?q=port:7777&last=1h")["conversations"]
        return bool(found) and found[0]["observations"] >= 60

    wait_for(correlated, "the conversation, as both hosts saw it")
    (one,) = found
    assert one["agent_id"] == ["db1", "web1"]
    assert (one["source.ip"], one["destination.ip"]) == (client.address, host.address)
    assert (one["network.packets"], one["observations"]) == (30, 60)
    lanes = curl.get(f"/explore/conversations/{one['id']}")
    assert [(lane["agent"], lane["packets"]) for lane in lanes["lanes"]] == [("db1", 30), ("web1", 30)]
    assert lanes["delays"]
    for session in sessions:
        curl.order(session, "stop", "stopped")


def test_flows_are_counted_whatever_is_kept_and_reach_page_and_csv(
    stand: Stand, curl: Curl, tmp_path: Path
) -> None:
    host, client = stand.lab["web1"], stand.lab["db1"]
    session = curl.start("web1", "eth0", "tcp port 9", flow_records=True)
    wait_for(lambda: curl.session(session)["applied_flow_records"], "flows are counted")
    ping(client, host.address, count=30, mark=LAST)
    curl.order(session, "stop", "stopped")
    told = curl.wait_balanced(session)
    books = told["books"]
    assert books["received"] == 0, "the filter takes nothing"
    assert books["flows_counted"] == books["flows_shipped"] + books["flows_own"]
    assert books["flows_counted"] + books["flows_unattributed"] == books["filtered"]
    text = curl.page(f"/sessions/{session}/flows.csv")
    rows = list(csv.DictReader(text.splitlines()))
    ends = {host.address, client.address}
    (pings,) = [
        row for row in rows if row["protocol"] == "icmp" and {row["address_a"], row["address_b"]} == ends
    ]
    assert (pings["packets_a"], pings["packets_b"]) == ("30", "30")
    assert pings["bytes_a"] == pings["bytes_b"]
    assert sum(int(row["packets_a"]) + int(row["packets_b"]) for row in rows) == books["flows_shipped"]
    page = curl.page(f"/sessions/{session}")
    assert 'data-testid="flow"' in page
    assert host.address in page
    evidence = curl.download(session, tmp_path / "flows.wpz")
    assert "intact" in stand.in_hub(*WIRE, "verify", str(evidence))
    with zipfile.ZipFile(evidence) as archive:
        (name,) = [name for name in archive.namelist() if name.startswith("messages")]
        (tmp_path / "messages").write_bytes(archive.read(name))
    lines = stand.in_hub("sh", "-c", f"{' '.join(WIRE)} decode < {tmp_path / 'messages'}").splitlines()
    assert sum(" flow icmp " in line and host.address in line for line in lines) >= 1
    exported = read_capture(curl.download(session, tmp_path / "flows.pcapng"))
    assert (exported.complaint, exported.packets) == (None, [])


def test_a_wrong_filter_is_refused_with_libpcaps_words(stand: Stand, curl: Curl) -> None:
    verdict = curl.post("/check-filter", {"agent": "web1", "interface": "eth0", "filter": "tcp prt 80"})
    assert verdict["verdict"] == "error"
    assert "syntax error" in verdict["message"]


def _nats(stand: Stand, *argv: str) -> list[str]:
    return ["env", f"XDG_CONFIG_HOME={stand.environment['XDG_CONFIG_HOME']}", "nats", *argv]


def test_the_stock_nats_cli_decodes_and_pipes(
    stand: Stand, curl: Curl, servers: LanServers, tmp_path: Path
) -> None:
    need("nats", "tshark")
    host, client = stand.lab["web1"], stand.lab["db1"]
    stand.in_hub(*HUB, "viewer", "anna", "--agents", "web1")
    decode = tmp_path / "decode"
    decode.write_text(f'#!/bin/sh\nexec {" ".join(WIRE)} decode "$@"\n')
    decode.chmod(0o755)
    pcapng = tmp_path / "live.pcapng"
    subscribe = _nats(stand, "--context", "wirepool-anna", "sub", "cap.web1.>")
    translate = stand.lab.hub.start(
        *subscribe, "--translate", str(decode), log="translate.log", env=stand.environment
    )
    pipe = " ".join([*subscribe, "--raw", "|", str(decode), "--pcapng", "-", ">", str(pcapng)])
    raw = stand.lab.hub.start(
        "sh", "-c", pipe.replace("cap.web1.>", "'cap.web1.>'"), log="raw.log", env=stand.environment
    )
    session = curl.start("web1", "eth0", "icmp")

    def seen() -> bool:
        ping(client, host.address, count=2, mark=LAST)
        return (
            "ICMP" in stand.lab.hub.log("translate.log") and pcapng.exists() and LAST in pcapng.read_bytes()
        )

    wait_for(
        seen, f"packets through the CLI: {stand.lab.hub.log('translate.log')} {stand.lab.hub.log('raw.log')}"
    )
    curl.order(session, "stop", "stopped")
    # Killed, not asked: the CLI can take long to end. Decode goes on to the end of its input.
    stop_process(translate, how=signal.SIGKILL)
    subscriber = find_below(raw.pid, "nats", "sub")
    assert subscriber is not None
    os.kill(subscriber, signal.SIGKILL)
    raw.wait(20)
    shown = subprocess.run(
        ["tshark", "-n", "-r", str(pcapng)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Echo (ping) request" in shown.stdout
    refused = stand.lab.hub.net.run(
        *_nats(stand, "--context", "wirepool-anna", "sub", "cap.db1.>", "--count", "1", "--wait", "3s"),
        check=False,
    )
    assert "permissions violation" in (refused.stdout + refused.stderr).lower()


def test_import_lets_a_file_join_under_its_own_name(
    stand: Stand, curl: Curl, captures: Path, tmp_path: Path
) -> None:
    source = captures / "real" / "http_google.pcapng"
    stand.in_hub(*HUB, "import", str(source), "--as", "laptop")
    found = [one for one in curl.get("/sessions")["sessions"] if one["agent"] == "laptop"]
    assert len(found) == 1, json.dumps(found)
    curl.wait_balanced(found[0]["id"])
    exported = read_capture(curl.download(found[0]["id"], tmp_path / "laptop.pcapng"))
    assert difference(read_capture(source).packets, exported.packets) == ""
    # The closing batch has no packets: the books balance without it, a moment before it is booked.
    wait_for(lambda: curl.session(found[0]["id"])["verdict"] == "intact", "the chain's end, booked")
