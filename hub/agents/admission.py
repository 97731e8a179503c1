"""A host becomes an agent: its request is answered and it stands in the registry."""

from __future__ import annotations

import asyncio
import time

from hub.backbone import enrolment
from hub.backbone.revocation import revoke, revoked_users
from hub.backbone.state import StateDir, StateError
from hub.registry import Registry
from wire.enrolment import Enrolment, EnrolmentRequest

SECOND_NS = 1_000_000_000


def admit(
    state: StateDir,
    request: EnrolmentRequest,
    *,
    servers: list[str] | None = None,
    label: str | None = None,
    replace: bool = False,
) -> Enrolment:
    """Sign the answer and enter the host into the registry. The same request again gets a fresh answer.

    Raises StateError when the name or the key belongs to somebody else or is revoked.
    """
    now_s = int(time.time())
    registry = Registry(state.database)
    try:
        known = registry.agents.get(request.agent)
        same = known is not None and (known.user_public, known.signing_public) == (
            request.user_public,
            request.signing_public,
        )
        if known is not None and not same and not replace:
            raise StateError(
                f"{request.agent!r} is enrolled already, with other keys. If that host was set up anew, use --replace: "
                "its old keys are revoked. If it is another host, give it another name."
            )
        if state.settings().external_url is None and request.user_public in revoked_users(state):
            raise StateError(
                f"the keys in this request were revoked, for ever. Make new ones on {request.agent!r}: delete its "
                "state directory and repeat `wirepool agent request`."
            )
        answer, jwt = enrolment.enrol(state, request, now_s, servers or ())
        fields = {
            "user_public": request.user_public,
            "signing_public": request.signing_public,
            "user_jwt": jwt.token,
            "jwt_issued_ns": jwt.issued_s * SECOND_NS,
            "jwt_expires_ns": jwt.expires_s * SECOND_NS,
            "certificate": answer.certificate,
        }
        if known is None:
            registry.agents.add(request.agent, label=label or request.hostname, **fields)  # type: ignore[arg-type]
        elif not same:
            registry.agents.rekey(request.agent, **fields)  # type: ignore[arg-type]
            asyncio.run(revoke(state, known.user_public))
        else:
            registry.agents.set_enabled(request.agent, True)
            registry.agents.set_jwt(
                request.agent, jwt.token, jwt.issued_s * SECOND_NS, jwt.expires_s * SECOND_NS
            )
        if known is not None and label:
            registry.agents.set_label(request.agent, label)
    finally:
        registry.close()
    return answer
