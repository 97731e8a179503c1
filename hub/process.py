"""The hub's parts put together: what starts in which order, what runs beside what, and how it ends.

Order of the start: registry, connections, then everything that listens (presence, ledger, live feed), then what speaks
(declarer, keeper), then the page. All run in one TaskGroup: a part that dies of an error of ours takes the process with
it, and the supervisor starts it again, rather than leaving a hub that looks alive and does half its work.

At the end (`stopping` is set): event streams end, requests in progress have a few seconds, then the parts are
cancelled. The ledger acknowledges only after its commit, so nothing is lost at any point of this.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import nats.errors

from hub.agents.control import Control
from hub.agents.declarer import Declarer
from hub.agents.presence import Presence
from hub.agents.sessions import SessionControl
from hub.archive.export import Export
from hub.archive.keeper import Keeper
from hub.backbone import enrolment, first_start, nats_server, renewal, streams, system_account
from hub.backbone.state import StateDir
from hub.bus import Bus
from hub.config import HubSettings
from hub.ledger.ledger import Ledger
from hub.live.feed import LiveFeed
from hub.live.lookup import PacketLookup
from hub.pool.elastic.settings import elastic_store
from hub.pool.embedded.store import EmbeddedStore
from hub.pool.pool import NoPool, Pool, fingerprint_key
from hub.pool.store import Retention, Store
from hub.pooling import Pooling
from hub.registry import AgentRecord, Registry
from hub.web.running import Hub
from wire.keys import SigningKey

log = logging.getLogger("wirepool.hub")

ELASTIC = "elasticsearch"
"""The name of that store, in settings and on pages."""

PARTS_END_S = 5.0
"""How long the parts may take to end before their connections go."""


def connections(state: StateDir) -> tuple[Bus, Bus | None]:
    """The hub's connection, and the one that hears the server's own events (None with somebody else's server)."""
    settings = state.settings()
    if settings.external_url is not None:
        credentials = Path(settings.external_credentials) if settings.external_credentials else None
        return (
            Bus([settings.external_url], credentials=credentials, ca_certificate=enrolment.ca_path(state)),
            None,
        )
    servers = [nats_server.server_url(nats_server.local_address(settings.nats_bind), settings.nats_port)]
    ca = state.ca_certificate
    return (
        Bus(servers, credentials=state.hub_credentials, ca_certificate=ca),
        Bus(servers, credentials=state.system_credentials, ca_certificate=ca, name="wirepool-hub-events"),
    )


@contextlib.asynccontextmanager
async def running_hub(state: StateDir, settings: HubSettings) -> AsyncIterator[Hub]:
    """Every part of the hub but its web server, for the time of the block.

    Doesn't wait for the NATS server: the page says that it is away. Raises RegistryError, StateError, WireError.
    """
    registry = Registry(state.database)
    try:
        key = SigningKey.load(state.control_key)
        bus, system_bus = connections(state)
        control = Control(bus, registry, key)
        sessions = SessionControl(registry)
        account = None if system_bus is None else first_start.account_public(state)
        presence = Presence(
            registry, bus, system_bus=system_bus, account=account, sessions=sessions, control=control
        )
        ledger = Ledger(registry, bus)
        live = LiveFeed(bus, registry, key)
        presence.on_heartbeat(ledger.heartbeat)
        presence.on_heartbeat(live.heartbeat)
        ledger.on_batch(lambda agent, age_s: presence.saw_batch(agent, age_s=age_s))

        def credentials(agent: AgentRecord, now_s: int) -> tuple[str, int, int]:
            jwt = enrolment.agent_jwt(state, agent.id, agent.user_public, now_s)
            return jwt.token, jwt.issued_s * 10**9, jwt.expires_s * 10**9

        declarer = Declarer(
            registry, bus, control, key, own_traffic=lambda: own_addresses(state), credentials=credentials
        )
        keeper = Keeper(
            registry,
            bus,
            high_water=settings.archive_high_water_percent / 100,
            low_water=settings.archive_low_water_percent / 100,
        )
        pool = make_pool(state, settings, registry, bus, key)
        hub = Hub(
            registry=registry,
            bus=bus,
            system_bus=system_bus,
            sessions=sessions,
            presence=presence,
            live=live,
            packets=PacketLookup(registry, bus, live.recent),
            ledger=ledger,
            export=Export(registry, bus, key),
            control=control,
            declarer=declarer,
            keeper=keeper,
            pool=pool,
            settings=settings,
        )
        state_parts = (
            keep_streams(state, bus),
            renewal.keep_renewed(state, lambda r: on_renewed(state, hub, r)),
        )
        parts = (bus, system_bus, presence, ledger, live, declarer, keeper, pool or NoPool(bus))
        async with asyncio.TaskGroup() as tasks:
            runs = [
                tasks.create_task(part.run(), name=type(part).__name__) for part in parts if part is not None
            ]
            runs += [tasks.create_task(part) for part in state_parts]
            try:
                yield hub
            finally:
                # The connections go last: nats-py turns the cancellation of who waits on a closed one into
                # ConnectionClosedError, which a part takes for an outage and goes on.
                connections_of = {run for run in runs if run.get_name() == Bus.__name__}
                users = [run for run in reversed(runs) if run not in connections_of]
                await end(users, within_s=PARTS_END_S)
                await end(connections_of, within_s=PARTS_END_S)
    finally:
        registry.close()


def make_pool(
    state: StateDir, settings: HubSettings, registry: Registry, bus: Bus, key: SigningKey
) -> Pool | None:
    """The pool as the settings say; None where it is switched off. ConfigError where they can't be right."""
    if settings.pool_store == "off":
        return None
    secret, level = fingerprint_key(key), Pooling(settings.pooling)
    correlate = settings.correlation == "on"
    elastic = (
        elastic_store(settings) if settings.elasticsearch_url or settings.pool_store == ELASTIC else None
    )
    if elastic is not None and settings.pool_store == ELASTIC:
        return Pool(registry, bus, elastic, secret, level, correlate=correlate, name=ELASTIC)
    retention = Retention(settings.pool_retention_s, settings.pool_max_bytes)
    others: dict[str, Store] = {} if elastic is None else {ELASTIC: elastic}
    store = EmbeddedStore(state.pool, retention)
    return Pool(registry, bus, store, secret, level, correlate=correlate, others=others)


def own_addresses(state: StateDir) -> Sequence[tuple[str, int]]:
    """(address, port) of the NATS server and of this hub's page, which captures leave out.

    Names are looked up here: an agent compares addresses of packets. What can't be looked up is left in the capture.
    """
    settings = state.settings()
    found: set[tuple[str, int]] = set()
    for url in enrolment.server_urls(state):
        parts = urlsplit(url)
        found.update(_addresses(parts.hostname or "", parts.port or 4222))
    page_hosts = [settings.page_bind]
    if settings.page_bind in ("0.0.0.0", "::"):  # noqa: S104
        page_hosts = [urlsplit(url).hostname or "" for url in enrolment.server_urls(state)]
    for host in page_hosts:
        found.update(_addresses(host, settings.page_port))
    return sorted(found)


def _addresses(host: str, port: int) -> set[tuple[str, int]]:
    try:
        return {(str(ipaddress.ip_address(host)), port)}
    except ValueError:
        pass
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {(str(answer[4][0]).partition("%")[0], port) for answer in answers}


async def end(tasks: Iterable[asyncio.Task[None]], *, within_s: float) -> None:
    """Cancel tasks, again each second until they have ended: on its way through nats-py a cancellation can be lost (the
    `asyncio.wait_for` of Python 3.11 forgets one that comes together with the result)."""
    left, deadline_s = set(tasks), time.monotonic() + within_s
    while left and time.monotonic() < deadline_s:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1.0)


async def keep_streams(state: StateDir, bus: Bus) -> None:
    """Make sure at each new connection that the streams and the bucket are there: a server may come back empty."""
    seen = 0
    while True:
        client = await bus.client()
        if bus.connections == seen:
            await asyncio.sleep(1.0)
            continue
        connection_number = bus.connections
        try:
            for line in await streams.ensure_streams(client, state.settings().budget_bytes):
                log.info("%s", line)
            seen = connection_number
        except (nats.errors.Error, streams.StreamError, TimeoutError) as error:
            log.warning("the streams can't be made ready, trying again: %s", error or type(error).__name__)
            await asyncio.sleep(2.0)


async def on_renewed(state: StateDir, hub: Hub, renewed: renewal.Renewed) -> None:
    """Put what was renewed to use. The page's certificate is watched by the page itself.

    Raises ServerRefused and nats errors: it is called again later.
    """
    if renewed.certificate and hub.system_bus is not None:
        await hub.system_bus.client()  # waits while the server is away
        async with system_account.system_connection(state) as connection:
            await system_account.reload_server(connection)
    if renewed.credentials:
        for bus in (hub.bus, hub.system_bus):
            if bus is not None and bus.connected:
                await (await bus.client()).force_reconnect()
