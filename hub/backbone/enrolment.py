"""The hub's answers to "who are you": credentials and key certificates for agents, credentials for viewers.

Private keys of agents are made on their hosts: what comes here is an EnrolmentRequest with public halves
only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hub.backbone import accounts, pki
from hub.backbone.first_start import account_public, issuer_seed, renew_credentials
from hub.backbone.nats_server import server_url
from hub.backbone.state import StateDir, StateError
from wire.control import seal_certificate
from wire.enrolment import Enrolment, EnrolmentRequest
from wire.keys import SigningKey, fingerprint

SECOND_NS = 1_000_000_000
CERTIFICATE_DAYS = 3650
"""Life of a key certificate: evidence is read years later, and revocation doesn't wait for its end."""


class IssuedJwt(NamedTuple):
    """A user's JWT with its times in seconds, UTC."""

    token: str
    issued_s: int
    expires_s: int


def agent_jwt(state: StateDir, agent: str, user_public: str, now_s: int) -> IssuedJwt:
    """The JWT this agent should hold at now_s: the same text for RENEWAL_DAYS, then the next
    (accounts.issue_period).

    So the hub may call this for every agent at every look, and publishes into `desired` only when the text
    changed. Raises StateError or JwtError.
    """
    issued_s, expires_s = accounts.issue_period(user_public, now_s)
    token = accounts.user_jwt(
        issuer_seed(state),
        account_public(state),
        user_public,
        agent,
        accounts.agent_permissions(agent),
        issued_s=issued_s,
        expires_s=expires_s,
    )
    return IssuedJwt(token, issued_s, expires_s)


def hub_key(state: StateDir) -> str:
    """The hub's key for a person to compare: what `wirepool verify` shows of this hub's exports."""
    return fingerprint(SigningKey.load(state.control_key).public)


def server_urls(state: StateDir) -> tuple[str, ...]:
    """Where clients reach the NATS server: the names the user gave first, then this host's own addresses."""
    settings = state.settings()
    if settings.external_url is not None:
        return (settings.external_url,)
    bind, port = settings.nats_bind, settings.nats_port
    if bind not in ("0.0.0.0", "::"):  # noqa: S104
        return (server_url(bind, port),)
    found = [*settings.names, *pki.host_names()]
    reachable = [name for name in dict.fromkeys(found) if name != "localhost" and not _is_loopback(name)]
    return tuple(server_url(name, port) for name in reachable) or (server_url(bind, port),)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def ca_path(state: StateDir) -> Path | None:
    """The CA that clients must trust; None when an external server's certificate comes from a public one."""
    settings = state.settings()
    if settings.external_url is None:
        return state.ca_certificate
    return Path(settings.external_ca) if settings.external_ca else None


def enrol(
    state: StateDir, request: EnrolmentRequest, now_s: int, servers: Iterable[str] = ()
) -> tuple[Enrolment, IssuedJwt]:
    """Answer a request: JWT for its NATS key, certificate for its signing key. The registry is the caller's
    part.

    Raises StateError; JwtError when the request's NATS key isn't a user's.
    """
    jwt = agent_jwt(state, request.agent, request.user_public, now_s)
    key = SigningKey.load(state.control_key)
    certificate = seal_certificate(
        request.agent,
        request.signing_public,
        not_before_ns=(now_s - 300) * SECOND_NS,
        not_after_ns=(now_s + CERTIFICATE_DAYS * accounts.DAY_S) * SECOND_NS,
        issued_ns=now_s * SECOND_NS,
        key=key,
    )
    authority = ca_path(state)
    if authority is None:
        raise StateError(
            "agents trust one CA: give the external server's with --nats-ca FILE when starting the hub"
        )
    enrolment = Enrolment(
        agent=request.agent,
        servers=tuple(servers) or server_urls(state),
        ca_pem=authority.read_text("ascii"),
        hub_public=key.public,
        user_jwt=jwt.token,
        certificate=certificate,
    )
    return enrolment, jwt


def viewer_credentials(state: StateDir, viewer: str, agents: Iterable[str], now_s: int) -> Path:
    """Write viewers/<name>.creds for these agents (renewing or regranting keeps its key); return its path."""
    path = state.viewer_credentials(viewer)
    issuer = issuer_seed(state)
    renew_credentials(
        path,
        issuer,
        account_public(state),
        f"v-{viewer}",
        accounts.viewer_permissions(viewer, agents),
        now_s=now_s,
        issuers=[accounts.public_of(issuer)],
    )
    return path
