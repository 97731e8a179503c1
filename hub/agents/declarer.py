"""Publishes to each agent what it shall do: a signed envelope under its key of the `desired` bucket.

The registry is the truth; this turns it into envelopes whenever it changed, in whichever process. The agent reads its
key on connect, on the notice `ctl.<agent>.changed` and every minute, and ignores what is unsigned or older.

Revisions grow for ever, also over a registry restored from last week's copy: they are at least the time in
milliseconds. What the bucket holds is compared with what should be there at each connect and every minute, so a
bucket that was lost or restored heals by itself.
"""

import asyncio
import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import nats.errors
import nats.js.errors

from hub.agents.control import Control
from hub.bus import Bus
from hub.registry import AgentRecord, Registry
from wire.control import Domain, seal, unseal
from wire.errors import WireError
from wire.keys import SigningKey
from wire.names import DESIRED_BUCKET, desired_get_subject
from wire.session import MAX_SESSIONS, Desired
from wire.strict_cbor import dumps_map

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How often other processes' changes are looked for (one row read)."""
AUDIT_S = 60.0
RETRY_S = 2.0

Credentials = Callable[[AgentRecord, int], tuple[str, int, int]]
"""(agent, now in s) → (user JWT, issued_ns, expires_ns) the agent should hold now; the same until two thirds of its
life have passed."""


class Declarer:
    """Keeps the bucket equal to the registry."""

    def __init__(
        self,
        registry: Registry,
        bus: Bus,
        control: Control,
        key: SigningKey,
        *,
        own_traffic: Callable[[], Sequence[tuple[str, int]]] = tuple,
        credentials: Credentials | None = None,
    ) -> None:
        """own_traffic: (address, port) of servers and hubs that captures leave out."""
        self._registry = registry
        self._bus = bus
        self._control = control
        self._key = key
        self._own_traffic = own_traffic
        self._credentials = credentials
        self._wake = asyncio.Event()
        self._refused: set[str] = set()
        self.published = 0
        """Envelopes published since the start."""

    def wake(self) -> None:
        """Publish now instead of at the next poll (call it after a change in this process)."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        self._bus.on_change(lambda connected: self._wake.set())
        version, connections, audited = -1, -1, 0.0
        while True:
            await self._bus.client()
            seen = self._registry.configuration_version()
            audit = connections != self._bus.connections or time.monotonic() - audited >= AUDIT_S
            if seen != version or audit:
                current_connections = self._bus.connections
                try:
                    await self.publish_changes(audit=audit)
                    version = seen
                    if audit:
                        connections, audited = current_connections, time.monotonic()
                except (TimeoutError, nats.errors.Error, sqlite3.Error) as error:
                    log.warning(
                        "desired state not published, trying again: %s", error or type(error).__name__
                    )
                    await asyncio.sleep(RETRY_S)
                    continue
            with suppress(asyncio.TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            self._wake.clear()

    async def publish_changes(self, *, audit: bool = False) -> list[str]:
        """Publish the envelope of each agent for which it changed; return those agents.

        audit: also compare with what the bucket holds. nats errors come through.
        """
        changed = []
        for agent in self._registry.agents.all():
            if not agent.enabled:
                continue
            await asyncio.sleep(0)  # thousands of agents must not hold the event loop
            agent = self._renewed(agent)
            digest = hashlib.sha256(dumps_map(self._desired(agent, 0).to_map())).digest()
            row = self._registry.connection.execute(
                "SELECT revision, digest FROM desired WHERE agent = ?", (agent.id,)
            ).fetchone()
            known_revision = int(row["revision"]) if row else 0
            if (
                row is not None
                and bytes(row["digest"]) == digest
                and not (audit and await self._held_revision(agent.id) != known_revision)
            ):
                continue
            try:
                await self._publish(agent, digest, known_revision)
            except ValueError as error:  # too large an envelope: the other agents must get theirs
                if agent.id not in self._refused:
                    log.error("agent %s can't be given its sessions: %s", agent.id, error)
                self._refused.add(agent.id)
                continue
            self._refused.discard(agent.id)
            changed.append(agent.id)
        return changed

    async def _publish(self, agent: AgentRecord, digest: bytes, known_revision: int) -> None:
        now_ns = time.time_ns()
        revision = max(known_revision + 1, now_ns // 1_000_000)
        body = self._desired(agent, revision).to_map()
        message = seal(Domain.DESIRED, agent=agent.id, body=body, key=self._key, issued_ns=now_ns)
        jetstream = await self._bus.jetstream()
        await jetstream.publish(f"$KV.{DESIRED_BUCKET}.{agent.id}", message)
        with self._registry.transaction() as db:
            db.execute(
                """INSERT INTO desired VALUES(?, ?, ?, ?) ON CONFLICT(agent) DO UPDATE SET
                   revision = excluded.revision, digest = excluded.digest, published_ns = excluded.published_ns""",
                (agent.id, revision, digest, now_ns),
            )
        self.published += 1
        await self._control.tell(agent.id, "changed", {})

    def _desired(self, agent: AgentRecord, revision: int) -> Desired:
        records = self._registry.sessions.all(agent=agent.id, active_only=True, limit=MAX_SESSIONS)
        specs = tuple(record.spec for record in reversed(records) if record.spec is not None)
        own = tuple((str(address), int(port)) for address, port in self._own_traffic())
        return Desired(revision=revision, sessions=specs, user_jwt=agent.user_jwt, own_traffic=own)

    def _renewed(self, agent: AgentRecord) -> AgentRecord:
        if self._credentials is None:
            return agent
        try:
            token, issued_ns, expires_ns = self._credentials(agent, time.time_ns() // 1_000_000_000)
        except Exception as error:  # one agent's odd record must not keep the others from their orders
            if agent.id not in self._refused:
                log.error("the credentials of agent %s can't be renewed: %s", agent.id, error)
            self._refused.add(agent.id)
            return agent
        if token == agent.user_jwt or issued_ns <= (agent.jwt_issued_ns or 0):
            return agent
        self._registry.agents.set_jwt(agent.id, token, issued_ns, expires_ns)
        log.info("renewed the credentials of agent %s", agent.id)
        return self._registry.agents.require(agent.id)

    async def _held_revision(self, agent: str) -> int:
        """The revision in the bucket under our signature; 0 when there is none."""
        client = await self._bus.client()
        reply = await client.request(desired_get_subject(agent), b"", timeout=5)
        if reply.headers and reply.headers.get("Status"):
            return 0
        try:
            envelope = unseal(reply.data, Domain.DESIRED, public=self._key.public, agent=agent, now_ns=None)
            return Desired.from_map(envelope.body).revision
        except WireError:
            return 0
