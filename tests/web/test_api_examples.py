"""The commands of docs/api.md, run as they stand there against a running hub."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from tests.support.nats_backbone import until
from tests.support.need import need
from tests.web.fake_agent import udp_packet
from tests.web.test_live import stage

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "api.md"


async def _shell(script: str, directory: Path, **variables: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        cwd=directory,
        env=os.environ | {"no_proxy": "*", "NO_PROXY": "*"} | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


@pytest.mark.slow
async def test_the_commands_of_the_document_work(tmp_path: Path) -> None:
    need("bash", "curl")
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    async with stage(tmp_path) as (where, _, agent):
        variables = {
            "HUB": where.url,
            "CA": str(where.state.ca_certificate),
            "PASSWORD": where.password,
        }
        running = asyncio.Event()

        async def capture() -> None:
            await until(lambda: bool(agent.chains), timeout_s=30)
            await agent.send(next(iter(agent.chains)), [udp_packet(1)])
            running.set()

        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(capture())
            status, output = await _shell("\n".join(blocks), tmp_path, **variables)
            sending.cancel()
        assert status == 0, output
        assert running.is_set()
        assert '"verdict":"ok"' in output
        assert (tmp_path / "capture.pcapng").read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
        assert (tmp_path / "evidence.wpz").read_bytes()[:2] == b"PK"
