"""The spool and its disk: when it is synced, when it is full, when it refuses."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.segment import HEAD
from agent.spool import Admission, Spool
from tests.agent.batches import Feeder, abandon, drain, judge, new_spool
from tests.support import netns
from tests.support.need import need, without
from wire.chain import Verdict


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
        without("mount isn't allowed here: it takes CAP_SYS_ADMIN")
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
