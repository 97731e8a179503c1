"""What the agent may take of its host, and what it gives up when it takes more: decided here, obeyed by the sessions.

Order of shedding: first packets are shortened (the kernel copies less, less is compressed, stored and sent), then only
a sample of the flows is kept (`sampled_out`; where eBPF judges, elsewhere this step gives up nothing more), then all
are turned away before they are compressed, each counted as `dropped_newest` and declared in the chain. Triggering and
recovering have thresholds of their own, and both take several looks in a row, so that a peak sheds nothing and the
relief that shedding itself brings doesn't end it at once. Steps are taken one at a time, in both directions.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from agent import resources
from agent.settings import Config

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
TRIGGER_LOOKS = 3
RECOVER_LOOKS = 10


class Step(IntEnum):
    """How much is shed."""

    NOTHING = 0
    SHORT = 1
    """Ring sessions keep `limits.snaplen` bytes of each packet at most."""
    SAMPLED = 2
    """And one flow in `limits.sampling`, where the kernel can."""
    AWAY = 3
    """And their packets are turned away, counted."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One look. None: not known this time, which triggers nothing and recovers nothing."""

    cpu_percent: float | None = None
    """Of one core, since the look before."""
    memory_bytes: int | None = None
    uplink_bytes_per_s: float | None = None
    disk_free_bytes: int | None = None
    """On the spool's disk."""


@dataclass(frozen=True, slots=True)
class Shedding:
    """Where the agent stands."""

    step: Step = Step.NOTHING
    reason: str = ""
    """Which limit, in words; "" when nothing is shed."""
    over: int = 0
    """Looks in a row above a trigger."""
    calm: int = 0
    """Looks in a row below every recovery threshold."""


NOT_SHEDDING = Shedding()


def decide(now: Shedding, measured: Measured, config: Config) -> Shedding:
    """The next standing, after one more look. Pure."""
    checks = _checks(measured, config)
    exceeded = [words for value, trigger, _, words in checks if value is not None and value > trigger]
    calm = all(value is not None and value < recovery for value, _, recovery, _ in checks)
    if exceeded:
        reason = "; ".join(exceeded)
        if now.over + 1 < TRIGGER_LOOKS:
            return Shedding(now.step, now.reason, over=now.over + 1)
        if now.step is Step.AWAY:
            return Shedding(now.step, reason, over=now.over)
        return Shedding(Step(now.step + 1), reason)
    if now.step is Step.NOTHING:
        return NOT_SHEDDING
    if not calm:
        return Shedding(now.step, now.reason)
    if now.calm + 1 < RECOVER_LOOKS:
        return Shedding(now.step, now.reason, calm=now.calm + 1)
    return NOT_SHEDDING if now.step is Step.SHORT else Shedding(Step(now.step - 1), now.reason)


def _checks(measured: Measured, config: Config) -> list[tuple[float | None, float, float, str]]:
    """(value, trigger, recovery, words) of each limit that is set; all grow with what is taken."""
    share = config.limits_recover_percent / 100
    checks: list[tuple[float | None, float, float, str]] = []
    for value, limit, words in (
        (measured.cpu_percent, config.limits_cpu_percent, "{:g} % of a core"),
        (measured.memory_bytes, config.limits_memory_bytes, "{} bytes of memory"),
        (measured.uplink_bytes_per_s, config.limits_uplink_bytes_per_s, "{} bytes per second sent"),
    ):
        if limit is not None:
            checks.append((value, limit, limit * share, "more than " + words.format(limit)))
    if config.limits_disk_free_bytes:
        least, free = config.limits_disk_free_bytes, measured.disk_free_bytes
        words = f"less than {least} bytes free on the spool's disk"
        checks.append((None if free is None else -free, -least, -least / share, words))
    return checks


class SelfLimits:
    """Looks once a second and tells when the standing changed."""

    def __init__(
        self, config: Config, sent_bytes: Callable[[], int], changed: Callable[[Shedding], None]
    ) -> None:
        """sent_bytes: bytes handed to the connection so far. changed: called in the event loop."""
        self.standing = NOT_SHEDDING
        self._config = config
        self._sent_bytes = sent_bytes
        self._changed = changed
        self._last = (time.monotonic(), resources.cpu_seconds(), sent_bytes())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look(await asyncio.to_thread(_free_bytes, self._config.spool_path))

    def look(self, disk_free_bytes: int | None) -> None:
        """One look, and what follows from it."""
        now = (time.monotonic(), resources.cpu_seconds(), self._sent_bytes())
        elapsed_s = max(now[0] - self._last[0], 0.001)
        measured = Measured(
            cpu_percent=100 * (now[1] - self._last[1]) / elapsed_s,
            memory_bytes=resources.resident_bytes() or None,
            uplink_bytes_per_s=(now[2] - self._last[2]) / elapsed_s,
            disk_free_bytes=disk_free_bytes,
        )
        self._last = now
        before, self.standing = self.standing, decide(self.standing, measured, self._config)
        if (before.step, before.reason) != (self.standing.step, self.standing.reason):
            log.warning("%s (%s)", words(self.standing) or "back within the limits", measured)
            self._changed(self.standing)


def words(standing: Shedding) -> str:
    """For people; "" when nothing is shed."""
    if standing.step is Step.NOTHING:
        return ""
    return f"over the limits of the agent's host ({standing.reason}): {_GIVEN_UP[standing.step]}"


_GIVEN_UP = {
    Step.SHORT: "packets are cut short",
    Step.SAMPLED: "packets are cut short and, with eBPF, flows are sampled",
    Step.AWAY: "packets are turned away and counted",
}


def _free_bytes(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None
