"""One running wirepool for the tests of a module that don't break it: starting one takes some seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import Lab
from tests.support.lan_traffic import NEEDED, LanServers
from tests.support.need import need
from tests.support.page import Curl
from tests.support.stand import Stand


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """`wirepool up`, and two enrolled hosts, web1 and db1, with their agents running."""
    need("root", "curl", *NEEDED)
    directory: Path = tmp_path_factory.mktemp("stand")
    with Lab(["web1", "db1"], directory) as lab:
        stand = Stand(lab, directory)
        stand.start()
        for host in lab.hosts:
            stand.enrol(host)
            stand.start_agent(host, "replay: {directory: /}")  # the captures may lie anywhere
        yield stand


@pytest.fixture(scope="module")
def curl(stand: Stand) -> Curl:
    """Logged in at the stand's page, both agents online."""
    curl = Curl(stand)
    curl.log_in()
    curl.wait_online("web1", "db1")
    return curl


@pytest.fixture(scope="module")
def servers(stand: Stand) -> LanServers:
    """HTTP, DNS and TLS servers on web1."""
    return LanServers(stand.lab["web1"])
