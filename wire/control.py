"""Signed envelopes between hub and agent: everything on the bus that isn't a batch.

An envelope is a COSE_Sign1 whose payload is a map: version, agent, issued_ns, expires_ns (or absent), nonce (or
absent), body. The domain is part of what is signed, so a heartbeat can't be replayed as a report, and the agent's
name is inside, so what was meant for one agent isn't obeyed by another. Requests (CONTROL) must carry a nonce and an
expiry; the reply repeats the nonce.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from wire import cose, fields
from wire.errors import WireError
from wire.keys import SigningKey
from wire.names import check_agent_id
from wire.strict_cbor import dumps_map, loads_map

ENVELOPE_VERSION = 1
MAX_ENVELOPE_BYTES = 256 * 1024
MAX_ENVELOPE_DEPTH = 8
MAX_ENVELOPE_ITEMS = 32768
MAX_NONCE_BYTES = 32
CLOCK_ALLOWANCE_NS = 300 * 10**9
"""How far in the future `issued_ns` may lie: hosts' clocks differ. Nothing else depends on two clocks agreeing."""


class Domain(StrEnum):
    """What an envelope is for. The text is signed with it."""

    DESIRED = "wirepool/1/desired"
    REPORT = "wirepool/1/report"
    HEARTBEAT = "wirepool/1/heartbeat"
    CONTROL = "wirepool/1/control"
    REPLY = "wirepool/1/reply"
    WATCH = "wirepool/1/watch"
    CERTIFICATE = "wirepool/1/certificate"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A verified envelope."""

    agent: str
    """The agent it is from or for."""
    issued_ns: int
    """When it was signed, by the signer's clock: nanoseconds since 1970, UTC."""
    expires_ns: int | None
    """From when on it must be ignored; None: never expires."""
    nonce: bytes | None
    """Repeated in the reply to a request; 8 to 32 bytes."""
    body: dict[str, Any]


def seal(
    domain: Domain,
    *,
    agent: str,
    body: dict[str, Any],
    key: SigningKey,
    issued_ns: int,
    expires_ns: int | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """Sign an envelope. ValueError when it would be larger than any reader takes."""
    payload: dict[str, Any] = {
        "version": ENVELOPE_VERSION,
        "agent": check_agent_id(agent),
        "issued_ns": issued_ns,
    }
    if expires_ns is not None:
        payload["expires_ns"] = expires_ns
    if nonce is not None:
        payload["nonce"] = nonce
    payload["body"] = body
    message = cose.sign1(dumps_map(payload), domain=domain.value, key=key)
    if len(message) > MAX_ENVELOPE_BYTES:
        raise ValueError(f"an envelope of {len(message)} bytes; at most {MAX_ENVELOPE_BYTES} are allowed")
    return message


def unseal(
    message: bytes,
    domain: Domain,
    *,
    public: bytes,
    agent: str | None,
    now_ns: int | None,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Envelope:
    """Verify an envelope: signature first, then shape, version, agent and time.

    agent: whom it must be from or for (None: any, the caller looks at `.agent`). now_ns: nanoseconds since 1970
    (None: times aren't checked, as for evidence read years later). WireError says what is wrong.
    """
    if len(message) > max_bytes:
        raise WireError(f"an envelope of {len(message)} bytes; at most {max_bytes} are allowed")
    payload = cose.open1(message, domain=domain.value, public=public)
    map_ = loads_map(payload, max_bytes=max_bytes, max_depth=MAX_ENVELOPE_DEPTH, max_items=MAX_ENVELOPE_ITEMS)
    version = fields.integer(map_, "version")
    if version != ENVELOPE_VERSION:
        raise WireError(f"envelope version {version}; this program knows version {ENVELOPE_VERSION}")
    name = check_agent_id(map_.get("agent"))
    if agent is not None and name != agent:
        raise WireError(f"an envelope of agent {name} where {agent} was expected")
    issued_ns = fields.integer(map_, "issued_ns")
    expires_ns = fields.optional(map_, "expires_ns", fields.integer)
    nonce = map_.get("nonce")
    if nonce is not None and not (isinstance(nonce, bytes) and 8 <= len(nonce) <= MAX_NONCE_BYTES):
        raise WireError(f"nonce: 8 to {MAX_NONCE_BYTES} bytes are needed")
    if domain is Domain.CONTROL and (nonce is None or expires_ns is None):
        raise WireError("a request without nonce or expiry")
    if now_ns is not None:
        if expires_ns is not None and now_ns >= expires_ns:
            raise WireError(f"an envelope that expired {(now_ns - expires_ns) / 1e9:.1f} s ago")
        if issued_ns > now_ns + CLOCK_ALLOWANCE_NS:
            raise WireError(
                f"an envelope issued {(issued_ns - now_ns) / 1e9:.0f} s in the future: check both clocks"
            )
    return Envelope(name, issued_ns, expires_ns, nonce, fields.submap(map_, "body"))


def seal_certificate(
    agent: str,
    signing_public: bytes,
    *,
    not_before_ns: int,
    not_after_ns: int,
    issued_ns: int,
    key: SigningKey,
) -> bytes:
    """The hub's statement that `signing_public` (32 bytes) is the agent's signing key within a time span."""
    body = {"signing_public": signing_public, "not_before_ns": not_before_ns, "not_after_ns": not_after_ns}
    return seal(Domain.CERTIFICATE, agent=agent, body=body, key=key, issued_ns=issued_ns)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The hub's word for an agent's signing key."""

    agent: str
    signing_public: bytes
    not_before_ns: int
    not_after_ns: int


def open_certificate(message: bytes, *, hub_public: bytes) -> Certificate:
    """Verify a certificate against the hub's public key. WireError when it isn't one."""
    envelope = unseal(message, Domain.CERTIFICATE, public=hub_public, agent=None, now_ns=None, max_bytes=4096)
    certificate = Certificate(
        envelope.agent,
        fields.octets(envelope.body, "signing_public", length=32),
        fields.integer(envelope.body, "not_before_ns"),
        fields.integer(envelope.body, "not_after_ns"),
    )
    if certificate.not_after_ns <= certificate.not_before_ns:
        raise WireError("a certificate that ends before it begins")
    return certificate
