"""Exports: a session (or several) as one pcapng file, or as the signed messages themselves (.wpz).

Both read the archive, verify each message again and skip what was stored twice, so an export says what the agents
signed and nothing else. Batches of several lanes and sessions are merged by the time of their first packet; each
lane keeps its order. Memory: one answer of the archive and one batch per lane, however large the session.
"""

import asyncio
import heapq
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field

from hub.archive.export_pcapng import PcapngSection
from hub.archive.reading import Stored, read_subject, stream_state
from hub.bus import Bus
from hub.ledger.chain_runs import Runs, TooScattered
from hub.ledger.session_books import session_books
from hub.registry import Registry
from wire.batch import Kind, Lane, OpenBatch, decode_tombstone, open_batch
from wire.control import seal_certificate
from wire.errors import WireError
from wire.evidence import WpzWriter
from wire.keys import SigningKey
from wire.names import STREAM_CAPTURE, STREAM_PRIORITY, batch_subject

CHUNK_BYTES = 1 << 20
PCAPNG_PACKET_OVERHEAD = 46
"""Bytes around a packet in pcapng: 32 of the block, 12 of epb_flags, padding."""
MAX_SESSIONS = 64
CERTIFICATE_YEARS_NS = 10 * 365 * 86400 * 10**9
STREAMS = {Lane.BULK: STREAM_CAPTURE, Lane.PRIO: STREAM_PRIORITY}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an export will hold, before it is made."""

    packets: int
    pcapng_bytes: int
    wpz_bytes: int
    agents: tuple[str, ...]
    purged_packets: int
    """Archived once, no longer there (retention); an estimate from the bytes freed."""
    quarantined: int
    """Messages of these sessions that the ledger refused."""


@dataclass(slots=True)
class Progress:
    """Filled while an export runs."""

    messages: int = 0
    packets: int = 0
    bytes_out: int = 0
    duplicates_skipped: int = 0
    left_out: int = 0
    """Batches that failed verification."""
    reasons: list[str] = field(default_factory=list)
    """Why, at most ten."""
    finished: bool = False


@dataclass(slots=True)
class _Source:
    """One lane of one session."""

    session: str
    agent: str
    lane: Lane
    keys: list[bytes]
    seen: dict[bytes, Runs] = field(default_factory=dict)


class Export:
    """Reads the archive by subject; never leaves a consumer behind."""

    def __init__(self, registry: Registry, bus: Bus, key: SigningKey) -> None:
        """key: the hub's control key, whose public half goes into .wpz files."""
        self._registry = registry
        self._bus = bus
        self._key = key

    def estimate(self, sessions: Sequence[str]) -> Estimate:
        """From the ledger, at once; UnknownError for an unknown session."""
        packets = captured = stored = quarantined = purged = 0
        agents: set[str] = set()
        for session in dict.fromkeys(sessions):
            books = session_books(self._registry, session)
            agents.add(books.agent)
            quarantined += books.quarantined
            subjects = [batch_subject(books.agent, session, lane) for lane in STREAMS]
            (freed,) = self._registry.connection.execute(
                "SELECT coalesce(sum(bytes), 0) FROM freed WHERE subject IN (?, ?)", subjects
            ).fetchone()
            share = min(1.0, freed / books.message_bytes) if books.message_bytes else 0.0
            purged += round(books.archived_packets * share)
            packets += books.archived_packets - round(books.archived_packets * share)
            captured += round(books.archived_bytes * (1 - share))
            stored += round(books.message_bytes * (1 - share))
        return Estimate(
            packets,
            captured + packets * PCAPNG_PACKET_OVERHEAD + 1024,
            stored + 4096,
            tuple(sorted(agents)),
            purged,
            quarantined,
        )

    async def pcapng(
        self, sessions: Sequence[str], progress: Progress | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The sessions as one pcapng file, in chunks of about 1 MiB. Close the iterator to cancel.

        UnknownError for an unknown session, ArchiveError when the server goes away for long.
        """
        progress = progress or Progress()
        section = PcapngSection(self._registry, list(dict.fromkeys(sessions)))
        buffer = bytearray(section.header())
        async with aclosing(self._batches(sessions, progress)) as batches:
            async for _, batch in batches:
                if batch.header.kind is not Kind.PACKETS:
                    continue
                try:
                    buffer += await asyncio.to_thread(section.packets, batch)
                except WireError as error:
                    _leave_out(progress, str(error))
                    continue
                progress.packets += batch.header.packets
                if len(buffer) >= CHUNK_BYTES:
                    progress.bytes_out += len(buffer)
                    yield bytes(buffer)
                    buffer.clear()
        buffer += section.statistics(progress.duplicates_skipped, progress.left_out, progress.reasons)
        progress.bytes_out += len(buffer)
        yield bytes(buffer)
        progress.finished = True

    async def wpz(
        self, sessions: Sequence[str], progress: Progress | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The original messages with certificates and manifest (`.wpz`), for `wirepool verify`.

        Errors as `pcapng`. Tombstones and closing batches are included; what fails verification is left out.
        """
        progress = progress or Progress()
        sink = _Sink()
        names = list(dict.fromkeys(sessions))
        writer = WpzWriter(
            sink, hub_public=self._key.public, created_ns=self._as_of_ns(names), sessions=names
        )
        agents: set[str] = set()
        try:
            async with aclosing(self._batches(sessions, progress)) as batches:
                async for message, batch in batches:
                    agents.add(batch.header.agent)
                    await asyncio.to_thread(writer.add_message, message)
                    if batch.header.kind is Kind.PACKETS:
                        progress.packets += batch.header.packets
                    if len(sink.buffer) >= CHUNK_BYTES:
                        progress.bytes_out += len(sink.buffer)
                        yield sink.take()
            writer.finish([pair for agent in sorted(agents) for pair in self._certificates(agent)])
        except BaseException:  # the download was broken off
            writer.abandon()
            raise
        progress.bytes_out += len(sink.buffer)
        yield sink.take()
        progress.finished = True

    def _as_of_ns(self, sessions: Sequence[str]) -> int:
        """When the file is of: the end of the last session, so that it is the same each time; now while one runs."""
        ends = [self._registry.sessions.require(session).ended_ns for session in sessions]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else time.time_ns()

    def _certificates(self, agent: str) -> list[tuple[str, bytes]]:
        certificates = []
        for key in self._registry.agents.keys(agent):
            certificate = key.certificate or seal_certificate(
                agent,
                key.signing_public,
                not_before_ns=key.not_before_ns,
                not_after_ns=key.not_after_ns or key.not_before_ns + CERTIFICATE_YEARS_NS,
                issued_ns=key.not_before_ns,  # the same each time
                key=self._key,
            )
            certificates.append((agent, certificate))
        return certificates

    async def _batches(
        self, sessions: Sequence[str], progress: Progress
    ) -> AsyncGenerator[tuple[bytes, OpenBatch], None]:
        """Verified batches, once each, merged by first capture time."""
        if len(sessions) > MAX_SESSIONS:
            raise ValueError(f"at most {MAX_SESSIONS} sessions in one export")
        last = {stream: (await stream_state(self._bus, stream)).last_sequence for stream in STREAMS.values()}
        async with AsyncExitStack() as stack:
            lanes: list[AsyncGenerator[tuple[bytes, OpenBatch], None]] = []
            for session in dict.fromkeys(sessions):
                agent = self._registry.sessions.require(session).agent
                keys = [key.signing_public for key in self._registry.agents.keys(agent)]
                for lane, stream in STREAMS.items():
                    subject = batch_subject(agent, session, lane)
                    stored = await stack.enter_async_context(
                        aclosing(read_subject(self._bus, stream, subject, last=last[stream]))
                    )
                    source = _Source(session, agent, lane, keys)
                    lanes.append(
                        await stack.enter_async_context(aclosing(_verified(source, stored, progress)))
                    )
            heads: list[tuple[int, int, tuple[bytes, OpenBatch]]] = []
            floor = [0] * len(lanes)
            for index, lane_batches in enumerate(lanes):
                await _refill(heads, floor, index, lane_batches)
            while heads:
                _, index, pair = heapq.heappop(heads)
                yield pair
                await _refill(heads, floor, index, lanes[index])


async def _refill(
    heads: list[tuple[int, int, tuple[bytes, OpenBatch]]],
    floor: list[int],
    index: int,
    lane_batches: AsyncIterator[tuple[bytes, OpenBatch]],
) -> None:
    pair = await anext(lane_batches, None)
    if pair is not None:
        # Tombstones and closings have no time of their own: they go where their lane has come to.
        floor[index] = max(floor[index], pair[1].header.first_timestamp_ns)
        heapq.heappush(heads, (floor[index], index, pair))


async def _verified(
    source: _Source, stored: AsyncIterator[Stored], progress: Progress
) -> AsyncGenerator[tuple[bytes, OpenBatch], None]:
    async for message in stored:
        progress.messages += 1
        try:
            batch = await asyncio.to_thread(_open, message.data, source)
            fresh = _is_new(source, batch)
        except (WireError, TooScattered) as error:
            _leave_out(progress, str(error))
            continue
        if fresh:
            yield message.data, batch
        else:
            progress.duplicates_skipped += 1


def _open(message: bytes, source: _Source) -> OpenBatch:
    first: WireError | None = None
    for key in source.keys:
        try:
            batch = open_batch(message, public=key)
            break
        except WireError as error:
            first = first or error
    else:
        raise first or WireError(f"agent {source.agent!r} has no signing key")
    header = batch.header
    if (header.agent, header.session, header.lane) != (source.agent, source.session, source.lane):
        raise WireError("signed for another subject")
    return batch


def _is_new(source: _Source, batch: OpenBatch) -> bool:
    header = batch.header
    runs = source.seen.setdefault(header.boot, Runs())
    if header.kind is Kind.TOMBSTONE:
        replaced = decode_tombstone(batch)
        if replaced:
            hashes = [one.header_hash for one in replaced]
            return bool(runs.add_declared(header.sequence, replaced[-1].sequence, header.previous, hashes))
    return runs.add_kept(header.sequence, header.previous, batch.header_hash) != "duplicate"


def _leave_out(progress: Progress, reason: str) -> None:
    progress.left_out += 1
    if len(progress.reasons) < 10:
        progress.reasons.append(reason)


class _Sink:
    """Collects what the zip writer writes until it is sent."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def write(self, data: bytes) -> None:
        self.buffer += data

    def take(self) -> bytes:
        chunk = bytes(self.buffer)
        self.buffer.clear()
        return chunk
