"""Take a host's or a viewer's access away, from now on.

It works while everything runs: the server drops the connection at once and refuses the keys for ever. What
the host has sent before stays in the archive. To let it in again, make new keys there and enrol it with
--replace.

examples:
  wirepool revoke web1
  wirepool revoke --viewer anna
"""

from __future__ import annotations

import argparse
import asyncio

from hub.backbone.revocation import revoke
from hub.registry import AgentRecord, Registry, ViewerRecord
from hub.terminal import add_state, complain, opened_state, with_clear_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_state(parser)
    parser.add_argument("name", metavar="NAME", help="the host (or with --viewer the viewer)")
    parser.add_argument("--viewer", action="store_true", help="NAME is a viewer")
    parser.add_argument("--reason", default="revoked", help="shown beside the host on the page")


@with_clear_errors
def run(args: argparse.Namespace) -> int:
    """Revoke, and say whether the running server has confirmed it."""
    state = opened_state(args.state)
    registry = Registry(state.database)
    try:
        if args.viewer:
            record: ViewerRecord | AgentRecord | None = registry.viewers.get(args.name)
            known = ", ".join(v.name for v in registry.viewers.all()) or "none"
        else:
            record = registry.agents.get(args.name)
            known = ", ".join(a.id for a in registry.agents.all()) or "none"
        if record is None:
            what = "viewer" if args.viewer else "host"
            complain(f"there is no {what} {args.name!r}; known: {known}")
            return 1
        # The server first: a hub that stops listening to a host that can still publish would protect nothing.
        told = asyncio.run(revoke(state, record.user_public))
        if args.viewer:
            registry.viewers.revoke(args.name)
            state.viewer_credentials(args.name).unlink(missing_ok=True)
        else:
            registry.agents.set_enabled(args.name, False, args.reason)
    finally:
        registry.close()
    print(
        f"{args.name} is revoked"
        + ("" if told else "; no server runs here now, it will know at its next start")
    )
    return 0
