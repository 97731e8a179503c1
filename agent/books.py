"""The books of one session in this boot, added up from where each number is kept.

The source counts what the kernel saw, the spool's lanes what was spooled, acknowledged or replaced; here is only what
lies between: the packets a full spool turned away.  A session may open its source more than once in a boot (the
interface went and came back); the counts go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import fields, replace

from agent.lane import SpoolLane
from agent.sources.source import PacketSource, SourceStatistics
from wire.books import Books


class SessionBooks:
    """One thread writes (the session's), any thread reads."""

    def __init__(self) -> None:
        self.dropped_newest = 0
        self._lock = threading.Lock()
        self._before = SourceStatistics()
        self._source: PacketSource | None = None
        self._delivered_earlier = 0

    def open_source(self, source: PacketSource) -> None:
        with self._lock:
            self._source = source
            self._delivered_earlier = 0

    def delivered_earlier(self, packets: int) -> None:
        """The source will hand these out again, though an earlier boot's books have them: leave them out of ours."""
        with self._lock:
            self._delivered_earlier = packets

    def left_for_next_boot(self, packets: int) -> None:
        """Read from the file and not spooled: the next boot reads and counts them again."""
        with self._lock:
            self._delivered_earlier += packets

    def close_source(self) -> None:
        """The source has been closed: its last figures are kept."""
        with self._lock:
            if self._source is not None:
                self._before = _added(self._before, self._of_source(self._source))
                self._source = None

    def statistics(self) -> SourceStatistics:
        """Of all sources of this session so far."""
        with self._lock:
            if self._source is None:
                return self._before
            return _added(self._before, self._of_source(self._source))

    def _of_source(self, source: PacketSource) -> SourceStatistics:
        """Without what was delivered earlier, as far as the source has come: a counter never goes below 0, whatever
        became of the file meanwhile."""
        statistics = source.statistics()
        again = min(self._delivered_earlier, statistics.captured)
        if not again:
            return statistics
        return replace(statistics, received=statistics.received - again, captured=statistics.captured - again)

    def read(self, lanes: Iterable[SpoolLane], *, entering: int = 0, turned_away: int = 0) -> Books:
        """All counters. entering, turned_away: packets of the batch at hand, counted as if it were settled already.

        Call with the spool's lock held, so that the lanes' numbers belong together.
        """
        spooled = acknowledged = replaced = 0
        for lane in lanes:
            spooled += lane.spooled_packets
            acknowledged += lane.acknowledged_packets
            replaced += lane.dropped_packets
        spooled += entering
        statistics = self.statistics()
        return Books(
            received=statistics.received,
            dropped_ring=statistics.dropped_ring,
            own_traffic=statistics.own_traffic,
            dropped_invalid=statistics.dropped_invalid,
            captured=statistics.captured,
            dropped_newest=self.dropped_newest + turned_away,
            spooled=spooled,
            dropped_oldest=replaced,
            acknowledged=acknowledged,
            pending=spooled - acknowledged - replaced,
            filtered=statistics.filtered,
            sampled_out=statistics.sampled_out,
            cut_off=statistics.cut_off,
        )


def _added(one: SourceStatistics, other: SourceStatistics) -> SourceStatistics:
    sums: dict[str, int | None] = {}
    for member in fields(SourceStatistics):
        values = [v for v in (getattr(one, member.name), getattr(other, member.name)) if v is not None]
        sums[member.name] = sum(values)
    for name in ("filtered", "sampled_out", "cut_off"):
        if getattr(other, name) is None:
            sums[name] = None
    return SourceStatistics(**sums)  # type: ignore[arg-type]
