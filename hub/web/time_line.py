"""A session's time line: what was asked for and when, where packets came in, and where some are missing.

Places are shares of the whole line, 0 to 100, for an SVG that is as wide as its page. All times are ns since 1970; what
agents say of time is theirs (their clocks may be wrong), so a mark outside the line is put at its end.
"""

import math
import time
from dataclasses import dataclass, field

from hub.ledger.session_books import SessionBooks
from hub.registry import Registry, SessionRecord
from wire.books import DOCUMENTATION

MAX_INTERFACES = 8
MAX_HAPPENED = 200
MIN_SPAN_NS = 1_000_000_000
PLACES = 400
"""Marks of one kind that the line has room for, side by side."""
DROP_WORDS = {
    "dropped_ring": "ring full",
    "dropped_invalid": "invalid",
    "dropped_newest": "newest dropped, spool full or over the host's limits",
    "dropped_oldest": "oldest dropped, spool full",
}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the line."""

    left: float
    width: float
    kind: str
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """Stretches of one kind under one name."""

    name: str
    title: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A point on the line; `height` is its share of the row, 0 to 100."""

    left: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Happened:
    """The same in words, in order, for who can't see the picture and for who wants to know more."""

    at_ns: int
    kind: str
    """"filter", "state", "drop" or "gap"."""
    text: str


@dataclass(slots=True)
class TimeLine:
    """See the module."""

    first_ns: int
    last_ns: int
    rows: list[Row] = field(default_factory=list)
    drops: list[Mark] = field(default_factory=list)
    gaps: list[Mark] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)
    left_out: int = 0
    """Of what happened."""

    def at(self, time_ns: int) -> float:
        """The place of a time."""
        share = (time_ns - self.first_ns) / (self.last_ns - self.first_ns)
        return round(min(1.0, max(0.0, share)) * 100, 3)

    def span(self, first_ns: int, last_ns: int, kind: str, label: str, title: str) -> Span:
        """A stretch that can be seen however short it is."""
        left, right = self.at(first_ns), self.at(last_ns)
        width = max(0.4, right - left)
        return Span(min(left, 100 - width), round(width, 3), kind, label, title)


def time_line(registry: Registry, record: SessionRecord, account: SessionBooks) -> TimeLine:
    """The time line of a session: a few indexed queries."""
    captured = _captured(registry, record.id)
    end_ns = record.ended_ns if record.ended_ns is not None else time.time_ns()
    # A file's packets are of another time than the order to replay or import it.
    from_file = record.spec is None or record.spec.replay is not None
    first_ns, last_ns = record.created_ns, end_ns
    if from_file and captured:
        first_ns, last_ns = min(one[2] for one in captured), max(one[3] for one in captured)
    line = TimeLine(first_ns, max(last_ns, first_ns + MIN_SPAN_NS))
    if not from_file:
        _add_states(line, registry, record, end_ns)
        _add_filters(line, registry, record, end_ns)
    _add_packets(line, captured)
    if not from_file:
        _add_drops(line, registry, record.id)
    _add_gaps(line, account)
    line.happened.sort(key=lambda one: one.at_ns)
    line.left_out = max(0, len(line.happened) - MAX_HAPPENED)
    line.happened = line.happened[:MAX_HAPPENED]
    return line


Captured = tuple[str, int, int, int, int]
"""(interface, filter revision, first and last time stamp, packets)."""


def _captured(registry: Registry, session: str) -> list[Captured]:
    rows = registry.connection.execute(
        """SELECT interface, filter_revision, i.first_timestamp_ns AS first_ns, i.last_timestamp_ns AS last_ns,
           sum(i.packets) AS packets FROM chain_interfaces i JOIN chains c ON c.id = i.chain
           WHERE c.session = ? AND i.packets > 0 GROUP BY i.chain, interface, filter_revision
           ORDER BY interface, first_ns LIMIT 500""",
        (session,),
    )
    return [
        (row["interface"], row["filter_revision"], row["first_ns"], row["last_ns"], row["packets"])
        for row in rows
    ]


def _add_states(line: TimeLine, registry: Registry, record: SessionRecord, end_ns: int) -> None:
    told = [("requested", record.created_ns)]
    for one in registry.sessions.events(record.id):
        if one.kind.startswith("state:"):
            told.append((one.kind.removeprefix("state:"), one.at_ns))
            line.happened.append(Happened(one.at_ns, "state", f"the agent says: {told[-1][0]}"))
    ends = [at_ns for _, at_ns in told[1:]] + [end_ns]
    spans = [
        line.span(at_ns, until_ns, f"state-{word}", word, word)
        for (word, at_ns), until_ns in zip(told, ends, strict=True)
    ]
    line.rows.append(Row("State", "as the agent reported it", tuple(spans)))


def _add_filters(line: TimeLine, registry: Registry, record: SessionRecord, end_ns: int) -> None:
    revisions = registry.sessions.revisions(record.id)[-100:]
    ends = [one.changed_ns for one in revisions[1:]] + [end_ns]
    spans = []
    for one, until_ns in zip(revisions, ends, strict=True):
        text = one.filter or "everything"
        spans.append(
            line.span(
                one.changed_ns,
                until_ns,
                f"filter-{one.revision % 2}",
                str(one.revision),
                f"{one.revision}: {text}",
            )
        )
        line.happened.append(
            Happened(
                one.changed_ns,
                "filter",
                f"filter {one.revision}: {text} ({one.snaplen} bytes of each packet)",
            )
        )
    line.rows.append(Row("Filter", "by revision", tuple(spans)))


def _add_packets(line: TimeLine, captured: list[Captured]) -> None:
    names = sorted({one[0] for one in captured})
    for name in names[:MAX_INTERFACES]:
        spans = [
            line.span(first_ns, last_ns, "packets", "", f"{packets} packets, filter {revision}")
            for interface, revision, first_ns, last_ns, packets in captured
            if interface == name
        ]
        line.rows.append(Row(name, "from the first packet archived to the last, by filter", tuple(spans)))


def _add_drops(line: TimeLine, registry: Registry, session: str) -> None:
    events = [one for one in registry.sessions.events(session) if one.kind in DROP_WORDS]
    places: dict[tuple[str, float], int] = {}
    for one in events:
        place = one.kind, round(line.at(one.at_ns) * PLACES / 100) * 100 / PLACES
        places[place] = places.get(place, 0) + one.packets
        line.happened.append(Happened(one.at_ns, "drop", f"{one.packets} packets: {DROP_WORDS[one.kind]}"))
    most = max(places.values(), default=1)
    for (kind, left), packets in places.items():
        height = 20 + 80 * math.log(1 + packets) / math.log(1 + most)
        title = f"{packets} packets: {DROP_WORDS[kind]}. {DOCUMENTATION[kind]}"
        line.drops.append(Mark(left, round(height, 1), kind, title))


def _add_gaps(line: TimeLine, account: SessionBooks) -> None:
    for gap in account.gaps:
        batches = gap.last - gap.first + 1
        text = f"{batches} {'batch' if batches == 1 else 'batches'} missing with nobody's word for it ({gap.lane})"
        at_ns = gap.at_ns if gap.at_ns is not None else account.last_timestamp_ns or line.last_ns
        line.gaps.append(Mark(line.at(at_ns), 100.0, "gap", text))
        line.happened.append(Happened(at_ns, "gap", text))
