"""What a set of batches proves about completeness.

Within a (agent, boot, session, lane) every batch names the hash of the header before it, and headers are signed. So of
the batches at hand it can be said, lane by lane:

- **intact**: from sequence 0 (or from the beginning asked for) to a closing batch, nothing is missing (and where that
  one says that the session goes on in the agent's next boot, that boot's chain is here too: `expect_next_boots`);
- **declared drop**: what is missing is listed in signed tombstones;
- **unexplained gap**: sequences are missing and nobody says why (killed, lost, withheld, purged);
- **open tail**: complete so far, but no closing batch: running still, or died;
- **invalid**: two different signed batches claim one place, or a link doesn't fit: somebody tampered, or one key
  signs in two places.

Batches may come in any order and more than once.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from wire.batch import GOES_ON, NO_HASH, Header, Kind, OpenBatch, Replaced
from wire.names import Lane

MAX_CHAINS = 65536
"""Chains one verification holds: beyond that a hostile file would fill the memory."""
MAX_COMPLAINTS = 100


class Verdict(StrEnum):
    """The judgement on one chain, from best to worst."""

    INTACT = "intact"
    DECLARED_DROP = "declared drop"
    OPEN_TAIL = "open tail"
    UNEXPLAINED_GAP = "unexplained gap"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class ChainKey:
    """What a chain is counted by."""

    agent: str
    boot: bytes
    session: str
    lane: Lane

    @classmethod
    def of(cls, header: Header) -> "ChainKey":
        """The chain a batch belongs to."""
        return cls(header.agent, header.boot, header.session, header.lane)


@dataclass(frozen=True, slots=True)
class SequenceRange:
    """Sequences `first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


@dataclass(frozen=True, slots=True)
class ChainResult:
    """The judgement and its reasons."""

    verdict: Verdict
    batches: int
    """Batches present (packets and closing; tombstones not counted)."""
    packets: int
    """Packets present."""
    captured_bytes: int
    duplicates: int
    """Batches that came more than once (ignored)."""
    dropped: tuple[SequenceRange, ...]
    """Declared by tombstones and really absent."""
    dropped_packets: int
    missing: tuple[SequenceRange, ...]
    """Absent without explanation."""
    closed: bool
    goes_on: bool
    """The closing batch says that the session continues in the agent's next boot."""
    first_sequence: int
    last_sequence: int
    """Highest sequence known of; -1: none."""
    head_hash: bytes
    """Hash of the last batch known of: what the next one must name."""
    previous_boot: bytes | None
    """As sequence 0 names it."""
    previous_hash: bytes
    """The hash of that boot's last batch that sequence 0 names; zeros: none."""
    complaints: tuple[str, ...]


_PRESENT, _DROPPED, _PREVIOUS_KNOWN = 1, 2, 4
_BLOCK_SLOTS = 16


class _Slots:
    """What is known of each sequence, packed: 73 bytes a batch, so that a day of a busy lane fits into memory."""

    def __init__(self) -> None:
        self._slot = struct.Struct("<32s32sQB")  # hash, previous, packets, state; state 0: nothing known
        self._blocks: dict[int, bytearray] = {}

    def get(self, sequence: int) -> tuple[bytes, bytes, int, int]:
        """(hash, previous, packets, state)."""
        block = self._blocks.get(sequence // _BLOCK_SLOTS)
        if block is None:
            return NO_HASH, NO_HASH, 0, 0
        return self._slot.unpack_from(block, sequence % _BLOCK_SLOTS * self._slot.size)

    def put(self, sequence: int, hash_: bytes, previous: bytes, packets: int, state: int) -> None:
        """Remember one sequence."""
        block = self._blocks.get(sequence // _BLOCK_SLOTS)
        if block is None:
            block = self._blocks[sequence // _BLOCK_SLOTS] = bytearray(_BLOCK_SLOTS * self._slot.size)
        self._slot.pack_into(
            block, sequence % _BLOCK_SLOTS * self._slot.size, hash_, previous, packets, state
        )

    def known(self) -> Iterator[tuple[int, bytes, bytes, int, int]]:
        """(sequence, hash, previous, packets, state) of all known, in order."""
        for number in sorted(self._blocks):
            for index, slot in enumerate(self._slot.iter_unpack(self._blocks[number])):
                if slot[3]:
                    yield number * _BLOCK_SLOTS + index, *slot


class ChainVerifier:
    """Judges one chain. `first_sequence` > 0: a reader that joined in the middle doesn't call the beginning a gap."""

    def __init__(self, first_sequence: int = 0) -> None:
        self._first_sequence = first_sequence
        self._slots = _Slots()
        self._batches = self._packets = self._captured_bytes = self._duplicates = 0
        self._closing: int | None = None
        self._goes_on = False
        self._previous_boot: bytes | None = None
        self._complaints: list[str] = []

    def add(self, batch: OpenBatch, replaced: list[Replaced] | None = None) -> bool:
        """Take a verified batch; for a tombstone also its list (`decode_tombstone`). False: a duplicate, ignored."""
        header = batch.header
        if header.sequence == 0 and header.previous_boot is not None:
            self._previous_boot = header.previous_boot
        if header.kind is Kind.TOMBSTONE:
            if not replaced:  # stands for itself
                return self._place(
                    header.sequence,
                    batch.header_hash,
                    header.previous,
                    header.packets,
                    0,
                    _DROPPED | _PREVIOUS_KNOWN,
                )
            fresh = False
            for one in replaced:
                first = one.sequence == header.sequence
                previous, state = (
                    (header.previous, _DROPPED | _PREVIOUS_KNOWN) if first else (NO_HASH, _DROPPED)
                )
                fresh |= self._place(one.sequence, one.header_hash, previous, one.packets, 0, state)
            return fresh
        fresh = self._place(
            header.sequence,
            batch.header_hash,
            header.previous,
            header.packets,
            header.captured_bytes,
            _PRESENT | _PREVIOUS_KNOWN,
        )
        if fresh and header.kind is Kind.CLOSING:
            if self._closing is not None and self._closing != header.sequence:
                self._complain(f"closed twice, at {self._closing} and at {header.sequence}")
            self._closing = header.sequence
            self._goes_on = header.reason == GOES_ON
        return fresh

    def _place(
        self, sequence: int, hash_: bytes, previous: bytes, packets: int, captured: int, state: int
    ) -> bool:
        known_hash, known_previous, known_packets, known_state = self._slots.get(sequence)
        if known_state and known_hash != hash_:
            self._complain(f"two different batches claim sequence {sequence}: the chain is forked")
            return False
        merged = known_state | state
        # The same batch again, or a batch and the tombstone that lists it (sent before it was given up on).
        if not state & ~known_state & ~_PREVIOUS_KNOWN:
            self._duplicates += 1
            return False
        if state & _PRESENT:
            self._batches += 1
            self._packets += packets
            self._captured_bytes += captured
        if known_state & _PREVIOUS_KNOWN:
            previous = known_previous
        if known_state & _PRESENT:
            packets = known_packets  # what the batch itself says
        self._slots.put(sequence, hash_, previous, packets, merged)
        return True

    def _complain(self, text: str) -> None:
        if len(self._complaints) < MAX_COMPLAINTS:
            self._complaints.append(text)

    def result(self) -> ChainResult:
        """The judgement on what was added so far."""
        complaints = list(self._complaints)
        missing: list[SequenceRange] = []
        dropped: list[SequenceRange] = []
        expected = self._first_sequence
        before: bytes | None = None
        dropped_packets = 0
        first_previous = NO_HASH
        for sequence, hash_, previous, packets, state in self._slots.known():
            if sequence > expected:
                missing.append(SequenceRange(expected, sequence - 1))
                before = None
            follows = before is None or not state & _PREVIOUS_KNOWN or previous == before
            if not follows and len(complaints) < MAX_COMPLAINTS:
                complaints.append(
                    f"sequence {sequence} doesn't follow the batch before it: a link is forged or exchanged"
                )
            if sequence == 0:
                first_previous = previous
            if not state & _PRESENT:
                dropped_packets += packets
                if dropped and dropped[-1].last == sequence - 1:
                    dropped[-1] = SequenceRange(dropped[-1].first, sequence)
                else:
                    dropped.append(SequenceRange(sequence, sequence))
            before = hash_
            expected = max(expected, sequence + 1)
        last = expected - 1 if before is not None else -1
        if self._closing is not None and last > self._closing:
            complaints.append(f"batches behind the closing one at {self._closing}")
        if complaints:
            verdict = Verdict.INVALID
        elif missing or before is None:
            verdict = Verdict.UNEXPLAINED_GAP
        elif self._closing is None:
            verdict = Verdict.OPEN_TAIL
        elif dropped:
            verdict = Verdict.DECLARED_DROP
        else:
            verdict = Verdict.INTACT
        return ChainResult(
            verdict=verdict,
            batches=self._batches,
            packets=self._packets,
            captured_bytes=self._captured_bytes,
            duplicates=self._duplicates,
            dropped=tuple(dropped),
            dropped_packets=dropped_packets,
            missing=tuple(missing),
            closed=self._closing is not None,
            goes_on=self._goes_on,
            first_sequence=self._first_sequence,
            last_sequence=last,
            head_hash=before if before is not None else NO_HASH,
            previous_boot=self._previous_boot,
            previous_hash=first_previous,
            complaints=tuple(complaints),
        )


def expect_next_boots(results: dict[ChainKey, ChainResult]) -> dict[ChainKey, ChainResult]:
    """The same, but a chain whose session goes on in a boot that isn't here has an open tail: what came is unknown."""
    named = {(key.agent, key.session, key.lane, result.previous_boot) for key, result in results.items()}
    return {
        key: replace(result, verdict=Verdict.OPEN_TAIL)
        if result.goes_on
        and result.verdict in (Verdict.INTACT, Verdict.DECLARED_DROP)
        and (key.agent, key.session, key.lane, key.boot) not in named
        else result
        for key, result in results.items()
    }


def check_boot_changes(results: dict[ChainKey, ChainResult]) -> list[str]:
    """Compare what each boot's first batch says of the boot before with that boot's chain, where it is at hand.

    A sentence for each that doesn't fit: batches were taken off the end of the earlier boot, or never arrived.
    """
    said: list[str] = []
    for key, result in results.items():
        if result.previous_boot is None:
            continue
        earlier = results.get(ChainKey(key.agent, result.previous_boot, key.session, key.lane))
        if earlier is not None and earlier.head_hash != result.previous_hash:
            said.append(
                f"{key.agent} {key.lane}: boot {key.boot.hex()[:8]} names another last batch of boot "
                f"{result.previous_boot.hex()[:8]} than is here: its end is missing"
            )
    return said
