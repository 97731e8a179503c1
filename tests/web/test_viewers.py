"""Many look at one session: who never reads costs a bounded amount and slows nobody."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from h2.events import DataReceived

from hub.live.viewer import UPDATES_PER_SECOND
from hub.web.auth import COOKIE
from tests.support.nats_backbone import until
from tests.web.fake_agent import udp_packet
from tests.web.test_backpressure import H2Client
from tests.web.test_live import Events, stage, start, wait_for_state

WINDOW = 65_535
"""Bytes that HTTP/2 lets a server send before the client has read any."""
BATCH = 60
MOST_UPDATES = 200


@pytest.mark.slow
async def test_a_viewer_that_never_reads_costs_a_bounded_amount_and_slows_nobody(tmp_path: Path) -> None:
    async with stage(tmp_path) as (page, client, agent):
        session = await start(client)
        await wait_for_state(client, session, "running")
        path = f"/events/live?session={session}"
        stalled = await H2Client.connect(page.port, page.trust())
        cookie = f"{COOKIE}={client.http.cookies[COOKIE]}"
        await stalled.get(path, 1, more=[("cookie", cookie)])
        await until(lambda: page.hub.live.viewers == 1)
        (unread,) = page.hub.live._viewers
        async with client.http.stream("GET", path) as response:
            events = Events(response)
            await events.until("counters")
            told = sent = 0
            silent_since = 0.0
            updates = 0
            # Until the one that doesn't read got no update for a second's worth of the other's.
            while updates < MOST_UPDATES and silent_since < UPDATES_PER_SECOND:
                before = unread._last_update_s
                await agent.send(session, [udp_packet(sent + number) for number in range(BATCH)])
                sent += BATCH
                rows = json.loads(await events.until("rows"))["rows"]
                assert int(rows[-1][2]) == BATCH - 1, "the newest, at once"
                told += len(rows)
                updates += 1
                silent_since = silent_since + 1 if unread._last_update_s == before else 0
            assert silent_since == UPDATES_PER_SECOND, "nothing more is made for a viewer that doesn't read"
            assert len(unread._waiting) == unread.max_rows
            assert unread._not_shown > BATCH
            async with asyncio.timeout(10):
                counted = 0
                while told + counted < sent:
                    text = await events.until("counters", 'data-testid="count-not-shown"')
                    counted = int(text.split('data-testid="count-not-shown" data-value="')[1].split('"')[0])
            assert told + counted == sent, "shown or counted"
        received = 0
        while received < WINDOW:
            received += sum(len(one.data) for one in await stalled.events() if isinstance(one, DataReceived))
        assert received == WINDOW
        await stalled.close()
        await until(lambda: unread not in page.hub.live._viewers)
