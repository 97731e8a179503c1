"""When the agent sheds and when it comes back: the decision as tables, and a real agent under a real load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import ConfigError, parse_config
from agent.self_limits import (
    NOT_SHEDDING,
    RECOVER_LOOKS,
    TRIGGER_LOOKS,
    Measured,
    Shedding,
    Step,
    decide,
    words,
)
from agent.settings import MIB, Config
from tests.agent.test_agent import PORT, Lab, lab, spec, tell_changed
from tests.support.nats_backbone import until
from wire.batch import Kind
from wire.chain import Verdict

__all__ = ["lab"]
FINE = Measured(cpu_percent=10, memory_bytes=50 * MIB, uplink_bytes_per_s=1000, disk_free_bytes=10_000 * MIB)
CONFIG = Config(
    limits_cpu_percent=50.0,
    limits_memory_bytes=200 * MIB,
    limits_uplink_bytes_per_s=10_000,
    limits_disk_free_bytes=100 * MIB,
    limits_recover_percent=80.0,
)


def after(looks: list[Measured], start: Shedding = NOT_SHEDDING, config: Config = CONFIG) -> list[Step]:
    """The step after each look."""
    steps, standing = [], start
    for look in looks:
        standing = decide(standing, look, config)
        steps.append(standing.step)
    return steps


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"cpu_percent": 50.1}, "more than 50 % of a core"),
        ({"memory_bytes": 200 * MIB + 1}, "more than 209715200 bytes of memory"),
        ({"uplink_bytes_per_s": 10_001.0}, "more than 10000 bytes per second sent"),
        ({"disk_free_bytes": 100 * MIB - 1}, "less than 104857600 bytes free on the spool's disk"),
    ],
)
def test_each_limit_triggers_after_three_looks_one_step_at_a_time(bad: dict[str, float], reason: str) -> None:
    look = replace(FINE, **bad)  # type: ignore[arg-type]
    steps = after([look] * (4 * TRIGGER_LOOKS))
    assert steps == [Step.NOTHING] * 2 + [Step.SHORT] * 3 + [Step.SAMPLED] * 3 + [Step.AWAY] * 4
    standing = NOT_SHEDDING
    for _ in range(TRIGGER_LOOKS):
        standing = decide(standing, look, CONFIG)
    assert standing.reason == reason
    assert reason in words(standing)


def test_peaks_trigger_nothing() -> None:
    peak = replace(FINE, cpu_percent=400)
    assert set(after([peak, peak, FINE] * 20)) == {Step.NOTHING}


def test_recovery_has_a_threshold_of_its_own_and_takes_ten_looks_a_step() -> None:
    away = Shedding(Step.AWAY, "cpu")
    steps = after([FINE] * (3 * RECOVER_LOOKS), away)
    assert steps == [Step.AWAY] * 9 + [Step.SAMPLED] * 10 + [Step.SHORT] * 10 + [Step.NOTHING]
    between = replace(FINE, cpu_percent=45)  # below the trigger, not below 80 % of it
    assert set(after([between] * 100, away)) == {Step.AWAY}
    assert set(after(([FINE] * 9 + [between]) * 10, away)) == {Step.AWAY}
    low_disk = replace(FINE, disk_free_bytes=120 * MIB)  # 100 / 0.8 = 125 MiB
    assert set(after([low_disk] * 100, away)) == {Step.AWAY}
    assert after([replace(FINE, disk_free_bytes=126 * MIB)] * 10, away)[-1] is Step.SAMPLED


def test_a_new_excess_on_the_way_back_sheds_again() -> None:
    bad = replace(FINE, uplink_bytes_per_s=1e9)
    looks = [FINE] * RECOVER_LOOKS + [bad] * TRIGGER_LOOKS
    assert after(looks, Shedding(Step.AWAY, "cpu"))[-4:] == [Step.SAMPLED] * 3 + [Step.AWAY]


def test_what_cannot_be_measured_triggers_nothing_and_recovers_nothing() -> None:
    unknown = replace(FINE, disk_free_bytes=None)
    assert set(after([unknown] * 50)) == {Step.NOTHING}
    assert set(after([unknown] * 50, Shedding(Step.SHORT, "cpu"))) == {Step.SHORT}


def test_without_limits_nothing_is_shed() -> None:
    enormous = Measured(1e6, 1 << 50, 1e12, 65 * MIB)
    assert set(after([enormous] * 50, config=Config())) == {Step.NOTHING}
    assert set(after([replace(enormous, disk_free_bytes=0)] * 2, config=Config())) == {Step.NOTHING}
    assert after([replace(enormous, disk_free_bytes=0)] * 3, config=Config())[-1] is Step.SHORT


def test_the_limits_in_the_file() -> None:
    text = b"limits:\n  cpu_percent: 30\n  uplink_bytes_per_s: 5 MiB\n  disk_free_bytes: 0\n"
    config = parse_config(text, Path("agent.yaml"))
    assert (config.limits_cpu_percent, config.limits_uplink_bytes_per_s) == (30, 5 * MIB)
    assert set(after([replace(FINE, disk_free_bytes=0)] * 9, config=config)) == {Step.NOTHING}
    with pytest.raises(ConfigError, match="1 to 99 percent"):
        parse_config(b"limits: {recover_percent: 100}", Path("agent.yaml"))


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("path", ["auto", "classic"])
async def test_an_agent_under_load_sheds_counts_and_comes_back(lab: Lab, tmp_path: Path, path: str) -> None:
    """More is sent than its owner allows: it cuts, then turns away, and when the load ends it takes packets again."""
    file = tmp_path / "agent.yaml"
    limits = "limits:\n  uplink_bytes_per_s: 4 KiB\nbatch:\n  compression: none\n"
    file.write_text(f"{limits}capture:\n  path: {path}\n")
    one = replace(spec(), filter="udp")
    await lab.home.declare(lab.hub, 1, one)
    lab.home.start("run", "--config", str(file))
    await lab.state(one.id, "running")

    async def under_load(words_: str, timeout_s: float) -> None:
        def said() -> bool:
            for port in range(PORT, PORT + 500):  # as many flows: a sample of them is still far too much
                lab.send(1, port, size=600)
            session = lab.session(one.id)
            return session is not None and words_ in session.reason

        await until(said, timeout_s)

    await under_load("more than 4096 bytes per second sent): packets are cut short", 60)
    await under_load("packets are cut short and, with eBPF, flows are sampled", 60)
    await under_load("packets are turned away and counted", 60)
    await until(lambda: lab.books(one.id).dropped_newest > 0, 60)
    assert any("over the limits of the agent's host" in alert for alert in lab.heartbeats[-1].alerts)

    def back() -> bool:
        session = lab.session(one.id)
        return session is not None and session.reason == ""

    await until(back, 90)
    lab.send(100, size=600)
    await lab.home.declare(lab.hub, 2, replace(one, state="stopped"))
    await tell_changed(lab)
    await lab.state(one.id, "stopped")
    batches = await lab.batches(one.id)
    books = batches[-1].header.books
    assert batches[-1].header.kind is Kind.CLOSING
    assert books.received_difference() == books.captured_difference() == 0
    assert books.received > books.dropped_newest > 0
    if lab.reports[-1].capture_path.endswith("ebpf"):
        assert books.sampled_out
    else:
        assert not books.sampled_out
    kinds = {kind: [b.header for b in batches if b.header.kind is kind] for kind in Kind}
    assert {header.snaplen for header in kinds[Kind.PACKETS]} == {262144, 96}
    # Of the interval in which the filter was swapped, packets keep what the more generous one kept.
    assert min(h.captured_bytes / h.packets for h in kinds[Kind.PACKETS] if h.snaplen == 96) == 96
    declared = [h for h in kinds[Kind.TOMBSTONE] if (h.reason or "").startswith("limits of the host")]
    assert sum(header.packets for header in declared) == books.dropped_newest
    assert [one.verdict for one in await lab.verdicts(one.id)] == [Verdict.DECLARED_DROP]
    assert lab.home.stop() == 0
