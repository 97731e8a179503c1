"""What `wirepool up` runs: NATS server, hub and this host's agent, each with its readiness and its deadlines."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import shutil
import ssl
import sys
from collections.abc import Awaitable, Callable

from hub.backbone import enrolment, nats_server, pki, server_config, system_account
from hub.backbone.state import Settings, StateDir, StateError
from hub.cancellation import obey_cancellation
from hub.up.own_agent import MODULES, agent_argv
from hub.up.supervisor import Child

log = logging.getLogger(__name__)

PORTS_TRIED = 20
HEALTH_INTERVAL_S = 5.0
SICK_LOOKS = 2
"""JetStream must be found broken this often in a row before the server is restarted."""
ENOUGH_ROOM_BYTES = 32 << 20
"""Free disk space with which a restart makes sense: some batches fit."""


def check_address(text: str) -> str:
    """An IP address to listen on. Raises StateError."""
    try:
        if "%" in text:  # a zone: browsers and certificates know none
            raise ValueError
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise StateError(f"--bind {text}: want an IP address of this host, or 0.0.0.0 for all") from None


def choose_port(
    bind: str, stored: int, wanted: int | None, option: str, *, may_move: bool = True
) -> tuple[int, str | None]:
    """A free port and, where it isn't the stored one, what to tell people.

    A port that a person asked for isn't replaced by another one. Raises StateError.
    """
    port = stored if wanted is None else wanted
    if nats_server.port_is_free(bind, port):
        return port, None
    if not nats_server.port_is_free(bind, 0):
        raise StateError(f"can't listen on {bind}: it isn't an address of this host. Choose one with --bind")
    if port < 1024 and not nats_server.port_is_free(bind, nats_server.free_port(bind)):
        raise StateError(f"port {port} needs root: choose one from 1024 up with {option}")
    if wanted is not None:
        raise StateError(
            f"port {port} on {bind} is taken by another program. Stop that, or choose one with {option}"
        )
    if not may_move:
        raise StateError(
            f"port {port} on {bind}, where the enrolled hosts look for the server, is taken by another program. Stop "
            f"that; or choose another with {option} and enrol those hosts again."
        )
    for candidate in range(port + 1, min(port + 1 + PORTS_TRIED, 65536)):
        if nats_server.port_is_free(bind, candidate):
            return candidate, f"port {port} is taken by another program: using {candidate} from now on"
    free = nats_server.free_port(bind)
    return free, f"port {port} is taken by another program: using {free} from now on"


def nats_child(state: StateDir, settings: Settings) -> Child:
    """Our own NATS server. Its configuration is written now."""
    server_config.write(state, settings)
    context = pki.client_context(state.ca_certificate)
    return Child(
        name="nats-server",
        argv=nats_server.server_argv(state),
        ready=lambda: nats_server.is_ready(settings.nats_bind, settings.nats_port, context),
        stop_deadline_s=15.0,
    )


def hub_child(state: StateDir, settings: Settings) -> Child:
    """The hub with its page."""
    context = pki.client_context(state.ca_certificate)
    argv = [sys.executable, "-P", "-m", "hub.cli", "hub", "--state", str(state.root)]
    argv += ["--bind", settings.page_bind, "--port", str(settings.page_port)]
    return Child(
        name="hub",
        argv=argv,
        environment=MODULES,
        ready=lambda: page_answers(settings.page_bind, settings.page_port, context),
        stop_deadline_s=15.0,
    )


def agent_child(state: StateDir, name: str) -> Child:
    """This host's agent: the last to start and the first to stop, so that it can drain."""
    return Child(
        name="agent",
        argv=agent_argv(state, name),
        environment=MODULES,
        stop_deadline_s=20.0,
        essential=False,
    )


async def page_answers(bind: str, port: int, context: ssl.SSLContext) -> bool:
    """Whether GET /healthz says 200, over TLS that our CA vouches for."""
    host = nats_server.local_address(bind)
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
            try:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                status = await reader.readline()
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, ssl.SSLError):
        return False
    return status.startswith(b"HTTP/1.1 200")


async def watch_jetstream(
    state: StateDir,
    restart: Callable[[str], Awaitable[None]],
    say: Callable[[str], None],
    interval_s: float = HEALTH_INTERVAL_S,
) -> None:
    """Restart a server whose JetStream has given up. Runs until cancelled.

    After one failed write (a full disk) a stream refuses everything until the server starts anew, also when there is
    room again. restart(reason) ends the server, the supervisor starts it again; say(text) tells of a disk that is
    still full, where a restart wouldn't help. Agents spool meanwhile.
    """
    sick = 0
    told = False
    while True:
        obey_cancellation()
        await asyncio.sleep(interval_s)
        try:
            async with system_account.system_connection(state) as connection:
                trouble = await system_account.jetstream_trouble(connection)
        except system_account.ServerRefused:
            continue  # away or starting: the supervisor's business
        if trouble is None:
            sick, told = 0, False
            continue
        sick += 1
        free = shutil.disk_usage(state.jetstream).free
        if free < ENOUGH_ROOM_BYTES:
            if not told:
                say(
                    f"the disk of {state.jetstream} is full: nothing more is stored until there is room. {trouble}"
                )
            told = True
        elif sick >= SICK_LOOKS:
            sick, told = 0, False
            await restart(trouble)


def page_urls(state: StateDir, settings: Settings) -> list[str]:
    """The page's addresses, the best one first."""
    if settings.page_bind not in ("0.0.0.0", "::"):  # noqa: S104
        hosts = [settings.page_bind]
    else:
        hosts = [url.removeprefix("tls://").rpartition(":")[0] for url in enrolment.server_urls(state)][:4]
        hosts.append("localhost")
    shown = (f"[{host}]" if ":" in host and not host.startswith("[") else host for host in hosts)
    return [f"https://{host}:{settings.page_port}" for host in shown]
