"""A hundred hostile texts by reports, orders and packets onto every page: nothing runs, the layout holds."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
from playwright.async_api import BrowserContext, Page, expect

from hub.pool.store import OffsetRow, Store
from hub.web.running import Hub
from tests.browser.hostile_texts import ALL
from tests.browser.layout import out_of_reach
from tests.browser.tour import HEIGHTS, Scene, SpokenFor, log_in, long_interfaces
from tests.support.nats_backbone import backbone, until
from tests.web.fake_agent import fake_agent, udp_packet
from tests.web.site import site
from tests.web.test_chromium import browser
from tests.web.test_explore import conversation
from wire.control import Domain

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PER_AGENT = 15
"""A heartbeat carries 16 alerts."""
SAYABLE = [
    text for text in ALL if all(character >= " " and not "\x7f" <= character <= "\x9f" for character in text)
]
"""Those without control characters: agents that say others are refused before anything is shown."""
GROUPS = [SAYABLE[first : first + PER_AGENT] for first in range(0, len(SAYABLE), PER_AGENT)]

WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", event => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""
INTRUDERS = (
    "script:not([src^='/static/']), style, iframe, object, embed, base, marquee, video, math, plaintext, xmp, "
    "link:not([href^='/static/']), meta[http-equiv], svg:not([class]):not(svg svg), img:not([src='/static/icon.svg']), "
    "[onerror], [onload], [onclick], [onfocus], [onmouseover], [ontoggle], [onbegin], [style*='fixed'], "
    "a[href^='javascript'], a[href^='//'], a[href^='http'], a[href^='\\\\'], form[action^='javascript'], "
    "main h1 ~ h1, main main"
)
JUDGE = """
intruders => {
  const wrong = [];
  if (window.hacked) wrong.push("a text was run");
  wrong.push(...window.violations.map(one => `Content-Security-Policy: ${one}`));
  document.querySelectorAll(intruders).forEach(one => wrong.push(`became an element: ${one.outerHTML.slice(0, 200)}`));
  return wrong;
}
"""


def dns_question(text: str) -> bytes:
    """A question for a name that is this text, in labels of at most 63 bytes."""
    data = text.encode()
    labels = [data[first : first + 63] for first in range(0, len(data), 63)] or [b"x"]
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    packet = udp_packet(1, b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + name + b"\0\x10\0\1")
    return packet[:36] + b"\0\x35" + packet[38:]


def http_request(text: str) -> bytes:
    """A request whose path, host and agent are this text."""
    line = text.encode()
    data = b"GET /" + line + b" HTTP/1.1\r\nHost: " + line + b"\r\nUser-Agent: " + line + b"\r\n\r\n"
    tcp = struct.pack("!HHIIBBHHH", 40000, 80, 1, 1, 0x50, 0x18, 512, 0, 0) + data
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, bytes([10, 0, 0, 7]), bytes([10, 0, 0, 9])
    )
    return bytes.fromhex("0200000000090200000000070800") + ip + tcp


def _heard(hub: Hub, name: str, texts: list[str]) -> bool:
    """Whether the hub has taken in what the agent says: else its texts would be shown nowhere."""
    status = hub.presence.status(name)
    names = {one.name for one in status.report.interfaces} if status.report else set()
    return set(texts) <= names and status.heartbeat is not None and list(status.heartbeat.alerts) == texts


@contextlib.asynccontextmanager
async def hostile_hub(directory: Path) -> AsyncIterator[Scene]:
    """Agents that say every text wherever there is room for one; sessions whose filters and reasons are such texts."""
    async with (
        contextlib.AsyncExitStack() as stack,
        backbone(directory) as bus,
        site(directory, state=bus.state) as page,
        page.client() as client,
    ):
        await page.hub.bus.client()
        await client.log_in()
        scene = Scene(page, client)
        for number, texts in enumerate(GROUPS):
            name = f"host{number}"
            agent = await stack.enter_async_context(
                fake_agent(bus, page.hub.registry, name, hostname=texts[0], kind=SpokenFor)
            )
            assert isinstance(agent, SpokenFor)
            scene.agents[name] = agent
            agent.said = {
                Domain.REPORT: {
                    "os": texts[1 % len(texts)],
                    "kernel": texts[2 % len(texts)],
                    "machine": texts[3 % len(texts)][:16],
                    "version": texts[4 % len(texts)].encode()[:60].decode(errors="ignore"),
                    "capture_path": texts[5 % len(texts)].encode()[:60].decode(errors="ignore"),
                    "capture_path_reason": " ".join(texts)[:500],
                    "best_interface_reason": " ".join(texts)[:500],
                    "interfaces": long_interfaces(texts),
                },
                Domain.HEARTBEAT: {"alerts": texts},
            }
            for place, text in enumerate(texts):
                agent.refuse["docker0"] = texts[place]
                interface = "docker0" if place == 0 else "eth0"
                scene.sessions[f"{number}-{place}"] = page.hub.sessions.start(
                    name, interface, filter=text, user=text[:64], name=text
                )
        page.hub.declarer.wake()
        await until(lambda: all(page.hub.presence.status(name).online for name in scene.agents))
        first = scene.sessions["running"] = scene.sessions["0-1"]
        await until(lambda: first in scene.agents["host0"].chains, timeout_s=20)
        for agent in scene.agents.values():
            await agent.report()
            await agent.beat()
        await until(
            lambda: all(
                _heard(page.hub, name, texts) for name, texts in zip(scene.agents, GROUPS, strict=True)
            )
        )
        await _hostile_results(page.hub)
        yield scene


async def _hostile_results(hub: Hub) -> None:
    """Conversations and clocks whose every text is such a text: names are foreign, and a store may be."""
    assert hub.pool is not None
    now_ns = time.time_ns()
    rows, offsets = [], []
    for number, texts in enumerate(GROUPS):
        places = [{"agent": text, "interface": text, "hop": hop} for hop, text in enumerate(texts)]
        segments = [
            {
                "label": text,
                "seen": [[place, now_ns + place, now_ns, now_ns + 99, text, 2]],
                "lost_after": place,
            }
            for place, text in enumerate(texts)
        ]
        details = orjson.dumps(
            {"version": 1, "places": places, "segments": segments, "unknown": texts}, default=str
        )
        rows.append(
            conversation(
                id=str(number),
                community_id=texts[0],
                source=texts[1 % len(texts)],
                destination=texts[2 % len(texts)],
                agents=tuple(texts),
                names=tuple(texts),
                details=details,
            )
        )
        offsets += [OffsetRow(text, now_ns, text, 1, 0, 2, 3.0, text[:20], text) for text in texts]
    await until_open(hub.pool.store)
    await hub.pool.store.put_conversations(rows)
    await hub.pool.store.put_offsets(offsets)


async def until_open(store: Store) -> None:
    async def ready() -> bool:
        return (await store.stats()).ready

    await until(ready)


async def _watched_page(context: BrowserContext) -> tuple[Page, list[str]]:
    page, dialogs = await context.new_page(), []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await page.add_init_script(WATCH)
    return page, dialogs


async def judge(page: Page, dialogs: list[str]) -> list[str]:
    """What a text has brought about on this page, at two widths."""
    wrong: list[str] = [f"a dialog: {text}" for text in dialogs]
    for width in (1440, 400):
        await page.set_viewport_size({"width": width, "height": HEIGHTS[width]})
        wrong += await out_of_reach(page)
    wrong += await page.evaluate(JUDGE, INTRUDERS)
    return [f"{page.url}: {line}" for line in wrong]


async def test_texts_of_agents_and_orders(tmp_path: Path) -> None:
    assert len(ALL) == 100
    async with hostile_hub(tmp_path) as scene, browser() as (context, complaints):
        page, dialogs = await _watched_page(context)
        await log_in(page, scene.site)
        wrong: list[str] = []
        sessions = list(scene.sessions.values())
        paths = [
            "/agents",
            "/live",
            *(f"/live?agent=host{number}" for number in range(len(GROUPS))),
            *(f"/agents/host{number}" for number in range(len(GROUPS))),
            *(f"/agents?q={quote(text)}" for text in SAYABLE[::10]),
            *(f"/connect?host={quote(text)}" for text in SAYABLE[::5]),
            "/sessions",
            *(
                f"/live?session={','.join(sessions[first : first + 16])}"
                for first in range(0, len(sessions), 16)
            ),
            *(f"/sessions/{session}" for session in sessions[::6]),
            *(f"/sessions?q={quote(text)}" for text in SAYABLE[::5]),
            *(f"/{quote(text, safe='')}" for text in SAYABLE[::10]),
            *(f"/live?session={quote(text)}" for text in SAYABLE[::10]),
            *(f"/explore?q={quote(text)}" for text in SAYABLE[::5]),
            *(f"/explore?since={quote(text)}&until={quote(text)}" for text in SAYABLE[::20]),
            *(f"/explore/conversations/{quote(text, safe='')}" for text in SAYABLE[::20]),
            "/explore?what=conversations",
            *(f"/explore/conversations/{number}" for number in range(len(GROUPS))),
            "/clocks",
        ]
        for path in paths:
            await page.goto(scene.site.url + path, wait_until="load")
            wrong += await judge(page, dialogs)
        await page.goto(f"{scene.site.url}/agents")
        await expect(page.get_by_test_id("agents")).to_contain_text(GROUPS[0][0])
        await context.clear_cookies()
        for text in SAYABLE[::25]:
            await page.goto(f"{scene.site.url}/login?next={quote(text)}")
            await page.get_by_label("User").fill(text)
            await page.get_by_label("Password").fill("wrong")
            await page.get_by_test_id("login").click()
            await expect(page.get_by_test_id("login-error")).to_be_visible()
            wrong += await judge(page, dialogs)
        assert not wrong, "\n".join(wrong)
        ours = [text for text in complaints if "Failed to load resource" not in text]
        assert ours == []


async def test_texts_of_packets(tmp_path: Path) -> None:
    async with hostile_hub(tmp_path) as scene, browser() as (context, complaints):
        page, dialogs = await _watched_page(context)
        await log_in(page, scene.site)
        wrong: list[str] = []
        session, agent = scene.sessions["running"], scene.agents["host0"]
        await page.goto(f"{scene.site.url}/live?session={session}")
        await expect(page.get_by_test_id("count-spool")).not_to_have_text("0 B", timeout=15_000)
        for place in range(0, len(ALL), 10):
            packets = [
                made(text) for text in ALL[place : place + 10] for made in (dns_question, http_request)
            ]
            await agent.send(session, packets)
            for kind in ("DNS", "HTTP"):
                row = page.get_by_test_id("rows").get_by_text(kind, exact=True).last
                await row.click()
                await expect(page.get_by_test_id("packet-tree")).to_be_visible()
                await expect(page.get_by_test_id("packet-facts")).to_contain_text("bytes on the wire")
                wrong += await judge(page, dialogs)
                await page.keyboard.press("Escape")
        pool = scene.site.hub.pool
        assert pool is not None

        async def pooled() -> bool:
            return (await pool.store.stats()).packets == 2 * len(ALL)

        await until(pooled, timeout_s=20)
        rows = page.get_by_test_id("rows").locator("tr")
        await page.goto(f"{scene.site.url}/explore?last=1h")
        await expect(rows).to_have_count(100)
        await page.get_by_test_id("more").click()
        await expect(rows).to_have_count(2 * len(ALL))
        wrong += await judge(page, dialogs)
        for number in range(0, 2 * len(ALL), 25):
            await rows.nth(number).click()
            await expect(page.get_by_test_id("packet-tree")).to_be_visible()
            wrong += await judge(page, dialogs)
        assert not wrong, "\n".join(wrong)
        assert complaints == []
