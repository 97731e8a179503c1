"""Admit a host: answer its request with credentials and a certificate.

The host's private keys stay on the host: the request holds public keys only, the answer holds nothing secret
but is needed once. Afterwards the hub renews everything by itself.

on the host:     wirepool agent request web1 > web1.request.json
on the hub:      wirepool enroll web1.request.json > web1.enrolment.json
on the host:     wirepool agent enrol web1.enrolment.json && wirepool agent run

examples:
  wirepool enroll web1.request.json -o web1.enrolment.json
  ssh web1 wirepool agent request web1 | wirepool enroll - | ssh web1 wirepool agent enrol -
  wirepool enroll --replace web1.request.json       the host was set up anew and has new keys
  wirepool enroll --list                            who is enrolled
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from hub.backbone import enrolment, nats_server
from hub.backbone.revocation import revoke, revoked_users
from hub.backbone.state import StateDir, StateError, write_private
from hub.registry import Registry
from hub.terminal import add_state, complain, opened_state, printable, with_clear_errors
from wire.enrolment import MAX_ENROLMENT_BYTES, Enrolment, EnrolmentRequest
from wire.errors import WireError

SECOND_NS = 1_000_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_state(parser)
    parser.add_argument(
        "request", nargs="?", metavar="REQUEST.json", help="the host's request; - is standard input"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the answer there (default: standard output)"
    )
    parser.add_argument(
        "--server",
        action="append",
        metavar="HOST[:PORT]",
        help="where that host reaches the NATS server, if not under this host's own names; may be repeated",
    )
    parser.add_argument("--label", help="what the page calls the host (default: its host name)")
    parser.add_argument(
        "--replace", action="store_true", help="the name is enrolled with other keys: revoke those"
    )
    parser.add_argument("--list", action="store_true", help="list the enrolled hosts and leave")


@with_clear_errors
def run(args: argparse.Namespace) -> int:
    """Answer one request."""
    state = opened_state(args.state)
    if args.list:
        return _list(state)
    if args.request is None:
        complain("which request? `wirepool agent request NAME` on the host makes one; - reads standard input")
        return 2
    request = EnrolmentRequest.from_json(_read(args.request))
    servers = [_server(state, text) for text in args.server or ()]
    answer = admit(state, request, servers=servers, label=args.label, replace=args.replace)
    if args.output:
        write_private(Path(args.output).absolute(), answer.to_json().encode())
    else:
        sys.stdout.write(answer.to_json())
    complain(f"{request.agent} is enrolled; it reaches the server at {', '.join(answer.servers)}")
    if not args.server and state.settings().nats_bind in ("127.0.0.1", "::1"):
        complain(
            "the server listens on this host only. For agents elsewhere start `wirepool up --bind 0.0.0.0` first, "
            "then enrol them (again)."
        )
    return 0


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


def _read(name: str) -> str:
    with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
        raw = file.read(MAX_ENROLMENT_BYTES + 1)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(f"{name}: not an enrolment request (not text)") from None


def _server(state: StateDir, text: str) -> str:
    """tls://host:port of what a person wrote."""
    bare = text.removeprefix("tls://")
    host, colon, port = bare.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):  # no port, or a bare IPv6 address
        host, port = bare, str(state.settings().nats_port)
    if not port.isdecimal() or not host:
        raise StateError(f"--server {text}: want HOST or HOST:PORT")
    return nats_server.server_url(host.strip("[]"), int(port))


def _list(state: StateDir) -> int:
    registry = Registry(state.database)
    try:
        agents = registry.agents.all()
    finally:
        registry.close()
    for agent in agents:
        enrolled = time.strftime("%Y-%m-%d", time.gmtime(agent.enrolled_ns / SECOND_NS))
        what = "" if agent.enabled else f"  disabled: {printable(agent.disabled_reason)}"
        print(f"{agent.id:<24} enrolled {enrolled}  {printable(agent.label)}{what}")
    if not agents:
        complain("no host is enrolled yet; `wirepool agent request NAME` on the host begins it")
    return 0
