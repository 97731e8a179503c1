"""The spool keeps its word: against a model, across crashes, at its bound and on a full disk."""

import time
from pathlib import Path

import pytest

from agent.spool import Admission
from tests.agent.batches import (
    BOOT,
    KEY,
    SESSION,
    Feeder,
    abandon,
    drain,
    files_below,
    judge,
    new_chain,
    new_spool,
)
from wire.batch import Kind, open_batch
from wire.chain import Verdict
from wire.names import Lane

OTHER = "b" * 26


def kinds(messages: list[bytes]) -> list[Kind]:
    return [open_batch(message, public=KEY.public).header.kind for message in messages]


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
