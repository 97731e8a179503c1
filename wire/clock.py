"""The state of a host's clock as the agent measured it; never a reason to trust its times."""

import re
from dataclasses import dataclass
from typing import Any

from wire import fields

STATES = ("synchronized", "unsynchronized", "unknown")
_source = re.compile(r"[a-z0-9-]{1,16}", re.ASCII)
_FAR_NS = 2**62


@dataclass(frozen=True, slots=True)
class Clock:
    """One look at the clock."""

    source: str = "none"
    """Who disciplines it: "chrony", "ntp", "none"; "file" when the times come out of a capture file. With "phc-"
    before it packets carry the network card's stamps (flag HARDWARE_STAMP), of a clock within 1 ms of the host's."""
    state: str = "unknown"
    """"synchronized", "unsynchronized" or "unknown"."""
    offset_ns: int | None = None
    """Estimated offset from UTC, nanoseconds, positive: this clock is ahead. None: not known."""
    error_ns: int | None = None
    """Estimated bound of that offset's error, nanoseconds. None: not known."""
    stepped_ns: int | None = None
    """A step of the clock seen since the last batch, nanoseconds with sign. None: no step."""

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR or JSON."""
        return {
            "source": self.source,
            "state": self.state,
            "offset_ns": self.offset_ns,
            "error_ns": self.error_ns,
            "stepped_ns": self.stepped_ns,
        }

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "Clock":
        """Checked. WireError otherwise."""
        return cls(
            fields.text(map_, "source", max_bytes=16, pattern=_source),
            fields.choice(map_, "state", STATES),
            fields.optional(map_, "offset_ns", fields.integer, -_FAR_NS, _FAR_NS),
            fields.optional(map_, "error_ns", fields.integer, 0, _FAR_NS),
            fields.optional(map_, "stepped_ns", fields.integer, -_FAR_NS, _FAR_NS),
        )
