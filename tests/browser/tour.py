"""A tour of every page in every state, of a real hub with a real NATS server and agents that say what a state needs.

async with scene(tmp_path, empty=False) as hub:
    async for page, name in tour(hub, context): ...
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, Page, expect

from tests.browser.pool_states import fill_pool, pool_has_read
from tests.support.nats_backbone import Backbone, backbone, until
from tests.web.fake_agent import INTERFACES, FakeAgent, fake_agent, udp_packet
from tests.web.site import Browser, Site, site
from wire.control import Domain
from wire.report import InterfaceReport

WIDTHS = (1440, 900, 400)
THEMES = ("light", "dark")
HEIGHTS = {1440: 900, 900: 900, 400: 800}
HUGE = 10**15 - 1
LONG = "a-name-of-two-hundred-characters-" * 6 + "ab"
LONGEST_ID = "the-longest-name-that-an-agent-can-have-000-1234"
LONG_INTERFACE = "enp0s31f6u4u1i5-" * 8
LONG_FILTER = " or ".join(f"host 10.0.{number}.7 and tcp port {20000 + number}" for number in range(40))


class SpokenFor(FakeAgent):
    """An agent whose report and heartbeat say besides what a picture needs."""

    said: dict[Domain, dict[str, object]] = {}  # noqa: RUF012 - each agent gets its own

    async def _publish(self, subject: str, domain: Domain, body: dict[str, object]) -> None:
        await super()._publish(subject, domain, body | self.said.get(domain, {}))


@dataclass(slots=True)
class Scene:
    """A hub with all its states at once."""

    site: Site
    client: Browser
    agents: dict[str, FakeAgent] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    """Name of a state → session id, and other names that addresses have in them."""

    async def start(self, state: str, agent: str, interface: str = "eth0", **more: object) -> str:
        """Start a session through the API and remember it by `state`."""
        body = {"agent": agent, "interface": interface} | more
        answer = await self.client.post_json("/api/sessions", body)
        assert answer.status_code == 201, answer.text
        session = str(answer.json()["session"]["id"])
        self.sessions[state] = session
        await until(lambda: session in self.agents[agent].chains)
        return session

    async def order(self, session: str, order: str, becomes: str) -> None:
        answer = await self.client.post_json(f"/api/sessions/{session}/{order}", {})
        assert answer.status_code == 200, answer.text
        await self.wait(session, becomes)

    async def wait(self, session: str, state: str) -> None:
        async def reached() -> bool:
            answer = await self.client.http.get(f"/api/sessions/{session}")
            return bool(answer.json()["session"]["state"] == state)

        await until(reached, timeout_s=20)


def long_interfaces(names: list[str]) -> list[dict[str, Any]]:
    """Interfaces as a report tells them, with these names."""
    made = [
        InterfaceReport(
            name=name,
            index=number + 10,
            state="up",
            mtu=65536,
            speed_mbps=400_000,
            addresses=("2001:db8:1234:5678:9abc:def0:1234:5678/128", "192.168.100.200/32"),
            driver="mlx5_core",
        ).to_map()
        for number, name in enumerate(names)
    ]
    return [*(one.to_map() for one in INTERFACES), *made]


@contextlib.asynccontextmanager
async def empty_hub(directory: Path) -> AsyncIterator[Scene]:
    """A hub on its first day: no agent, no session."""
    async with backbone(directory) as bus, site(directory, state=bus.state) as page:
        await page.hub.bus.client()
        async with page.client() as client:
            await client.log_in()
            yield Scene(page, client)


@contextlib.asynccontextmanager
async def busy_hub(directory: Path) -> AsyncIterator[Scene]:
    """A hub in which everything has happened that its pages have a state for."""
    async with (
        contextlib.AsyncExitStack() as stack,
        backbone(directory) as bus,
        site(directory, state=bus.state) as page,
        page.client() as client,
    ):
        await page.hub.bus.client()
        await client.log_in()
        scene = Scene(page, client)
        for name in ("web1", "db1"):
            scene.agents[name] = await stack.enter_async_context(fake_agent(bus, page.hub.registry, name))
        await _huge_agent(scene, bus, stack)
        page.enrol("never-seen", "rack 4, slot 12")
        page.enrol("disabled", "under repair")
        await client.post_json("/api/agents/disabled/disable", {"reason": "its disk is being replaced"})
        async with fake_agent(bus, page.hub.registry, "offline"):
            await until(lambda: page.hub.presence.status("offline").online)
        await until(lambda: all(page.hub.presence.status(name).online for name in scene.agents))
        await _sessions(scene)
        await fill_pool(scene)
        await until(lambda: page.hub.presence.status("offline").state == "offline")
        await pool_has_read(scene)
        yield scene


async def _huge_agent(scene: Scene, bus: Backbone, stack: contextlib.AsyncExitStack) -> None:
    name = LONGEST_ID
    agent = await stack.enter_async_context(
        fake_agent(bus, scene.site.hub.registry, name, hostname=LONG, kind=SpokenFor)
    )
    scene.agents[name] = agent
    assert isinstance(agent, SpokenFor)
    agent.said = {
        Domain.REPORT: {
            "os": LONG,
            "kernel": LONG,
            "capture_path_reason": LONG * 4,
            "interfaces": long_interfaces(
                [LONG_INTERFACE, *(f"{number}-{LONG_INTERFACE}"[:128] for number in range(30))]
            ),
        },
        Domain.HEARTBEAT: {
            "spool_bytes": HUGE,
            "spool_limit_bytes": HUGE + 1,
            "resident_bytes": HUGE,
            "alerts": [f"{LONG} {number}" for number in range(3)],
        },
    }
    await agent.report()


async def _sessions(scene: Scene) -> None:
    web, database = scene.agents["web1"], scene.agents["db1"]
    huge = scene.agents[LONGEST_ID]
    running = await scene.start("running", "web1", filter="udp or icmp", name="slow checkout, second try")
    await web.send(running, [udp_packet(number) for number in range(30)])
    paused = await scene.start("paused", "db1", filter="tcp port 5432")
    await scene.order(paused, "pause", "paused")
    database.refuse["docker0"] = "docker0 went down: no such device (" + LONG + ")"
    refused = await scene.start("refused", "db1", "docker0")
    await scene.wait(refused, "refused")
    stopped = await scene.start("stopped", "web1", filter="host 10.0.0.7")
    await web.send(stopped, [udp_packet(number) for number in range(40)])
    await scene.order(stopped, "stop", "stopped")
    largest = await scene.start("huge", huge.name, filter=LONG_FILTER, name=LONG[:120])
    books = huge.chains[largest].books
    books.received, books.dropped_ring, books.own_traffic = HUGE, HUGE // 3, 12
    books.captured = books.received - books.dropped_ring - books.own_traffic
    books.dropped_newest = HUGE // 7
    books.spooled = books.captured - books.dropped_newest
    await huge.send(largest, [udp_packet(number, LONG.encode()) for number in range(5)])


@dataclass(frozen=True, slots=True)
class Stop:
    """A page in one state."""

    name: str
    path: str
    act: Callable[[Page, Scene], Awaitable[None]] | None = None
    """What a reader does there until the state is reached."""
    logged_in: bool = True
    status: int = 200
    hub: Callable[[Scene], AbstractContextManager[None]] = field(default=lambda _: nullcontext())
    """How the hub is while the page is asked for, where that isn't as usual."""


async def _wait_rows(page: Page, scene: Scene) -> None:
    await expect(page.get_by_test_id("count-spool")).not_to_have_text("0 B", timeout=15_000)
    session = scene.sessions["running"]
    await scene.agents["web1"].send(session, [udp_packet(number) for number in range(40)])
    await expect(page.get_by_test_id("rows")).to_contain_text("UDP", timeout=15_000)


async def _open_packet(page: Page, scene: Scene) -> None:
    await _wait_rows(page, scene)
    await page.get_by_test_id("freeze-view").click()  # a row that moves is hard to hit
    await page.locator('[data-testid="rows"] >> text=UDP').last.click()
    await expect(page.get_by_test_id("packet-tree")).to_be_visible()


async def _open_legend(page: Page, scene: Scene) -> None:
    await _wait_rows(page, scene)
    await page.get_by_test_id("legend").locator("summary").click()


async def _ask_to_stop(page: Page, _: Scene) -> None:
    await page.get_by_test_id("stop-capture").first.click()
    await expect(page.get_by_test_id("confirm-yes")).to_be_visible()


async def _change_filter(page: Page, _: Scene) -> None:
    await page.get_by_test_id("change-filter").first.click()
    await expect(page.get_by_test_id("filter-form")).to_be_visible()


async def _wrong_filter(page: Page, _: Scene) -> None:
    await page.get_by_test_id("pick-web1").check()
    await page.get_by_test_id("filter").fill("udp prt 9")
    await page.get_by_test_id("snaplen").fill("0")
    await page.get_by_test_id("start-capture").click()
    await expect(page.get_by_test_id("snaplen")).to_have_attribute("aria-invalid", "true")
    await page.locator('[data-testid="advanced"] summary').click()


async def _open_menu(page: Page, _: Scene) -> None:
    await page.get_by_test_id("account").locator("summary").click()
    await expect(page.get_by_test_id("logout")).to_be_visible()


async def _toast(page: Page, _: Scene) -> None:
    for kind, text in (("bad", f"the session has ended: {LONG}"), ("ok", "The filter is in force.")):
        detail = {"text": text, "kind": kind}
        await page.evaluate(
            "detail => document.dispatchEvent(new CustomEvent('wirepool:toast', { detail }))", detail
        )
    await expect(page.get_by_test_id("toast").first).to_be_visible()


async def _test_agent(page: Page, _: Scene) -> None:
    await page.get_by_test_id("agent-web1-test").click()
    await expect(page.get_by_test_id("connection-verdict")).to_be_visible(timeout=20_000)


async def _ask_to_disable(page: Page, _: Scene) -> None:
    await page.get_by_test_id("disable-agent").click()
    await expect(page.get_by_test_id("disable-form")).to_be_visible()


async def _what_happened(page: Page, _: Scene) -> None:
    await page.get_by_test_id("happened").click()
    await expect(page.get_by_test_id("happened-list")).to_be_visible()


async def _hub_away(page: Page, _: Scene) -> None:
    # Again and again: a stream that has just opened would take the word back.
    await page.evaluate(
        "setInterval(() => document.dispatchEvent("
        "new CustomEvent('wirepool:stream', { detail: { away: true } })), 50)"
    )
    await expect(page.locator("#connection")).to_be_visible()


async def _wrong_password(page: Page, _: Scene) -> None:
    await page.get_by_label("User").fill("admin")
    await page.get_by_label("Password").fill("wrong")
    await page.get_by_test_id("login").click()
    await expect(page.get_by_test_id("login-error")).to_be_visible()


FIRST_DAY = (
    Stop("login", "/login", logged_in=False),
    Stop("login-refused", "/login", _wrong_password, logged_in=False),
    Stop("first-agents", "/agents"),
    Stop("first-start", "/live"),
    Stop("first-sessions", "/sessions"),
    Stop("first-connect", "/connect"),
    Stop("connect-unknown", "/connect?host=" + LONG),
)
EVERY_DAY = (
    Stop("agents", "/agents"),
    Stop("agents-test", "/agents", _test_agent),
    Stop("agents-hub-away", "/agents", _hub_away),
    Stop("agents-menu", "/agents", _open_menu),
    Stop("agents-narrowed", "/agents?q=no-agent-is-called-so"),
    Stop("agent", "/agents/web1"),
    Stop("agent-offline", "/agents/offline"),
    Stop("agent-never-seen", "/agents/never-seen"),
    Stop("agent-disabled", "/agents/disabled"),
    Stop("agent-huge", f"/agents/{LONGEST_ID}"),
    Stop("agent-disable", "/agents/db1", _ask_to_disable),
    Stop("connect", "/connect?host=10.0.0.7"),
    Stop("start", "/live"),
    Stop("start-wrong", "/live", _wrong_filter),
    Stop("live", "/live?session={running}", _wait_rows),
    Stop("live-packet", "/live?session={running}", _open_packet),
    Stop("live-legend", "/live?session={running}", _open_legend),
    Stop("live-several", "/live?session={running},{paused},{refused},{huge}", _wait_rows),
    Stop("live-filter", "/live?session={running}", _change_filter),
    Stop("live-confirm", "/live?session={running}", _ask_to_stop),
    Stop("live-ended", "/live?session={stopped}"),
    Stop("sessions", "/sessions"),
    Stop("sessions-none-found", "/sessions?q=nothing-is-called-so"),
    Stop("session-running", "/sessions/{running}"),
    Stop("session-stopped", "/sessions/{stopped}"),
    Stop("session-happened", "/sessions/{stopped}", _what_happened),
    Stop("session-refused", "/sessions/{refused}"),
    Stop("session-huge", "/sessions/{huge}"),
    Stop("password", "/password"),
    Stop("toasts", "/sessions", _toast),
    Stop("not-found", "/nothing-here", status=404),
)


async def log_in(page: Page, where: Site) -> None:
    """As a person does."""
    await page.goto(f"{where.url}/login")
    await page.get_by_label("User").fill("admin")
    await page.get_by_label("Password").fill(where.password)
    await page.get_by_test_id("login").click()
    await expect(page.get_by_test_id("nav-agents")).to_be_visible()


async def visit(context: BrowserContext, scene: Scene, stop: Stop) -> Page:
    """A new page of the context in the state of `stop`. The context's login is made or dropped as it needs."""
    page = await context.new_page()
    if not stop.logged_in:
        await context.clear_cookies()
    elif not any(cookie.get("name") == "__Host-wirepool" for cookie in await context.cookies()):
        await log_in(page, scene.site)
    with stop.hub(scene):
        await page.goto(scene.site.url + stop.path.format(**scene.sessions))
    if stop.act is not None:
        await stop.act(page, scene)
    await page.evaluate("document.fonts.ready")
    return page


async def looks(page: Page) -> AsyncIterator[tuple[int, str]]:
    """Put the page into each width and theme, which are given. States stay, since nothing is loaded anew."""
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": HEIGHTS[width]})
        for theme in THEMES:
            await page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
            await page.evaluate(
                "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
            )
            yield width, theme
