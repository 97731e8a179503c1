"""What is drawn: the timeline with its losses, lanes out of what the correlation says, clocks with their unknowns."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.correlate.described import Described, Interval, Link, Stop
from hub.explore.clocks import HEIGHT as CLOCK_HEIGHT
from hub.explore.clocks import MAX_POINTS, clocks_view
from hub.explore.details import delays_of, places_of, segments_of, unknown_of
from hub.explore.lanes import drawn
from hub.explore.timeline import HEIGHT, MAX_TICKS, timeline
from hub.ledger.losses import Loss
from hub.pool.store import Histogram, OffsetRow

NS = 10**9
BEGIN_NS = 1_790_000_000 * NS


def test_bars_lie_within_the_time_and_losses_beside_them() -> None:
    counted = Histogram(BEGIN_NS, 10 * NS, [0, 4, 8, 1], [0, 400, 800, 100])
    lost = [
        Loss("web1", "s", "ring", BEGIN_NS + 10 * NS, BEGIN_NS + 20 * NS, 7, 0),
        Loss("web1", "s", "missing", BEGIN_NS + 5 * NS, BEGIN_NS + 5 * NS, 0, 3),
        Loss("web1", "s", "ring", BEGIN_NS + 90 * NS, BEGIN_NS + 95 * NS, 7, 0),
    ]
    found = timeline(counted, BEGIN_NS, BEGIN_NS + 35 * NS, lost)
    assert (found.packets, found.top, len(found.bars)) == (13, 8, 4)
    assert [bar.height for bar in found.bars] == [0, HEIGHT / 2, HEIGHT, HEIGHT / 8]
    assert found.bars[-1].until_ns == BEGIN_NS + 35 * NS
    assert sum(bar.width for bar in found.bars) == pytest.approx(100, abs=0.01)
    assert [mark.kind for mark in found.marks] == ["ring", "missing"], "what is outside isn't drawn"
    assert found.marks[0].text == "web1: 7 packets dropped by the kernel: the ring was full"
    assert found.marks[1].width > 0, "a moment is seen, too"


@given(st.integers(0, 2**62), st.integers(1, 2**62))
def test_any_time_has_a_few_ticks(since_ns: int, span_ns: int) -> None:
    found = timeline(Histogram(since_ns, span_ns, [1], [1]), since_ns, since_ns + span_ns, [])
    assert len(found.ticks) <= MAX_TICKS + 1
    assert all(0 <= tick.x <= 100 for tick in found.ticks)


DETAILS = {
    "version": 1,
    "places": [
        {"agent": "client", "interface": "eth0", "hop": 0},
        {"agent": "router", "interface": "wan", "hop": 1},
        {"agent": "server", "interface": "eth0", "hop": 2, "missing": 1},
    ],
    "segments": [
        {"forward": True, "label": "SYN", "seen": [[0, 10, 5, 15, "", 1], [1, 30], [2, 60, 50, 70, "", 2]]},
        {"forward": False, "label": "SYN, ACK", "seen": [[2, 70], [0, 110]]},
        {"forward": True, "label": "data", "seen": [[0, 200]], "missing": [1, 2], "lost_after": 0},
        {"forward": True, "label": "data", "kind": "retransmission", "seen": [[0, 400]]},
    ],
    "unknown": ["who dropped it"],
}


def test_lanes_say_what_the_correlation_says() -> None:
    details = json.dumps(DETAILS).encode()
    lanes = places_of(details)
    rows = drawn(lanes, segments_of(details, len(lanes)))
    there, back, lost, again = rows
    assert [dot.x for dot in there.dots] == [16.667, 50.0, 83.333]
    assert there.gap_ns == [None, None], "the router's clock isn't known"
    assert "seen 2 times" in there.dots[2].text
    assert [line[0] > line[2] for line in back.lines] == [True], "the answer's line goes back"
    assert [(cross.x, cross.lost) for cross in back.crosses] == [(50.0, False)]
    assert [cross.lost for cross in lost.crosses] == [True, True]
    assert (again.segment.kind, [cross.lost for cross in again.crosses]) == ("again", [False, False])
    assert unknown_of(details) == ["who dropped it"]


def stop(agent: str, hops: int, missed: int = 0) -> Stop:
    time = Interval(1, 3, 2)
    return Stop(agent, "eth0", 1, hops, hops, 10, 1000, 0, missed, 1, 2, time, time)


def test_what_the_correlation_describes_is_read() -> None:
    nobody = Interval(None, None, None)
    link = Link(
        0, ("client", "eth0"), ("server", "eth0"), 9, 1, 0, 0, nobody, Interval(19_000, 22_000, 20_000)
    )
    back = Link(0, ("server", "eth0"), ("client", "eth0"), 10, 0, 0, 0, nobody, nobody)
    unseen = Link(1, None, None, 0, 0, 0, 3, nobody, nobody)
    told = Described(
        *("00" * 8, (1,), "none", True, 1, False, 20, 2000, 40, 0, 1, 1, 2),
        (stop("client", 0), stop("server", 1, 1)),
        (stop("server", 0), stop("mirror", 1), stop("client", 2)),
        (link, unseen),
        (back,),
    )
    details = json.dumps(asdict(told)).encode()
    lanes = places_of(details)
    assert [(lane.agent, lane.packets, lane.missing) for lane in lanes] == [
        ("client", 20, 0),
        ("server", 20, 1),
        ("mirror", 10, 0),
    ]
    there, again = delays_of(details, lanes)
    assert (there.near, there.far, there.low_ns, there.high_ns, there.median_ns, there.lost) == (
        *(0, 1, 19_000, 22_000, 20_000),
        1,
    )
    assert (again.near, again.far, again.forward, again.median_ns) == (0, 1, False, None)
    assert segments_of(details, len(lanes)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [*DETAILS, "agent", "seen", "missing", "there", "back", "there_links", "near", "median_delay"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@pytest.mark.slow
@given(JSON | st.fixed_dictionaries({"version": st.just(1), "places": JSON, "segments": JSON}))
def test_details_of_any_form_are_read_or_left_out(found: object) -> None:
    details = json.dumps(found).encode()
    lanes = places_of(details)
    drawn(lanes, segments_of(details, len(lanes)))
    delays_of(details, lanes)
    unknown_of(details + b"}")


def offset(at_s: int, estimate: int | None = 5, agent: str = "web1") -> OffsetRow:
    if estimate is None:
        return OffsetRow(agent, BEGIN_NS + at_s * NS, "", None, None, None)
    return OffsetRow(agent, BEGIN_NS + at_s * NS, "db1", estimate, estimate - 10, estimate + 20)


def test_a_clock_is_interrupted_where_it_is_unknown() -> None:
    rows = [offset(1), offset(2), offset(3, None), offset(4), offset(5)]
    web1, other = clocks_view(rows, ["web1", "zz"], BEGIN_NS, BEGIN_NS + 10 * NS)
    assert len(web1.lines) == 2
    assert web1.known
    assert (other.known, other.now, other.lines) == (False, None, [])
    (gone,) = clocks_view([offset(1), offset(2, None)], [], BEGIN_NS, BEGIN_NS + 10 * NS)
    assert not gone.known, "what was known before is not what is known now"


def test_many_offsets_are_thinned_and_stay_in_the_picture() -> None:
    rows = [offset(number, number % 977) for number in range(20_000)]
    (clock,) = clocks_view(rows, [], BEGIN_NS, BEGIN_NS + 20_000 * NS)
    points = clock.lines[0].split()
    assert len(points) <= MAX_POINTS
    assert all(0 <= float(point.split(",")[1]) <= CLOCK_HEIGHT for point in points)
    assert len(clock.rows) <= 50
