"""What a set of batches proves about completeness.

Within a (agent, boot, session, lane) every batch names the hash of the header before it, and headers are signed. So of
the batches at hand it can be said, lane by lane:

- **intact**: from sequence 0 (or from the beginning asked for) to a closing batch, nothing is missing;
- **declared drop**: what is missing is listed in signed tombstones;
- **unexplained gap**: sequences are missing and nobody says why (killed, lost, withheld, purged);
- **open tail**: complete so far, but no closing batch: running still, or died;
- **invalid**: two different signed batches claim one place, or a link doesn't fit: somebody tampered, or one key
  signs in two places.

Batches may come in any order and more than once.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from wire.batch import NO_HASH, Header, Kind, OpenBatch, Replaced
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


@dataclass(slots=True)
class _Link:
    """What is known of one sequence; its batch itself isn't kept (about 250 bytes a link)."""

    hash: bytes
    previous: bytes | None
    """None: known from a tombstone's list only."""
    packets: int
    captured_bytes: int
    present: bool
    """The batch is at hand."""
    dropped: bool = False
    """A tombstone lists it."""


@dataclass(slots=True)
class ChainVerifier:
    """Judges one chain. `first_sequence` > 0: a reader that joined in the middle doesn't call the beginning a gap."""

    first_sequence: int = 0
    _links: dict[int, _Link] = field(default_factory=dict)
    _duplicates: int = 0
    _closing: int | None = None
    _previous_boot: bytes | None = None
    _complaints: list[str] = field(default_factory=list)

    def add(self, batch: OpenBatch, replaced: list[Replaced] | None = None) -> bool:
        """Take a verified batch; for a tombstone also its list (`decode_tombstone`). False: a duplicate, ignored."""
        header = batch.header
        if header.sequence == 0 and header.previous_boot is not None:
            self._previous_boot = header.previous_boot
        if header.kind is Kind.TOMBSTONE and replaced:
            return self._add_tombstone(header, replaced)
        standing_for_itself = header.kind is Kind.TOMBSTONE
        link = _Link(
            batch.header_hash,
            header.previous,
            header.packets,
            header.captured_bytes,
            present=not standing_for_itself,
            dropped=standing_for_itself,
        )
        fresh = self._place(header.sequence, link)
        if fresh and header.kind is Kind.CLOSING:
            if self._closing is not None and self._closing != header.sequence:
                self._complain(f"closed twice, at {self._closing} and at {header.sequence}")
            self._closing = header.sequence
        return fresh

    def _add_tombstone(self, header: Header, replaced: list[Replaced]) -> bool:
        fresh = False
        for one in replaced:
            previous = header.previous if one.sequence == header.sequence else None
            link = _Link(
                one.header_hash, previous, one.packets, one.captured_bytes, present=False, dropped=True
            )
            fresh |= self._place(one.sequence, link)
        return fresh

    def _place(self, sequence: int, link: _Link) -> bool:
        known = self._links.get(sequence)
        if known is None:
            self._links[sequence] = link
            return True
        if known.hash != link.hash:
            self._complain(f"two different batches claim sequence {sequence}: the chain is forked")
            return False
        # The same batch again, or a batch and the tombstone that lists it (sent before it was given up on).
        if known.present and link.present:
            self._duplicates += 1
            return False
        fresh = link.present != known.present or link.dropped != known.dropped
        known.present |= link.present
        known.dropped |= link.dropped
        known.previous = known.previous if known.previous is not None else link.previous
        known.packets, known.captured_bytes = link.packets, link.captured_bytes
        self._duplicates += not fresh
        return fresh

    def _complain(self, text: str) -> None:
        if len(self._complaints) < MAX_COMPLAINTS:
            self._complaints.append(text)

    def result(self) -> ChainResult:
        """The judgement on what was added so far."""
        complaints = list(self._complaints)
        missing: list[SequenceRange] = []
        dropped: list[SequenceRange] = []
        expected = self.first_sequence
        before: bytes | None = None
        packets = captured = batches = dropped_packets = 0
        for sequence in sorted(self._links):
            link = self._links[sequence]
            if sequence > expected:
                missing.append(SequenceRange(expected, sequence - 1))
                before = None
            if before is not None and link.previous is not None and link.previous != before:
                complaints.append(
                    f"sequence {sequence} doesn't follow the batch before it: a link is forged or exchanged"
                )
            if link.present:
                batches += 1
                packets += link.packets
                captured += link.captured_bytes
            else:
                dropped_packets += link.packets
                if dropped and dropped[-1].last == sequence - 1:
                    dropped[-1] = SequenceRange(dropped[-1].first, sequence)
                else:
                    dropped.append(SequenceRange(sequence, sequence))
            before = link.hash
            expected = sequence + 1
        last = expected - 1 if self._links else -1
        if self._closing is not None and last > self._closing:
            complaints.append(f"batches behind the closing one at {self._closing}")
        if complaints:
            verdict = Verdict.INVALID
        elif missing or not self._links:
            verdict = Verdict.UNEXPLAINED_GAP
        elif self._closing is None:
            verdict = Verdict.OPEN_TAIL
        elif dropped:
            verdict = Verdict.DECLARED_DROP
        else:
            verdict = Verdict.INTACT
        first = self._links.get(0)
        return ChainResult(
            verdict=verdict,
            batches=batches,
            packets=packets,
            captured_bytes=captured,
            duplicates=self._duplicates,
            dropped=tuple(dropped),
            dropped_packets=dropped_packets,
            missing=tuple(missing),
            closed=self._closing is not None,
            first_sequence=self.first_sequence,
            last_sequence=last,
            head_hash=before if before is not None else NO_HASH,
            previous_boot=self._previous_boot,
            previous_hash=NO_HASH if first is None or first.previous is None else first.previous,
            complaints=tuple(complaints),
        )


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
