"""What the agent says of itself: the signed report at each change and every 30 s, the signed heartbeat every 5 s.

Neither is kept when there is no connection: the next one says the same, only newer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import time
from collections.abc import Callable
from typing import Any

from agent import resources
from agent.control import interface_reports, report_name
from agent.desired import DesiredState
from agent.ebpf.loading import CapturePath
from agent.identity import Identity
from agent.interface_choice import Choice, best_interface
from agent.interfaces import InterfaceError, list_interfaces
from agent.link import Link, LinkAway
from agent.publisher import Publisher
from agent.reconcile import Reconciler
from agent.self_limits import words
from agent.spool import Spool
from agent.version import VERSION
from wire.batch import WIRE_VERSION
from wire.clock import Clock
from wire.control import Domain, seal
from wire.names import heartbeat_subject, report_subject
from wire.report import (
    CAN_CUT_PAYLOAD,
    CAN_SEVERAL_INTERFACES,
    MAX_ALERT_BYTES,
    MAX_ALERTS,
    Heartbeat,
    InterfaceReport,
    Report,
    SessionBeat,
)

log = logging.getLogger(__name__)

REPORT_EVERY_S = 30.0
HEARTBEAT_EVERY_S = 5.0
_SETTLE_S = 0.05
"""Changes that come together go into one report."""
_CAPABILITIES = (
    "replay",
    "promiscuous",
    "filter-swap",
    "lane-bulk",
    "lane-prio",
    "zstd",
    CAN_CUT_PAYLOAD,
    CAN_SEVERAL_INTERFACES,
)


class Reporter:
    """See the module."""

    def __init__(
        self,
        identity: Identity,
        link: Link,
        *,
        boot: bytes,
        desired: DesiredState,
        sessions: Reconciler,
        spool: Spool,
        publisher: Publisher,
        clock: Callable[[], Clock],
        capture_path: CapturePath,
    ) -> None:
        self.revision = 0
        self._identity = identity
        self._link = link
        self._boot = boot
        self._desired = desired
        self._sessions = sessions
        self._spool = spool
        self._publisher = publisher
        self._clock = clock
        self._capture_path = capture_path
        self._started_ns = time.time_ns()
        self._started_s = time.monotonic()
        self._changed = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._beats = 0
        self._rates: dict[str, tuple[float, int, int]] = {}
        self._last_counted: dict[str, tuple[float, int, int]] = {}

    def note_change(self) -> None:
        """A report is due."""
        self._changed.set()

    def note_connection(self) -> None:
        """There is a connection again: say at once how things are."""
        self._changed.set()
        self._beat_now.set()

    def note_settled(self) -> None:
        """Some session's books may be final now: send them at once, if so, for the hub to close its account."""
        if self._sessions.unheard:
            self._beat_now.set()

    # -- reports -----------------------------------------------------------------------------------------------

    async def run_reports(self) -> None:
        """Report until cancelled."""
        while True:
            await self._link.wait_connected()
            self._changed.clear()
            await self.send_report()
            try:
                async with asyncio.timeout(REPORT_EVERY_S):
                    await self._changed.wait()
                await asyncio.sleep(_SETTLE_S)
            except TimeoutError:
                pass

    async def send_report(self) -> None:
        """One report now; nothing when there is no connection."""
        self.revision += 1
        report = self._report(*await asyncio.to_thread(_interfaces))
        await self._send(report_subject(self._identity.name), Domain.REPORT, report.to_map())

    def _report(self, interfaces: tuple[InterfaceReport, ...], best: Choice | None) -> Report:
        system = platform.uname()
        path = self._capture_path
        return Report(
            agent=self._identity.name,
            version=VERSION,
            wire_version=WIRE_VERSION,
            hostname=system.node[:200],
            os=_os_name()[:200],
            kernel=system.release[:200],
            machine=system.machine[:60],
            boot=self._boot,
            started_ns=self._started_ns,
            report_revision=self.revision,
            desired_revision=self._desired.revision,
            capture_path=path.name,
            capture_path_reason=_one_line(path.reason),
            capabilities=(*path.capabilities, *_CAPABILITIES),
            interfaces=interfaces,
            best_interface=report_name(best.name) if best is not None else "",
            best_interface_reason=best.why if best is not None else "",
            clock=self._clock(),
            sessions=tuple(session.report() for session in self._sessions.sessions.values()),
        )

    # -- heartbeats --------------------------------------------------------------------------------------------

    async def run_heartbeats(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            await self._link.wait_connected()
            self._beat_now.clear()
            await self.send_heartbeat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_EVERY_S):
                    await self._beat_now.wait()

    async def send_heartbeat(self) -> None:
        """One heartbeat now; nothing when there is no connection."""
        self._beats += 1
        settled = self._sessions.settled()
        body = self._heartbeat().to_map()
        if await self._send(heartbeat_subject(self._identity.name), Domain.HEARTBEAT, body):
            self._sessions.note_heard(settled)

    def _heartbeat(self) -> Heartbeat:
        spool = self._spool
        return Heartbeat(
            agent=self._identity.name,
            boot=self._boot,
            sequence=self._beats,
            sent_ns=time.time_ns(),
            uptime_s=time.monotonic() - self._started_s,
            cpu_seconds=resources.cpu_seconds(),
            resident_bytes=resources.resident_bytes(),
            spool_bytes=spool.waiting_bytes,
            spool_limit_bytes=spool.max_bytes,
            spool_oldest_ns=spool.oldest_spooled_ns(),
            clock=self._clock(),
            sessions=self._session_beats(),
            report_revision=self.revision,
            alerts=tuple(_one_line(alert) for alert in self.alerts()[:MAX_ALERTS]),
        )

    def _session_beats(self) -> dict[str, SessionBeat]:
        beats = {}
        for name, session in self._sessions.sessions.items():
            packets, bytes_ = session.captured_totals
            now_s = time.monotonic()
            last_s, last_packets, last_bytes = self._last_counted.get(
                name, (self._started_s, packets, bytes_)
            )
            elapsed_s = max(now_s - last_s, 0.001)
            self._last_counted[name] = (now_s, packets, bytes_)
            beats[name] = SessionBeat(
                books=session.read_books(),
                packets_per_second=(packets - last_packets) / elapsed_s,
                bits_per_second=8 * (bytes_ - last_bytes) / elapsed_s,
                in_flight=session.in_flight,
            )
        for gone in self._last_counted.keys() - beats.keys():
            del self._last_counted[gone]
        return beats

    def alerts(self) -> list[str]:
        """What a person should know of, in sentences; empty when all is well."""
        found = []
        if shedding := words(self._sessions.standing):
            found.append(shedding)
        if self._spool.disk_error is not None:
            found.append(f"the spool's disk refuses: {self._spool.disk_error}; batches wait in memory")
        damaged = self._spool.damage()
        if damaged:
            found.append(f"{damaged} bytes of the spool were damaged and left out")
        poisoned = self._publisher.counters["poisoned"]
        if poisoned:
            found.append(
                f"{poisoned} batches were called duplicates before they were sent: somebody uses our ids"
            )
        if self._publisher.waiting_reason:
            found.append(self._publisher.waiting_reason)
        return found

    async def _send(self, subject: str, domain: Domain, body: dict[str, Any]) -> bool:
        message = seal(
            domain,
            agent=self._identity.name,
            body=body,
            key=self._identity.signing_key,
            issued_ns=time.time_ns(),
        )
        try:
            await self._link.publish(subject, message)
        except LinkAway:
            log.debug("nothing sent on %s: no connection", subject)
            return False
        return True


def _interfaces() -> tuple[tuple[InterfaceReport, ...], Choice | None]:
    """The host's interfaces and the one to suggest; None when there is none to capture on."""
    try:
        found = list_interfaces()
    except InterfaceError as error:
        log.warning("interfaces can't be listed: %s", error)
        return (), None
    try:
        return interface_reports(found), best_interface(found)
    except InterfaceError:
        return interface_reports(found), None


def _one_line(text: str) -> str:
    """As the wire takes it: printable and bounded. A folder's name may hold anything."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable.encode("utf-8", "replace")[:MAX_ALERT_BYTES].decode("utf-8", "ignore")


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
