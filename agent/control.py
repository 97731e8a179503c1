"""Answers the hub's questions on `ctl.<agent>.<verb>`: ping, interfaces, check-filter, and the notices changed, watch.

Nothing here is an order: orders are declared (`agent.desired`).  Whatever isn't signed by the hub, has expired, is for
another agent or was seen before is counted and left without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from agent.bpf_filter import FilterError, compile_filter
from agent.identity import Identity
from agent.interfaces import InterfaceError, InterfaceInfo, list_interfaces
from agent.link import Link, LinkAway
from agent.tag_filter import for_socket
from agent.version import VERSION
from wire import fields
from wire.control import Domain, Envelope, seal, unseal
from wire.errors import WireError
from wire.fields import MAX_U63
from wire.interface_counters import InterfaceCounters
from wire.names import check_session_id, control_subject
from wire.report import MAX_INTERFACES, InterfaceReport
from wire.session import ANY, MAX_FILTER_BYTES, MAX_SNAPLEN, interface_names

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 * 1024
MAX_WATCH_NS = 60 * 10**9
"""No notice makes us send early for longer than this."""
_REMEMBERED_NONCES = 4096
_SLOW_AT_ONCE = 2


class ControlPoint:
    """See the module. `watch(session, until_ns)` and `changed()` are called in the event loop."""

    def __init__(
        self,
        identity: Identity,
        link: Link,
        *,
        watch: Callable[[str, int], None],
        changed: Callable[[], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        """Per verb, and refused (unsigned, expired, foreign), replayed, unknown, busy."""
        self._identity = identity
        self._link = link
        self._watch = watch
        self._changed = changed
        self._nonces: OrderedDict[bytes, int] = OrderedDict()
        self._slow = asyncio.Semaphore(_SLOW_AT_ONCE)
        self._prefix = control_subject(identity.name, "x")[:-1]
        self._tasks: asyncio.TaskGroup | None = None
        self._verbs: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "ping": self._ping,
            "interfaces": self._interfaces,
            "check-filter": self._check_filter,
            "changed": self._note_changed,
        }
        link.subscribe(f"{self._prefix}>", self._on_message)

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            await asyncio.Event().wait()

    async def _on_message(self, subject: str, data: bytes, reply: str) -> None:
        verb = subject.removeprefix(self._prefix)
        try:
            if verb == "watch":
                self._on_watch(data)
                return
            if verb not in self._verbs:
                self.counters["unknown"] += 1
                return
            envelope = self._unseal(data, Domain.CONTROL)
            self._check_nonce(envelope)
        except WireError as error:
            self.counters["refused"] += 1
            if self.counters["refused"] == 1:
                log.warning("a message on %s that isn't the hub's is ignored: %s", subject[:80], error)
            return
        self.counters[verb] += 1
        if self._tasks is not None:
            self._tasks.create_task(self._answer(verb, envelope, reply))

    def _unseal(self, data: bytes, domain: Domain) -> Envelope:
        return unseal(
            data,
            domain,
            public=self._identity.enrolment.hub_public,
            agent=self._identity.name,
            now_ns=time.time_ns(),
            max_bytes=MAX_REQUEST_BYTES,
        )

    def _check_nonce(self, envelope: Envelope) -> None:
        """A nonce is good once. Those that can't be valid any more are forgotten, so the memory stays bounded."""
        assert envelope.nonce is not None
        assert envelope.expires_ns is not None
        now_ns = time.time_ns()
        while self._nonces and next(iter(self._nonces.values())) <= now_ns:
            self._nonces.popitem(last=False)
        if envelope.nonce in self._nonces:
            self.counters["replayed"] += 1
            raise WireError("a request that was answered before")
        if len(self._nonces) >= _REMEMBERED_NONCES:
            raise WireError("more requests than can be remembered")
        self._nonces[envelope.nonce] = envelope.expires_ns

    def _on_watch(self, data: bytes) -> None:
        body = self._unseal(data, Domain.WATCH).body
        session = check_session_id(body.get("session"))
        until_ns = min(fields.integer(body, "until_ns"), time.time_ns() + MAX_WATCH_NS)
        self.counters["watch"] += 1
        self._watch(session, until_ns)

    async def _answer(self, verb: str, envelope: Envelope, reply: str) -> None:
        try:
            body = await self._verbs[verb](envelope.body)
        except WireError as error:
            body = {"ok": False, "error": f"the question isn't one: {error}"}
        except InterfaceError as error:
            body = {"ok": False, "error": str(error)}
        if not reply:
            return
        message = seal(
            Domain.REPLY,
            agent=self._identity.name,
            body=body,
            key=self._identity.signing_key,
            issued_ns=time.time_ns(),
            nonce=envelope.nonce,
        )
        with contextlib.suppress(LinkAway):  # who asked has given up too
            await self._link.publish(reply, message)

    async def _ping(self, _body: dict[str, Any]) -> dict[str, Any]:
        return {"time_ns": time.time_ns(), "version": VERSION}

    async def _note_changed(self, _body: dict[str, Any]) -> dict[str, Any]:
        self._changed()
        return {}

    async def _interfaces(self, _body: dict[str, Any]) -> dict[str, Any]:
        found = await asyncio.to_thread(list_interfaces)
        return {
            "interfaces": [one.to_map() for one in interface_reports(found)],
            "counters": [one.to_map() for one in interface_counters(found)],
        }

    async def _check_filter(self, body: dict[str, Any]) -> dict[str, Any]:
        """Compiled as it would be for a live socket; names in it may be looked up, so it runs in a thread."""
        text = fields.text(body, "filter", max_bytes=MAX_FILTER_BYTES)
        snaplen = fields.integer(body, "snaplen", 1, MAX_SNAPLEN)
        interface = fields.optional(body, "interface", fields.text, max_bytes=128)
        link_type = fields.optional(body, "link_type", fields.integer, 0, 65535)
        if self._slow.locked():
            self.counters["busy"] += 1
            return {"ok": False, "error": "busy with other filters; ask again"}
        async with self._slow:
            try:
                count = await asyncio.to_thread(_judge, text, snaplen, interface, link_type)
            except FilterError as error:
                return {"ok": False, "error": str(error)}
        return {"ok": True, "instructions": count}


def _judge(text: str, snaplen: int, interface: str | None, link_type: int | None) -> int:
    """Instructions of the compiled filter, of the longest one where there are several interfaces. FilterError when it
    can't be used on one of them; with `any`, on none."""
    if interface is None:
        return _instructions(text, snaplen, 1 if link_type is None else link_type, loopback=False)
    known = {one.name: one for one in list_interfaces()}
    if interface == ANY:
        chosen = [one for one in known.values() if one.state != "down" and one.link_type is not None]
    else:
        chosen = []
        for name in interface_names(interface):
            if name not in known:
                raise FilterError(f"this host has no interface {name!r}; it has {', '.join(known)}")
            chosen.append(known[name])
    longest, refusal = 0, None
    for one in chosen:
        if one.link_type is None:
            raise FilterError(f"interface {one.name!r} is of a kind that can't be captured")
        try:
            longest = max(longest, _instructions(text, snaplen, one.link_type, loopback=one.loopback))
        except FilterError as error:
            if interface != ANY:
                raise
            refusal = refusal or error
    if refusal is not None and not longest:
        raise refusal
    return longest


def _instructions(text: str, snaplen: int, link_type: int, *, loopback: bool) -> int:
    return len(for_socket(compile_filter(text, link_type, snaplen), loopback=loopback)) // 8


def interface_reports(interfaces: list[InterfaceInfo]) -> tuple[InterfaceReport, ...]:
    """As a report has them."""
    return tuple(
        InterfaceReport(
            name=report_name(one.name),
            index=one.index,
            state=one.state,
            speed_mbps=one.speed_mbps,
            mtu=one.mtu,
            link_type=one.link_type if one.link_type is not None else 0,
            addresses=tuple(one.addresses[:64]),
            mac=one.mac,
            driver=one.driver[:64],
        )
        for one in interfaces[:MAX_INTERFACES]
    )


def interface_counters(interfaces: list[InterfaceInfo]) -> tuple[InterfaceCounters, ...]:
    """What each has carried so far."""
    return tuple(
        InterfaceCounters(
            name=report_name(one.name),
            received_packets=min(one.received[0], MAX_U63),
            sent_packets=min(one.sent[0], MAX_U63),
            received_bytes=min(one.received[1], MAX_U63),
            sent_bytes=min(one.sent[1], MAX_U63),
        )
        for one in interfaces[:MAX_INTERFACES]
    )


def report_name(name: str) -> str:
    """An interface's name as the wire takes it."""
    return name.encode(errors="replace")[:128].decode(errors="ignore") or "?"
