"""The way of the packets as a picture: what each place holds, and what left on the way to the next.

Every step's number is the next step's, plus what left, minus what joined: whoever adds up the picture gets its numbers.
A remainder is an entry of its own: what is on its way while a capture runs, and what is unexplained when it has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hub.ledger.session_books import SessionBooks
from wire.books import total


@dataclass(frozen=True, slots=True)
class Branch:
    """Packets that leave the way (or join it) between two steps."""

    name: str
    title: str
    packets: int
    meaning: str
    kind: str
    """"loss", "left-out" (on purpose), "waiting" or "unexplained": its colour and mark."""


@dataclass(frozen=True, slots=True)
class Step:
    """A place on the way."""

    name: str
    title: str
    packets: int | None
    """None: not counted here."""
    meaning: str
    leaves: tuple[Branch, ...] = ()
    joins: tuple[Branch, ...] = ()
    share: float = 0.0
    """Of the largest step, 0 to 1."""


def picture(accounts: Sequence[SessionBooks], *, ended: bool) -> tuple[Step, ...]:
    """The sums of one or more sessions from the wire to the archive; `ended`: nothing is on its way any more."""
    books = total(account.books for account in accounts)

    def rest(name: str, packets: int) -> Branch:
        if ended:
            return Branch(f"rest_{name}", "unexplained", packets, "must be 0", "unexplained")
        return Branch(f"rest_{name}", "on the way", packets, "0 when the capture rests", "waiting")

    def add(name: str) -> int:
        return sum(int(getattr(account, name)) for account in accounts)

    def off(name: str) -> int:
        return sum(account.differences[name] for account in accounts)

    def loss(name: str, title: str, packets: int, meaning: str) -> Branch:
        return Branch(name, title, packets, meaning, "loss")

    counted = (books.filtered, books.sampled_out, books.cut_off)
    turned_away = sum(number or 0 for number in counted)
    kept_declared = add("declared_kept_packets")
    steps = [
        Step(
            "wire",
            "On the wire",
            None if books.filtered is None else books.received + turned_away,
            "seen by the capture's socket" if books.filtered is not None else "counted with eBPF only",
            (
                Branch("filtered", "filter", books.filtered or 0, "turned away by the filter", "left-out"),
                Branch(
                    "sampled_out",
                    "sampling",
                    books.sampled_out or 0,
                    "not in the sample of flows",
                    "left-out",
                ),
                Branch(
                    "cut_off",
                    "cut-off",
                    books.cut_off or 0,
                    "behind the first bytes of their flow",
                    "left-out",
                ),
            ),
        ),
        Step(
            "received",
            "Received",
            books.received,
            "passed the filter, into the ring",
            (
                loss("dropped_ring", "ring full", books.dropped_ring, "the agent was too slow"),
                Branch(
                    "own_traffic", "own traffic", books.own_traffic, "wirepool's own, left out", "left-out"
                ),
                loss("dropped_invalid", "invalid", books.dropped_invalid, "couldn't be represented"),
                loss(
                    "lost_at_end", "lost with the agent", add("lost_at_end"), "in memory when the agent died"
                ),
                rest("received", off("received")),
            ),
        ),
        Step(
            "captured",
            "Captured",
            books.captured,
            "entered a batch",
            (
                loss(
                    "dropped_newest",
                    "newest dropped",
                    books.dropped_newest,
                    "spool full, or over the host's limits",
                ),
                rest("captured", off("captured")),
            ),
        ),
        Step(
            "spooled",
            "Spooled",
            books.spooled,
            "on the agent's disk",
            (
                loss(
                    "dropped_oldest",
                    "oldest dropped",
                    books.dropped_oldest,
                    "spool full, by the overflow policy",
                ),
                Branch("pending", "in the spool", books.pending, "not acknowledged yet", "waiting"),
                rest("spooled", off("spooled")),
            ),
        ),
        Step(
            "acknowledged",
            "Acknowledged",
            books.acknowledged,
            "stored by the server",
            (rest("archived", off("archived")),),
            (
                Branch(
                    "declared_kept",
                    "stored all the same",
                    kept_declared,
                    "given up by the agent, yet stored",
                    "waiting",
                ),
            ),
        ),
        Step("archived", "Archived", add("archived_packets"), "verified: signature, chain, hash"),
    ]
    largest = max((step.packets or 0 for step in steps), default=0) or 1
    return tuple(
        Step(
            step.name,
            step.title,
            step.packets,
            step.meaning,
            tuple(one for one in step.leaves if one.packets > 0 or (one.kind == "loss" and not one.packets)),
            (
                *(one for one in step.joins if one.packets),
                *(_ahead(one) for one in step.leaves if one.packets < 0),
            ),
            (step.packets or 0) / largest,
        )
        for step in steps
    )


def _ahead(rest: Branch) -> Branch:
    """The next place counts more than this one: its number is newer, or wrong."""
    title = "unexplained" if rest.kind == "unexplained" else "counted already"
    return Branch(rest.name, title, -rest.packets, "the number before is older", rest.kind)
