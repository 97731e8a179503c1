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
import sys
import time
from pathlib import Path

from hub.agents.admission import admit
from hub.backbone import nats_server
from hub.backbone.state import StateDir, StateError, write_private
from hub.registry import Registry
from hub.terminal import add_state, complain, opened_state, printable, with_clear_errors
from wire.enrolment import MAX_ENROLMENT_BYTES, EnrolmentRequest
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
    request = _request(args.request)
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


def _request(name: str) -> EnrolmentRequest:
    text = _read(name)
    try:
        return EnrolmentRequest.from_json(text)
    except WireError as error:
        raise WireError(f"{'standard input' if name == '-' else name}: {error}") from None


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
        what = "" if agent.enabled else f"  revoked: {printable(agent.disabled_reason)}"
        print(f"{agent.id:<24} enrolled {enrolled}  {printable(agent.label)}{what}")
    if not agents:
        complain("no host is enrolled yet; `wirepool agent request NAME` on the host begins it")
    return 0
