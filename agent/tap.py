"""One open source of a session with the threads that take its packets, one for each of its rings."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from agent.batcher import Origin
from agent.bpf_filter import FilterError
from agent.flow_records import FlowRecords
from agent.intake import Intake, Order, Terms
from agent.lane_writer import LaneWriter
from agent.sources.source import PacketSource
from wire.names import Lane
from wire.priority import PriorityRules

log = logging.getLogger(__name__)

_JOIN_S = 10.0


class Tap:
    """Takes the source over. `start` once; everything from the session's thread but `leave_out`."""

    def __init__(
        self,
        asked_for: str,
        source: PacketSource,
        order: Order,
        terms: Terms,
        writer: Callable[[Lane], LaneWriter],
        *,
        skip: int = 0,
    ) -> None:
        """asked_for: the interface's name as the session has it; "" with a file or `any`. skip: see Intake."""
        self.asked_for = asked_for
        self.source = source
        self._terms = terms
        self._orders = [order]  # by filter epoch
        self._changing = threading.Lock()
        self._writer = writer
        self._intakes = [
            Intake(source, self._order_of, writer(Lane.BULK), terms, skip=skip, ring=ring)
            for ring in range(source.rings)
        ]
        self._flows = FlowRecords(terms.books, writer(Lane.BULK), terms.around.config.batch_compression)
        terms.books.open_source(source)

    def start(self) -> None:
        """Packets are taken from here on."""
        for number, intake in enumerate(self._intakes):
            intake.start(f"intake-{self.source.interface[:6]}-{number}")

    @property
    def at_work(self) -> bool:
        """Every intake is; one that ended has a reason that concerns the others too."""
        return all(intake.alive for intake in self._intakes)

    @property
    def ending(self) -> str:
        """Why the session must end; ""."""
        return next((intake.ending for intake in self._intakes if intake.ending), "")

    @property
    def failure(self) -> str:
        """Why it delivers nothing any more; ""."""
        return next((intake.failure for intake in self._intakes if intake.failure), "")

    @property
    def notice(self) -> str:
        """What the user should know of it now; "": all is well."""
        said = self.source.notice
        if said is None and self.asked_for and self.source.interface != self.asked_for:
            return f"interface {self.asked_for} is called {self.source.interface} now; its capture goes on"
        return said or ""

    def change(self, order: Order) -> tuple[int, int]:
        """Put another order in force on the open source; the interval in which either may have judged.

        FilterError: the one before stays in force.
        """
        with self._changing:
            try:
                interval = self.source.apply(order.filter, order.snaplen, order.flows)
            except FilterError:
                if order.flows == order.declared_flows:
                    raise
                interval = self.source.apply(order.filter, order.snaplen, order.declared_flows)
            self._orders.append(order)
            return interval

    def prioritise(self, rules: PriorityRules) -> None:
        """Other rules, from now on; SourceError when the source can't, and then nothing has priority."""
        self.source.prioritise(rules)
        ring = self.source.priority_ring
        if ring is not None and ring == len(self._intakes):
            fresh = Intake(
                self.source, self._order_of, self._writer(Lane.PRIO), self._terms, ring=ring, priority=True
            )
            fresh.start(f"intake-{self.source.interface[:6]}-p")
            self._intakes.append(fresh)

    def _order_of(self, epoch: int) -> Order:
        if epoch >= len(self._orders):
            with self._changing:  # a change under way, that isn't noted yet
                pass
        return self._orders[min(epoch, len(self._orders) - 1)]

    def origin(self) -> Origin:
        """What a batch without packets says of where it comes from."""
        order, source = self._orders[-1], self.source
        return Origin(source.interface, source.link_type, source.snaplen, order.revision)

    @property
    def counts_flows(self) -> bool:
        """Flows are counted now."""
        return self._flows.counting

    def ship_flows(self) -> None:
        """Once a second: what was counted of flows since then, if it is asked for."""
        self._flows.look(self.source, self.origin(), wanted=self._orders[-1].flows.counted)

    def finish(self) -> None:
        """Deliver what was accepted, and end; `close` waits for it."""
        for intake in self._intakes:
            intake.finish()

    def close(self) -> None:
        """Wait until the intakes have ended (after `finish`), and free the source. Its counts stay in the books."""
        for intake in self._intakes:
            intake.join(_JOIN_S)
            if intake.alive:
                log.error("the intake on %s does not end", self.source.interface)
        self.source.close()
        self._flows.finish(self.source, self.origin())
        self._terms.books.close_source(self.source)
