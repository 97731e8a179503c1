"""The policy drop_oldest: batches of a full spool give way to signed tombstones, which are sent in their place.

A whole segment is replaced at a time, by one rename, so that a crash leaves either the batches or their tombstone.
The spool's lock is held, so nothing is synced here: the spool's thread does that as for batches, and a power cut that
comes before can cost the tombstone, which leaves a gap (a torn one fails its checksum and is never read).
Tombstones of neighbours are merged, so that a long outage costs some 80 bytes per lost batch and not a message each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.lane import SpoolLane
from agent.segment import Record, RecordKind, Segment
from wire.batch import Replaced, decode_tombstone, open_batch
from wire.errors import WireError

MAX_REPLACED = 4096
"""Batches that one tombstone stands for: its body stays well below a message's bound."""


@dataclass(slots=True)
class Run:
    """Batches next to each other that one tombstone will stand for."""

    first_message: bytes
    """The message of the first, or the tombstone that stood for it."""
    last_message: bytes
    previous: bytes | None = None
    """Hash of the batch before, when `first_message` isn't the one that follows it."""
    replaced: list[Replaced] = field(default_factory=list)

    def takes(self, sequence: int) -> bool:
        return len(self.replaced) < MAX_REPLACED and self.replaced[-1].sequence + 1 == sequence


SealTombstone = Callable[[Run], tuple[bytes, bytes]]
"""Seals the tombstone of a run: (message, its header's hash)."""


def drop_oldest_segment(lane: SpoolLane, seal: SealTombstone) -> int | None:
    """Replace the lane's oldest unsent segment by tombstones; return the bytes freed, None when nothing can go.

    Also None when the tombstones would take as much room as what they replace (a segment of next to nothing).
    """
    index = lane.droppable()
    if index is None:
        return None
    target = lane.segments[index]
    before = lane.unsent_tombstones_before(index)
    merged = [before, target] if before is not None else [target]
    try:
        kept, packets, batches, tombstones = _tombstones(merged, seal)
    except (OSError, WireError):
        return None
    if not kept:  # every record of it is damaged: nothing to declare, nothing to keep
        freed = target.size
        lane.remove_segment(index)
        return freed
    old_size = sum(segment.size for segment in merged)
    if sum(len(message) + 80 for _, message in kept) >= old_size:
        return None
    replacement = _write(kept, lane, merged)
    for segment in reversed(merged):
        if segment.path is not None and segment.path == replacement.path:
            segment.close_fd()
            continue
        try:
            segment.remove()
        except OSError:
            if replacement.in_memory and segment is target:
                return None  # a disk that takes nothing and gives nothing up: what it holds can still be read and sent
            # Otherwise the next start finds the file, and in front of it the tombstone of the same sequences.
    start = index - len(merged) + 1
    lane.segments[start : index + 1] = [replacement]
    freed = old_size - replacement.size
    lane.replaced(packets, batches, tombstones, freed)
    return freed


def _write(records: list[tuple[Record, bytes]], lane: SpoolLane, merged: list[Segment]) -> Segment:
    # As old as the oldest that waited for a sync: one that is replaced again and again still gets its turn.
    waiting = [one.unsynced_since_s for one in merged if one.unsynced_since_s is not None]
    since_s = min(waiting, default=time.monotonic())
    try:
        return Segment.of_records(records, lane.seed, merged[0].path, since_s)
    except OSError:  # the disk is so full that not even this fits: removing the batches will make room
        return Segment.of_records(records, lane.seed, None, since_s)


def _tombstones(
    segments: list[Segment], seal: SealTombstone
) -> tuple[list[tuple[Record, bytes]], int, int, int]:
    """The records that replace those of `segments`; packets and batches given up; change in tombstones."""
    out: list[tuple[Record, bytes]] = []
    run: Run | None = None
    packets = batches = tombstones = 0

    def end_run() -> None:
        nonlocal run, tombstones
        if run is not None:
            out.append(_sealed(run, seal))
            tombstones += 1
            run = None

    for segment in segments:
        for placed, message in segment.records():
            record = placed.record
            if record.kind is RecordKind.CLOSING:
                end_run()
                out.append((record, message))
                continue
            if record.kind is RecordKind.TOMBSTONE:
                entries = decode_tombstone(open_batch(message, public=None))
                if not entries:  # a link of its own, for packets that never had a sequence
                    end_run()
                    out.append((record, message))
                    continue
                tombstones -= 1
            else:
                entries = [
                    Replaced(
                        record.first_sequence,
                        record.header_hash,
                        record.packets,
                        record.captured_bytes,
                        record.original_bytes,
                    )
                ]
                packets += record.packets
                batches += 1
            for entry in entries:
                if run is None or not run.takes(entry.sequence):
                    last = run.replaced[-1] if run is not None else None
                    end_run()
                    joined = last is not None and last.sequence + 1 == entry.sequence
                    run = Run(message, message, last.header_hash if last is not None and joined else None)
                run.replaced.append(entry)
                run.last_message = message
    end_run()
    return out, packets, batches, tombstones


def _sealed(run: Run, seal: SealTombstone) -> tuple[Record, bytes]:
    message, header_hash = seal(run)
    record = Record(
        RecordKind.TOMBSTONE,
        run.replaced[0].sequence,
        run.replaced[-1].sequence,
        time.time_ns(),
        sum(entry.packets for entry in run.replaced),
        sum(entry.captured_bytes for entry in run.replaced),
        sum(entry.original_bytes for entry in run.replaced),
        header_hash,
    )
    return record, message
