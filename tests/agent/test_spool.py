"""The spool keeps its word: against a model, across crashes, at its bound and on a full disk."""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.lane import SpoolLane
from agent.segment import HEAD, RecordKind
from agent.spool import Admission, Spool
from tests.agent.batches import BOOT, KEY, SESSION, Feeder, abandon, drain, judge, new_chain, new_spool
from tests.support import netns
from tests.support.need import need
from wire.batch import Kind, open_batch
from wire.chain import Verdict
from wire.names import Lane

OTHER = "b" * 26


def kinds(messages: list[bytes]) -> list[Kind]:
    return [open_batch(message, public=KEY.public).header.kind for message in messages]


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_in_order_out_and_nothing_left(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    feeder = Feeder(spool)
    for _ in range(20):
        feeder.feed()
    feeder.close()
    assert drain(spool) == feeder.made
    assert spool.drained
    assert spool.lanes == []
    spool.close()
    assert list(tmp_path.iterdir()) == []
    assert judge([m for _, m in feeder.made]).verdict is Verdict.INTACT


def test_a_restart_sends_what_was_not_acknowledged(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    feeder = Feeder(spool)
    for _ in range(10):
        feeder.feed()
    for _ in range(6):
        spool.next_unsent(feeder.lane, 100)
    for sequence in (0, 1, 2, 4):  # 3 is missing, so the cursor stays before it
        spool.acknowledge(feeder.lane, sequence)
    abandon(spool)
    again = new_spool(tmp_path)  # the first one died without a word
    ((lane, last),) = again.recover()
    assert last == feeder.made[-1][0]
    assert (lane.boot, lane.session, lane.lane) == (BOOT, SESSION, Lane.BULK)
    first = again.next_unsent(lane, 100)
    assert first is not None
    assert (first.record.first_sequence, first.maybe_sent) == (3, True)
    rest = [again.next_unsent(lane, 100) for _ in range(6)]
    assert [(s.record.first_sequence, s.maybe_sent) for s in rest if s is not None] == [
        (4, True),
        (5, True),
        (6, False),
        (7, False),
        (8, False),
        (9, False),
    ]
    for sequence in range(3, 10):
        again.acknowledge(lane, sequence)
    assert again.lanes == []
    again.close()
    assert files_below(tmp_path) == []


def test_without_the_cursor_everything_is_sent_again(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    feeder = Feeder(spool)
    for _ in range(5):
        feeder.feed()
    spool.next_unsent(feeder.lane, 8)
    spool.acknowledge(feeder.lane, 0)
    (cursor,) = tmp_path.rglob("cursor")
    for content in (b"", b"garbage", bytes(20), cursor.read_bytes()[:-1] + b"\xff"):
        cursor.write_bytes(content)
        again = new_spool(tmp_path)
        again.recover()
        assert [m for _, m in drain(again, acknowledge=False)] == [m for _, m in feeder.made]


def test_the_window_of_a_lane_holds_for_the_oldest(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    feeder = Feeder(spool)
    for _ in range(10):
        feeder.feed()
    assert [spool.next_unsent(feeder.lane, 4) is not None for _ in range(5)] == [True] * 4 + [False]
    for sequence in (1, 2, 3):
        spool.acknowledge(feeder.lane, sequence)
    assert spool.next_unsent(feeder.lane, 4) is None  # 0 is still on its way
    spool.acknowledge(feeder.lane, 0)
    following = spool.next_unsent(feeder.lane, 4)
    assert following is not None
    assert following.record.first_sequence == 4


def test_every_byte_of_a_small_spool_flipped(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "good")
    feeder = Feeder(spool)
    for _ in range(3):
        feeder.feed(1, 40)
    (segment,) = (tmp_path / "good").rglob("*.seg")
    good = segment.read_bytes()
    made = [message for _, message in feeder.made]
    for position in range(
        0, len(good), 7
    ):  # the segment's own test flips each; here the way through recovery counts
        bad = bytearray(good)
        bad[position] ^= 0x10
        segment.write_bytes(bad)
        again = new_spool(tmp_path / "good")
        ((lane, _),) = again.recover()
        sent = [message for _, message in drain(again, acknowledge=False)]
        assert len(sent) == 2, position
        assert all(message in made for message in sent), position
        assert lane.damage, position


def test_garbage_in_the_spools_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / BOOT.hex() / "notes").mkdir(parents=True)
    (tmp_path / BOOT.hex() / f"{SESSION}.bulk").mkdir()
    (tmp_path / BOOT.hex() / f"{SESSION}.bulk" / "00000000000000000000.seg").write_bytes(b"not a segment")
    spool = new_spool(tmp_path)
    ((lane, last),) = spool.recover()
    assert last is None
    assert lane.damage.torn_bytes == 13
    assert (tmp_path / "lost+found").exists()
    assert (tmp_path / BOOT.hex() / "notes").exists()


def test_drop_oldest_declares_what_it_drops(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, max_bytes=1 << 20)
    feeder = Feeder(spool)
    for _ in range(60):
        assert feeder.feed(40, 1000) is Admission.ACCEPTED
        assert spool.used_bytes <= spool.max_bytes
    feeder.close()
    made = {record.first_sequence: record for record, _ in feeder.made}
    lane = feeder.lane
    assert lane.dropped_packets > 0
    assert lane.spooled_packets == 60 * 40
    pending = lane.pending_packets
    sent = drain(spool)
    verdict = judge([message for _, message in sent])
    assert verdict.verdict is Verdict.DECLARED_DROP
    assert verdict.complaints == ()
    assert verdict.dropped_packets == lane.dropped_packets
    assert verdict.packets == pending == lane.acknowledged_packets
    assert lane.spooled_packets == lane.acknowledged_packets + lane.dropped_packets
    assert sum(len(r) for r in verdict.dropped) + verdict.batches == len(made)
    assert [record.first_sequence for record, _ in sent] == sorted(
        record.first_sequence for record, _ in sent
    )
    assert kinds([message for _, message in sent]).count(Kind.TOMBSTONE) == 1  # neighbours are merged
    spool.close()
    assert files_below(tmp_path) == []


def test_what_was_sent_is_never_dropped(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, max_bytes=1 << 20)
    feeder = Feeder(spool)
    for _ in range(8):
        feeder.feed(40, 1000)
    sent = [spool.next_unsent(feeder.lane, 8) for _ in range(4)]
    for _ in range(60):
        feeder.feed(40, 1000)
    for spooled in sent:
        assert spooled is not None
        assert spool.acknowledge(feeder.lane, spooled.record.first_sequence) is not None
    feeder.close()
    messages = [s.message for s in sent if s is not None] + [m for _, m in drain(spool)]
    verdict = judge(messages)
    assert verdict.verdict is Verdict.DECLARED_DROP
    assert all(dropped.first >= 4 for dropped in verdict.dropped)


def test_tombstones_survive_a_crash(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, max_bytes=1 << 20)
    feeder = Feeder(spool)
    for _ in range(60):
        feeder.feed(40, 1000)
    dropped = feeder.lane.dropped_packets
    again = new_spool(tmp_path, max_bytes=1 << 20)
    ((_, last),) = again.recover()
    assert last is not None
    following = Feeder(
        again, boot=bytes(16), chain=new_chain(bytes(15) + b"1", previous=(last.header_hash, BOOT))
    )
    messages = [m for record, m in drain(again) if open_batch(m, public=KEY.public).header.boot == BOOT]
    verdict = judge(messages)
    assert verdict.verdict is Verdict.OPEN_TAIL
    assert verdict.dropped_packets == dropped > 0
    assert verdict.missing == ()
    assert following.chain.header_hash == verdict.head_hash


def test_a_tombstone_whose_batches_are_still_there_wins(tmp_path: Path) -> None:
    """The crash came between the rename that put the tombstone in place and the removal of the second segment."""
    spool = new_spool(tmp_path, max_bytes=1 << 20)
    feeder = Feeder(spool)
    kept: dict[str, bytes] = {}
    for _ in range(40):
        feeder.feed(40, 1000)
        for path in tmp_path.rglob("*.seg"):
            kept.setdefault(path.name, path.read_bytes())
    directory = feeder.lane.directory
    stale = max(n for n in kept if not (directory / n).exists())
    (directory / stale).write_bytes(kept[stale])
    again = new_spool(tmp_path, max_bytes=1 << 20)
    again.recover()
    messages = [m for _, m in drain(again)]
    assert judge(messages).complaints == ()
    assert judge(messages).missing == ()


@pytest.mark.parametrize("overflow", ["drop_newest", "stop"])
def test_drop_newest_and_stop_turn_away(tmp_path: Path, overflow: str) -> None:
    spool = new_spool(tmp_path, max_bytes=1 << 20)
    feeder = Feeder(spool, overflow=overflow)  # type: ignore[arg-type]
    answers = [feeder.feed(40, 1000) for _ in range(40)]
    refused = Admission.DROP_NEWEST if overflow == "drop_newest" else Admission.STOP
    assert set(answers) == {Admission.ACCEPTED, refused}
    assert spool.used_bytes <= spool.max_bytes
    first = answers.index(refused)
    half = [spool.next_unsent(feeder.lane, 100) for _ in range(first)]
    for spooled in half:
        assert spooled is not None
        spool.acknowledge(feeder.lane, spooled.record.first_sequence)
    assert feeder.feed(40, 1000) is Admission.ACCEPTED  # there is room again
    feeder.close()
    messages = [s.message for s in half if s is not None] + [m for _, m in drain(spool)]
    verdict = judge(messages)
    assert verdict.verdict is Verdict.DECLARED_DROP
    assert verdict.missing == ()
    assert verdict.dropped_packets == feeder.turned_away == 40 * answers.count(refused)


def test_a_flood_does_not_push_a_quiet_neighbour_out(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, max_bytes=1 << 20)
    quiet, flood = Feeder(spool, session=OTHER), Feeder(spool)
    for _ in range(3):
        quiet.feed(10, 1000)
    for _ in range(60):
        flood.feed(40, 1000)
    assert flood.lane.dropped_packets > 0
    assert quiet.lane.dropped_packets == 0


def test_a_spool_full_of_one_session_makes_room_for_another(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, max_bytes=1 << 20)
    flood = Feeder(spool)
    for _ in range(60):
        flood.feed(40, 1000)
    newcomer = Feeder(spool, session=OTHER, overflow="drop_newest")
    assert [newcomer.feed(40, 1000) for _ in range(5)] == [Admission.ACCEPTED] * 5


def test_many_small_batches_make_few_tombstones(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, max_bytes=1 << 20)
    feeder = Feeder(spool)
    for _ in range(6000):
        feeder.feed(1, 60)
    feeder.close()
    assert feeder.lane.dropped_packets > 3000
    sent = [message for _, message in drain(spool)]
    verdict = judge(sent)
    assert verdict.verdict is Verdict.DECLARED_DROP
    assert verdict.dropped_packets == feeder.lane.dropped_packets
    assert kinds(sent).count(Kind.TOMBSTONE) <= 1 + verdict.dropped_packets // 1000


def test_acknowledged_batches_cost_no_sync(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, sync_after_s=0.0)
    feeder = Feeder(spool)
    feeder.feed()
    spool.next_unsent(feeder.lane, 8)
    spool.acknowledge(feeder.lane, 0)
    assert spool.sync() == 0
    feeder.feed()
    assert spool.sync() == 1
    assert spool.sync() == 0


def test_the_thread_syncs_what_waits(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, sync_after_s=0.05)
    spool.start()
    feeder = Feeder(spool)
    feeder.feed()
    netns.wait_for(lambda: feeder.lane.segments[0].synced_size == feeder.lane.segments[0].size, "a sync")
    young = new_spool(tmp_path / "young", sync_after_s=3600, sync_bytes=100_000)
    young.start()
    many = Feeder(young)
    many.feed()
    for _ in range(5):
        many.feed(40, 1000)
    netns.wait_for(lambda: many.lane.segments[0].synced_size > 0, "a sync by bytes")
    spool.close()
    young.close()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Spool]]:
    """Put a spool in: from then on a sync that holds its lock fails the test. The syncs themselves are real."""
    watched: list[Spool] = []
    held: list[str] = []
    real = {name: getattr(os, name) for name in ("fdatasync", "fsync")}

    def watching(name: str) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            def try_lock() -> None:
                for spool in watched:
                    if spool.lock.acquire(blocking=False):
                        spool.lock.release()
                    else:
                        held.append(name)

            other = threading.Thread(target=try_lock)
            other.start()
            other.join()
            real[name](fd)

        return sync

    for name in real:
        monkeypatch.setattr(os, name, watching(name))
    yield watched
    assert watched, "nothing was watched"
    assert held == []


def test_dropping_the_oldest_does_not_sync_under_the_lock(tmp_path: Path, syncs: list[Spool]) -> None:
    spool = new_spool(tmp_path, max_bytes=1 << 20, sync_after_s=3600)
    syncs.append(spool)
    feeder = Feeder(spool)
    while not feeder.lane.dropped_packets:
        feeder.feed(40, 1000)
    tombstone = feeder.lane.segments[0]
    assert tombstone.tombstones_only
    assert tombstone.synced_size == 0 < tombstone.size
    since_s = tombstone.unsynced_since_s
    assert since_s is not None
    first = feeder.lane.dropped_packets
    while feeder.lane.dropped_packets == first:
        feeder.feed(40, 1000)
    # Merged into a new one, which is as old: replacing it again and again doesn't put its sync off.
    assert feeder.lane.segments[0] is not tombstone
    assert feeder.lane.segments[0].unsynced_since_s == since_s
    assert spool.sync(everything=True) > 0
    assert all(one.synced_size == one.size and one.directory_synced for one in feeder.lane.segments)
    spool.close()


def test_the_thread_syncs_tombstones(tmp_path: Path, syncs: list[Spool]) -> None:
    spool = new_spool(tmp_path, max_bytes=1 << 20, sync_after_s=0.05)
    syncs.append(spool)
    feeder = Feeder(spool)
    while not feeder.lane.dropped_packets:
        feeder.feed(40, 1000)
    spool.sync(everything=True)
    assert spool._upkeep_due_s is not None
    spool._upkeep_due_s = None
    dropped = feeder.lane.dropped_packets
    assert spool.admit(feeder.lane, 150_000) is Admission.ACCEPTED
    assert feeder.lane.dropped_packets > dropped
    spool.give_back(150_000)  # nothing is appended after it
    assert spool._upkeep_due_s is not None
    spool.start()
    tombstone = feeder.lane.segments[0]
    netns.wait_for(lambda: tombstone.synced_size == tombstone.size, "a sync of the tombstone")
    spool.close()


def test_a_tombstone_torn_by_a_power_cut_is_a_gap_and_nothing_worse(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "live", max_bytes=1 << 20)
    feeder = Feeder(spool)
    for _ in range(60):
        feeder.feed(40, 1000)
    assert feeder.lane.dropped_packets > 0
    made = {message for _, message in feeder.made}
    place = feeder.lane.segments[0].path
    assert place is not None
    for length in (0, 1, HEAD.size, place.stat().st_size - 1):
        copy = tmp_path / str(length)
        shutil.copytree(tmp_path / "live", copy)
        os.truncate(copy / place.relative_to(tmp_path / "live"), length)
        again = new_spool(copy, max_bytes=1 << 20)
        ((lane, _),) = again.recover()
        sent = [message for _, message in drain(again)]
        verdict = judge(sent)
        assert set(sent) <= made
        assert len(sent) > 0
        assert verdict.verdict is Verdict.UNEXPLAINED_GAP
        assert verdict.complaints == ()
        assert verdict.packets == lane.spooled_packets
    spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MiB."""
    need("root", "mount")
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "wirepool-test", str(place)], check=False)
    if made.returncode:
        pytest.skip("mount isn't allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # a test that failed left files open


@pytest.mark.root
def test_a_full_disk_falls_back_to_memory_and_recovers(small_disk: Path) -> None:
    ballast = small_disk / "somebody-elses"
    ballast.write_bytes(bytes(1_500_000))
    spool = new_spool(small_disk / "spool", max_bytes=64 << 20, memory_bytes=2 << 20)
    feeder = Feeder(spool)
    for _ in range(30):
        assert feeder.feed(40, 1000) is Admission.ACCEPTED
    assert spool.disk_error is not None
    assert "No space" in spool.disk_error
    assert 0 < spool.memory_used <= spool.memory_bytes
    ballast.unlink()
    spool._move_to_disk()
    assert str(spool.disk_error) == "None"
    assert spool.memory_used == 0
    feeder.feed(40, 1000)
    abandon(spool)
    again = new_spool(small_disk / "spool", max_bytes=64 << 20)
    again.recover()
    assert drain(again) == feeder.made
    again.close()


@pytest.mark.root
def test_moving_out_of_memory_does_not_sync_under_the_lock(small_disk: Path, syncs: list[Spool]) -> None:
    ballast = small_disk / "somebody-elses"
    ballast.write_bytes(bytes(1_500_000))
    spool = new_spool(small_disk / "spool", max_bytes=64 << 20, memory_bytes=2 << 20, sync_after_s=3600)
    syncs.append(spool)
    feeder = Feeder(spool)
    for _ in range(30):
        feeder.feed(40, 1000)
    assert spool.memory_used > 0
    ballast.unlink()
    spool._move_to_disk()
    assert spool.memory_used == 0
    moved = feeder.lane.segments[-1]
    assert moved.synced_size == 0 < moved.size
    assert moved.unsynced_since_s is not None
    spool.sync(everything=True)
    assert moved.synced_size == moved.size
    assert str(spool.disk_error) == "None"
    spool.close()


@pytest.mark.root
def test_a_full_disk_and_full_memory_obey_the_policy(small_disk: Path) -> None:
    (small_disk / "somebody-elses").write_bytes(bytes(1_500_000))
    for overflow in ("drop_oldest", "drop_newest"):
        spool = new_spool(small_disk / overflow, max_bytes=64 << 20, memory_bytes=600_000)
        feeder = Feeder(spool, overflow=overflow)
        for _ in range(60):
            feeder.feed(40, 1000)
            assert spool.memory_used <= spool.memory_bytes
        feeder.close()
        sent = drain(spool)
        verdict = judge([m for _, m in sent])
        assert verdict.verdict is Verdict.DECLARED_DROP, overflow
        lost = feeder.lane.dropped_packets + feeder.turned_away
        assert verdict.dropped_packets == lost > 0, overflow
        assert verdict.packets + lost == 60 * 40, overflow
        spool.close()


class SpoolMachine(RuleBasedStateMachine):
    """Appends, sends, acknowledgements and crashes in any order, against two lists."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="wirepool-spool-"))
        self.waiting: list[bytes] = []
        """Messages appended and not acknowledged, oldest first."""
        self.sent: dict[tuple[bytes, int], tuple[SpoolLane, bytes]] = {}
        self.boots = 0

    @initialize()
    def begin(self) -> None:
        self._open()

    def _open(self) -> None:
        if self.boots:
            abandon(self.spool)
        self.spool: Spool = new_spool(self.directory, max_bytes=8 << 20)
        self.recovered = [lane for lane, _ in self.spool.recover() if lane.segments]
        self.boots += 1
        boot = self.boots.to_bytes(16, "big")
        self.feeder = Feeder(self.spool, boot=boot, chain=new_chain(boot))
        self.sent = {}

    @rule(packets=st.integers(1, 40), size=st.sampled_from([60, 500, 1500]))
    def append(self, packets: int, size: int) -> None:
        if self.feeder.feed(packets, size) is Admission.ACCEPTED:
            self.waiting.append(self.feeder.made[-1][1])

    @rule(count=st.integers(1, 10))
    def send(self, count: int) -> None:
        for lane in list(self.spool.lanes):
            for _ in range(count):
                spooled = self.spool.next_unsent(lane, 8)
                if spooled is None:
                    break
                assert spooled.record.kind is RecordKind.PACKETS
                self.sent[(lane.boot, spooled.record.first_sequence)] = (lane, spooled.message)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.sent)))
        lane, message = self.sent.pop(key)
        assert self.spool.acknowledge(lane, key[1]) is not None
        assert self.spool.acknowledge(lane, key[1]) is None
        self.waiting.remove(message)

    @rule(garbage=st.binary(max_size=60))
    def crash(self, garbage: bytes) -> None:
        """The agent dies, perhaps in the middle of a write; what was acknowledged out of order may come again."""
        segments = sorted(self.feeder.lane.directory.glob("*.seg"))
        if segments:
            with segments[-1].open("ab") as file:
                file.write(garbage)
        self._open()
        again = {m for lane in self.recovered for m in self._all(lane)}
        assert set(self.waiting) <= again
        known = set(self.waiting)
        self.waiting += sorted(again - known)  # at most what had been acknowledged behind one that had not

    def _all(self, lane: SpoolLane) -> list[bytes]:
        return [
            message
            for segment in lane.segments
            for placed, message in segment.records()
            if placed.record.first_sequence > lane.acknowledged_sequence
        ]

    @rule()
    def stop_and_start(self) -> None:
        self.spool.close()
        if not self.waiting:
            assert files_below(self.directory) == []
        self._open()
        again = {m for lane in self.recovered for m in self._all(lane)}
        assert set(self.waiting) <= again
        self.waiting += sorted(again - set(self.waiting))

    @invariant()
    def bounded(self) -> None:
        assert self.spool.used_bytes <= self.spool.max_bytes
        on_disk = sum(path.stat().st_size for path in self.directory.rglob("*.seg"))
        assert on_disk == self.spool.used_bytes

    def teardown(self) -> None:
        everything = [message for _, message in drain(self.spool)]
        outstanding = [message for _, message in self.sent.values()]
        assert sorted(everything + outstanding) == sorted(self.waiting)
        abandon(self.spool)
        shutil.rmtree(self.directory)


SpoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSpoolAgainstAModel = SpoolMachine.TestCase


def test_the_oldest_wait_is_known(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    assert spool.oldest_spooled_ns() is None
    feeder = Feeder(spool)
    before = time.time_ns()
    feeder.feed()
    oldest = spool.oldest_spooled_ns()
    assert oldest is not None
    assert before <= oldest <= time.time_ns()
    spool.next_unsent(feeder.lane, 8)
    assert spool.oldest_spooled_ns() == oldest
    spool.acknowledge(feeder.lane, 0)
    assert spool.oldest_spooled_ns() is None


@pytest.mark.root
def test_a_disk_that_became_read_only_costs_neither_the_session_nor_what_is_on_it(small_disk: Path) -> None:
    """As after an input/output error: nothing can be written or removed any more, all of it can still be read."""
    spool = new_spool(small_disk / "spool", max_bytes=8 << 20, memory_bytes=300_000)
    feeder = Feeder(spool)
    for _ in range(20):
        feeder.feed(40, 1000)
    on_disk = len(feeder.made)
    subprocess.run(["mount", "--bind", str(small_disk), str(small_disk)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(small_disk)], check=True)
        accepted = [feeder.feed(40, 1000) for _ in range(40)]
        assert spool.disk_error is not None
        assert "Read-only" in spool.disk_error
        assert (
            accepted[-1] is Admission.DROP_NEWEST
        )  # counted by the session, instead of an exception that ends it
        lane = feeder.lane
        assert lane.dropped_packets == 0
        assert lane.spooled_packets == lane.pending_packets
    finally:
        subprocess.run(["umount", "--lazy", str(small_disk)], check=True)
    assert len(feeder.made) > on_disk
    spool._move_to_disk()
    assert str(spool.disk_error) == "None"
    feeder.close()
    sent = drain(spool)
    assert sent == feeder.made
    assert judge([message for _, message in sent]).verdict is not Verdict.UNEXPLAINED_GAP
    spool.close()


def test_room_that_only_holds_acknowledged_batches_is_free(tmp_path: Path) -> None:
    """Each lane's open segment keeps what was acknowledged until it is full: many lanes fill a small spool with it."""
    spool = new_spool(tmp_path, max_bytes=16 << 20)
    feeders = [Feeder(spool, session=f"{chr(97 + i // 26)}{chr(97 + i % 26)}" + "a" * 24) for i in range(40)]
    for _ in range(3):
        for feeder in feeders:
            assert feeder.feed(8, 60_000) is Admission.ACCEPTED
            drain(spool)
    assert spool.pending_batches == 0
    for feeder in feeders:
        feeder.close()
        drain(spool)
        assert judge([message for _, message in feeder.made]).verdict is Verdict.INTACT
    spool.close()
    assert files_below(tmp_path) == []
