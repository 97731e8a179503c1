"""A real agent's packets in the pool: what is asked of it equals what tshark says of tcpdump's file."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hub.pool.embedded.store import EmbeddedStore
from hub.pool.query.parse import parse
from tests.hub.parts import running
from tests.support.lab import Lab, Tcpdump
from tests.support.lan_traffic import NEEDED, ORDINARY_FILTER, LanServers, all_kinds, sentinel
from tests.support.need import need
from tests.support.netns import wait_for
from tests.support.page import Curl
from tests.support.stand import Stand

pytestmark = [pytest.mark.root, pytest.mark.slow]

LAST = b"wirepool-the-end"
QUESTIONS = {  # ours → tshark's
    "": "frame",
    "proto:tcp": "tcp",
    "proto:udp": "udp",
    "proto:icmp": "icmp",
    "port:53": "udp.port == 53 or tcp.port == 53",
    "dst_port:53": "udp.dstport == 53 or tcp.dstport == 53",
    "src:{web} and proto:tcp": "ip.src == {web} and tcp",
    "ip:{db} and not proto:icmp": "ip.addr == {db} and not icmp",
    "tcp.syn:true and tcp.ack:false": "tcp.flags.syn == 1 and tcp.flags.ack == 0",
    "bytes > 200": "frame.len > 200",
    "network.type:arp": "arp",
    "dns:*": "dns and not mdns and udp.port == 53",
}


async def counted(directory: Path, questions: Sequence[str]) -> list[int]:
    store = EmbeddedStore(directory)
    async with running(store.run()):
        async with asyncio.timeout(20):
            await store.opened.wait()
        return [
            await store.count(parse(one) if one else None, since_ns=0, until_ns=2**63 - 1)
            for one in questions
        ]


def by_tshark(path: Path, display_filter: str) -> int:
    argv = ("tshark", "-n", "-r", str(path), "-Y", display_filter, "-T", "fields", "-e", "frame.number")
    return len(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def test_what_the_pool_answers_is_what_tshark_says(tmp_path: Path) -> None:
    need("root", "curl", "tshark", *NEEDED)
    with Lab(["web1", "db1"], tmp_path) as lab:
        stand = Stand(lab, tmp_path)
        stand.start()
        web, db = lab["web1"], lab["db1"]
        stand.enrol(web)
        stand.start_agent(web)
        curl = Curl(stand)
        curl.log_in()
        curl.wait_online("web1")
        servers = LanServers(web)
        session = curl.start("web1", "eth0", ORDINARY_FILTER)
        with Tcpdump(web, "eth0", ORDINARY_FILTER, tmp_path / "web1.pcap") as dump:
            for _ in range(3):
                all_kinds(db, servers)
            sentinel(db, web, LAST)
            dump.wait_for(LAST, packets=2)
        curl.order(session, "stop", "stopped")
        told = curl.wait_balanced(session)

        def pooled() -> bool:
            found = curl.get(f"/sessions/{session}/pool")
            return bool(found["pooled"] == told["archived_packets"] and not found["behind"])

        wait_for(pooled, "the pool to have what the archive has")
        numbers = curl.get("/pool")
        assert numbers["ready"]
        assert numbers["packets"] == told["archived_packets"]
        assert numbers["lag_p95_s"] < 1
        stand.stop()
        names = {"web": web.address, "db": db.address}
        ours = asyncio.run(counted(stand.state.pool, [one.format(**names) for one in QUESTIONS]))
        theirs = [by_tshark(dump.path, one.format(**names)) for one in QUESTIONS.values()]
        assert dict(zip(QUESTIONS, ours, strict=True)) == dict(zip(QUESTIONS, theirs, strict=True))
        assert all(theirs[i] for i, one in enumerate(QUESTIONS) if "arp" not in one)
