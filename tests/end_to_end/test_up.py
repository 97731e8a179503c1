"""`wirepool up`: one command to a page, one Ctrl-C to nothing left."""

import time
from pathlib import Path

import pytest

from tests.support.lab import HUB_ADDRESS, Lab
from tests.support.need import need
from tests.support.page import Curl
from tests.support.processes import descendants
from tests.support.stand import READY_S, Stand

pytestmark = pytest.mark.root


def test_up_gives_a_page_and_an_agent_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    need("root", "ip", "ss", "curl", "ping")
    with Lab(["web1"], tmp_path) as lab:
        stand = Stand(lab, tmp_path)
        began_s = time.monotonic()
        stand.start()
        assert time.monotonic() - began_s < READY_S  # the promise, not a measurement
        assert stand.first_password
        assert stand.up is not None
        curl = Curl(stand)
        curl.log_in()
        agents = curl.get("/agents")["agents"]
        assert len(agents) == 1, "up runs an agent on its own host"
        curl.wait_online(agents[0]["id"])
        listening = [line.split()[3] for line in lab.hub.run("ss", "-Hltn").splitlines()]
        assert {address.rpartition(":")[0] for address in listening} == {HUB_ADDRESS}, listening
        below = descendants(stand.up.pid)
        assert len(below) >= 3
        assert stand.stop() == 0, lab.hub.log("up.log")
        assert [pid for pid in below if Path(f"/proc/{pid}").exists()] == []
        assert lab.hub.run("ss", "-Hltn") == ""
        # A second start finds everything made: the same page, no new password, and the agent is known.
        (lab.hub.directory / "up.log").write_text("")
        stand.start()
        again = Curl(stand)
        again.log_in()
        assert [agent["id"] for agent in again.get("/agents")["agents"]] == [agents[0]["id"]]
        assert stand.stop() == 0
