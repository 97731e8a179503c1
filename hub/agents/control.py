"""Questions to an agent that want an answer now: ping, its interfaces, whether it would take a filter.

Signed by the hub (CONTROL, nonce, short expiry), answered signed by the agent (REPLY, the same nonce). The server's
permissions let anybody's *reply* land on a subject, so an unsigned answer would prove nothing. Orders never go this
way: they are declared (hub.agents.declarer).
"""

import secrets
import time
from dataclasses import dataclass
from typing import Any

import nats.errors

from hub.bus import Bus, BusAway
from hub.registry import Registry
from wire import fields
from wire.control import Domain, seal, unseal
from wire.errors import WireError
from wire.interface_counters import InterfaceCounters
from wire.keys import SigningKey
from wire.names import control_subject
from wire.report import MAX_INTERFACES, InterfaceReport

REQUEST_LIFE_NS = 10_000_000_000
REPLY_TIMEOUT_S = 3.0
NONCE_BYTES = 16


class ControlError(Exception):
    """No usable answer; the text tells people what happened."""


class AgentAway(ControlError):
    """The agent (or the server) isn't connected."""


class AgentSilent(ControlError):
    """The agent is connected and didn't answer in time."""


class AnswerRefused(ControlError):
    """An answer came that isn't the agent's, or isn't one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verified reply."""

    body: dict[str, Any]
    sent_ns: int
    """The hub's clock when the question left."""
    received_ns: int
    """The hub's clock when the answer came."""


@dataclass(frozen=True, slots=True)
class Ping:
    """What a ping tells."""

    round_trip_ns: int
    agent_time_ns: int
    version: str
    offset_ns: int
    """Agent's clock minus the hub's, taking both ways as equally long; wrong by at most half the round trip."""


@dataclass(frozen=True, slots=True)
class FilterVerdict:
    """What the agent's own libpcap says of a filter."""

    accepted: bool
    error: str
    """libpcap's message when refused."""
    instructions: int | None


@dataclass(frozen=True, slots=True)
class InterfacesNow:
    """An agent's interfaces at this moment."""

    interfaces: tuple[InterfaceReport, ...]
    counters: tuple[InterfaceCounters, ...]
    """Empty of an agent that doesn't count."""
    round_trip_ns: int


class Control:
    """Asks agents. Every method raises ControlError's kinds, and UnknownError without such an agent."""

    def __init__(self, bus: Bus, registry: Registry, key: SigningKey) -> None:
        """key: the hub's control key, whose public half agents hold since enrolment."""
        self._bus = bus
        self._registry = registry
        self._key = key

    async def ask(
        self, agent: str, verb: str, body: dict[str, Any] | None = None, *, timeout_s: float = REPLY_TIMEOUT_S
    ) -> Answer:
        """Send one signed question and return the verified answer."""
        record = self._registry.agents.require(agent)
        if not self._bus.connected:
            raise AgentAway("the hub has no connection to the NATS server")
        nonce = secrets.token_bytes(NONCE_BYTES)
        sent_ns = time.time_ns()
        message = seal(
            Domain.CONTROL,
            agent=agent,
            body=body or {},
            key=self._key,
            issued_ns=sent_ns,
            expires_ns=sent_ns + REQUEST_LIFE_NS,
            nonce=nonce,
        )
        client = await self._bus.client()
        try:
            reply = await client.request(control_subject(agent, verb), message, timeout=timeout_s)
        except nats.errors.NoRespondersError:
            raise AgentAway(f"agent {agent!r} isn't connected") from None
        except (TimeoutError, nats.errors.TimeoutError):
            raise AgentSilent(f"agent {agent!r} didn't answer {verb!r} within {timeout_s:g} s") from None
        except nats.errors.Error as error:
            raise AgentAway(f"the question could not be sent: {error}") from error
        received_ns = time.time_ns()
        try:
            # The agent's clock may be wrong and is judged elsewhere: the nonce alone proves freshness.
            envelope = unseal(
                reply.data, Domain.REPLY, public=record.signing_public, agent=agent, now_ns=None
            )
        except WireError as error:
            raise AnswerRefused(f"the answer to {verb!r} isn't from agent {agent!r}: {error}") from error
        if envelope.nonce != nonce:
            raise AnswerRefused(f"the answer to {verb!r} belongs to another question")
        return Answer(envelope.body, sent_ns, received_ns)

    async def tell(
        self, agent: str, verb: str, body: dict[str, Any], *, life_ns: int = REQUEST_LIFE_NS
    ) -> bool:
        """Send a signed notice that wants no answer; False when there is no connection now."""
        now_ns = time.time_ns()
        message = seal(
            Domain.CONTROL,
            agent=agent,
            body=body,
            key=self._key,
            issued_ns=now_ns,
            expires_ns=now_ns + life_ns,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        try:
            await self._bus.publish(control_subject(agent, verb), message)
        except (BusAway, nats.errors.Error):
            return False
        return True

    async def ping(self, agent: str, *, timeout_s: float = REPLY_TIMEOUT_S) -> Ping:
        """Whether the agent is there, how far away, and how far its clock is off."""
        answer = await self.ask(agent, "ping", timeout_s=timeout_s)
        try:
            time_ns = fields.integer(answer.body, "time_ns")
            version = fields.text(answer.body, "version", max_bytes=64)
        except WireError as error:
            raise AnswerRefused(f"agent {agent!r} answered a ping oddly: {error}") from error
        round_trip_ns = answer.received_ns - answer.sent_ns
        return Ping(round_trip_ns, time_ns, version, time_ns - answer.sent_ns - round_trip_ns // 2)

    async def interfaces(self, agent: str, *, timeout_s: float = REPLY_TIMEOUT_S) -> InterfacesNow:
        """The agent's interfaces now, and what they have carried."""
        answer = await self.ask(agent, "interfaces", timeout_s=timeout_s)
        try:
            reports = fields.maps(answer.body, "interfaces", max_length=MAX_INTERFACES)
            counters = fields.optional(answer.body, "counters", fields.maps, max_length=MAX_INTERFACES) or []
            return InterfacesNow(
                tuple(InterfaceReport.from_map(one) for one in reports),
                tuple(InterfaceCounters.from_map(one) for one in counters),
                answer.received_ns - answer.sent_ns,
            )
        except WireError as error:
            raise AnswerRefused(f"agent {agent!r} listed its interfaces oddly: {error}") from error

    async def check_filter(
        self,
        agent: str,
        filter: str,
        *,
        interface: str | None = None,
        link_type: int = 1,
        snaplen: int = 262144,
    ) -> FilterVerdict:
        """Whether the agent's libpcap compiles this filter for the interface."""
        body: dict[str, Any] = {"filter": filter, "snaplen": snaplen}
        body |= {"interface": interface} if interface is not None else {"link_type": link_type}
        answer = await self.ask(agent, "check-filter", body)
        try:
            return FilterVerdict(
                fields.boolean(answer.body, "ok"),
                fields.optional(answer.body, "error", fields.text, max_bytes=4096) or "",
                fields.optional(answer.body, "instructions", fields.integer),
            )
        except WireError as error:
            raise AnswerRefused(f"agent {agent!r} judged the filter oddly: {error}") from error
