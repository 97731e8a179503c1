"""Kill −9 of the agent, the hub and the server, once each, while a session runs: it goes on by itself.

Nothing that was acknowledged is lost, and only the killed agent's own death leaves a gap: the batch it was
filling and what passed until its successor captured again.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from hub.ledger.session_books import session_books
from tests.support.captures import Packet, difference, read_capture
from tests.support.lab import Host, Lab, Tcpdump
from tests.support.lan_traffic import NEEDED, sentinel
from tests.support.need import need
from tests.support.netns import wait_for
from tests.support.page import Curl
from tests.support.stand import WIRE, Stand

pytestmark = [pytest.mark.root, pytest.mark.slow]

LAST = b"wirepool-the-end"


def _goes_on(stand: Stand, session: str) -> None:
    """Until the hub has stored packets that passed after now; what had only waited for the hub says nothing."""
    now_ns = time.time_ns()

    def stored_again() -> bool:
        with closing(stand.registry()) as registry:
            return (session_books(registry, session).last_timestamp_ns or 0) > now_ns

    wait_for(stored_again, "packets stored again", timeout_s=60)


@contextmanager
def _capturing(directory: Path) -> Iterator[tuple[Stand, Host, Host, Popen[bytes], Curl, str]]:
    """A stand with a session on web1: (stand, web1, db1, web1's agent, curl that is logged in, session)."""
    need("root", "curl", *NEEDED)
    with Lab(["web1", "db1"], directory) as lab:
        stand = Stand(lab, directory)
        stand.start()
        stand.enrol(lab["web1"])
        agent = stand.start_agent(lab["web1"])
        curl = Curl(stand)
        curl.log_in()
        curl.wait_online("web1")
        session = curl.start("web1", "eth0", "icmp")
        yield stand, lab["web1"], lab["db1"], agent, curl, session


def _kill_and_wait_for_another(pid_now: Callable[[], int | None]) -> None:
    """SIGKILL, and until its supervisor has started another one."""
    victim = pid_now()
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: pid_now() not in (victim, None), "started again", timeout_s=60)


def test_each_part_dies_once_and_the_session_goes_on(tmp_path: Path) -> None:
    with _capturing(tmp_path) as (stand, host, client, agent, curl, session):
        with Tcpdump(host, "eth0", "icmp", tmp_path / "icmp.pcap") as dump:
            flood = client.start("ping", "-q", "-n", "-i", "0.005", host.address, log="flood.log")
            _goes_on(stand, session)

            _kill_and_wait_for_another(stand.nats_pid)
            _goes_on(stand, session)

            _kill_and_wait_for_another(stand.hub_pid)
            wait_for(lambda: stand.answers("/healthz"), "the page", timeout_s=60)
            curl.log_in()
            all_well_ns = time.time_ns()
            _goes_on(stand, session)

            killed_ns = time.time_ns()
            agent.kill()
            agent.wait(10)
            stand.start_agent(host)
            curl.wait_online("web1")
            _goes_on(stand, session)
            back_ns = time.time_ns()

            flood.send_signal(signal.SIGINT)
            flood.wait(20)
            sentinel(client, host, LAST)
            dump.wait_for(LAST, packets=2)
        curl.order(session, "stop", "stopped")
        told = curl.wait_balanced(session)
        exported = read_capture(curl.download(session, tmp_path / "icmp.pcapng"))
        seen = read_capture(dump.path)

        assert exported.complaint is None
        # What the killed agent had not spooled is missing: an unbroken tail, however busy the machine was.
        last_spooled_ns = max(p.timestamp_ns for p in exported.packets if p.timestamp_ns <= killed_ns)
        assert last_spooled_ns > all_well_ns

        def in_gap(packet: Packet) -> bool:
            return last_spooled_ns < packet.timestamp_ns <= back_ns

        # tcpdump began a moment after the session; from its first packet on both must agree outside the gap.
        first = seen.packets[0].timestamp_ns
        ours = [packet for packet in exported.packets if packet.timestamp_ns >= first]
        outside = ([p for p in seen.packets if not in_gap(p)], [p for p in ours if not in_gap(p)])
        assert difference(*outside) == ""
        within = ({p for p in seen.packets if in_gap(p)}, {p for p in ours if in_gap(p)})
        assert within[1] <= within[0]
        assert within[0] - within[1], (
            "the killed agent's gap is where its packets are missing, and there they are"
        )
        assert told["quarantined"] == 0
        assert told["missing_batches"] == 0
        evidence = curl.download(session, tmp_path / "icmp.wpz")
        verdict = stand.in_hub(*WIRE, "verify", str(evidence), check=False)
        assert "open tail" in verdict, verdict
        assert "unexplained gap" not in verdict


def test_an_agent_without_a_server_waits_and_then_delivers(tmp_path: Path) -> None:
    with _capturing(tmp_path) as (stand, host, client, agent, curl, session):
        assert stand.stop() == 0
        stand.stop_agent(host)
        # The agent starts with nobody there, goes on with what it was told last, and keeps what it sees.
        stand.start_agent(host)
        wait_for(lambda: host.capture_sockets() > 0, "the agent captures")
        with Tcpdump(host, "eth0", "icmp", tmp_path / "icmp.pcap") as dump:
            sentinel(client, host, LAST)
            dump.wait_for(LAST, packets=2)
        wait_for(lambda: _holds(host.directory / "agent", LAST), "the packets in the spool", timeout_s=20)
        stand.start()
        curl.wait_online("web1")
        curl.order(session, "stop", "stopped")
        curl.wait_balanced(session)
        exported = read_capture(curl.download(session, tmp_path / "icmp.pcapng"))
        assert sum(LAST in packet.data for packet in exported.packets) == 2
        assert agent.returncode == 0


def _holds(directory: Path, needle: bytes) -> bool:
    """Whether the spool has the bytes. A small batch doesn't pay to compress, so they are there as they
    are."""
    return any(needle in path.read_bytes() for path in directory.rglob("*.seg"))
