"""Run the hub: the page, the ledger and all else but the NATS server.

`wirepool up` starts it together with a NATS server and an agent; alone it is for a host whose services are started
one by one (systemd). It ends on SIGTERM or Ctrl-C: event streams end, requests in progress get 3 seconds.

examples:
  wirepool hub                          state in var/, settings out of var/hub/hub.yaml if there is one
  wirepool hub --state /var/lib/wirepool --bind 0.0.0.0 --port 443
  wirepool hub --settings               print every setting of hub.yaml with its default
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from hub import config
from hub.backbone.state import StateDir
from hub.terminal import add_state, complain, opened_state, port, with_clear_errors
from hub.web import auth

log = logging.getLogger("wirepool.hub")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_state(parser)
    parser.add_argument(
        "--config", metavar="FILE", help="settings (default: hub/hub.yaml in the state directory)"
    )
    parser.add_argument("--bind", metavar="ADDRESS", help="address the page listens on (default: as set up)")
    parser.add_argument(
        "--port", type=port, help="port of the page (default: as set up, else the next free one)"
    )
    parser.add_argument(
        "--settings", action="store_true", help="print every setting with its default, and end"
    )


@with_clear_errors
def run(args: argparse.Namespace) -> int:
    """Serve until told to end."""
    if args.settings:
        print(config.listing())
        return 0
    state = opened_state(args.state)
    try:
        path = Path(args.config) if args.config else state.hub / "hub.yaml"
        settings = config.load(path, required=args.config is not None)
    except config.ConfigError as error:
        complain(str(error))
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    from hub.http.server import AddressError

    try:
        return asyncio.run(serve(state, settings, bind=args.bind, port_wanted=args.port))
    except AddressError as error:
        complain(str(error))
        return 1


async def serve(
    state: StateDir, settings: config.HubSettings, *, bind: str | None = None, port_wanted: int | None = None
) -> int:
    """The hub with its page until SIGTERM or SIGINT. Raises AddressError, StateError, RegistryError, OSError."""
    from hub.http import server
    from hub.http.renewal_tls import RenewableCertificate
    from hub.process import running_hub
    from hub.web.app import create_app

    stored = state.settings()
    address = bind or settings.bind or stored.page_bind
    chosen = port_wanted or settings.port
    listener = server.bind(address, chosen or stored.page_port, exact=chosen is not None)
    if listener.notice:
        complain(listener.notice)
    if listener.port != stored.page_port or address != stored.page_bind:
        # Captures leave the page's own traffic out by what is stored.
        state.change_settings(page_port=listener.port, page_bind=address)
    certificate = RenewableCertificate(state.server_certificate, state.server_key)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(server.quiet_tls_noise)
    async with running_hub(state, settings) as hub:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, hub.stopping.set)
        first_password = auth.ensure_first_user(hub.registry)
        if first_password is not None:
            print(
                f"first login: user {auth.FIRST_USER}, password {first_password} (shown only now)", flush=True
            )
        shown = f"[{address}]" if ":" in address else address
        print(f"page: https://{shown}:{listener.port}", flush=True)
        await server.serve(create_app(hub), listener, certificate, hub.stopping)
        log.info("the page has ended; closing the parts")
    return 0
