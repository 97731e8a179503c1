"""Credentials for the stock NATS CLI: see the captures of chosen hosts in a terminal or in Wireshark.

A viewer may subscribe to the captures of the hosts named here and do nothing else: the NATS server refuses
the rest. The credentials (0600) and a context for the `nats` command are written for the user who runs this.

examples:
  wirepool viewer anna --agents web1,db1
  wirepool viewer anna --agents web1              fewer or more hosts: the same name again
  wirepool viewer --list
  nats --context wirepool-anna sub 'cap.web1.>' --translate 'wirepool decode'
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import shutil
import time
from pathlib import Path

from hub.backbone import accounts, enrolment
from hub.backbone.revocation import revoke
from hub.backbone.state import StateDir, write_private
from hub.registry import Registry
from hub.terminal import add_state, complain, opened_state, with_clear_errors
from wire.names import check_agent_id, inbox_prefix

SECOND_NS = 1_000_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_state(parser)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the viewer, 1 to 46 of a-z, 0-9, -")
    parser.add_argument("--agents", metavar="A,B", help="the hosts whose captures it may see")
    parser.add_argument(
        "--server", metavar="URL", help="where the viewer reaches the NATS server (default: here)"
    )
    parser.add_argument("--list", action="store_true", help="list the viewers and leave")


@with_clear_errors
def run(args: argparse.Namespace) -> int:
    """Make or change one viewer."""
    state = opened_state(args.state)
    registry = Registry(state.database)
    try:
        if args.list:
            return _list(registry)
        if args.name is None or args.agents is None:
            complain("want a name and hosts: wirepool viewer NAME --agents A,B (`--help` shows examples)")
            return 2
        name = check_agent_id(args.name)
        inbox_prefix(f"v-{name}")  # its inbox is a name, too
        wanted = sorted({part.strip() for part in args.agents.split(",") if part.strip()})
        known = [agent.id for agent in registry.agents.all()]
        missing = [agent for agent in wanted if agent not in known]
        if missing or not wanted:
            complain(
                (f"there is no host {', '.join(map(repr, missing))}" if missing else "--agents names no host")
                + f"; known: {', '.join(known) or 'none yet (wirepool enroll)'}"
            )
            return 1
        credentials = _issue(state, registry, name, wanted)
    finally:
        registry.close()
    context = write_context(state, name, wanted, credentials, args.server)
    print(f"{name} may see {', '.join(wanted)}\n  credentials  {credentials}\n  context      {context}\n")
    wirepool = program()
    subscribe = f"nats --context wirepool-{name} sub 'cap.{wanted[0]}.>'"
    print(f"{subscribe} --translate {shlex.quote(f'{wirepool} decode')}")
    print(f"{subscribe} --raw | {wirepool} decode --pcapng - | tshark -r -")
    print(f"{subscribe} --raw | {wirepool} decode --pcapng - | wireshark -k -i -")
    return 0


def program() -> str:
    """How this user calls wirepool: by its name where it is on the PATH, else the checkout's script by its path."""
    script = Path(__file__).resolve().parents[2] / "wirepool"
    if shutil.which("wirepool") is None and os.access(script, os.X_OK):
        return shlex.quote(str(script))
    return "wirepool"


def _issue(state: StateDir, registry: Registry, name: str, agents: list[str]) -> Path:
    """Credentials and the registry's record. Fewer rights hold at once: the old key is revoked, a new one
    made.
    """
    old = registry.viewers.get(name)
    active = old is not None and old.revoked_ns is None
    path = state.viewer_credentials(name)
    if old is not None and active and set(old.agents) - set(agents):
        # The old JWT would keep its rights until it ends.
        asyncio.run(revoke(state, old.user_public))
    if old is not None and (not active or set(old.agents) - set(agents)):
        path.unlink(missing_ok=True)
    now_s = int(time.time())
    enrolment.viewer_credentials(state, name, agents, now_s)
    _, seed = accounts.parse_credentials(path.read_bytes())
    with registry.transaction():
        if active:
            registry.viewers.revoke(name)
        registry.viewers.add(
            name,
            accounts.public_of(seed),
            agents,
            (now_s + accounts.USER_JWT_DAYS * accounts.DAY_S) * SECOND_NS,
        )
    return path


def write_context(
    state: StateDir, name: str, agents: list[str], credentials: Path, server: str | None = None
) -> Path:
    """Write the NATS CLI's context file wirepool-NAME and return its path."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    directory = Path(home) / "nats" / "context"
    directory.mkdir(parents=True, exist_ok=True)
    settings = state.settings()
    authority = enrolment.ca_path(state)
    document = {
        "description": f"wirepool: captures of {', '.join(agents)}",
        "url": server or ",".join(enrolment.server_urls(state)),
        "creds": str(credentials),
        "ca": str(authority) if authority else "",
        "tls_first": settings.external_url is None or settings.external_tls_first,
        "inbox_prefix": inbox_prefix(f"v-{name}"),
    }
    path = directory / f"wirepool-{name}.json"
    write_private(path, json.dumps(document, indent=2).encode() + b"\n")
    return path


def _list(registry: Registry) -> int:
    viewers = registry.viewers.all()
    for viewer in viewers:
        what = "  revoked" if viewer.revoked_ns else ""
        print(f"{viewer.name:<24} {','.join(viewer.agents)}{what}")
    if not viewers:
        complain("there is no viewer yet: wirepool viewer NAME --agents A,B")
    return 0
