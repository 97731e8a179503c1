"""Real signed batches for tests: a chain that seals what it is given, and a spool that keeps it."""

from __future__ import annotations

import struct
from pathlib import Path

from agent.batcher import Chain, Origin, pack, seal_tombstone
from agent.lane import SpoolLane
from agent.segment import Record
from agent.spool import Admission, Spool
from wire.batch import Columns, decode_tombstone, open_batch
from wire.books import Books
from wire.chain import ChainResult, ChainVerifier
from wire.keys import SigningKey
from wire.names import Lane
from wire.session import Overflow

KEY = SigningKey(bytes(range(32)))
AGENT = "web1"
SESSION = "a" * 26
BOOT = bytes(range(16))
ORIGIN = Origin("eth0", 1, 262144, 1)


def columns(packets: int, packet_bytes: int, fill: int = 7) -> Columns:
    """So many packets of so many bytes, one nanosecond apart."""
    return Columns(
        timestamp_ns=struct.pack(f"<{packets}Q", *range(1000, 1000 + packets)),
        captured_bytes=struct.pack(f"<{packets}I", *[packet_bytes] * packets),
        original_bytes=struct.pack(f"<{packets}I", *[packet_bytes] * packets),
        flags=bytes(2 * packets),
        data=bytes([fill % 256]) * (packets * packet_bytes),
    )


def new_chain(
    boot: bytes = BOOT,
    session: str = SESSION,
    lane: Lane = Lane.BULK,
    previous: tuple[bytes, bytes] | None = None,
) -> Chain:
    """A chain; previous: (hash, boot) of an earlier one."""
    if previous is None:
        return Chain(agent=AGENT, boot=boot, session=session, lane=lane, key=KEY)
    return Chain(
        agent=AGENT,
        boot=boot,
        session=session,
        lane=lane,
        key=KEY,
        previous=previous[0],
        previous_boot=previous[1],
    )


def new_spool(directory: Path, **options: int | float) -> Spool:
    """A spool with real tombstones; no thread (call start for that)."""
    return Spool(directory, seal_tombstone=lambda run: seal_tombstone(run, KEY, "spool full"), **options)  # type: ignore[arg-type]


class Feeder:
    """Seals batches into one lane and remembers what it made."""

    def __init__(
        self,
        spool: Spool,
        *,
        boot: bytes = BOOT,
        session: str = SESSION,
        lane: Lane = Lane.BULK,
        overflow: Overflow = "drop_oldest",
        chain: Chain | None = None,
    ) -> None:
        self.spool = spool
        self.chain = chain if chain is not None else new_chain(boot, session, lane)
        self.lane: SpoolLane = spool.open_lane(boot, session, lane, overflow)
        self.made: list[tuple[Record, bytes]] = []
        self.turned_away = 0

    def feed(self, packets: int = 3, packet_bytes: int = 100) -> Admission:
        """One batch as a session makes it; what finds no room is noted."""
        # Incompressible enough not to vanish: compression off.
        packed = pack(columns(packets, packet_bytes, len(self.made)), ORIGIN, "none")
        if self.chain.turned_away.packets and self.spool.admit(self.lane, 2048) is Admission.ACCEPTED:
            self._keep(self.chain.seal_turned_away(ORIGIN, "spool full", Books()), 2048)
        admission = self.spool.admit(self.lane, packed.size)
        if admission is Admission.ACCEPTED:
            self._keep(self.chain.seal_packets(packed, Books()), packed.size)
        else:
            self.chain.note_turned_away(packed)
            self.turned_away += packed.packets
        return admission

    def close(self) -> None:
        """The closing batch."""
        if self.chain.turned_away.packets:
            self.spool.admit(self.lane, 2048, closing=True)
            self._keep(self.chain.seal_turned_away(ORIGIN, "spool full", Books()), 2048)
        self.spool.admit(self.lane, 2048, closing=True)
        self._keep(self.chain.seal_closing(ORIGIN, "stopped", Books()), 2048)
        self.spool.finish_lane(self.lane)

    def _keep(self, sealed: tuple[Record, bytes], admitted: int) -> None:
        record, message = sealed
        self.made.append((record, message))
        self.spool.append(self.lane, record, message, admitted=admitted)


def drain(spool: Spool, *, acknowledge: bool = True) -> list[tuple[Record, bytes]]:
    """Everything the spool would send, lane after lane, acknowledged one by one."""
    out: list[tuple[Record, bytes]] = []
    for lane in list(spool.lanes):
        while (spooled := spool.next_unsent(lane, 10**9)) is not None:
            out.append((spooled.record, spooled.message))
            if acknowledge:
                spool.acknowledge(lane, spooled.record.first_sequence)
    return out


def judge(messages: list[bytes]) -> ChainResult:
    """What wire.chain says of these messages of one lane."""
    verifier = ChainVerifier()
    for message in messages:
        batch = open_batch(message, public=KEY.public)
        replaced = decode_tombstone(batch) if batch.header.kind == "tombstone" else None
        verifier.add(batch, replaced)
    return verifier.result()


def abandon(spool: Spool) -> None:
    """What a death does: every file is let go as it is."""
    for lane in spool.lanes:
        for segment in lane.segments:
            segment.close_fd()
        lane._close_cursor()


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())
