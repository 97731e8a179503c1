"""How much an agent's interfaces carry: the difference between two looks at the kernel's totals.

The first look at an agent gives no rate, nor does one that is too close to the last. One look per agent is kept.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from wire.interface_counters import InterfaceCounters

MAX_AGENTS = 1024
MIN_INTERVAL_S = 0.5
MAX_INTERVAL_S = 30.0
"""An older look says nothing of now."""


@dataclass(frozen=True, slots=True)
class InterfaceRate:
    """Both directions, per second."""

    received_packets: float
    sent_packets: float
    received_bits: float
    sent_bits: float


class InterfaceRates:
    """The last look at each agent, and the rates it led to."""

    def __init__(self) -> None:
        self._looks: OrderedDict[str, tuple[float, dict[str, InterfaceCounters], dict[str, InterfaceRate]]]
        self._looks = OrderedDict()

    def look(
        self, agent: str, counters: Iterable[InterfaceCounters], now_s: float | None = None
    ) -> dict[str, InterfaceRate]:
        """Take a look and return the rates by interface; those that have none are absent. now_s: monotonic."""
        now_s = time.monotonic() if now_s is None else now_s
        current = {one.name: one for one in counters}
        last = self._looks.get(agent)
        if last is not None and now_s - last[0] < MIN_INTERVAL_S:
            return last[2]
        rates: dict[str, InterfaceRate] = {}
        if last is not None and now_s - last[0] <= MAX_INTERVAL_S:
            interval_s = now_s - last[0]
            for name, now in current.items():
                before = last[1].get(name)
                if (
                    before is None
                    or now.received_bytes < before.received_bytes
                    or now.sent_bytes < before.sent_bytes
                ):
                    continue  # another interface of that name: it counts from nothing
                rates[name] = InterfaceRate(
                    max(0, now.received_packets - before.received_packets) / interval_s,
                    max(0, now.sent_packets - before.sent_packets) / interval_s,
                    (now.received_bytes - before.received_bytes) * 8 / interval_s,
                    (now.sent_bytes - before.sent_bytes) * 8 / interval_s,
                )
        self._looks[agent] = (now_s, current, rates)
        self._looks.move_to_end(agent)
        while len(self._looks) > MAX_AGENTS:
            self._looks.popitem(last=False)
        return rates
