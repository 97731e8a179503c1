"""The spool against a model: any order of appending, sending, acknowledging, dying and coming back."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.lane import SpoolLane
from agent.segment import RecordKind
from agent.spool import Admission, Spool
from tests.agent.batches import Feeder, abandon, drain, files_below, new_chain, new_spool


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
    def what_waits_is_part_of_what_is_kept(self) -> None:
        waiting = self.spool.waiting_bytes
        assert 0 <= waiting <= self.spool.used_bytes
        assert (waiting == 0) == self.spool.drained

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
