"""Taking a user's access away at once: the account's claims list who is revoked, and the server drops them.

The order makes it safe to be killed anywhere: the signed claims are on disk first (and in the resolver's
directory, which the server reads at its next start), then the running server is told.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hub.backbone import accounts
from hub.backbone.first_start import account_key_public, read_seed, write_account
from hub.backbone.state import FILE_MODE, StateDir, StateError, write_private
from hub.backbone.system_account import ServerRefused, push_account, system_connection


def revoked_users(state: StateDir) -> dict[str, int]:
    """Revoked users: public nkey → time (s, UTC) up to which its JWTs are refused."""
    operator = accounts.public_of(read_seed(state.operator_key))
    claims = accounts.decode(state.account_jwt.read_text("ascii"), issuers=[operator])
    return {str(user): int(at) for user, at in (claims["nats"].get("revocations") or {}).items()}


def record_revocation(state: StateDir, user_public: str, now_s: int | None = None) -> str:
    """Write the account's claims with this user revoked and return them. For ever: a revoked key never comes
    back.

    Raises StateError (an external server's accounts are not ours) and JwtError (not a user's key).
    """
    settings = state.settings()
    if settings.external_url is not None:
        raise StateError(
            f"the accounts of {settings.external_url} are kept by whoever runs it: revoke {user_public} there"
        )
    accounts.check_public(user_public, accounts.KeyKind.USER)
    now_s = int(time.time()) if now_s is None else now_s
    with _one_writer(state):
        revocations = revoked_users(state)
        revocations[user_public] = max(now_s, revocations.get(user_public, 0))
        token = write_account(state, settings.budget_bytes, now_s, revocations)
        write_private(state.resolver / f"{account_key_public(state)}.jwt", token.encode())
    return token


async def revoke(state: StateDir, user_public: str) -> bool:
    """Revoke a user; True when the running server confirmed it, False when no server runs (its next start
    knows).
    """
    token = record_revocation(state, user_public)
    try:
        async with system_connection(state) as connection:
            await push_account(connection, token)
    except ServerRefused:
        return False
    return True


@contextmanager
def _one_writer(state: StateDir) -> Iterator[None]:
    descriptor = os.open(state.operator / "account.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
