"""Who is there: verified heartbeats and reports, the server's connect events, and the verdict in words.

Heartbeats and reports count only when the agent's registered key signed them for that purpose; the subject's name
proves nothing (a PubAck can be made to land there). Client names inside the server's events are untrusted text: an
agent is known by its user's public key alone.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
from nats.aio.msg import Msg

from hub.agents.control import Control, ControlError
from hub.agents.sessions import SessionControl
from hub.agents.status import AgentStatus, KnownAgent, State, status_of
from hub.bus import Bus
from hub.registry import AgentRecord, Registry, UnknownError
from wire.control import Domain, Envelope, unseal
from wire.errors import WireError
from wire.report import Heartbeat, Report
from wire.strict_cbor import dumps_map

log = logging.getLogger(__name__)

__all__ = ["AgentStatus", "Changes", "Presence"]

TICK_S = 0.25
SAVE_S = 5.0

HeartbeatListener = Callable[[Heartbeat, int], None]
"""(heartbeat, received_ns): called in the event loop for each verified heartbeat."""


class Changes:
    """A subscription: `async for agents in changes` gives the set of agent ids whose status changed since last time.

    Bounded by nature: however slow the reader, what waits is one set of ids.
    """

    def __init__(self) -> None:
        self._agents: set[str] = set()
        self._some = asyncio.Event()

    def add(self, agent: str) -> None:
        """Note a change."""
        self._agents.add(agent)
        self._some.set()

    def __aiter__(self) -> AsyncIterator[frozenset[str]]:
        return self

    async def __anext__(self) -> frozenset[str]:
        await self._some.wait()
        self._some.clear()
        agents, self._agents = frozenset(self._agents), set()
        return agents


class Presence:
    """Verifies heartbeats and reports, follows the server's connect events, keeps the verdict per agent."""

    def __init__(
        self,
        registry: Registry,
        bus: Bus,
        *,
        system_bus: Bus | None = None,
        account: str | None = None,
        sessions: SessionControl | None = None,
        control: Control | None = None,
    ) -> None:
        """system_bus, account: the $SYS connection and the account's public key; without them a killed agent is
        noticed by silence only. control: to ask a silent agent before calling it offline."""
        self._registry = registry
        self._bus = bus
        self._system_bus = system_bus
        self._account = account
        self._sessions = sessions or SessionControl(registry)
        self._control = control
        self._known: dict[str, KnownAgent] = {}
        self._by_user: dict[str, str] = {}
        self._subscribers: set[Changes] = set()
        self._listeners: list[HeartbeatListener] = []
        self._unsaved: dict[str, tuple[bytes, int]] = {}
        self._configuration = -1
        self.rejected = 0
        """Messages on hb.* and rep.* that failed verification."""
        self._load()

    def on_heartbeat(self, listener: HeartbeatListener) -> None:
        """Have every verified heartbeat passed on (the ledger keeps its books)."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Work until cancelled."""
        self._bus.on_change(self._bus_changed)
        subscriptions = [
            await self._bus.subscribe("hb.*", self._on_heartbeat, max_messages=50_000),
            await self._bus.subscribe("rep.*", self._on_report, max_messages=20_000),
        ]
        if self._system_bus is not None and self._account:
            for event in ("CONNECT", "DISCONNECT"):
                subject = f"$SYS.ACCOUNT.{self._account}.{event}"
                subscriptions.append(await self._system_bus.subscribe(subject, self._on_system_event))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._save_regularly())
                while True:
                    self._refresh()
                    now_s = time.monotonic()
                    for agent, known in self._known.items():
                        self._judge(agent, known, now_s)
                        if (
                            self._control is not None
                            and self._bus.connected
                            and known.sighting.wants_probe(now_s)
                        ):
                            tasks.create_task(self._probe(agent, known))
                    await asyncio.sleep(TICK_S)
        finally:
            for subscription in subscriptions:
                await subscription.close()

    # What comes in

    def _sender(self, message: Msg, prefix: str) -> KnownAgent | None:
        """Whose message it claims to be by its subject; None, and counted, when nobody's that may speak."""
        agent = message.subject.removeprefix(prefix)
        known = self._known.get(agent)
        if known is None:
            self._refresh()  # it may have been enrolled since the last tick
            known = self._known.get(agent)
        if known is None or not known.record.enabled:
            self.rejected += 1
            return None
        return known

    async def _on_heartbeat(self, message: Msg) -> None:
        known = self._sender(message, "hb.")
        if known is None:
            return
        received_ns = time.time_ns()
        try:
            envelope = _unseal(message, Domain.HEARTBEAT, known)
            heartbeat = Heartbeat.from_map(envelope.body)
        except WireError as error:
            self._reject(known, "heartbeat", error)
            return
        if heartbeat.agent != known.record.id or not known.sighting.heartbeat(
            heartbeat.boot, heartbeat.sequence, time.monotonic()
        ):
            self.rejected += 1
            return
        known.heartbeat, known.heartbeat_ns = heartbeat, received_ns
        known.clock_difference_ns = heartbeat.sent_ns - received_ns
        self._unsaved[known.record.id] = (dumps_map(envelope.body), received_ns)
        for listener in self._listeners:
            listener(heartbeat, received_ns)
        self._judge(known.record.id, known, time.monotonic())
        self._changed(known.record.id)

    async def _on_report(self, message: Msg) -> None:
        known = self._sender(message, "rep.")
        if known is None:
            return
        received_ns = time.time_ns()
        try:
            envelope = _unseal(message, Domain.REPORT, known)
            report = Report.from_map(envelope.body)
        except WireError as error:
            self._reject(known, "report", error)
            return
        old = known.report
        if report.agent != known.record.id or (
            old is not None and old.boot == report.boot and old.report_revision > report.report_revision
        ):
            self.rejected += 1
            return
        known.report = report
        known.sighting.life(time.monotonic())
        self._registry.agents.save_report(known.record.id, dumps_map(envelope.body), received_ns)
        self._sessions.apply_report(known.record.id, report, received_ns)
        self._judge(known.record.id, known, time.monotonic())
        self._changed(known.record.id)

    async def _on_system_event(self, message: Msg) -> None:
        try:
            event: dict[str, Any] = orjson.loads(message.data)
            client = event["client"]
            agent = self._by_user.get(str(client.get("user") or client.get("nkey") or ""))
            connection = f"{event['server']['id']}:{client['id']}"
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            self.rejected += 1
            return
        if agent is None:
            return
        sighting = self._known[agent].sighting
        if message.subject.endswith(".DISCONNECT"):
            sighting.disconnected(connection, str(event.get("reason", ""))[:100], time.monotonic())
        else:
            sighting.connected(connection, str(client.get("host", ""))[:64])
            self._changed(agent)

    def saw_batch(self, agent: str, *, age_s: float = 0.0) -> None:
        """A verified batch of this agent reached the archive `age_s` ago: a sign of life of a busy agent."""
        known = self._known.get(agent)
        if known is not None and age_s < 2.0:
            known.sighting.life(time.monotonic())

    def _reject(self, known: KnownAgent, what: str, error: WireError) -> None:
        self.rejected += 1
        known.rejected += 1
        if known.rejected == 1:
            log.warning("a %s in the name of agent %s was refused: %s", what, known.record.id, error)

    async def _probe(self, agent: str, known: KnownAgent) -> None:
        assert self._control is not None
        with suppress(ControlError, UnknownError):
            await self._control.ping(agent, timeout_s=4.0)
            known.sighting.life(time.monotonic())

    def _bus_changed(self, connected: bool) -> None:
        now_s = time.monotonic()
        for agent, known in self._known.items():
            known.sighting.forget_connections()
            if connected:
                known.sighting.resume(now_s)
            self._judge(agent, known, now_s)

    # The verdict

    def status(self, agent: str) -> AgentStatus:
        """One agent's status; UnknownError without such an agent."""
        self._refresh()
        known = self._known.get(agent)
        if known is None:
            raise UnknownError(f"there is no agent {agent!r}")
        return self._status(known)

    def all(self) -> list[AgentStatus]:
        """Every enrolled agent's status, by id."""
        self._refresh()
        return [self._status(self._known[agent]) for agent in sorted(self._known)]

    @contextmanager
    def changes(self) -> Iterator[Changes]:
        """Subscribe for the time of the `with` block. A change of a session's reported state counts as well."""
        subscription = Changes()
        self._subscribers.add(subscription)
        try:
            yield subscription
        finally:
            self._subscribers.discard(subscription)

    def _changed(self, agent: str) -> None:
        for subscription in self._subscribers:
            subscription.add(agent)

    def _judge(self, agent: str, known: KnownAgent, now_s: float) -> None:
        state = self._state(known, now_s)
        if state == known.state:
            return
        first, known.state = known.state == "", state
        if not (first and state in ("unknown", "never", "revoked")):
            known.since_ns = time.time_ns()
            if state == "offline" and known.heartbeat_ns is not None:
                known.since_ns = known.heartbeat_ns  # absent since it was last heard, not since we noticed
            log.info("agent %s is %s", agent, state)
        self._changed(agent)

    def _state(self, known: KnownAgent, now_s: float) -> State:
        if not known.record.enabled:
            return "revoked"
        state = known.sighting.state(now_s)
        return "unknown" if not self._bus.connected and state != "never" else state

    def _status(self, known: KnownAgent) -> AgentStatus:
        state = self._state(known, time.monotonic())
        return status_of(known, state, self._bus.connected, time.time_ns())

    # The registry

    def _refresh(self) -> None:
        """What somebody just changed is true at once, not with the next tick."""
        if self._registry.configuration_version() != self._configuration:
            self._load()

    def _load(self) -> None:
        self._configuration = self._registry.configuration_version()
        records = {record.id: record for record in self._registry.agents.all()}
        for agent in self._known.keys() - records.keys():
            del self._known[agent]
        for agent, record in records.items():
            known = self._known.get(agent)
            if known is None:
                self._known[agent] = KnownAgent(record, time.monotonic())
                self._changed(agent)
            elif known.record != record:
                changed = _visible(known.record) != _visible(record)
                known.record = record
                if changed:
                    self._changed(agent)
        self._by_user = {record.user_public: record.id for record in records.values()}

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            unsaved, self._unsaved = self._unsaved, {}
            if unsaved:
                try:
                    await asyncio.to_thread(self._registry.agents.save_heartbeats, unsaved)
                except (
                    sqlite3.Error
                ) as error:  # a full disk, a long writer: who is there is known all the same
                    log.warning("the last heartbeats can't be written, trying again: %s", error)
                    self._unsaved = unsaved | self._unsaved


def _visible(record: AgentRecord) -> tuple[object, ...]:
    """What of a record a page shows."""
    return record.enabled, record.label, record.off_ns, record.off_reason


def _unseal(message: Msg, domain: Domain, known: KnownAgent) -> Envelope:
    return unseal(
        message.data,
        domain,
        public=known.record.signing_public,
        agent=known.record.id,
        now_ns=None,  # a wrong clock is shown, not punished; freshness is the sequence
    )
