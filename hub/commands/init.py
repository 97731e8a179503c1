"""Make the state directory: CA, keys, certificates, accounts, the first user of the page.

Everything is made once; a second call changes only what its options say. `wirepool up` does this by itself,
so `init` is for a hub that is set up by hand, for another disk budget, or for an existing NATS server.

examples:
  wirepool init                                     the defaults, in var/
  wirepool init --state /srv/wirepool --budget 200G --reachable-as hub.example.org
  wirepool init --reset-password                    a new one-time password for the page's user admin
  wirepool init --nats-url tls://nats.example:4222 --nats-creds hub.creds --nats-ca ca.crt \\
                --nats-account AB… --nats-signing-key signing.nk
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hub.backbone import accounts, first_start, pki
from hub.backbone.enrolment import hub_key
from hub.backbone.state import StateDir, StateError
from hub.registry import Registry
from hub.terminal import add_state, complain, shown_size, size, with_clear_errors
from hub.web import auth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_state(parser)
    add_setting_arguments(parser)
    parser.add_argument(
        "--reset-password", action="store_true", help="give the page's user admin a new one-time password"
    )


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that `up` has as well: what a hub is told once and then remembers."""
    parser.add_argument(
        "--budget",
        type=size,
        metavar="SIZE",
        help="disk space for the archive (default: half of what is free, ≤ 64G)",
    )
    parser.add_argument(
        "--reachable-as",
        action="append",
        metavar="NAME",
        help="a name or address by which people and agents reach this host, for its certificate; may be repeated",
    )
    external = parser.add_argument_group("an existing NATS server instead of our own")
    external.add_argument(
        "--nats-url", metavar="URL", help="its address, tls://host:4222; 'own' returns to our own"
    )
    external.add_argument(
        "--nats-creds", metavar="FILE", help="credentials of the hub's user there (all rights)"
    )
    external.add_argument("--nats-ca", metavar="FILE", help="CA of its certificate (default: the host's)")
    external.add_argument(
        "--nats-tls-first", action="store_true", default=None, help="it has handshake_first"
    )
    external.add_argument(
        "--nats-account", metavar="A…", help="public key of the account, to enrol agents here"
    )
    external.add_argument("--nats-signing-key", metavar="FILE", help="seed of a signing key of that account")


def apply_settings(state: StateDir, args: argparse.Namespace) -> bool:
    """First start, or the options' changes; True on the first start. Raises StateError, JwtError."""
    changes: dict[str, Any] = {}
    if args.nats_url == "own":
        changes = dict.fromkeys(
            ("url", "credentials", "ca", "account", "signing_key"),
        ) | {"tls_first": False}
    else:
        for option, key in (
            ("nats_creds", "credentials"),
            ("nats_ca", "ca"),
            ("nats_signing_key", "signing_key"),
        ):
            value = getattr(args, option)
            if value is not None:
                if not Path(value).is_file():
                    raise StateError(f"--{option.replace('_', '-')}: there is no file {value}")
                changes[key] = str(Path(value).absolute())
        if args.nats_account is not None:
            changes["account"] = accounts.check_public(args.nats_account, accounts.KeyKind.ACCOUNT)
        if args.nats_tls_first is not None:
            changes["tls_first"] = args.nats_tls_first
        if args.nats_url is not None:
            if not args.nats_url.startswith("tls://"):
                raise StateError(
                    f"--nats-url {args.nats_url}: want tls://host:port; the bus is never in clear text"
                )
            changes["url"] = args.nats_url
    first = first_start.prepare(state, budget_bytes=args.budget, names=args.reachable_as)
    if changes:
        state.change_settings(**{f"external_{key}": value for key, value in changes.items()})
    return first


def first_password(state: StateDir, *, reset: bool = False) -> str | None:
    """The password of the page's first user when it was made just now, else None."""
    registry = Registry(state.database)
    try:
        made = auth.ensure_first_user(registry)
        return auth.reset_password(registry) if reset and made is None else made
    finally:
        registry.close()


@with_clear_errors
def run(args: argparse.Namespace) -> int:
    """Do it and say what was made."""
    state = StateDir.from_option(args.state)
    first = apply_settings(state, args)
    settings = state.settings()
    password = first_password(state, reset=args.reset_password)
    print(f"{'made' if first else 'checked'} {state.root}")
    print(f"  certificate authority  {state.ca_certificate}")
    print(f"  its SHA-256            {pki.fingerprint(state.ca_certificate)}")
    print(f"  hub key                {hub_key(state)} (`wirepool verify` shows it)")
    print(f"  archive budget         {shown_size(settings.budget_bytes)}")
    if settings.external_url:
        print(f"  NATS server            {settings.external_url} (not ours)")
    if password:
        print(f"  page user              {auth.FIRST_USER}")
        print(f"  one-time password      {password}   (shown only now; the page asks for another)")
    elif not first:
        complain(
            "nothing was replaced: keys, certificates and users stay as they are (--reset-password for a new one)"
        )
    return 0
