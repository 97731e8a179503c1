"""The books of one session in this boot, added up from where each number is kept.

The sources count what the kernel saw, the spool's lanes what was spooled, acknowledged or replaced; here is only what
lies between: the packets a full spool turned away, and what became of the flow counters.  A session may have several
sources at once, and open and close them at any time (an interface went and came back); the counts go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import fields, replace

from agent.lane import SpoolLane
from agent.sources.source import PacketSource, SourceStatistics
from wire.books import Books


class SessionBooks:
    """The threads that write are the session's (`dropped_newest` with the spool's lock held), any thread reads."""

    def __init__(self) -> None:
        self.dropped_newest = 0
        self.flows_shipped = 0
        self.flows_own = 0
        self._lock = threading.Lock()
        self._before: SourceStatistics | None = None
        """The last figures of sources that are closed."""
        self._open: dict[PacketSource, int] = {}
        """Source → how many of its packets an earlier boot's books have."""

    def open_source(self, source: PacketSource) -> None:
        """Its packets are this session's from here on."""
        with self._lock:
            self._open[source] = 0

    def delivered_earlier(self, source: PacketSource, packets: int) -> None:
        """The source will hand these out again, though an earlier boot's books have them: leave them out of ours."""
        with self._lock:
            self._open[source] = packets

    def left_for_next_boot(self, source: PacketSource, packets: int) -> None:
        """Read from the file and not spooled: the next boot reads and counts them again."""
        with self._lock:
            self._open[source] += packets

    def close_source(self, source: PacketSource) -> None:
        """The source has been closed: its last figures are kept. Idempotent."""
        with self._lock:
            if source in self._open:
                self._before = _sum([self._before, _new_of(source, self._open.pop(source))])

    def statistics(self) -> SourceStatistics:
        """Of all sources of this session so far."""
        with self._lock:
            return _sum([self._before, *(_new_of(source, earlier) for source, earlier in self._open.items())])

    def read(self, lanes: Iterable[SpoolLane], *, entering: int = 0, sealing: bool = False) -> Books:
        """All counters. entering: packets of the batch at hand, counted as if it were settled already.

        sealing: for a batch's header. Where several threads take packets, others have batches in their hands that stand
        in no lane yet; those count as still in their rings then, so that each header balances.
        Call with the spool's lock held, so that the lanes' numbers belong together.
        """
        spooled = acknowledged = replaced = 0
        for lane in lanes:
            spooled += lane.spooled_packets
            acknowledged += lane.acknowledged_packets
            replaced += lane.dropped_packets
        spooled += entering
        statistics = self.statistics()
        settled = sealing and sum(source.rings for source in list(self._open)) > 1
        return Books(
            received=statistics.received,
            dropped_ring=statistics.dropped_ring,
            own_traffic=statistics.own_traffic,
            dropped_invalid=statistics.dropped_invalid,
            captured=spooled + self.dropped_newest if settled else statistics.captured,
            dropped_newest=self.dropped_newest,
            spooled=spooled,
            dropped_oldest=replaced,
            acknowledged=acknowledged,
            pending=spooled - acknowledged - replaced,
            filtered=statistics.filtered,
            sampled_out=statistics.sampled_out,
            cut_off=statistics.cut_off,
            flows_counted=statistics.flows_counted,
            flows_unattributed=statistics.flows_unattributed,
            flows_own=None if statistics.flows_counted is None else self.flows_own,
            flows_shipped=None if statistics.flows_counted is None else self.flows_shipped,
        )


def _new_of(source: PacketSource, earlier: int) -> SourceStatistics:
    """Without what was delivered earlier, as far as the source has come: a counter never goes below 0, whatever became
    of the file meanwhile."""
    statistics = source.statistics()
    again = min(earlier, statistics.captured)
    if not again:
        return statistics
    return replace(statistics, received=statistics.received - again, captured=statistics.captured - again)


def _sum(several: Iterable[SourceStatistics | None]) -> SourceStatistics:
    """A number that one of them didn't count is not counted in the sum either, but for flows: those that any of them
    counted. None stands for no source at all."""
    present = [one for one in several if one is not None]
    if not present:
        return SourceStatistics()
    sums: dict[str, int | None] = {}
    for member in fields(SourceStatistics):
        values = [getattr(one, member.name) for one in present]
        counted = [value for value in values if value is not None]
        enough = counted if member.name.startswith("flows_") else len(counted) == len(values)
        sums[member.name] = sum(counted) if enough else None
    return SourceStatistics(**sums)  # type: ignore[arg-type]
