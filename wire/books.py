"""The books: every counter of a capture session, and the equations that must balance.

All counters are cumulative per (boot, session) and count packets. They only grow. At rest each equation's difference is
zero; while a session runs, the packets between two counters are in a named place (the ring, the open batch).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from wire import fields as checked


def _doc(text: str) -> dict[str, str]:
    return {"doc": text}


@dataclass(slots=True)
class Books:
    """The counters of one session (or the sum over several). Units: packets."""

    received: int = field(
        default=0,
        metadata=_doc(
            "Passed the socket's filter: the kernel's tp_packets, which include those the full ring then dropped."
        ),
    )
    dropped_ring: int = field(
        default=0, metadata=_doc("Dropped by the kernel because the ring was full (tp_drops).")
    )
    own_traffic: int = field(
        default=0,
        metadata=_doc("Left out because they are wirepool's own: to or from its server and hub addresses."),
    )
    dropped_invalid: int = field(
        default=0, metadata=_doc("Couldn't be represented (a record the source calls impossible).")
    )
    captured: int = field(default=0, metadata=_doc("Entered a batch."))
    dropped_newest: int = field(
        default=0, metadata=_doc("Turned away by a full spool under the policies drop_newest and stop.")
    )
    spooled: int = field(default=0, metadata=_doc("Written to the spool in a sealed batch."))
    dropped_oldest: int = field(
        default=0, metadata=_doc("Replaced in the spool by a tombstone under the policy drop_oldest.")
    )
    acknowledged: int = field(default=0, metadata=_doc("Acknowledged by the server: stored in the archive."))
    pending: int = field(
        default=0, metadata=_doc("In the spool, not yet acknowledged (a level, not a counter).")
    )
    filtered: int | None = field(
        default=None,
        metadata=_doc("Turned away by the filter; null means not counted (only an eBPF filter counts)."),
    )

    def received_difference(self, *, in_ring: int = 0) -> int:
        """received - (dropped_ring + own_traffic + dropped_invalid + captured + in_ring): 0 when it balances."""
        return self.received - (
            self.dropped_ring + self.own_traffic + self.dropped_invalid + self.captured + in_ring
        )

    def captured_difference(self, *, in_open_batch: int = 0) -> int:
        """captured - (spooled + dropped_newest + in_open_batch): 0 when it balances."""
        return self.captured - (self.spooled + self.dropped_newest + in_open_batch)

    def spooled_difference(self) -> int:
        """spooled - (acknowledged + pending + dropped_oldest): 0 when it balances."""
        return self.spooled - (self.acknowledged + self.pending + self.dropped_oldest)

    def balanced(self) -> bool:
        """Whether all three equations hold with nothing on the way (a session at rest)."""
        return not (self.received_difference() or self.captured_difference() or self.spooled_difference())

    def to_map(self) -> dict[str, int | None]:
        """The counters as a map for CBOR or JSON."""
        return {name: getattr(self, name) for name in NAMES}

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "Books":
        """Checked counters: each an integer of 0 to 2^63 - 1, `filtered` also null or absent. WireError otherwise."""
        values: dict[str, int | None] = {
            name: checked.integer(map_, name) for name in NAMES if name != "filtered"
        }
        values["filtered"] = checked.optional(map_, "filtered", checked.integer)
        return cls(**values)  # type: ignore[arg-type]

    def __add__(self, other: "Books") -> "Books":
        """The sum over two sessions or boots. `filtered` is None as soon as one of them didn't count it."""
        summed: dict[str, int | None] = {
            name: getattr(self, name) + getattr(other, name) for name in NAMES if name != "filtered"
        }
        if self.filtered is not None and other.filtered is not None:
            summed["filtered"] = self.filtered + other.filtered
        return Books(**summed)  # type: ignore[arg-type]


def total(several: Iterable[Books]) -> Books:
    """The sum of any number of books; of none, all zero."""
    result: Books | None = None
    for books in several:
        result = books if result is None else result + books
    return Books() if result is None else result


NAMES: tuple[str, ...] = tuple(member.name for member in fields(Books))
"""The counters' names, in the order of a packet's way."""

DOCUMENTATION: dict[str, str] = {member.name: member.metadata["doc"] for member in fields(Books)}
"""Each counter's meaning, for pages, metrics and docs."""
