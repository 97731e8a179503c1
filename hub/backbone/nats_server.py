"""Our own nats-server: find the program, choose its port, start it, know when it is ready."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
from pathlib import Path

from hub.backbone.state import StateDir, StateError

REPOSITORY = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 60.0
"""A large archive is scanned at start after an unclean stop."""


def find_nats_server() -> Path:
    """The nats-server program: WIREPOOL_NATS_SERVER, else .cache/bin of the checkout, else PATH. Raises
    StateError.
    """
    chosen = os.environ.get("WIREPOOL_NATS_SERVER")
    if chosen:
        if os.access(chosen, os.X_OK):
            return Path(chosen)
        raise StateError(f"WIREPOOL_NATS_SERVER={chosen} isn't a program that can be run")
    cached = REPOSITORY / ".cache" / "bin" / "nats-server"
    if os.access(cached, os.X_OK):
        return cached
    found = shutil.which("nats-server")
    if found:
        return Path(found)
    raise StateError(
        "nats-server not found. `./wirepool up` fetches it; or install it and set WIREPOOL_NATS_SERVER "
        "to its path."
    )


def server_argv(state: StateDir) -> list[str]:
    """Command line of the server for this state directory (server_config.write first)."""
    return [str(find_nats_server()), "--config", str(state.nats_config)]


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. A wildcard host is free only when no address of it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # With SO_REUSEADDR two sockets may be bound; only one may listen.
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(host: str) -> int:
    """A port that is free now, chosen by the kernel."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def local_address(bind: str) -> str:
    """The address a program on this host reaches a listener by."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104


def server_url(bind: str, port: int) -> str:
    """URL of the server for a client on this host."""
    host = local_address(bind)
    return f"tls://[{host}]:{port}" if ":" in host else f"tls://{host}:{port}"


async def is_ready(bind: str, port: int, context: ssl.SSLContext) -> bool:
    """Whether the server answers with a TLS handshake and its INFO line. It listens only once JetStream has
    recovered.
    """
    host = local_address(bind)
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
            try:
                return (await reader.readline()).startswith(b"INFO ")
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, ssl.SSLError):
        return False


async def wait_until_ready(
    bind: str, port: int, context: ssl.SSLContext, timeout_s: float = READY_TIMEOUT_S
) -> None:
    """Return once the server serves; TimeoutError after timeout_s."""
    async with asyncio.timeout(timeout_s):
        while not await is_ready(bind, port, context):  # noqa: ASYNC110 - another process, no event
            await asyncio.sleep(0.05)
