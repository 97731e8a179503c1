"""First start: everything a hub needs, made where it is missing. The same call on a complete directory
changes nothing.

The order makes it safe to be killed anywhere: private keys first, then what is derived from them, settings
last. Each file appears whole or not at all (state.write_private), and a derived file that is missing is
derived again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hub.backbone import accounts, pki
from hub.backbone.state import Settings, StateDir, StateError, write_private
from wire.keys import SigningKey

MEBIBYTE = 1 << 20
LEFTOVER_AGE_S = 60
MIN_BUDGET_BYTES = 192 * MEBIBYTE
MAX_DEFAULT_BUDGET_BYTES = 64 << 30
ACCOUNT_NAME = "WIREPOOL"


def prepare(
    state: StateDir,
    *,
    budget_bytes: int | None = None,
    names: Iterable[str] | None = None,
    now_s: int | None = None,
) -> bool:
    """Make what is missing; True when this was the first start.

    budget_bytes: disk space for the archive (default: half of what is free, at most 64 GiB; decided once).
    names: further names for the server certificate, kept in the settings. Raises StateError.
    """
    now_s = int(time.time()) if now_s is None else now_s
    first = not state.exists
    state.make_directories()
    _remove_leftovers(state)
    settings = state.settings()
    budget = budget_bytes or settings.budget_bytes or default_budget(state.root)
    if budget < MIN_BUDGET_BYTES:
        raise StateError(
            f"a budget of {budget // MEBIBYTE} MiB is too small for the archive: it needs "
            f"{MIN_BUDGET_BYTES // MEBIBYTE} MiB or more. Free some disk space, or put the state directory on a "
            "larger disk with --state DIR."
        )
    more_names = tuple(pki.check_name(name) for name in names) if names is not None else settings.names
    _ensure_keys(state)
    moment = datetime.fromtimestamp(now_s, UTC)
    pki.ensure_ca(state, moment)
    pki.ensure_server_certificate(state, certificate_names(replace(settings, names=more_names)), moment)
    _ensure_accounts(state, budget, now_s, changed=budget != settings.budget_bytes)
    renew_own_credentials(state, now_s)
    state.change_settings(budget_bytes=budget, names=more_names)
    return first


def certificate_names(settings: Settings) -> list[str]:
    """What the server certificate must cover: this host's own names and addresses, those given, and where we listen."""
    listening = [bind for bind in (settings.nats_bind, settings.page_bind) if bind not in ("0.0.0.0", "::")]  # noqa: S104
    return pki.host_names([*settings.names, *listening])


def _remove_leftovers(state: StateDir) -> None:
    """Unfinished files of a start that was killed. Young ones may be somebody's who is writing now."""
    for directory in (
        state.root,
        state.operator,
        state.tls,
        state.nats,
        state.resolver,
        state.hub,
        state.viewers,
    ):
        for path in directory.glob(".?*.*"):
            if path.is_file() and time.time() - path.stat().st_mtime > LEFTOVER_AGE_S:
                path.unlink(missing_ok=True)


def default_budget(directory: Path) -> int:
    """Half of the free disk space, at most MAX_DEFAULT_BUDGET_BYTES: an archive never fills the disk."""
    free = shutil.disk_usage(directory).free
    return min(free // 2, MAX_DEFAULT_BUDGET_BYTES) // MEBIBYTE * MEBIBYTE


def _ensure_keys(state: StateDir) -> None:
    for path, kind in (
        (state.operator_key, accounts.KeyKind.OPERATOR),
        (state.account_key, accounts.KeyKind.ACCOUNT),
        (state.system_key, accounts.KeyKind.ACCOUNT),
        (state.signing_key, accounts.KeyKind.ACCOUNT),
    ):
        if not path.exists():
            write_private(path, accounts.new_seed(kind).encode() + b"\n")
    if not state.control_key.exists():
        SigningKey.generate().save(state.control_key)


def read_seed(path: Path) -> str:
    """The nkey seed in a file. Raises StateError when it is missing or damaged."""
    try:
        seed = path.read_text("ascii").strip()
        accounts.public_of(seed)
    except FileNotFoundError:
        raise StateError(
            f"{path} is missing. Run `wirepool init` first, or give the right --state DIR."
        ) from None
    except (UnicodeDecodeError, accounts.JwtError) as error:
        raise StateError(f"{path} is damaged: {error}. Restore it from a backup.") from error
    return seed


def account_public(state: StateDir) -> str:
    """Public key of the account that agents and viewers belong to; of the external one where one is set."""
    return state.settings().external_account or accounts.public_of(read_seed(state.account_key))


def issuer_seed(state: StateDir) -> str:
    """Seed of the key that signs users of that account. Raises StateError where we hold none."""
    settings = state.settings()
    if settings.external_url is None:
        return read_seed(state.signing_key)
    if settings.external_account is None or settings.external_signing_key is None:
        raise StateError(
            "this hub uses an existing NATS server, so agents and viewers are made there. To make them here, "
            "give `wirepool init` --nats-account A… and --nats-signing-key FILE (a signing key of that account)."
        )
    return read_seed(Path(settings.external_signing_key))


def _ensure_accounts(state: StateDir, budget_bytes: int, now_s: int, *, changed: bool) -> None:
    operator = read_seed(state.operator_key)
    operator_public = accounts.public_of(operator)
    system = accounts.public_of(read_seed(state.system_key))
    if not state.operator_jwt.exists():
        write_private(state.operator_jwt, accounts.operator_jwt(operator, system, issued_s=now_s).encode())
    if not state.system_jwt.exists():
        write_private(
            state.system_jwt, accounts.account_jwt(operator, system, "SYS", issued_s=now_s).encode()
        )
    if changed or not state.account_jwt.exists():
        revocations = {}
        if state.account_jwt.exists():
            claims = accounts.decode(state.account_jwt.read_text(), issuers=[operator_public])
            revocations = claims["nats"].get("revocations", {})
        write_account(state, budget_bytes, now_s, revocations)
    for public, path in ((system, state.system_jwt), (account_key_public(state), state.account_jwt)):
        # The resolver's directory holds one file per account, named by its key. Ours is never the older.
        copy = state.resolver / f"{public}.jwt"
        token = path.read_bytes()
        if not copy.exists() or copy.read_bytes() != token:
            write_private(copy, token)


def account_key_public(state: StateDir) -> str:
    return accounts.public_of(read_seed(state.account_key))


def write_account(state: StateDir, budget_bytes: int, now_s: int, revocations: dict[str, int]) -> str:
    """Sign the account's claims anew, keep and return them. Raises StateError without the operator's key."""
    token = accounts.account_jwt(
        read_seed(state.operator_key),
        account_key_public(state),
        ACCOUNT_NAME,
        issued_s=now_s,
        signing_keys=[accounts.public_of(read_seed(state.signing_key))],
        disk_bytes=budget_bytes,
        revocations=revocations,
    )
    write_private(state.account_jwt, token.encode())
    return token


def renew_own_credentials(state: StateDir, now_s: int) -> bool:
    """Write hub.creds and sys.creds where they are missing or past two thirds of their life. True = something
    new.

    A client that uses them reads the file again when it reconnects.
    """
    signing = read_seed(state.signing_key)
    system = read_seed(state.system_key)
    renewed = False
    for path, issuer, account, name, permissions in (
        (
            state.hub_credentials,
            signing,
            account_key_public(state),
            "hub",
            accounts.hub_permissions(),
        ),
        (
            state.system_credentials,
            system,
            accounts.public_of(system),
            "hub-system",
            accounts.system_permissions(),
        ),
    ):
        renewed |= renew_credentials(
            path, issuer, account, name, permissions, now_s=now_s, issuers=[accounts.public_of(issuer)]
        )
    return renewed


def renew_credentials(
    path: Path,
    issuer: str,
    account: str,
    name: str,
    permissions: accounts.Permissions,
    *,
    now_s: int,
    issuers: Iterable[str],
) -> bool:
    """Write a .creds file where it is missing, past two thirds of its life or of other permissions. Keeps its
    key.
    """
    try:
        token, seed = accounts.parse_credentials(path.read_bytes())
        claims = accounts.decode(token, issuers=issuers)
        age_s = now_s - int(claims["iat"])
        same = claims["nats"].get("pub") == permissions.claims()["pub"]
        same = same and claims["nats"].get("sub") == permissions.claims()["sub"]
        if same and 0 <= age_s < accounts.RENEWAL_DAYS * accounts.DAY_S:
            return False
    except FileNotFoundError:
        seed = accounts.new_seed(accounts.KeyKind.USER)
    except (accounts.JwtError, KeyError, TypeError, ValueError):
        # Signed by another key or damaged: a new identity, since this one can't be trusted.
        seed = accounts.new_seed(accounts.KeyKind.USER)
    token = accounts.user_jwt(
        issuer,
        account,
        accounts.public_of(seed),
        name,
        permissions,
        issued_s=now_s,
        expires_s=now_s + accounts.USER_JWT_DAYS * accounts.DAY_S,
    )
    write_private(path, accounts.credentials_file(token, seed))
    return True
