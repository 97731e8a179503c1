"""What an interface has carried, as its kernel counts: beside the interfaces in an agent's answer, for their rates."""

from dataclasses import dataclass
from typing import Any

from wire import fields


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceCounters:
    """Running totals since the interface exists (Linux: rtnl_link_stats64), whatever captures it."""

    name: str
    received_packets: int
    sent_packets: int
    received_bytes: int
    sent_bytes: int

    def to_map(self) -> dict[str, Any]:
        """As a map for CBOR."""
        return {
            "name": self.name,
            "received_packets": self.received_packets,
            "sent_packets": self.sent_packets,
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
        }

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "InterfaceCounters":
        """Checked. WireError otherwise."""
        return cls(
            name=fields.text(map_, "name", min_bytes=1, max_bytes=128),
            received_packets=fields.integer(map_, "received_packets"),
            sent_packets=fields.integer(map_, "sent_packets"),
            received_bytes=fields.integer(map_, "received_bytes"),
            sent_bytes=fields.integer(map_, "sent_bytes"),
        )
