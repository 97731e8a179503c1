"""A session's thread over a recorded file, without a server: its books, its memory, its limits, its age bound."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.batcher import behind
from agent.ebpf.loading import CLASSIC, CapturePath
from agent.intake import Order
from agent.session import CaptureSession
from agent.session_memory import ChainHead, LastSpooled, SessionMemory
from agent.settings import Config
from agent.sources.opening import open_source
from agent.sources.source import SourceError
from agent.spool import Spool
from agent.surroundings import Surroundings
from tests.agent.batches import BOOT, KEY, SESSION, columns, drain, judge, new_spool
from tests.agent.surroundings import surroundings
from tests.agent.test_replay import write_pcap
from tests.support.netns import wait_for
from wire.batch import Kind, open_batch
from wire.chain import Verdict
from wire.names import Lane
from wire.session import Replay, SessionSpec

CLASSIC_PATH = CapturePath(CLASSIC)
ALL = Order.declared(SessionSpec(id=SESSION, interface="lo"))


def around(spool: Spool, boot: bytes = BOOT) -> Surroundings:
    config = Config()
    config.replay_directory = Path("/")
    return surroundings(spool, way=CLASSIC, config=config, boot=boot)


def spec(file: Path, **changes: object) -> SessionSpec:
    return SessionSpec(id=SESSION, source="replay", replay=Replay(str(file)), **changes)  # type: ignore[arg-type]


def run(session: CaptureSession) -> None:
    session.start()
    assert session.join(30)


def test_books_balance_in_every_header(tmp_path: Path) -> None:
    file = tmp_path / "in.pcap"
    write_pcap(file, 10_007)
    spool = new_spool(tmp_path / "spool")
    session = CaptureSession(spec(file), SessionMemory.open(tmp_path / "s", SESSION), around(spool))
    run(session)
    assert (session.state, session.reason) == ("stopped", "end of file")
    headers = [
        open_batch(message, public=KEY.public).header for _, message in drain(spool, acknowledge=False)
    ]
    assert headers[-1].kind is Kind.CLOSING
    total = 0
    for header in headers:
        total += header.packets
        assert header.books.captured_difference() == 0
        assert header.books.spooled_difference() == 0
        assert header.books.spooled == total  # the batch itself is in its own books
    assert total == 10_007
    assert headers[-1].books.received_difference() == 0
    assert not session.read_books().balanced() or session.read_books().pending == 10_007


def test_limits_count_over_boots(tmp_path: Path) -> None:
    file = tmp_path / "in.pcap"
    write_pcap(file, 20_000)
    spool = new_spool(tmp_path / "spool")
    memory = SessionMemory.open(tmp_path / "s", SESSION)
    memory.packets = 15_000  # an earlier boot had taken these
    session = CaptureSession(spec(file, max_packets=16_000), memory, around(spool))
    run(session)
    assert session.reason == "limit of 16000 packets reached"
    assert session.ended
    again = CaptureSession(spec(file), SessionMemory.open(tmp_path / "s", SESSION), around(spool, bytes(16)))
    run(again)
    assert (again.state, again.reason) == ("stopped", "limit of 16000 packets reached")


def test_the_next_boot_names_the_last_hash(tmp_path: Path) -> None:
    file = tmp_path / "in.pcap"
    write_pcap(file, 100)
    for how in ("memory", "spool", "both"):
        spool = new_spool(tmp_path / how / "spool")
        memory = SessionMemory.open(tmp_path / how, SESSION)
        surroundings = around(spool, bytes(range(1, 17)))
        if how in ("memory", "both"):
            memory.heads[Lane.BULK] = ChainHead(BOOT, 5, b"m" * 32)
        if how in ("spool", "both"):  # the memory is behind the spool: a power cut
            surroundings.last_records[(SESSION, Lane.BULK)] = LastSpooled(BOOT, 7, b"s" * 32)
        run(CaptureSession(spec(file), memory, surroundings))
        messages = [message for _, message in drain(spool)]
        first = open_batch(messages[0], public=KEY.public).header
        assert first.previous_boot == BOOT
        assert first.previous == (b"m" if how == "memory" else b"s") * 32
        assert judge(messages).verdict is Verdict.INTACT


@pytest.mark.parametrize(
    ("head", "found", "packets"),
    [
        (ChainHead(BOOT, 5), LastSpooled(BOOT, 6, first_sequence=5, packets=7), 107),  # killed in between
        (ChainHead(), LastSpooled(BOOT, 1, first_sequence=0, packets=7), 107),  # in the very first batch
        (ChainHead(BOOT, 6), LastSpooled(BOOT, 6, first_sequence=5, packets=7), 100),  # known already
        (
            ChainHead(BOOT, 4),
            LastSpooled(BOOT, 6, first_sequence=5, packets=7),
            100,
        ),  # too far behind to know
        (ChainHead(b"o" * 16, 5), LastSpooled(BOOT, 6, first_sequence=5, packets=7), 100),
        (ChainHead(BOOT, 5), None, 100),
    ],
)
def test_a_memory_one_batch_behind_the_spool_catches_up(
    tmp_path: Path, head: ChainHead, found: LastSpooled | None, packets: int
) -> None:
    memory = SessionMemory.open(tmp_path, SESSION)
    memory.packets, memory.heads[Lane.BULK] = 100, head
    further = memory.catch_up(Lane.BULK, found)
    assert memory.packets == packets
    assert further is (found if found is not None and head.next_sequence < 6 else head)


def test_declared_stopped_before_this_boot_began(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool")
    memory = SessionMemory.open(tmp_path / "s", SESSION)
    memory.heads[Lane.BULK] = ChainHead(BOOT, 5, b"m" * 32)
    stopped = SessionSpec(id=SESSION, interface="eth0", state="stopped")
    session = CaptureSession(stopped, memory, around(spool, bytes(range(1, 17))))
    run(session)
    ((_, message),) = drain(spool)
    header = open_batch(message, public=KEY.public).header
    assert (header.kind, header.previous_boot, header.previous) == (Kind.CLOSING, BOOT, b"m" * 32)
    never = CaptureSession(
        SessionSpec(id="b" * 26, interface="eth0", state="stopped"),
        SessionMemory.open(tmp_path / "s", "b" * 26),
        around(spool),
    )
    run(never)
    assert never.state == "stopped"
    assert drain(spool) == []


def test_watchers_shorten_the_age_bound_until_their_notice_expires(tmp_path: Path) -> None:
    memory = SessionMemory.open(tmp_path / "s", SESSION)
    session = CaptureSession(spec(tmp_path / "f"), memory, around(new_spool(tmp_path / "spool")))
    config = Config()
    unwatched_ns = (config.batch_linger_ms - config.ring_retire_ms) * 1_000_000
    watched_ns = (config.batch_watched_linger_ms - config.ring_retire_ms) * 1_000_000
    assert watched_ns < session.terms.linger_ns() < unwatched_ns
    session.watch(time.time_ns() + 200_000_000)
    assert 0 < session.terms.linger_ns() < watched_ns
    session.watch(time.time_ns() - 1)  # an older notice shortens nothing
    assert 0 < session.terms.linger_ns() < watched_ns
    wait_for(lambda: session.terms.linger_ns() > watched_ns, "the notice expires")


def test_memory_comes_back_or_is_empty(tmp_path: Path) -> None:
    memory = SessionMemory.open(tmp_path, SESSION)
    memory.started_ns, memory.packets, memory.captured_bytes = 1, 2, 3
    memory.ended, memory.reason = True, "ä" * 200
    memory.heads[Lane.BULK] = ChainHead(BOOT, 4, b"h" * 32)
    memory.save()
    memory.close()
    again = SessionMemory.open(tmp_path, SESSION)
    assert (again.started_ns, again.packets, again.captured_bytes, again.ended) == (1, 2, 3, True)
    assert again.reason == "ä" * 128
    assert again.heads == memory.heads
    good = memory.path.read_bytes()
    for position in range(len(good)):
        memory.path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        damaged = SessionMemory.open(tmp_path, SESSION)
        assert (damaged.packets, damaged.ended) == (0, False), position
        memory.path.write_bytes(good[:position])
        assert SessionMemory.open(tmp_path, SESSION).packets == 0
    again.forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("skipped", [0, 1, 3, 4])
def test_columns_behind_the_first_packets(skipped: int) -> None:
    rest = behind(columns(4, 10), skipped)
    assert len(rest) == 4 - skipped
    assert len(rest.data) == 10 * (4 - skipped)
    if skipped < 4:
        assert int.from_bytes(bytes(rest.timestamp_ns)[:8], "little") == 1000 + skipped


@pytest.mark.parametrize("how", ["stopped", "leaving"])
def test_an_end_while_a_file_waits_for_room(tmp_path: Path, how: str) -> None:
    """Stopped: what was read and found no room is declared. Leaving: the next boot reads it again."""
    file = tmp_path / "in.pcap"
    write_pcap(file, 20_000)
    spool = new_spool(tmp_path / "spool", max_bytes=30_000)
    session = CaptureSession(spec(file), SessionMemory.open(tmp_path / "s", SESSION), around(spool))
    waited: list[float] = []
    wait_for_room = spool.wait_for_room

    def counted(timeout_s: float) -> None:
        waited.append(timeout_s)
        wait_for_room(timeout_s)

    spool.wait_for_room = counted  # type: ignore[method-assign]
    session.start()
    wait_for(lambda: bool(waited), "the file waits for room")
    if how == "stopped":
        session.declare(replace(session.wanted, state="stopped"))
    else:
        session.leave()
    assert session.join(10)
    books = session.read_books()
    assert (books.captured_difference(), books.received_difference(), books.spooled_difference()) == (0, 0, 0)
    assert (books.dropped_newest > 0) == (how == "stopped")
    assert books.spooled > 0
    if how == "stopped":
        headers = [open_batch(message, public=KEY.public).header for _, message in drain(spool)]
        assert [h.kind for h in headers[-2:]] == [Kind.TOMBSTONE, Kind.CLOSING]
        assert headers[-2].packets == books.dropped_newest


def test_a_stepped_clock_does_not_end_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "in.pcap"
    write_pcap(file, 20_000)
    spool = new_spool(tmp_path / "spool")
    memory = SessionMemory.open(tmp_path / "s", SESSION)
    slow = replace(spec(file, max_duration_s=60.0), replay=Replay(str(file), 2000))
    session = CaptureSession(slow, memory, around(spool))
    session.start()
    wait_for(lambda: session.captured_totals[0] > 0, "packets come")
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + 3600 * 10**9)
    before = session.captured_totals[0]
    wait_for(lambda: session.captured_totals[0] > before + 200 or not session.alive, "it goes on")
    assert (session.alive, session.reason) == (True, "")
    session.leave()
    assert session.join(10)


def test_a_file_outside_the_permitted_folder_is_not_read(tmp_path: Path) -> None:
    permitted = tmp_path / "captures"
    permitted.mkdir()
    inside, outside = permitted / "in.pcap", tmp_path / "secret.pcap"
    write_pcap(inside, 3)
    write_pcap(outside, 3)
    (permitted / "link.pcap").symlink_to(outside)
    config = Config()
    config.replay_directory = permitted
    open_source(spec(inside), "", ALL, [], config, CLASSIC_PATH).close()
    for file in (outside, permitted / "link.pcap", permitted / ".." / "secret.pcap"):
        with pytest.raises(SourceError, match=r"replay\.directory"):
            open_source(spec(file), "", ALL, [], config, CLASSIC_PATH)
    with pytest.raises(SourceError, match=r"replay\.directory"):
        open_source(spec(inside), "", ALL, [], Config(), CLASSIC_PATH)
