"""An agent that stands still until it is missed: shown, survived, and every packet accounted for."""

import os
import signal

import pytest

from tests.support.captures import read_capture
from tests.support.lan_traffic import ping
from tests.support.netns import wait_for
from tests.support.page import Curl
from tests.support.stand import Stand

pytestmark = [pytest.mark.root, pytest.mark.slow]

PACKETS = 200


def test_a_stopped_agent_goes_on_where_it_was(
    stand: Stand, curl: Curl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SIGSTOP until the hub calls it offline (some 15 s); the ring holds what comes meanwhile."""
    host, client = stand.lab["web1"], stand.lab["db1"]
    session = curl.start("web1", "eth0", "icmp")
    agent = stand.agents["web1"]

    def state() -> str:
        return next(str(one["state"]) for one in curl.get("/agents")["agents"] if one["id"] == "web1")

    os.kill(agent.pid, signal.SIGSTOP)
    try:
        ping(client, host.address, count=PACKETS // 2)
        wait_for(lambda: state() != "online", "the hub misses the agent", timeout_s=60)
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    curl.wait_online("web1")
    wait_for(
        lambda: curl.session(session)["archived_packets"] >= PACKETS,
        "what the ring held is stored",
        timeout_s=60,
    )
    curl.order(session, "stop", "stopped")
    books = curl.wait_balanced(session)["books"]
    assert (books["received"], books["acknowledged"], books["dropped_ring"]) == (PACKETS, PACKETS, 0)
    path = tmp_path_factory.mktemp("standstill") / "icmp.pcapng"
    exported = read_capture(curl.download(session, path))
    assert (len(exported.packets), exported.complaint) == (PACKETS, None)
