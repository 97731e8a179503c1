"""How much of a packet's payload an agent may let out of its host: all, none, or a masked part.

What counts as payload is decided by the agent (`agent/_payload.h`): everything behind the last header that it knows to
be one. A policy is declared with a session, may be tightened by the host's owner, and stands in the signed header of
every batch it was applied to.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from wire import fields
from wire.errors import WireError

POLICIES = ("full", "headers", "masked")
MAX_KEEP_BYTES = 262144
MAX_PORT_RANGES = 32
"""Of one policy as declared or configured."""
MAX_MERGED_RANGES = 2 * MAX_PORT_RANGES
"""Of a session's and its host's together, as a batch's header has them."""

Policy = Literal["full", "headers", "masked"]
Ranges = tuple[tuple[int, int], ...]

_RANGE = re.compile(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class PayloadPolicy:
    """One policy. "full" and "headers" have no further members; "masked" has at least one."""

    policy: Policy = "full"
    keep_bytes: int | None = None
    """With "masked": bytes kept of each packet's payload, 0 to 262144; None: all."""
    ports_without: Ranges = ()
    """With "masked": (first, last) TCP and UDP ports whose packets keep no payload; sorted, apart from each other."""

    @property
    def full(self) -> bool:
        """Nothing is cut."""
        return self.policy == "full"

    @property
    def limit_bytes(self) -> int | None:
        """Bytes of payload kept of each packet; None: all."""
        return 0 if self.policy == "headers" else self.keep_bytes

    @property
    def words(self) -> str:
        """For people."""
        if self.policy != "masked":
            return "whole packets" if self.full else "headers only"
        ports = f"none on ports {ports_text(self.ports_without)}" if self.ports_without else ""
        if self.keep_bytes is None:
            return f"payload: {ports}"
        return f"payload: the first {self.keep_bytes} bytes" + (f", {ports}" if ports else "")

    def and_also(self, other: "PayloadPolicy") -> "PayloadPolicy":
        """What satisfies both: the stricter one, or what neither of them keeps taken away."""
        if "headers" in (self.policy, other.policy):
            return HEADERS
        if self.full or other.full:
            return other if self.full else self
        limits = [limit for limit in (self.keep_bytes, other.keep_bytes) if limit is not None]
        return PayloadPolicy(
            "masked", min(limits, default=None), merged(self.ports_without + other.ports_without)
        )

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR or JSON."""
        map_: dict[str, Any] = {"policy": self.policy}
        if self.keep_bytes is not None:
            map_["keep_bytes"] = self.keep_bytes
        if self.ports_without:
            map_["ports_without"] = [list(pair) for pair in self.ports_without]
        return map_

    @classmethod
    def from_map(cls, map_: dict[str, Any], *, max_ranges: int = MAX_PORT_RANGES) -> "PayloadPolicy":
        """Checked; unknown keys ignored. WireError otherwise, also for a policy this program doesn't know: what it
        would have to withhold is unknown too."""
        policy: Policy = fields.choice(map_, "policy", POLICIES)  # type: ignore[assignment]
        keep_bytes = fields.optional(map_, "keep_bytes", fields.integer, 0, MAX_KEEP_BYTES)
        ranges = []
        for pair in fields.optional(map_, "ports_without", fields.sequence, max_length=max_ranges) or []:
            if not isinstance(pair, list) or len(pair) != 2:
                raise WireError("ports_without: pairs [first, last] are needed")
            entry = {"first": pair[0], "last": pair[1]}
            first = fields.integer(entry, "first", 0, 65535)
            ranges.append((first, fields.integer(entry, "last", first, 65535)))
        limited = keep_bytes is not None or bool(ranges)
        if limited != (policy == "masked"):
            raise WireError(
                "payload: keep_bytes or ports_without are needed with the policy masked, and with no other"
            )
        return cls(policy, keep_bytes, merged(tuple(ranges)))


FULL = PayloadPolicy()
HEADERS = PayloadPolicy("headers")


def merged(ranges: Ranges) -> Ranges:
    """Sorted, and those that touch joined."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)


def parse_ports(text: str) -> Ranges:
    """Ports as people write them: "443, 8000-8100". WireError otherwise."""
    ranges = []
    for part in text.split(","):
        if not (part := part.strip()):
            continue
        match = _RANGE.fullmatch(part)
        if match is None:
            raise WireError(f"{part[:40]!r}: write ports as 443, 8000-8100")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= 65535:
            raise WireError(f"{part[:40]!r}: ports go from 0 to 65535, the lower one first")
        ranges.append((first, last))
    if len(ranges) > MAX_PORT_RANGES:
        raise WireError(f"{len(ranges)} ports and ranges where {MAX_PORT_RANGES} are allowed")
    return merged(tuple(ranges))


def ports_text(ranges: Ranges) -> str:
    """The reverse of `parse_ports`."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
