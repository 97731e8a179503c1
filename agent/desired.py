"""What the hub wants of this agent: read, verified, remembered.

The signed envelope lies in the server's bucket `desired` under the agent's key, which is all the agent may read.  The
last one is kept on disk exactly as it came, so that sessions start while the server or the hub is away, and an older
one is never obeyed again, whoever serves it.
"""

from __future__ import annotations

import asyncio
import logging

from agent.identity import Identity
from agent.link import Link, LinkAway, NoAnswer, NotTaken
from agent.segment import write_whole
from wire.control import MAX_ENVELOPE_BYTES, Domain, unseal
from wire.errors import WireError
from wire.names import desired_get_subject
from wire.session import Desired

log = logging.getLogger(__name__)

REFRESH_S = 60.0
REQUEST_TIMEOUT_S = 5.0
_RETRY_S = 5.0


class DesiredState:
    """See the module."""

    def __init__(self, identity: Identity, link: Link) -> None:
        self.current: Desired | None = None
        self.refused = 0
        """Envelopes that were not the hub's, not for us, or damaged."""
        self._identity = identity
        self._link = link
        self._path = identity.directory / "desired.cbor"
        self._asked = asyncio.Event()
        self._asked.set()

    @property
    def revision(self) -> int:
        return self.current.revision if self.current is not None else 0

    def load(self) -> Desired | None:
        """The last copy on disk, None without a valid one."""
        try:
            message = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the last orders of the hub can't be read: %s", error)
            return None
        try:
            self.current = self._open(message)
        except WireError as error:
            log.warning("%s is ignored: %s", self._path, error)
        return self.current

    def _open(self, message: bytes) -> Desired:
        envelope = unseal(
            message,
            Domain.DESIRED,
            public=self._identity.enrolment.hub_public,
            agent=self._identity.name,
            now_ns=None,  # an order stands until a newer one: the agent's clock has no say in it
            max_bytes=MAX_ENVELOPE_BYTES,
        )
        return Desired.from_map(envelope.body)

    def ask(self) -> None:
        """Look again now (the hub says that it changed)."""
        self._asked.set()

    async def next(self) -> Desired:
        """Wait for orders that are newer than the ones we have; keep them on disk and return them."""
        while True:
            await self._link.wait_connected()
            wait_s = REFRESH_S
            try:
                newer = await self._fetch()
                if newer is not None:
                    return newer
            except (LinkAway, NoAnswer) as error:
                log.debug("desired state not read: %s", type(error).__name__)
                wait_s = _RETRY_S
            except NotTaken:
                log.debug("the server has no bucket of desired states yet; the hub makes it")
                wait_s = _RETRY_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._asked.wait()
            except TimeoutError:
                pass

    async def _fetch(self) -> Desired | None:
        self._asked.clear()
        data, headers = await self._link.request(
            desired_get_subject(self._identity.name), b"", REQUEST_TIMEOUT_S
        )
        status = headers.get("Status", "")
        if status or headers.get("KV-Operation", "") in ("DEL", "PURGE") or not data:
            if status not in ("", "404"):
                log.warning("desired state: the server answers %s %s", status, headers.get("Description", ""))
            return None
        try:
            newer = self._open(data)
        except WireError as error:
            self.refused += 1
            if self.refused in (1, 10, 100) or self.refused % 1000 == 0:
                log.warning("an order that isn't the hub's is ignored (number %d): %s", self.refused, error)
            return None
        if newer.revision <= self.revision:
            return None
        self.current = newer
        try:
            await asyncio.to_thread(write_whole, self._path, data)
        except OSError as error:
            log.warning("the hub's orders can't be kept on disk: %s", error)
        log.info("orders of the hub, revision %d: %d session(s)", newer.revision, len(newer.sessions))
        return newer

    async def renew_credentials(self) -> None:
        """Take over credentials that came with the orders, and connect with them. No publish is lost by it."""
        renewed = self.current.user_jwt if self.current is not None else None
        if renewed is None:
            return
        try:
            if await asyncio.to_thread(self._identity.renew, renewed):
                log.info("renewed credentials; connecting with them")
                await self._link.force_reconnect()
        except OSError as error:
            log.error("renewed credentials can't be kept: %s. The old ones end soon", error)
