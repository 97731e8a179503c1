"""A real nats-server with wirepool's own full configuration, on a free port and in a directory of its own.

    async with backbone(tmp_path) as bus:
        hub = await bus.connect_hub()
        web1 = bus.agent("web1")                    # keys, JWT, certificate: as `wirepool enroll` makes them
        connection = await bus.connect_agent(web1)
        viewer = await bus.connect_viewer("anna", ["web1"])

Connections made here are closed at the end; the server is killed at the latest with the test's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from hub.backbone import accounts, enrolment, first_start, nats_server, pki, server_config, streams
from hub.backbone.enrolment import IssuedJwt
from hub.backbone.state import StateDir, StateError
from hub.bus import BusClient
from wire.enrolment import Enrolment, EnrolmentRequest
from wire.keys import SigningKey
from wire.names import inbox_prefix

MEBIBYTE = 1 << 20
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def need_nats_server() -> Path:
    """The server's program; the test is skipped without it (or fails where everything is required)."""
    try:
        return nats_server.find_nats_server()
    except StateError as error:
        if os.environ.get("WIREPOOL_REQUIRE_ALL") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class AgentKeys:
    """An agent as its host knows it: private keys, and the hub's answer."""

    name: str
    user_seed: str
    signing: SigningKey
    request: EnrolmentRequest
    enrolment: Enrolment
    jwt: IssuedJwt

    def credentials(self) -> bytes:
        """A .creds file."""
        return accounts.credentials_file(self.enrolment.user_jwt, self.user_seed)


@dataclass(slots=True)
class Backbone:
    """The running server and its state directory."""

    state: StateDir
    port: int
    scratch: Path
    process: subprocess.Popen[bytes] | None = None
    errors: list[Exception] = field(default_factory=list)
    """What the server told any connection asynchronously (permission violations)."""
    _connections: list[Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        return nats_server.server_url("127.0.0.1", self.port)

    async def start(self) -> None:
        """Start the server and wait until it serves."""
        self.process = subprocess.Popen(  # noqa: ASYNC220 - a fork, nothing to wait for
            nats_server.server_argv(self.state), stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent
        )
        await nats_server.wait_until_ready(
            "127.0.0.1", self.port, pki.client_context(self.state.ca_certificate), 20
        )

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """An orderly stop."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def log(self) -> str:
        """The server's log so far."""
        path = self.state.logs / "nats-server.log"
        return path.read_text() if path.exists() else ""

    def new_request(self, name: str) -> tuple[str, SigningKey, EnrolmentRequest]:
        """Fresh keys as `wirepool agent request` makes them: (user seed, signing key, request)."""
        seed = accounts.new_seed(accounts.KeyKind.USER)
        signing = SigningKey.generate()
        request = EnrolmentRequest(
            agent=name,
            user_public=accounts.public_of(seed),
            signing_public=signing.public,
            hostname=f"{name}.test",
        )
        return seed, signing, request

    def agent(self, name: str) -> AgentKeys:
        """A new agent, enrolled for this server (the registry is left to the test)."""
        seed, signing, request = self.new_request(name)
        answer, jwt = enrolment.enrol(self.state, request, int(time.time()), [self.url])
        return AgentKeys(name, seed, signing, request, answer, jwt)

    async def connect(self, credentials: Path | bytes, inbox: str, **options: Any) -> Client:
        """A connection by a .creds file or its content. Options go to nats.connect."""
        if isinstance(credentials, bytes):
            path = self.scratch / f"{len(self._connections)}-{os.urandom(4).hex()}.creds"
            path.touch(0o600)
            path.write_bytes(credentials)
            credentials = path

        async def noted(error: Exception) -> None:
            self.errors.append(error)

        settings: dict[str, Any] = {
            "tls": pki.client_context(self.state.ca_certificate),
            "tls_handshake_first": True,
            "user_credentials": str(credentials),
            "inbox_prefix": inbox_prefix(inbox),
            "error_cb": noted,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.1,
            "connect_timeout": 5,
            "drain_timeout": 5,
        }
        connection = BusClient()
        await connection.connect(self.url, **(settings | options))
        self._connections.append(connection)
        return connection

    async def connect_hub(self, **options: Any) -> Client:
        """As the hub: everything in the account."""
        return await self.connect(self.state.hub_credentials, "hub", **options)

    async def connect_system(self, **options: Any) -> Client:
        """As the hub in the system account."""
        return await self.connect(self.state.system_credentials, "hub", **options)

    async def connect_agent(self, agent: AgentKeys, **options: Any) -> Client:
        """As an agent."""
        return await self.connect(agent.credentials(), agent.name, **options)

    async def connect_viewer(self, name: str, agents: list[str], **options: Any) -> Client:
        """As a new viewer of these agents."""
        path = enrolment.viewer_credentials(self.state, name, agents, int(time.time()))
        return await self.connect(path, f"v-{name}", **options)

    async def close(self) -> None:
        """Close every connection made here, then stop the server."""
        for connection in self._connections:
            # nats-py lets a CancelledError of its own out when the server went away under it: gather keeps it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await asyncio.gather(connection.close(), return_exceptions=True)
        if self.process is not None:
            self.stop()


@contextlib.asynccontextmanager
async def backbone(
    directory: Path, *, budget_bytes: int = 256 * MEBIBYTE, with_streams: bool = True
) -> AsyncIterator[Backbone]:
    """A backbone under directory (any empty place): first start, server running, streams made."""
    need_nats_server()
    state = StateDir(directory / "state")
    scratch = directory / "scratch"
    scratch.mkdir(mode=0o700)
    first_start.prepare(state, budget_bytes=budget_bytes)
    settings = state.change_settings(nats_port=nats_server.free_port("127.0.0.1"))
    server_config.write(state)
    bus = Backbone(state, settings.nats_port, scratch)
    try:
        await bus.start()
        if with_streams:
            hub = await bus.connect_hub()
            await streams.ensure_streams(hub, budget_bytes)
        yield bus
    finally:
        await bus.close()


async def until(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 10.0) -> None:
    """Wait until condition holds; a TimeoutError names it otherwise."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if not isinstance(result, bool):
            result = await result
        if result:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {condition}")
        await asyncio.sleep(0.01)
