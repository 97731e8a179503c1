"""A session's real threads on real interfaces of a namespace, without a server: what stands in its spool afterwards."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.session import CaptureSession
from agent.session_memory import SessionMemory
from agent.settings import Config
from agent.spool import Spool
from tests.agent.batches import KEY, drain, judge, new_spool
from tests.agent.surroundings import surroundings
from tests.support.netns import Namespace, wait_for
from wire.batch import Header, Kind, decode_columns, open_batch
from wire.chain import Verdict
from wire.names import Lane
from wire.session import SessionSpec


@dataclass
class Shipped:
    """What a session put into its spool, over all lanes."""

    headers: list[Header] = field(default_factory=list)
    packets: list[tuple[Header, int, int, bytes]] = field(default_factory=list)
    """(header of its batch, time, flags, bytes) of each packet, lane after lane."""

    def of(self, interface: str) -> list[bytes]:
        return [data for header, _, _, data in self.packets if header.interface == interface]


def shipped(spool: Spool) -> Shipped:
    """Opened and judged: every chain must be whole."""
    found, chains = Shipped(), dict[Lane, list[bytes]]()
    for _, message in drain(spool):
        batch = open_batch(message, public=KEY.public)
        chains.setdefault(batch.header.lane, []).append(message)
        found.headers.append(batch.header)
        if batch.header.kind is not Kind.PACKETS:
            continue
        columns = decode_columns(batch)
        n, at = len(columns), 0
        times = struct.unpack(f"<{n}Q", columns.timestamp_ns)
        sizes = struct.unpack(f"<{n}I", columns.captured_bytes)
        flags = struct.unpack(f"<{n}H", columns.flags)
        for time_ns, size, flag in zip(times, sizes, flags, strict=True):
            found.packets.append((batch.header, time_ns, flag, bytes(columns.data[at : at + size])))
            at += size
    for messages in chains.values():
        assert judge(messages).verdict is Verdict.INTACT
    return found


@contextlib.contextmanager
def live_session(
    host: Namespace,
    directory: Path,
    spec: SessionSpec,
    *,
    way: str = "classic",
    config: Config | None = None,
) -> Iterator[tuple[CaptureSession, Spool]]:
    """Runs in the namespace while the block does, and is told to leave behind it."""
    spool = new_spool(directory / "spool")
    around = surroundings(spool, way=way, config=config)
    session = CaptureSession(spec, SessionMemory.open(directory / "sessions", spec.id), around)
    with host.inside():  # threads begin where the one that starts them is
        session.start()
    try:
        yield session, spool
    finally:
        session.leave()
        assert session.join(20)


def until(session: CaptureSession, state: str, words: str = "") -> None:
    """Waits for a state with these words in its reason."""
    wait_for(
        lambda: session.state == state and words in session.reason,
        f"{state} ({words}) instead of {session.state} ({session.reason})",
    )


def until_captured(session: CaptureSession, packets: int) -> None:
    wait_for(lambda: session.captured_totals[0] >= packets, f"{packets} packets")
