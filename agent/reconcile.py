"""Declared → running: the sessions of this agent, compared with what the hub wants, again and again.

A session that the hub no longer lists is ended (its chain closed) and then forgotten, but not before the hub has been
sent its final books: the hub stops listing a session as soon as it is stopped, while its last batches may still be on
their way.  One that failed is tried again while it is wanted; one whose filter was refused waits for another filter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from agent.self_limits import NOT_SHEDDING, Shedding
from agent.session import CaptureSession
from agent.session_memory import SessionMemory
from agent.surroundings import Surroundings
from wire.names import check_session_id
from wire.session import SessionSpec

log = logging.getLogger(__name__)

RETRY_S = 2.0


class Reconciler:
    """See the module. Everything runs in the event loop; the sessions have threads of their own."""

    def __init__(self, around: Surroundings, directory: Path) -> None:
        self.sessions: dict[str, CaptureSession] = {}
        self._around = around
        self._directory = directory
        self._retry = asyncio.Event()
        self._leaving = False
        self.standing = NOT_SHEDDING
        self._unlisted: set[str] = set()
        self._heard: set[str] = set()
        """Sessions whose final books were in a heartbeat that was sent."""

    def apply(self, specs: Iterable[SessionSpec]) -> None:
        """Make these the declared sessions, all of them."""
        if self._leaving:
            return
        wanted = {spec.id: spec for spec in specs}
        self._unlisted = self.sessions.keys() - wanted.keys()
        for name in self._unlisted:
            session = self.sessions[name]
            self._declare(session, replace(session.wanted, state="stopped"))
        self._forget_heard()
        for name, spec in wanted.items():
            if name in self.sessions:
                self._declare(self.sessions[name], spec)
            else:
                self._begin(spec)
        self._forget_unlisted(wanted)
        self._retry.set()

    def settled(self) -> set[str]:
        """Sessions that have ended and wait for no acknowledgement: their books don't change any more."""
        return {
            name
            for name, session in self.sessions.items()
            if session.ended and not session.alive and session.read_books().pending == 0
        }

    @property
    def unheard(self) -> bool:
        """Whether final books wait for a heartbeat."""
        return bool(self.settled() - self._heard)

    def note_heard(self, names: set[str]) -> None:
        """A heartbeat with the final books of these was sent."""
        self._heard = (self._heard | names) & self.sessions.keys()
        self._forget_heard()

    def _forget_heard(self) -> None:
        for name in self._unlisted & self._heard & self.sessions.keys():
            self.sessions.pop(name).forget()
            self._heard.discard(name)

    def _begin(self, spec: SessionSpec) -> None:
        try:
            memory = SessionMemory.open(self._directory, spec.id)
        except OSError as error:
            log.error("session %s can't be remembered on disk: %s", spec.id, error)
            memory = SessionMemory(self._directory / spec.id)
        session = CaptureSession(spec, memory, self._around)
        self.sessions[spec.id] = session
        session.shed(self.standing)
        session.start()

    def _declare(self, session: CaptureSession, spec: SessionSpec) -> None:
        session.declare(spec)
        if session.outdated and not session.alive and not session.ended:
            session.start()  # it was refused or had failed: perhaps this can be

    def _forget_unlisted(self, wanted: dict[str, SessionSpec]) -> None:
        """What earlier lives remember and nobody wants any more: close the chain, then forget it."""
        try:
            names = [path.name for path in self._directory.iterdir()]
        except OSError:
            return
        for name in names:
            if name in self.sessions or name in wanted:
                continue
            try:
                memory = SessionMemory.open(self._directory, check_session_id(name))
            except (ValueError, OSError):
                continue
            if memory.ended or not any(head.known for head in memory.heads.values()):
                memory.forget()
            else:
                self._begin(SessionSpec(id=name, state="stopped", interface="none"))

    async def run(self) -> None:
        """Try failed sessions again while there are any; forget those that have ended and aren't listed."""
        while True:
            await self._retry.wait()
            self._retry.clear()
            while self._unsettled():
                await asyncio.sleep(RETRY_S)
                for session in self.sessions.values():
                    if session.state == "failed" and not session.alive and not self._leaving:
                        session.start()

    def _unsettled(self) -> bool:
        return any(session.state == "failed" for session in self.sessions.values())

    def note_change(self) -> None:
        """A session changed its state (call in the event loop)."""
        if self._unsettled():
            self._retry.set()

    def watch(self, session: str, until_ns: int) -> None:
        """Somebody watches this session until then."""
        if session in self.sessions:
            self.sessions[session].watch(until_ns)

    def shed(self, standing: Shedding) -> None:
        """What every session gives up now, and those that begin."""
        self.standing = standing
        for session in self.sessions.values():
            session.shed(standing)

    def leave_out(self, own_traffic: list[tuple[str, int]]) -> None:
        """Addresses that no session captures from now on."""
        self._around.own_traffic = own_traffic
        for session in self.sessions.values():
            session.leave_out(own_traffic)

    async def leave(self, timeout_s: float = 5.0) -> bool:
        """The agent stops: every session delivers what it has; False when one didn't come to its end in time."""
        self._leaving = True
        for session in self.sessions.values():
            session.leave()
        ended = await asyncio.gather(
            *(asyncio.to_thread(session.join, timeout_s) for session in self.sessions.values())
        )
        return all(ended)

    @property
    def all_ended(self) -> bool:
        """Every session has come to its end (or can't begin)."""
        return all(
            not session.alive and (session.ended or session.state in ("refused", "failed"))
            for session in self.sessions.values()
        )
