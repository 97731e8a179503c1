"""Everything that ends by itself, replaced before it does: the server certificate, our own and the viewers'
credentials.

Agents' JWTs travel in the signed `desired` instead (enrolment.agent_jwt), since their keys live elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from nats.errors import Error as NatsError

from hub.backbone import accounts, pki
from hub.backbone.first_start import (
    account_public,
    certificate_names,
    issuer_seed,
    renew_credentials,
    renew_own_credentials,
)
from hub.backbone.state import StateDir, StateError
from hub.backbone.system_account import ServerRefused
from hub.cancellation import obey_cancellation

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 3600.0


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a look at everything replaced."""

    certificate: bool = False
    """The server certificate: the NATS server must reload, the page load its chain again."""
    credentials: bool = False
    """hub.creds or sys.creds: reconnect before the old ones end."""
    viewers: tuple[str, ...] = ()

    def and_also(self, later: Renewed) -> Renewed:
        """Both together."""
        return Renewed(
            self.certificate or later.certificate,
            self.credentials or later.credentials,
            tuple(sorted({*self.viewers, *later.viewers})),
        )

    def __bool__(self) -> bool:
        return self.certificate or self.credentials or bool(self.viewers)


def renew_if_due(state: StateDir, now_s: int | None = None) -> Renewed:
    """Replace what is past two thirds of its life; nothing else changes. Raises StateError."""
    now_s = int(time.time()) if now_s is None else now_s
    settings = state.settings()
    if settings.external_url is not None:
        certificate = pki.ensure_server_certificate(
            state, certificate_names(settings), datetime.fromtimestamp(now_s, UTC)
        )
        return Renewed(certificate=certificate)
    return Renewed(
        certificate=pki.ensure_server_certificate(
            state, certificate_names(settings), datetime.fromtimestamp(now_s, UTC)
        ),
        credentials=renew_own_credentials(state, now_s),
        viewers=_renew_viewers(state, now_s),
    )


def _renew_viewers(state: StateDir, now_s: int) -> tuple[str, ...]:
    issuer = issuer_seed(state)
    issuers = [accounts.public_of(issuer)]
    renewed = []
    for path in sorted(state.viewers.glob("*.creds")):
        try:
            token, _ = accounts.parse_credentials(path.read_bytes())
            claims = accounts.decode(token, issuers=issuers)
            allowed = claims["nats"]["sub"]["allow"]
        except (accounts.JwtError, KeyError, TypeError) as error:
            log.warning("viewer credentials %s can't be renewed: %s", path, error)
            continue
        granted = [subject.split(".")[1] for subject in allowed if subject.startswith("cap.")]
        permissions = accounts.viewer_permissions(path.stem, granted)
        if renew_credentials(
            path, issuer, account_public(state), claims["name"], permissions, now_s=now_s, issuers=issuers
        ):
            renewed.append(path.stem)
    return tuple(renewed)


async def keep_renewed(
    state: StateDir,
    on_renewed: Callable[[Renewed], Awaitable[None]],
    interval_s: float = CHECK_INTERVAL_S,
) -> None:
    """Look every interval_s, until cancelled. A failure is logged and tried again: there are 30 days for it.

    What was renewed and couldn't be put to use (the server was away) is given to on_renewed again at the next look: on
    the disk it is no longer due, and whoever still holds the old one would meet its end.
    """
    # Whoever renewed it last may have been killed before the server was told: the first look tells it in any case.
    unused = Renewed(certificate=True)
    while True:
        try:
            unused = unused.and_also(renew_if_due(state))
            if unused:
                await on_renewed(unused)
                unused = Renewed()
        except (OSError, StateError, accounts.JwtError, NatsError, ServerRefused):
            log.exception("renewing certificates and credentials failed; trying again in %.0f s", interval_s)
        obey_cancellation()
        await asyncio.sleep(interval_s)
