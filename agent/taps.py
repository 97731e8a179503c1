"""Which sources a session has open now: a file, or one per interface, as interfaces come, go and are renamed.

What is asked for by name and isn't there is waited for; what was there and vanished is left to its source, which goes
on by itself when the name exists again.  With `any` it is every interface that is up: one that appears is opened within
a second, one that is removed is closed.  A capture belongs to the interface that it began on, whatever that is called
later: batches bear the name of their time.  An interface that can't be captured or refuses the filter is left out and
named, as long as another one is at work.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable

from agent.batcher import Origin
from agent.bpf_filter import FilterError
from agent.intake import Order, Terms
from agent.interfaces import InterfaceError, list_links
from agent.lane_writer import LaneWriter
from agent.session_memory import SessionMemory
from agent.sources.source import PacketSource, SourceError
from agent.surroundings import OwnTraffic
from agent.tap import Tap
from wire.names import Lane
from wire.priority import PriorityRules
from wire.session import ANY, MAX_SESSION_INTERFACES, SessionSpec

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""After this an interface whose source failed is tried again, while others are at work."""
_NAMED_AT_MOST = 5


class Taps:
    """The open sources of one session. Everything from the session's thread, but what only reads and `leave_out`."""

    def __init__(
        self,
        spec: SessionSpec,
        memory: SessionMemory,
        terms: Terms,
        open_lane: Callable[[PacketSource, Lane], LaneWriter],
    ) -> None:
        self._spec = spec
        self._memory = memory
        self._terms = terms
        self._open_lane = open_lane
        self._taps: list[Tap] = []
        self._missing: list[str] = []
        self._left_out: dict[str, tuple[str, float, int]] = {}
        """Interface → (why it isn't captured, when that was found, under which filter revision)."""
        self._none_up = False
        self._paused = False
        self._rules = spec.priority
        self._without_priority = ""
        self.ending = ""
        """Why the session must end, as far as its sources know."""

    @property
    def open(self) -> bool:
        """At least one source is."""
        return bool(self._taps)

    @property
    def at_work(self) -> bool:
        """None has ended by itself."""
        return all(tap.at_work for tap in self._taps)

    @property
    def origin(self) -> Origin | None:
        """Of the source that was opened first; None when none is."""
        return self._taps[0].origin() if self._taps else None

    @property
    def progress(self) -> float | None:
        """Share of a replayed file that has been read."""
        progress = getattr(self._taps[0].source, "progress", None) if self._taps else None
        return progress if isinstance(progress, float) else None

    @property
    def notice(self) -> str:
        """What the user should know, in a sentence or several; "": all is well."""
        said = [tap.notice for tap in self._taps]
        if self._missing:
            said.append(_waited_for(self._missing))
        elif self._none_up:
            said.append("no interface is up; packets come when one is")
        said += [f"{name} is left out: {why}" for name, (why, _, _) in self._left_out.items()]
        return "; ".join(filter(None, [*said, self._without_priority]))

    @property
    def counts_flows(self) -> bool:
        """At least one source does."""
        return any(tap.counts_flows for tap in list(self._taps))

    def leave_out(self, own_traffic: OwnTraffic) -> None:
        """Servers and hubs have other addresses now."""
        for tap in list(self._taps):
            tap.source.leave_out(own_traffic)

    def wake(self) -> None:
        """Hand out what has been read: the age bound has become shorter."""
        for tap in list(self._taps):
            tap.source.wake()

    def pause(self) -> None:
        """Accept nothing more; what was accepted is delivered."""
        self._paused = True
        for tap in self._taps:
            tap.source.pause()

    def resume(self) -> None:
        """Accept packets again."""
        self._paused = False
        for tap in self._taps:
            tap.source.resume()

    def tend(self, order: Order, own_traffic: OwnTraffic) -> None:
        """Close what has ended, open what is there now and wasn't.

        FilterError, SourceError: nothing is open, and nothing is waited for.
        """
        for tap in [tap for tap in self._taps if not tap.at_work]:
            self._close(tap)
            self.ending = self.ending or tap.ending
            if tap.failure:
                if not self._taps:
                    raise SourceError(tap.failure)
                self._note_left_out(tap.asked_for or tap.source.interface, tap.failure, order)
        if self.ending or self._paused:
            return
        wanted = self._wanted()
        self._left_out = {name: why for name, why in self._left_out.items() if name in wanted}
        refused: FilterError | SourceError | None = None
        for name in wanted:
            if self._is_due(name, order):
                try:
                    self._open(name, order, own_traffic, sharers=len(wanted))
                except (FilterError, SourceError) as error:
                    refused = refused or error
                    prefix = "filter: " if isinstance(error, FilterError) else ""
                    self._note_left_out(name, f"{prefix}{error}", order)
        if refused is not None and not self._taps and not self._missing:
            raise refused

    def _wanted(self) -> list[str]:
        """The names of what should be open and can be. With `any` those that are gone are closed."""
        if self._spec.source == "replay":
            return [""]
        if self._spec.interface != ANY:
            names = list(self._spec.interfaces)
            present = _present() if sys.platform == "linux" else set(names)
            held = {tap.asked_for for tap in self._taps}
            self._missing = [name for name in names if name not in present and name not in held]
            return [name for name in names if name not in self._missing]
        try:
            links = list_links()
        except InterfaceError as error:
            raise SourceError(
                f"which interfaces are up can't be told: {error}", "Name the interfaces instead of any"
            ) from None
        indices = {link.index for link in links}
        for tap in [tap for tap in self._taps if tap.source.index not in indices]:
            tap.finish()
            self._close(tap)
        held_indices = {tap.source.index for tap in self._taps}
        fresh = [
            link.name
            for link in links
            if link.state != "down" and link.link_type is not None and link.index not in held_indices
        ]
        room = max(0, MAX_SESSION_INTERFACES - len(self._taps))
        self._left_out = {name: why for name, why in self._left_out.items() if why[0] != _TOO_MANY}
        for name in fresh[room:]:
            self._left_out[name] = (_TOO_MANY, time.monotonic(), 0)
        self._none_up = not self._taps and not fresh
        return [*(tap.source.interface for tap in self._taps), *fresh]

    def _is_due(self, name: str, order: Order) -> bool:
        held = (tap.source.interface if self._spec.interface == ANY else tap.asked_for for tap in self._taps)
        if name in held:
            return False
        why, since_s, revision = self._left_out.get(name, ("", 0.0, 0))
        if why == _TOO_MANY:
            return False
        if why.startswith("filter: "):
            return revision != order.revision
        return not why or time.monotonic() - since_s >= RETRY_S

    def _open(self, name: str, order: Order, own_traffic: OwnTraffic, *, sharers: int) -> None:
        source = self._terms.around.open_source(self._spec, name, order, own_traffic, sharers)
        self._left_out.pop(name, None)
        asked_for = "" if self._spec.interface == ANY else name
        from_file = source.clock_source == "file"
        skip = self._memory.packets if from_file else 0
        tap = Tap(
            asked_for, source, order, self._terms, lambda lane: self._open_lane(source, lane), skip=skip
        )
        self._taps.append(tap)
        tap.start()
        self._prioritise(tap)
        if order.flows != order.declared_flows:  # what the host's limits add, where it can be followed
            tap.change(order)
        if len(self._spec.interfaces) != 1 and not from_file:
            log.info("session %s: captures on %s", self._spec.id, name)

    def _note_left_out(self, name: str, why: str, order: Order) -> None:
        if self._left_out.get(name, ("",))[0] != why:
            log.warning("session %s: %s is left out: %s", self._spec.id, name, why)
        self._left_out[name] = (why, time.monotonic(), order.revision)

    def change(self, order: Order) -> tuple[int, int] | None:
        """Another order for all open sources: the interval within which either may have judged, None when none is open.

        FilterError when every one refuses: then nothing has changed. One that refuses alone is closed and left out.
        """
        interval: tuple[int, int] | None = None
        refused: list[tuple[Tap, FilterError]] = []
        for tap in self._taps:
            try:
                start_ns, end_ns = tap.change(order)
            except FilterError as error:
                refused.append((tap, error))
                continue
            interval = (start_ns, end_ns) if interval is None else (interval[0], end_ns)
        if refused and interval is None:
            raise refused[0][1]
        for tap, refusal in refused:
            self._close(tap)
            self._note_left_out(tap.source.interface, f"filter: {refusal}", order)
        return interval

    def prioritise(self, rules: PriorityRules) -> None:
        """Other rules for what goes by the priority lane, on all open sources and those to come."""
        self._rules, self._without_priority = rules, ""
        for tap in self._taps:
            self._prioritise(tap)

    def _prioritise(self, tap: Tap) -> None:
        try:
            tap.prioritise(self._rules)
        except SourceError as error:
            self._without_priority = f"without the priority lane: {error}"

    def look(self) -> None:
        """Once a second: is an interface called something else now, or in trouble? What has been counted of flows?"""
        for tap in self._taps:
            tap.source.look()
            tap.ship_flows()

    def finish(self) -> str:
        """Deliver what was accepted and close everything; return why the session must end, if it must."""
        for tap in self._taps:
            tap.finish()
        for tap in list(self._taps):
            self._close(tap)
            self.ending = tap.ending or self.ending
        return self.ending

    def _close(self, tap: Tap) -> None:
        tap.finish()
        tap.close()
        self._taps.remove(tap)


_TOO_MANY = f"a session captures on at most {MAX_SESSION_INTERFACES} interfaces"


def _present() -> set[str]:
    try:
        return {name for _, name in socket.if_nameindex()}
    except OSError:
        return set()


def _waited_for(names: list[str]) -> str:
    present = ", ".join(sorted(_present())[:_NAMED_AT_MOST])
    what = (
        f"there is no interface {names[0]}"
        if len(names) == 1
        else f"there are no interfaces {', '.join(names)}"
    )
    return f"{what} yet; packets come when there is (this host has {present})"
