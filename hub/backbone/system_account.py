"""What the hub asks of the server itself, by its user in the system account: new claims, a reload, who is
connected.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError

from hub.backbone import nats_server, pki
from hub.backbone.state import StateDir
from wire.names import inbox_prefix

REQUEST_TIMEOUT_S = 5.0


class ServerRefused(Exception):
    """The server can't be reached as its system user, or refused what was asked."""


@contextlib.asynccontextmanager
async def system_connection(state: StateDir) -> AsyncIterator[Client]:
    """A short connection of our own server's system user; no reconnecting. Raises ServerRefused."""
    settings = state.settings()

    async def quiet(_: Exception) -> None:
        return None

    try:
        connection = await nats.connect(
            nats_server.server_url(settings.nats_bind, settings.nats_port),
            name="wirepool command",
            tls=pki.client_context(state.ca_certificate),
            tls_handshake_first=True,
            user_credentials=str(state.system_credentials),
            inbox_prefix=inbox_prefix("hub"),
            allow_reconnect=False,
            # Without these the client tries 60 times, 2 s apart, even for its first connection.
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=3,
            error_cb=quiet,
        )
    except (OSError, NatsError, TimeoutError) as error:
        raise ServerRefused(f"the NATS server doesn't answer: {error}") from error
    try:
        yield connection
    finally:
        await connection.close()


async def push_account(connection: Client, token: str) -> None:
    """Give the server an account's new claims: they hold at once, and revoked users are disconnected."""
    answer = await _ask(connection, "$SYS.REQ.CLAIMS.UPDATE", token.encode())
    if answer.get("error") or not isinstance(answer.get("data"), dict):
        raise ServerRefused(f"the NATS server refused the account's claims: {_reason(answer)}")


async def server_id(connection: Client) -> str:
    """The id of the one server behind this connection."""
    identity = connection._server_info.get("server_id")
    if not isinstance(identity, str) or not identity:
        raise ServerRefused("the NATS server told no id")
    return identity


async def reload_server(connection: Client) -> None:
    """Make the server read its configuration and certificate again; connections stay. Raises ServerRefused."""
    answer = await _ask(connection, f"$SYS.REQ.SERVER.{await server_id(connection)}.RELOAD", b"")
    if answer.get("error"):
        raise ServerRefused(f"the NATS server refused to reload: {_reason(answer)}")


async def jetstream_trouble(connection: Client) -> str | None:
    """What the server says is wrong with its JetStream, or None. Raises ServerRefused without an answer."""
    answer = await _ask(connection, f"$SYS.REQ.SERVER.{await server_id(connection)}.HEALTHZ", b"")
    data = answer.get("data")
    if not isinstance(data, dict) or data.get("status_code", data.get("status")) in (200, "ok"):
        return None
    return str(data.get("error") or data.get("status"))[:300]


async def _ask(connection: Client, subject: str, body: bytes) -> dict[str, Any]:
    try:
        message = await connection.request(subject, body, timeout=REQUEST_TIMEOUT_S)
        answer = json.loads(message.data)
    except (NatsError, TimeoutError, ValueError) as error:
        raise ServerRefused(f"the NATS server didn't answer {subject}: {error}") from error
    return answer if isinstance(answer, dict) else {}


def _reason(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    return str(error.get("description", error)) if isinstance(error, dict) else str(error or answer)[:300]
