"""/metrics: who may read it, and that it is what Prometheus reads."""

from __future__ import annotations

import re
from pathlib import Path

from hub.config import HubSettings
from tests.web.site import site

LINE = re.compile(r"wirepool_[a-z0-9_]+(\{version=\"[^\"\n]+\"\})? \S+")
TOKEN = "correct-horse-battery"


async def test_metrics_are_for_those_who_are_logged_in_or_have_the_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    settings = HubSettings(metrics_token_file=str(file))
    async with site(tmp_path, settings=settings) as page, page.client() as client:

        async def status(token: str) -> int:
            answer = await client.http.get("/metrics", headers={"authorization": f"Bearer {token}"})
            return answer.status_code

        assert (await client.http.get("/metrics")).status_code == 401
        assert await status(TOKEN) == 401  # there is no file
        file.write_text("short")
        assert await status("short") == 401
        file.write_text(TOKEN + "\n")
        assert await status(TOKEN) == 200
        assert await status(TOKEN[:-1]) == 401
        assert await status("") == 401
        await client.log_in()
        answer = await client.http.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = answer.text.splitlines()
        told = [line for line in lines if not line.startswith("#")]
        assert all(LINE.fullmatch(line) for line in told)
        values = {name: float(value) for name, value in (line.split(" ") for line in told)}
        assert values["wirepool_nats_connected"] == 0
        for name in (
            "batches_total",
            "pooled_packets_total",
            "pool_lag_seconds",
            "correlation_queue_packets",
        ):
            assert values[f"wirepool_{name}"] == 0
            assert sum(line.startswith(f"# TYPE wirepool_{name} ") for line in lines) == 1
