"""Renewed credentials against a real server: in force once they have worked, and never a lock-out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.credentials import Credentials, renewed_path
from agent.link import Link, tls_context
from hub.backbone import accounts, first_start
from tests.agent.home import Home
from tests.support.nats_backbone import backbone, until

PATIENCE_S = 15
"""Attempts come in moments; on a busy machine a handshake takes its time."""


@contextlib.asynccontextmanager
async def linked(home: Home) -> AsyncIterator[Link]:
    """One life of an agent's connection."""
    identity = home.identity
    link = Link(
        identity.enrolment.servers,
        agent="web1",
        tls=tls_context(identity.enrolment.ca_pem),
        credentials=Credentials(identity.jwt_path, identity.seed_path),
        max_backoff_s=0.2,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(link.run())
        try:
            yield link
        finally:
            task.cancel()


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with backbone(tmp_path) as bus:
        yield Home.new(bus, tmp_path / "web1")


def _issued(home: Home, issued_s: int, expires_s: int, issuer: str | None = None) -> str:
    state = home.bus.state
    return accounts.user_jwt(
        issuer or first_start.issuer_seed(state),
        first_start.account_public(state),
        home.keys.request.user_public,
        "web1",
        accounts.agent_permissions("web1"),
        issued_s=issued_s,
        expires_s=expires_s,
    )


def expired(home: Home) -> str:
    now_s = int(time.time())
    return _issued(home, now_s - 200, now_s - 100)


def of_another_hub(home: Home) -> str:
    now_s = int(time.time())
    return _issued(home, now_s, now_s + 1000, accounts.new_seed(accounts.KeyKind.ACCOUNT))


def no_jwt(_home: Home) -> str:
    return "not.a.jwt"


def earlier(home: Home) -> str:
    """Good still, and another text than the one of today."""
    now_s = int(time.time())
    return _issued(home, now_s - 100, now_s + 10_000)


@pytest.mark.parametrize("refused", [expired, of_another_hub, no_jwt])
async def test_refused_ones_leave_the_previous_in_force(home: Home, refused: Callable[[Home], str]) -> None:
    identity, good = home.identity, home.keys.jwt.token
    bad = refused(home)
    async with linked(home) as link:
        await until(lambda: link.connected, PATIENCE_S)
        assert identity.renew(bad) is True
        await link.force_reconnect()
        await until(lambda: link.connections == 2, PATIENCE_S)
        assert sum(link.errors.values()) >= 1  # it was tried
        assert identity.jwt_path.read_text() == good
        assert identity.renew(bad) is False  # the same orders once more: no other attempt
    async with linked(home) as again:  # another life of the agent: tried anew, and still no harm
        await until(lambda: again.connected, PATIENCE_S)
        assert sum(again.errors.values()) >= 1
        assert identity.jwt_path.read_text() == good


async def test_good_ones_follow_refused_ones(home: Home) -> None:
    identity = home.identity
    identity.jwt_path.write_text(earlier(home))
    async with linked(home) as link:
        await until(lambda: link.connected, PATIENCE_S)
        identity.renew(no_jwt(home))
        await link.force_reconnect()
        await until(lambda: link.connections == 2, PATIENCE_S)
        identity.renew(home.keys.jwt.token)
        await link.force_reconnect()
        await until(lambda: link.connections == 3, PATIENCE_S)
        assert identity.jwt_path.read_text() == home.keys.jwt.token
        assert not renewed_path(identity.jwt_path).exists()


async def test_good_ones_help_where_the_previous_have_expired(home: Home) -> None:
    identity = home.identity
    identity.jwt_path.write_text(expired(home))
    identity.renew(home.keys.jwt.token)
    async with linked(home) as link:
        await until(lambda: link.connected, PATIENCE_S)
    assert identity.jwt_path.read_text() == home.keys.jwt.token


async def test_going_back_to_those_in_use_drops_the_waiting_ones(home: Home) -> None:
    identity = home.identity
    identity.renew(no_jwt(home))
    assert identity.renew(home.keys.jwt.token) is False
    assert not renewed_path(identity.jwt_path).exists()
    async with linked(home) as link:
        await until(lambda: link.connected, PATIENCE_S)
        assert not link.errors
