"""The page whole and real: the hub's parts, its web server over TLS and HTTP/2, and clients that log in.

async with site(tmp_path) as page:                 # no NATS server: the hub says so and serves all the same
    async with page.client() as client:
        await client.log_in()
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from hub.backbone import first_start, nats_server
from hub.backbone.state import StateDir
from hub.config import HubSettings
from hub.http import server
from hub.http.renewal_tls import RenewableCertificate
from hub.process import running_hub
from hub.web.app import create_app
from hub.web.auth import FIRST_USER, ensure_first_user
from hub.web.running import Hub
from wire.keys import SigningKey

MEBIBYTE = 1 << 20


@dataclass(slots=True)
class Site:
    """A running page."""

    hub: Hub
    state: StateDir
    port: int
    password: str
    certificate: RenewableCertificate
    app: Any
    keys: dict[str, SigningKey] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def trust(self) -> ssl.SSLContext:
        """A client's TLS context that trusts this hub's CA and nobody else."""
        return ssl.create_default_context(cafile=str(self.state.ca_certificate))

    @contextlib.asynccontextmanager
    async def client(self, *, http2: bool = True) -> AsyncIterator[Browser]:
        """A client without a login."""
        async with httpx.AsyncClient(
            base_url=self.url, verify=self.trust(), http2=http2, http1=not http2, timeout=20, trust_env=False
        ) as client:
            yield Browser(self, client)

    def enrol(self, agent: str, label: str = "") -> SigningKey:
        """Put an agent into the registry; its signing key."""
        key = SigningKey.generate()
        self.hub.registry.agents.add(
            agent, user_public="U" + agent.upper().ljust(55, "A"), signing_public=key.public, label=label
        )
        self.keys[agent] = key
        return key


@dataclass(slots=True)
class Browser:
    """What a browser does, without one: cookies, CSRF token, the headers it sends."""

    site: Site
    http: httpx.AsyncClient
    csrf: str = ""

    async def log_in(self, password: str | None = None) -> None:
        """Log in as the first user and learn the CSRF token."""
        answer = await self.http.post(
            "/login", data={"name": FIRST_USER, "password": password or self.site.password}
        )
        assert answer.status_code == 303, answer.text
        self.csrf = (await self.http.get("/api/session")).json()["csrf"]

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """GET as a browser that navigates."""
        return await self.http.get(path, headers={"accept": "text/html"} | headers)

    async def post(self, path: str, data: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        """POST a form as htmx does."""
        sent = {"x-csrf-token": self.csrf, "hx-request": "true"} | headers
        return await self.http.post(path, data=data or {}, headers=sent)

    async def post_json(self, path: str, body: object) -> httpx.Response:
        """POST to the API."""
        return await self.http.post(path, json=body, headers={"x-csrf-token": self.csrf})


@contextlib.asynccontextmanager
async def site(
    directory: Path,
    *,
    state: StateDir | None = None,
    settings: HubSettings | None = None,
    first_login: bool = False,
) -> AsyncIterator[Site]:
    """A page on a free port. `state`: of a running tests.support.nats_backbone; without it there is no NATS server.
    `first_login`: the generated password still has to be replaced."""
    if state is None:
        state = StateDir(directory / "state")
        first_start.prepare(state, budget_bytes=256 * MEBIBYTE)
        state.change_settings(nats_port=nats_server.free_port("127.0.0.1"))
    listener = server.bind("127.0.0.1", 0, exact=True)
    certificate = RenewableCertificate(state.server_certificate, state.server_key)
    async with running_hub(state, settings or HubSettings()) as hub:
        password = ensure_first_user(hub.registry)
        assert password is not None
        if not first_login:  # as if the generated password had been replaced by itself
            with hub.registry.transaction() as db:
                db.execute("UPDATE users SET must_change = 0")
        app = create_app(hub)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(app, listener, certificate, hub.stopping))
            try:
                yield Site(hub, state, listener.port, password, certificate, app)
            finally:
                hub.stopping.set()
                await serving
