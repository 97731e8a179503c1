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
        default=0,
        metadata=_doc(
            "Turned away by a full spool under the policies drop_newest and stop, or by the limits of the agent's host."
        ),
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
    sampled_out: int | None = field(
        default=None,
        metadata=_doc(
            "Passed the filter, but their flow is none of the sample; absent or null: not counted."
        ),
    )
    cut_off: int | None = field(
        default=None,
        metadata=_doc(
            "Passed the filter, but their flow had its bytes (flow_cutoff_bytes); absent or null: not counted."
        ),
    )

    flows_counted: int | None = field(
        default=None,
        metadata=_doc(
            "Seen and counted with their flow, kept or not; absent or null: no flow records were asked for."
        ),
    )
    flows_unattributed: int | None = field(
        default=None,
        metadata=_doc(
            "Seen while flows were counted, but not IP, or the table of flows had no room; absent or null as above."
        ),
    )
    flows_own: int | None = field(
        default=None,
        metadata=_doc(
            "Of flows_counted, wirepool's own connections, of which there are no records; absent or null as above."
        ),
    )
    flows_shipped: int | None = field(
        default=None,
        metadata=_doc(
            "Of flows_counted, those in flow records that were spooled; the rest was forgotten with its flow, or waits."
        ),
    )

    @property
    def flows_lost(self) -> int | None:
        """flows_counted - flows_own - flows_shipped: at rest, what the full table forgot with its flow."""
        if self.flows_counted is None:
            return None
        return max(0, self.flows_counted - (self.flows_own or 0) - (self.flows_shipped or 0))

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
        """The counters as a map for CBOR or JSON; without those that came later, where they aren't counted."""
        map_ = {name: getattr(self, name) for name in NAMES}
        return {name: value for name, value in map_.items() if value is not None or name not in LATER}

    @classmethod
    def from_map(cls, map_: dict[str, Any]) -> "Books":
        """Checked counters: each an integer of 0 to 2^63 - 1, those of UNCOUNTED also null or absent. WireError
        otherwise."""
        values: dict[str, int | None] = {
            name: checked.integer(map_, name) for name in NAMES if name not in UNCOUNTED
        }
        for name in UNCOUNTED:
            values[name] = checked.optional(map_, name, checked.integer)
        return cls(**values)  # type: ignore[arg-type]

    def __add__(self, other: "Books") -> "Books":
        """The sum over two sessions or boots. A number of UNCOUNTED is None as soon as one of them didn't count it."""
        summed: dict[str, int | None] = {}
        for name in NAMES:
            one, two = getattr(self, name), getattr(other, name)
            summed[name] = None if one is None or two is None else one + two
        return Books(**summed)  # type: ignore[arg-type]


def total(several: Iterable[Books]) -> Books:
    """The sum of any number of books; of none, all zero."""
    result: Books | None = None
    for books in several:
        result = books if result is None else result + books
    return Books() if result is None else result


FLOWS = ("flows_counted", "flows_unattributed", "flows_own", "flows_shipped")
"""Counters of sessions that ask for flow records."""
LATER = ("sampled_out", "cut_off", *FLOWS)
"""Counters that the first writers of version 1 don't know."""
UNCOUNTED = ("filtered", *LATER)
"""Counters that only an eBPF filter keeps."""

NAMES: tuple[str, ...] = tuple(member.name for member in fields(Books))
"""The counters' names, in the order of a packet's way."""

DOCUMENTATION: dict[str, str] = {member.name: member.metadata["doc"] for member in fields(Books)}
"""Each counter's meaning, for pages, metrics and docs."""
