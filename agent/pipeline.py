"""Joins the parts into one running agent, and takes them apart again in an order that loses nothing.

    start:  the spool's recovery → the last orders on disk → sessions → connection, publisher, control, reports
    stop:   sessions deliver what their sources accepted → the spool is synced → a bounded wait for acknowledgements

Each session has a thread (`agent.session`) and one for each ring that it takes packets from (`agent.intake`), the spool
has one for syncing; everything else is this one event loop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agent.batcher import seal_tombstone
from agent.clock import read_clock
from agent.control import ControlPoint
from agent.credentials import Credentials
from agent.desired import DesiredState
from agent.ebpf.loading import CapturePath
from agent.identity import Identity
from agent.link import Link, split_server, tls_context
from agent.own_traffic import that_fit
from agent.publisher import Publisher
from agent.reconcile import Reconciler
from agent.reporting import Reporter
from agent.segment import Record
from agent.self_limits import SelfLimits
from agent.session import CaptureSession
from agent.session_memory import LastSpooled
from agent.settings import Config
from agent.sources.opening import open_source
from agent.spool import Spool
from agent.surroundings import Surroundings
from wire.books import Books
from wire.clock import Clock
from wire.names import Lane
from wire.session import Desired, SessionSpec

log = logging.getLogger(__name__)

_SETTLE_S = 0.1
"""After a stored batch or a change, before looking whether a session's books are final."""
CLOCK_EVERY_S = 64.0
ADDRESSES_EVERY_S = 300.0


@dataclass(slots=True)
class Outcome:
    """How a run ended, for whoever started it."""

    complete: bool = True
    """Everything captured is acknowledged."""
    books: dict[str, Books] = field(default_factory=dict)
    states: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Session → (state, reason)."""
    pending_batches: int = 0


class Agent:
    """One life of an agent. `run` once."""

    def __init__(
        self,
        identity: Identity,
        config: Config,
        *,
        local: list[SessionSpec] | None = None,
        until_done: bool = False,
        obey_hub: bool = True,
        progress: Callable[[list[CaptureSession]], None] | None = None,
    ) -> None:
        """local: sessions of this host's own configuration, besides what the hub declares.

        until_done: end when every session has ended and is acknowledged. obey_hub False: only the local sessions (an
        import under a name of its own). progress: called twice a second with the sessions while until_done.
        """
        self.boot = secrets.token_bytes(16)
        self._identity = identity
        self._config = config
        self._local = local or []
        self._until_done = until_done
        self._obey_hub = obey_hub
        self._progress = progress
        self._clock_now = Clock()
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._spool = Spool(
            config.spool_path,
            seal_tombstone=lambda run: seal_tombstone(run, identity.signing_key, "spool full"),
            max_bytes=config.spool_max_bytes,
            memory_bytes=config.spool_memory_bytes,
            sync_after_s=config.spool_sync_after_ms / 1000,
            sync_bytes=config.spool_sync_bytes,
        )
        self._link = Link(
            config.servers or identity.enrolment.servers,
            agent=identity.name,
            tls=tls_context(identity.enrolment.ca_pem),
            credentials=Credentials(identity.jwt_path, identity.seed_path),
            max_backoff_s=config.publish_max_backoff_s,
        )
        self._publisher = Publisher(
            self._spool,
            self._link,
            agent=identity.name,
            window=config.publish_window,
            timeout_s=config.publish_timeout_s,
            max_backoff_s=config.publish_max_backoff_s,
            on_stored=lambda lane, record: self._look_for_settled(),
        )
        self._settling: asyncio.TimerHandle | None = None
        self._capture_path = CapturePath(config.capture_path)
        self._around = Surroundings(
            agent=identity.name,
            boot=self.boot,
            key=identity.signing_key,
            config=config,
            spool=self._spool,
            wake_publisher=self._publisher.wake,
            clock=lambda: self._clock_now,
            open_source=lambda spec, interface, order, own, sharers: open_source(
                spec, interface, order, own, config, self._capture_path, sharers=sharers
            ),
            changed=self._session_changed,
        )
        self._sessions = Reconciler(self._around, config.state_dir / "sessions")
        self._limits = SelfLimits(config, lambda: self._publisher.sent_bytes, self._sessions.shed)
        self._desired = DesiredState(identity, self._link)
        self._control = ControlPoint(
            identity, self._link, watch=self._sessions.watch, changed=self._desired.ask
        )
        self._reporter = Reporter(
            identity,
            self._link,
            boot=self.boot,
            desired=self._desired,
            sessions=self._sessions,
            spool=self._spool,
            publisher=self._publisher,
            clock=lambda: self._clock_now,
            capture_path=self._capture_path,
        )

    def stop(self) -> None:
        """End in good order. A second signal ends at once: the spool is safe at any moment."""
        self._stop.set()

    def _session_changed(self) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._note_change)

    def _look_for_settled(self) -> None:
        """A session's last batch may have been stored, or its thread be about to end: look in a moment, once."""
        if self._settling is None:
            self._settling = self._loop.call_later(_SETTLE_S, self._settled)

    def _settled(self) -> None:
        self._settling = None
        self._reporter.note_settled()

    def _note_change(self) -> None:
        self._look_for_settled()
        self._reporter.note_change()
        self._sessions.note_change()
        if self._obey_hub:  # sessions that have ended and aren't listed any more can be forgotten now
            self._apply()

    # -- the run -------------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Work until `stop` (or until all is done).

        Raises:
            OSError: the spool can't be used at all.
        """
        self._handle_signals()
        await self._recover()
        self._clock_now = await read_clock()
        log.info(
            "agent %s, boot %s, servers %s", self._identity.name, self.boot.hex(), ", ".join(self._servers())
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work)
                    for work in (
                        self._link.run(),
                        self._publisher.run(),
                        self._control.run(),
                        self._sessions.run(),
                        self._reporter.run_reports(),
                        self._reporter.run_heartbeats(),
                        self._watch_clock(),
                        self._watch_link(),
                        self._limits.run(),
                        self._find_capture_path(),
                    )
                ]
                await self._resolve_addresses()
                if self._obey_hub:
                    self._desired.load()
                    tasks.append(group.create_task(self._obey()))
                self._apply()
                if self._until_done:
                    tasks.append(group.create_task(self._end_when_done()))
                await self._stop.wait()
                complete = await self._wind_down()
                await _ended(tasks)
        finally:
            await asyncio.to_thread(self._spool.close)
        return self._outcome(complete)

    def _servers(self) -> list[str]:
        return list(self._config.servers or self._identity.enrolment.servers)

    async def _recover(self) -> None:
        found = await asyncio.to_thread(self._spool.recover)
        newest: dict[tuple[str, Lane], Record] = {}
        for lane, last in found:
            key = (lane.session, lane.lane)
            if last is not None and (key not in newest or last.spooled_ns >= newest[key].spooled_ns):
                newest[key] = last
                self._around.last_records[key] = LastSpooled(
                    *(lane.boot, last.last_sequence + 1, last.header_hash),
                    *(last.first_sequence, last.packets, last.captured_bytes),
                )
        waiting = self._spool.pending_batches
        damage = sum(d.corrupt_bytes + d.torn_bytes for d in (lane.damage for lane, _ in found))
        if waiting:
            log.info(
                "%d batches of earlier lives wait in the spool (%d bytes)", waiting, self._spool.used_bytes
            )
        if damage:
            log.warning("%d bytes of the spool were damaged (a crash while writing?) and left out", damage)
        self._spool.start()

    def _handle_signals(self) -> None:
        def first() -> None:
            if self._stop.is_set():
                log.warning("second signal: ending at once; what is in the spool is sent at the next start")
                sys.stderr.flush()
                os._exit(
                    130
                )  # nothing needs tidying: batches are in files, and a torn one is cut at the next start
            log.info("stopping; once more ends at once")
            self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, first)

    def _apply(self) -> None:
        current: Desired | None = self._desired.current if self._obey_hub else None
        declared = list(current.sessions) if current is not None else []
        if current is None and self._obey_hub and not self._local:
            return  # no orders yet: nothing is known to be unwanted
        self._sessions.apply([*declared, *self._local])

    async def _obey(self) -> None:
        while True:
            await self._desired.next()
            await self._resolve_addresses()
            self._apply()
            self._reporter.note_change()
            await self._desired.renew_credentials()

    async def _find_capture_path(self) -> None:
        """Before anybody asks for a capture, so that the page can say how this host would."""
        if self._obey_hub:  # otherwise this is an import of a file
            await asyncio.to_thread(self._capture_path.probe)
            self._reporter.note_change()

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_EVERY_S)
            self._clock_now = await read_clock()

    async def _watch_link(self) -> None:
        """After each connection: orders may have changed meanwhile, and the hub wants to hear of us. The server's name
        may stand for another address, or a cluster may have grown."""
        while True:
            try:
                async with asyncio.timeout(ADDRESSES_EVERY_S):
                    if await self._link.changed():
                        self._desired.ask()
                        self._reporter.note_connection()
            except TimeoutError:
                pass
            await self._resolve_addresses()

    async def _resolve_addresses(self) -> None:
        config = self._config
        if not config.own_traffic_exclude:
            return
        named = set(self._link.server_addresses) | {split_server(url) for url in self._servers()}
        addresses = {*config.hub_addresses, *config.own_traffic_extra}
        if self._desired.current is not None:
            named |= set(self._desired.current.own_traffic)
        for host, port in named:
            if not 1 <= port <= 65535:
                continue
            try:
                addresses.add((str(ipaddress.ip_address(host)), port))
                continue
            except ValueError:
                pass
            try:
                async with asyncio.timeout(3):
                    found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, TimeoutError):
                continue  # asked again when the connection changes
            addresses.update((str(entry[4][0]), port) for entry in found)
        self._sessions.leave_out(that_fit(addresses))

    async def _end_when_done(self) -> None:
        """Every session has ended, everything is stored, and the hub has been told."""
        while not (self._sessions.sessions and self._sessions.all_ended):
            self._show_progress()
            await asyncio.sleep(0.2)
        self._show_progress()
        await self._publisher.drained(None)
        await self._link.wait_connected()
        await self._reporter.send_report()
        await self._reporter.send_heartbeat()
        self._stop.set()

    def _show_progress(self) -> None:
        if self._progress is not None:
            self._progress(list(self._sessions.sessions.values()))

    async def _wind_down(self) -> bool:
        """Sessions, then the spool, then the acknowledgements; True when nothing is left."""
        await self._sessions.leave()
        await asyncio.to_thread(self._spool.sync, everything=True)
        wait_s = self._config.shutdown_wait_s
        drained = await self._publisher.drained(wait_s if self._link.connected else min(wait_s, 0.2))
        if not drained:
            log.warning(
                "%d batches stay in the spool; they are sent at the next start", self._spool.pending_batches
            )
        return drained

    def _outcome(self, complete: bool) -> Outcome:
        sessions = self._sessions.sessions
        return Outcome(
            complete=complete,
            books={name: session.read_books() for name, session in sessions.items()},
            states={name: (session.state, session.reason) for name, session in sessions.items()},
            pending_batches=self._spool.pending_batches,
        )


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, again each second until they have ended: on its way through nats-py a cancellation can be lost (the
    `asyncio.wait_for` of Python 3.11 forgets one that comes together with the result)."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1.0)
