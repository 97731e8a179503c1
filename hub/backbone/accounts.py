"""Who may do what on the bus: operator → account → user, as NATS JWTs that the server checks by itself.

A NATS JWT is an ordinary JWT with algorithm "ed25519-nkey": three base64url parts, signed by an nkey whose
public half is in `iss` (nats-io/jwt v2, ADR-14). An nkey is one prefix byte, 32 bytes of Ed25519 and a
CRC-16, in base32 (nats-io/nkeys). The operator signs accounts; the account's *signing key*, which the hub
holds, signs users; a user's private key is made on its own host and never seen here.

Two facts of the server shape the templates below. An empty list of allowed subjects allows everything, so a
user that may publish nothing needs an explicit deny. And the server checks the subject of a message, never
its reply subject: what an agent may *cause* is more than what it may publish, so that everything it says is
signed and verified (wire/), whatever the subject.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import nkeys

from wire import keys, names

DAY_S = 86_400
USER_JWT_DAYS = 90
"""Life of a user's JWT."""
RENEWAL_DAYS = 60
"""A user's JWT is replaced after two thirds of its life."""
RESPONSE_TTL_NS = 5_000_000_000
"""How long an agent may answer a request: once, within this time."""
MAX_PAYLOAD_BYTES = 1 << 20
JWT_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
MAX_JWT_BYTES = 64 * 1024
FLEET_CONNECTIONS = 20_000
"""Connections of the account: agents, viewers and hubs together."""


class JwtError(ValueError):
    """A JWT or nkey isn't what it should be."""


class KeyKind(IntEnum):
    """Prefix byte of an nkey: its first letter in base32."""

    OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
    ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
    USER = nkeys.PREFIX_BYTE_USER


def new_seed(kind: KeyKind) -> str:
    """A fresh nkey seed (SO…, SA…, SU…)."""
    return bytes(nkeys.encode_seed(os.urandom(32), kind)).decode()


def public_of(seed: str) -> str:
    """The public nkey (O…, A…, U…) of a seed. Raises JwtError."""
    try:
        encoded: bytes = nkeys.from_seed(bytearray(seed.strip().encode("ascii"))).public_key
    except (nkeys.NkeysError, ValueError) as error:
        raise JwtError("not an nkey seed") from error
    return encoded.decode().rstrip("=")


def sign(seed: str, message: bytes) -> bytes:
    """64 bytes of Ed25519 by an nkey seed."""
    signature: bytes = nkeys.from_seed(bytearray(seed.strip().encode("ascii"))).sign(message)
    return signature


def check_public(public: str, kind: KeyKind) -> str:
    """Return public if it is a well-formed public nkey of this kind, checksum included; else JwtError."""
    _raw_public(public, kind)
    return public


def _raw_public(public: str, kind: KeyKind | None = None) -> bytes:
    if len(public) != 56 or not public.isascii():
        raise JwtError("not a public nkey: want 56 characters")
    try:
        raw = base64.b32decode(public)
    except binascii.Error as error:
        raise JwtError("not a public nkey: not base32") from error
    if int(nkeys.crc16(bytearray(raw[:33]))).to_bytes(2, "little") != raw[33:]:
        raise JwtError("not a public nkey: wrong checksum")
    if kind is not None and raw[0] != kind:
        raise JwtError(f"not the public key of {'an' if kind.name[0] in 'OAU' else 'a'} {kind.name.lower()}")
    return raw[1:33]


def encode(claims: Mapping[str, Any], seed: str) -> str:
    """Sign claims: `iss` and `jti` are filled in. The same claims and seed give the same JWT."""
    body = {**claims, "iss": public_of(seed)}
    digest = hashlib.sha256(_json(body)).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    signed = f"{_b64(_json(JWT_HEADER))}.{_b64(_json(body))}"
    return f"{signed}.{_b64(sign(seed, signed.encode()))}"


def decode(token: str, *, issuers: Iterable[str]) -> dict[str, Any]:
    """The claims of a JWT whose signature is by one of issuers (public nkeys). Raises JwtError for anything
    else.

    Times are not judged here: the caller knows which time it asks about.
    """
    if len(token) > MAX_JWT_BYTES:
        raise JwtError("JWT too large")
    try:
        head, body, signature = token.strip().split(".")
        header = json.loads(_unb64(head))
        claims = json.loads(_unb64(body))
        raw_signature = _unb64(signature)
    except (ValueError, RecursionError) as error:
        raise JwtError("not a JWT") from error
    if not isinstance(header, dict) or header.get("alg") != JWT_HEADER["alg"] or not isinstance(claims, dict):
        raise JwtError("not a NATS JWT")
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or issuer not in set(issuers):
        raise JwtError("JWT signed by somebody else")
    if not keys.verify(_raw_public(issuer), f"{head}.{body}".encode(), raw_signature):
        raise JwtError("JWT with a wrong signature")
    return claims


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    if not text.isascii():
        raise ValueError("not base64")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may publish and subscribe. An empty allow list means everything: say what is denied."""

    publish_allow: tuple[str, ...] = ()
    publish_deny: tuple[str, ...] = ()
    subscribe_allow: tuple[str, ...] = ()
    subscribe_deny: tuple[str, ...] = ()
    responses: int = 0
    """How many answers it may send to each request it got, each within RESPONSE_TTL_NS."""
    subscriptions: int = -1
    """Most subscriptions at once; -1 = no limit."""

    def claims(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "pub": _lists(self.publish_allow, self.publish_deny),
            "sub": _lists(self.subscribe_allow, self.subscribe_deny),
            "subs": self.subscriptions,
            "data": -1,
            "payload": MAX_PAYLOAD_BYTES,
        }
        if self.responses:
            document["resp"] = {"max": self.responses, "ttl": RESPONSE_TTL_NS}
        return document


def _lists(allow: tuple[str, ...], deny: tuple[str, ...]) -> dict[str, list[str]]:
    return {k: list(v) for k, v in (("allow", allow), ("deny", deny)) if v}


def agent_permissions(agent: str) -> Permissions:
    """An agent: publishes its own batches, heartbeat and report, reads its own key of `desired`, answers
    requests.

    A JetStream publish needs no more than the subject and an inbox of its own for the acknowledgement.
    """
    names.check_agent_id(agent)
    return Permissions(
        publish_allow=(
            f"cap.{agent}.*.{names.Lane.BULK}",
            f"cap.{agent}.*.{names.Lane.PRIO}",
            names.heartbeat_subject(agent),
            names.report_subject(agent),
            names.desired_get_subject(agent),
        ),
        subscribe_allow=(f"ctl.{agent}.>", f"{names.inbox_prefix(agent)}.>"),
        responses=1,
        subscriptions=64,
    )


def viewer_permissions(viewer: str, agents: Iterable[str]) -> Permissions:
    """A viewer: subscribes to the captures of the granted agents, publishes nothing at all."""
    names.check_agent_id(viewer)
    granted = tuple(f"cap.{names.check_agent_id(agent)}.>" for agent in sorted(set(agents)))
    return Permissions(
        publish_deny=(">",),
        subscribe_allow=(*granted, f"{names.inbox_prefix('v-' + viewer)}.>"),
        subscriptions=1_000,
    )


def hub_permissions() -> Permissions:
    """The hub: everything in its account."""
    return Permissions(publish_allow=(">",), subscribe_allow=(">",))


def system_permissions() -> Permissions:
    """The hub's user in the system account: reads the server's events, pushes claims, asks for a reload."""
    inbox = f"{names.inbox_prefix('hub')}.>"
    return Permissions(publish_allow=("$SYS.REQ.>",), subscribe_allow=("$SYS.>", inbox))


def operator_jwt(operator_seed: str, system_account: str, *, issued_s: int) -> str:
    return encode(
        {
            "sub": public_of(operator_seed),
            "name": "wirepool",
            "iat": issued_s,
            "nats": {"type": "operator", "version": 2, "system_account": system_account},
        },
        operator_seed,
    )


def account_jwt(
    operator_seed: str,
    account: str,
    name: str,
    *,
    issued_s: int,
    signing_keys: Iterable[str] = (),
    disk_bytes: int = 0,
    revocations: Mapping[str, int] | None = None,
) -> str:
    """An account's claims. disk_bytes > 0 gives it JetStream with that budget; revocations: user → time (s,
    UTC).
    """
    limits: dict[str, Any] = {
        "subs": -1,
        "data": -1,
        "payload": -1,
        "imports": -1,
        "exports": -1,
        "wildcards": True,
        "conn": FLEET_CONNECTIONS,
        "leaf": 0,
        "disallow_bearer": True,
    }
    if disk_bytes:
        limits |= {
            "mem_storage": 16 << 20,
            "disk_storage": disk_bytes,
            "streams": 16,
            "consumer": 1_000,
            "max_bytes_required": True,
        }
    return encode(
        {
            "sub": check_public(account, KeyKind.ACCOUNT),
            "name": name,
            "iat": issued_s,
            "nats": {
                "type": "account",
                "version": 2,
                "limits": limits,
                "signing_keys": sorted(signing_keys),
                "revocations": dict(revocations or {}),
                "default_permissions": {"pub": {}, "sub": {}},
            },
        },
        operator_seed,
    )


def user_jwt(
    issuer_seed: str,
    account: str,
    user: str,
    name: str,
    permissions: Permissions,
    *,
    issued_s: int,
    expires_s: int,
) -> str:
    """A user's JWT, signed by the account itself or by its signing key."""
    claims: dict[str, Any] = {"type": "user", "version": 2, **permissions.claims()}
    if public_of(issuer_seed) != account:
        claims["issuer_account"] = check_public(account, KeyKind.ACCOUNT)
    claims["allowed_connection_types"] = ["STANDARD", "WEBSOCKET"]
    return encode(
        {
            "sub": check_public(user, KeyKind.USER),
            "name": name,
            "iat": issued_s,
            "exp": expires_s,
            "nats": claims,
        },
        issuer_seed,
    )


def issue_period(user: str, now_s: int) -> tuple[int, int]:
    """(issued, expires) in seconds of the JWT that user should hold at now_s.

    A function of the user and the time alone, so that nobody has to remember who holds what: the hub puts the
    current JWT into `desired`, and it changes every RENEWAL_DAYS by itself, when the one before has a third
    of its life left. The phase differs per user: a fleet doesn't reconnect in one moment.
    """
    period = RENEWAL_DAYS * DAY_S
    phase = int.from_bytes(hashlib.sha256(user.encode()).digest()[:8], "big") % period
    issued = now_s - (now_s - phase) % period
    return issued, issued + USER_JWT_DAYS * DAY_S


def credentials_file(token: str, seed: str) -> bytes:
    """A .creds file as NATS clients read it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "The seed below is a private key: whoever has it is this user.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    ).encode()


def parse_credentials(data: bytes) -> tuple[str, str]:
    """(JWT, seed) of a .creds file. Raises JwtError."""
    try:
        text = data.decode("ascii")
        token = text.split("-----BEGIN NATS USER JWT-----")[1].split("------END")[0].strip()
        seed = text.split("-----BEGIN USER NKEY SEED-----")[1].split("------END")[0].strip()
    except (UnicodeDecodeError, IndexError) as error:
        raise JwtError("not a NATS credentials file") from error
    return token, seed
