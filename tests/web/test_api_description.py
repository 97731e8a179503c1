"""The HTTP API against its own description, on a running hub: no server error, and every answer as it is described."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from hub.web.auth import COOKIE
from tests.web.test_live import stage

EXAMPLES = 25
"""Of each operation and phase. The test is bounded by them, and by its time."""
TIME_S = 400
LEFT_OUT = ("/api/logout", "/api/password", "/api/login", "/api/live")
"""They would end the login, be slowed down by the brake on guessing, or never end."""


async def _schemathesis(settings: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run", *arguments),
        cwd=settings.parent,  # it leaves a folder of its own
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"NO_COLOR": "1", "NO_PROXY": "*", "no_proxy": "*"},
    )
    try:
        async with asyncio.timeout(TIME_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.timeout(TIME_S + 60)
async def test_every_answer_is_as_it_is_described(tmp_path: Path) -> None:
    async with stage(tmp_path) as (where, client, _):
        schema = tmp_path / "openapi.json"
        schema.write_bytes((await client.http.get("/api/openapi.json")).content)
        settings = tmp_path / "schemathesis.toml"
        cookie = client.http.cookies[COOKIE]
        settings.write_text(
            f'[auth.openapi.login]\napi_key = "{cookie}"\n[auth.openapi.csrf]\napi_key = "{client.csrf}"\n'
        )
        bounds = ("--max-examples", str(EXAMPLES), "--seed", "1", "--request-timeout", "20")
        left_out = tuple(part for path in LEFT_OUT for part in ("--exclude-path", path))
        status, output = await _schemathesis(
            settings,
            *(str(schema), "--url", where.url, "--tls-verify", str(where.state.ca_certificate)),
            *(*bounds, *left_out),
            # What libpcap takes for a filter and which agents there are is in no schema.
            # Litestar's own answer to OPTIONS names the methods of a path's first handler.
            *("--exclude-checks", "positive_data_acceptance,allow_header_conformance"),
            "--continue-on-failure",
        )
        assert status == 0, output[-20_000:]
        assert (await client.http.get("/api/session")).status_code == 200, (
            "the login was in force until the end"
        )
