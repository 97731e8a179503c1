"""What a running agent may still do, as the kernel says: all of its threads, and the programs it would start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.privileges import (
    CAP_BPF,
    CAP_DAC_OVERRIDE,
    CAP_NET_ADMIN,
    CAP_NET_RAW,
    CAP_PERFMON,
    CAP_SYS_RESOURCE,
)
from tests.agent.test_agent import Lab, lab, spec

__all__ = ["lab"]
pytestmark = pytest.mark.root
NEEDED = sum(1 << one for one in (CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_SYS_RESOURCE))


def sets(pid: int) -> list[dict[str, int]]:
    """Of each thread: CapInh, CapPrm, CapEff, CapBnd, NoNewPrivs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        names = ("CapInh", "CapPrm", "CapEff", "CapBnd")
        found.append(
            {name: int(lines[name], 16) for name in names} | {"NoNewPrivs": int(lines["NoNewPrivs"])}
        )
    return found


async def test_a_capturing_agent_has_only_what_it_needs(lab: Lab) -> None:
    one = spec()
    await lab.home.declare(lab.hub, 1, one)
    process = lab.home.start()
    await lab.state(one.id, "running")
    lab.send(10)
    await lab.stored(one.id, 10)
    threads = sets(process.pid)
    assert len(threads) > 2
    for held in threads:
        assert held["CapEff"] == held["CapPrm"]
        assert held["CapEff"] & ~NEEDED == 0, lab.home.log()
        assert held["CapEff"] >> CAP_NET_RAW & 1
        assert held["CapBnd"] & ~NEEDED == 0
        assert (held["CapInh"], held["NoNewPrivs"]) == (0, 1)
    assert lab.home.stop() == 0


async def test_a_state_directory_of_somebody_else_goes_on_working(lab: Lab) -> None:
    for path in (lab.home.directory, *lab.home.directory.rglob("*")):
        os.chown(path, 65534, 65534)
    one = spec()
    await lab.home.declare(lab.hub, 1, one)
    process = lab.home.start()
    await lab.state(one.id, "running")
    lab.send(10)
    await lab.stored(one.id, 10)
    for held in sets(process.pid):
        assert held["CapEff"] & ~NEEDED == 1 << CAP_DAC_OVERRIDE
    assert "CAP_DAC_OVERRIDE is kept" in lab.home.log()
    assert lab.home.stop() == 0
