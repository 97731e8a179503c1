"""The tour's stops in the pages of the pool: Explore, a conversation, the clocks, what a session has in the pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from playwright.async_api import Page, expect

from hub.pool.embedded import store as embedded
from hub.pool.pool import Pool
from tests.browser.tour import LONG, Scene, Stop


@contextlib.contextmanager
def _another_pool(scene: Scene, pool: Pool | None) -> Iterator[None]:
    hub = scene.site.hub
    usual, hub.pool = hub.pool, pool
    try:
        yield
    finally:
        hub.pool = usual


def _switched_off(scene: Scene) -> contextlib.AbstractContextManager[None]:
    return _another_pool(scene, None)


def _not_open(scene: Scene) -> contextlib.AbstractContextManager[None]:
    """A store that was never opened."""
    hub = scene.site.hub
    store = embedded.EmbeddedStore(scene.site.state.pool / "not-open")
    return _another_pool(scene, Pool(hub.registry, hub.bus, store, bytes(16)))


@contextlib.contextmanager
def _too_slow(_: Scene) -> Iterator[None]:
    """The store gives up at once, as it otherwise does with a question that takes too long."""
    usual, embedded.MAX_QUESTION_S = embedded.MAX_QUESTION_S, 0.0
    try:
        yield
    finally:
        embedded.MAX_QUESTION_S = usual


@contextlib.contextmanager
def _waiting(scene: Scene) -> Iterator[None]:
    """As the ingest says it while its store is away."""
    pool = scene.site.hub.pool
    assert pool is not None
    waiting = pool.ingest._waiting
    waiting[-1] = f"https://elastic.example.com:9200 doesn't answer within 10 s ({LONG})"
    try:
        yield
    finally:
        del waiting[-1]


async def _suggest(page: Page, _: Scene) -> None:
    await page.get_by_test_id("query").click()
    await page.get_by_test_id("query").press_sequentially("ip")
    options = page.get_by_test_id("query-options").locator("li")
    await expect(options.first).to_be_visible()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")


async def _mark(page: Page, _: Scene) -> None:
    await page.get_by_test_id("timeline").focus()
    await page.keyboard.press("Home")
    for _step in range(30):
        await page.keyboard.press("Shift+ArrowRight")
    await page.get_by_test_id("losses").locator("summary").click()
    await page.get_by_test_id("timeline").focus()


async def _open_packet(page: Page, _: Scene) -> None:
    await page.locator("#scroll").focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("packet-tree")).to_be_visible()


async def _step_into_lanes(page: Page, _: Scene) -> None:
    await page.locator("#lanes").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight"):
        await page.keyboard.press(key)
    await expect(page.get_by_test_id("lane-status")).not_to_be_empty()


async def _open_lane_packet(page: Page, scene: Scene) -> None:
    await _step_into_lanes(page, scene)
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("packet-tree")).to_be_visible()


async def _open_tables(page: Page, _: Scene) -> None:
    await page.evaluate("document.querySelectorAll('main details').forEach(one => { one.open = true; })")


POOL = (
    Stop("explore", "/explore?last=1h"),
    Stop("explore-wrong", "/explore?q=proto+%3D%3D+tpc+and+agent%3Aweb1&last=1h", status=422),
    Stop("explore-wrong-time", "/explore?since=yesterday&until=tomorrow", status=422),
    Stop("explore-suggestions", "/explore?last=1h", _suggest),
    Stop("explore-marked", "/explore?last=1h", _mark),
    Stop("explore-packet", "/explore?last=1h&q=tcp", _open_packet),
    Stop("explore-tables", "/explore?last=1h&q=dns", _open_tables),
    Stop("explore-nothing", "/explore?since=2001-01-01&until=2001-01-02"),
    Stop("explore-conversations", "/explore?what=conversations&last=1h"),
    Stop("explore-off", "/explore?last=1h", hub=_switched_off),
    Stop("explore-not-open", "/explore?last=1h", hub=_not_open),
    Stop("explore-too-slow", "/explore?q=dns&last=1h", hub=_too_slow),
    Stop("conversation", "/explore/conversations/{conversation}", _open_lane_packet),
    Stop("conversation-lanes", "/explore/conversations/{conversation}", _step_into_lanes),
    Stop("conversation-no-packets", "/explore/conversations/path"),
    Stop("conversation-largest", "/explore/conversations/largest"),
    Stop("conversation-unknown", "/explore/conversations/nothing-is-called-so", status=404),
    Stop("clocks", "/clocks?last=1h", _open_tables),
    Stop("clocks-unknown", "/clocks?since=2001-01-01&until=2001-01-02"),
    Stop("clocks-off", "/clocks", hub=_switched_off),
    Stop("session-pool-off", "/sessions/{stopped}", hub=_switched_off),
    Stop("session-pool-waits", "/sessions/{stopped}", hub=_waiting),
)
