"""The two files of an enrolment, as JSON that a person may carry: the agent's request and the hub's answer.

The request holds public keys only; private keys never leave the agent's host.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from wire import fields
from wire.control import Certificate, open_certificate
from wire.errors import WireError
from wire.keys import PUBLIC_BYTES
from wire.names import check_agent_id

MAX_ENROLMENT_BYTES = 128 * 1024
MAX_SERVERS = 64
REQUEST_KIND = "wirepool-enrolment-request-1"
ANSWER_KIND = "wirepool-enrolment-1"
_MADE_BY = {REQUEST_KIND: "`wirepool agent request` on the host", ANSWER_KIND: "`wirepool enroll` on the hub"}
_nkey_user = re.compile(r"U[A-Z2-7]{55}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRequest:
    """What an agent asks the hub to know it by."""

    agent: str
    user_public: str
    """The NATS user nkey, "U" and 55 characters."""
    signing_public: bytes
    """The Ed25519 key its batches are signed with: 32 bytes."""
    hostname: str
    """A label."""

    def to_json(self) -> str:
        """Indented JSON with a newline at its end."""
        return _dumps(
            {
                "kind": REQUEST_KIND,
                "agent": self.agent,
                "user_public": self.user_public,
                "signing_public": _base64(self.signing_public),
                "hostname": self.hostname,
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "EnrolmentRequest":
        """Checked. WireError otherwise."""
        map_ = _loads(text, REQUEST_KIND)
        return cls(
            agent=check_agent_id(map_.get("agent")),
            user_public=fields.text(map_, "user_public", max_bytes=56, pattern=_nkey_user),
            signing_public=_public(map_, "signing_public"),
            hostname=fields.text(map_, "hostname", max_bytes=256),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What the hub answers: where to go, whom to believe, and with what to log in."""

    agent: str
    servers: tuple[str, ...]
    """NATS addresses, as in tls://hub.example:4222."""
    ca_pem: str
    """The authority that the servers' TLS certificates must come from."""
    hub_public: bytes
    """The Ed25519 key of the hub's control messages and certificates: 32 bytes."""
    user_jwt: str
    """The NATS user credentials (the private key stayed with the agent)."""
    certificate: bytes
    """A CERTIFICATE envelope: the hub's word for the agent's signing key."""

    def to_json(self) -> str:
        """Indented JSON with a newline at its end."""
        return _dumps(
            {
                "kind": ANSWER_KIND,
                "agent": self.agent,
                "servers": list(self.servers),
                "ca_pem": self.ca_pem,
                "hub_public": _base64(self.hub_public),
                "user_jwt": self.user_jwt,
                "certificate": _base64(self.certificate),
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Enrolment":
        """Checked, the certificate's signature and agent included. WireError otherwise."""
        map_ = _loads(text, ANSWER_KIND)
        enrolment = cls(
            agent=check_agent_id(map_.get("agent")),
            servers=tuple(fields.texts(map_, "servers", max_length=MAX_SERVERS, max_bytes=512)),
            ca_pem=_pem(map_, "ca_pem"),
            hub_public=_public(map_, "hub_public"),
            user_jwt=fields.text(map_, "user_jwt", min_bytes=1, max_bytes=16384),
            certificate=_decoded(map_, "certificate", max_bytes=4096),
        )
        if not enrolment.servers:
            raise WireError("servers: at least one is needed")
        if enrolment.open_certificate().agent != enrolment.agent:
            raise WireError("certificate: made for another agent")
        return enrolment

    def open_certificate(self) -> Certificate:
        """The certificate, verified against `hub_public`. WireError otherwise."""
        return open_certificate(self.certificate, hub_public=self.hub_public)


def _dumps(map_: dict[str, Any]) -> str:
    return json.dumps(map_, indent=2) + "\n"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    map_ = dict(pairs)
    if len(map_) != len(pairs):
        raise WireError("JSON with a duplicate key")
    return map_


def _no_constants(name: str) -> Any:
    raise WireError(f"JSON with {name}")


def _loads(text: str | bytes, kind: str) -> dict[str, Any]:
    if len(text) > MAX_ENROLMENT_BYTES:
        raise WireError(f"larger than {MAX_ENROLMENT_BYTES} bytes: not an enrolment file")
    try:
        map_ = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON, so not what {_MADE_BY[kind]} prints: {error}") from None
    if not isinstance(map_, dict):
        raise WireError("not a JSON object")
    if map_.get("kind") != kind:
        raise WireError(f'not a file of the kind "{kind}": want what {_MADE_BY[kind]} prints')
    return map_


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(map_: dict[str, Any], key: str, *, max_bytes: int) -> bytes:
    text = fields.text(map_, key, max_bytes=max_bytes * 4 // 3 + 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise WireError(f"{key}: not base64") from None


def _public(map_: dict[str, Any], key: str) -> bytes:
    data = _decoded(map_, key, max_bytes=PUBLIC_BYTES)
    if len(data) != PUBLIC_BYTES:
        raise WireError(f"{key}: {len(data)} bytes where {PUBLIC_BYTES} are needed")
    return data


def _pem(map_: dict[str, Any], key: str) -> str:
    value = map_.get(key)
    if not isinstance(value, str) or len(value) > 65536 or not value.isascii():
        raise WireError(f"{key}: PEM text is needed")
    if "-----BEGIN CERTIFICATE-----" not in value or "PRIVATE KEY" in value:
        raise WireError(f"{key}: a PEM certificate (and no private key) is needed")
    return value
