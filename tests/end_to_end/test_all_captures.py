"""Every capture of the folder, and bent copies of them, through the whole chain: each comes out as it went
in.

Each file is a replay session of one agent, some dozens at a time. Of a file that breaks somewhere the packets
before the break come out, as the tests' own reader has them; its books say so, and nobody crashes.
"""

import contextlib
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from hub.agents.sessions import SessionControl as Sessions
from hub.registry import Registry
from tests.support.captures import Packet, difference, read_capture
from tests.support.mutations import bend_file, bend_packets, write_pcap
from tests.support.page import Curl
from tests.support.stand import Stand
from wire.session import Replay

pytestmark = [pytest.mark.root, pytest.mark.slow]

SEED = 20261123
AT_ONCE = 24


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a replayed file."""

    state: str
    reason: str
    packets: list[Packet]


def _replay(stand: Stand, curl: Curl, files: list[Path], directory: Path) -> dict[Path, Outcome]:
    """Replay files on web1's agent at full speed, export each session; the sessions end by themselves."""
    outcomes: dict[Path, Outcome] = {}
    for begin in range(0, len(files), AT_ONCE):
        some = files[begin : begin + AT_ONCE]
        with contextlib.closing(Registry(stand.state.database)) as registry:
            sessions = Sessions(registry)
            ids = {
                path: sessions.start(
                    "web1",
                    path.name[:128],
                    source="replay",
                    replay=Replay(str(path)),
                    user="test",
                )
                for path in some
            }
        for path, session in ids.items():
            told = curl.wait_state(session, "stopped", "failed", "refused", timeout_s=120)
            settled = curl.wait_balanced(session)
            assert settled["quarantined"] == 0, path.name
            if not settled["archived_packets"]:
                outcomes[path] = Outcome(told["state"], told["reason"], [])
                continue
            exported = read_capture(curl.download(session, directory / "export.pcapng"))
            assert exported.complaint is None, f"{path.name}: {exported.complaint}"
            outcomes[path] = Outcome(told["state"], told["reason"], exported.packets)
        for path, session in ids.items():
            if outcomes[path].state != "stopped":
                curl.post(f"/sessions/{session}/stop")
    return outcomes


def _check(outcomes: dict[Path, Outcome]) -> list[str]:
    """What is wrong, a line per file."""
    wrong = []
    for path, outcome in outcomes.items():
        wanted = read_capture(path)
        found = difference(wanted.packets, outcome.packets, show=1)
        if found:
            wrong.append(f"{path.name} ({wanted.complaint}; {outcome.state}: {outcome.reason}): {found}")
    return wrong


def test_every_capture_comes_out_as_it_went_in(
    stand: Stand, curl: Curl, captures: Path, tmp_path: Path
) -> None:
    files = sorted((captures / "real").iterdir()) + sorted((captures / "odd").iterdir())
    assert len(files) > 400
    outcomes = _replay(stand, curl, files, tmp_path)
    assert _check(outcomes) == []
    assert stand.agents["web1"].poll() is None


def test_packets_bent_out_of_shape_come_out_as_bent(
    stand: Stand, curl: Curl, captures: Path, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    by_link_type: dict[int, list[Packet]] = {}
    for path in sorted((captures / "odd").iterdir()):
        for packet in bend_packets(read_capture(path).packets, rng):
            by_link_type.setdefault(packet.link_type, []).append(packet)
    files = []
    for link_type, packets in by_link_type.items():
        files.append(tmp_path / f"link-type-{link_type}.pcap")
        files[-1].write_bytes(write_pcap(packets, link_type=link_type))
    outcomes = _replay(stand, curl, files, tmp_path)
    assert _check(outcomes) == []
    assert stand.agents["web1"].poll() is None


def test_bent_files_give_a_reason_and_harm_nobody(
    stand: Stand, curl: Curl, captures: Path, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    files = []
    for number, path in enumerate(sorted((captures / "odd").iterdir())):
        files.append(tmp_path / f"{number}-{path.name}")
        files[-1].write_bytes(bend_file(path.read_bytes(), rng))
    outcomes = _replay(stand, curl, files, tmp_path)
    for path, outcome in outcomes.items():
        wanted = read_capture(path).packets
        shorter = min(len(wanted), len(outcome.packets))
        # Where a broken file stops being one is a matter of judgement; what both readers took must be the
        # same.
        assert difference(wanted[:shorter], outcome.packets[:shorter], show=1) == "", path.name
        assert outcome.packets or outcome.reason or not wanted, f"{path.name}: nothing, and no reason"
    assert stand.agents["web1"].poll() is None
    curl.wait_online("web1")
