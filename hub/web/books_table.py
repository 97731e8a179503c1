"""The books of a session as the page shows them: equations in the order of a packet's way, and a verdict in words."""

from dataclasses import dataclass

from hub.ledger.session_books import SessionBooks


@dataclass(frozen=True, slots=True)
class Line:
    """One place packets can be in."""

    name: str
    title: str
    packets: int
    meaning: str
    loss: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """An equation of the books: total = sum of lines + difference."""

    name: str
    title: str
    total: int
    meaning: str
    lines: tuple[Line, ...]
    difference: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the ledger says of the whole session, in a word and a sentence."""

    word: str
    kind: str
    """CSS class of its mark."""
    text: str


def _loss(name: str, title: str, packets: int, meaning: str) -> Line:
    return Line(name, title, packets, meaning, loss=True)


def groups(account: SessionBooks) -> tuple[Group, ...]:
    """The way of the packets as equations. Each difference is the ledger's own and counted there."""
    books, off = account.books, account.differences
    received = (
        _loss("dropped_ring", "dropped: ring full", books.dropped_ring, "the agent was too slow"),
        Line("own_traffic", "own traffic", books.own_traffic, "wirepool's own connections, left out"),
        _loss("dropped_invalid", "dropped: invalid", books.dropped_invalid, "couldn't be represented"),
        _loss("lost_at_end", "lost at a boot's end", account.lost_at_end, "in memory when the agent died"),
        Line("captured", "captured", books.captured, "entered a batch"),
    )
    captured = (
        _loss(
            "dropped_newest",
            "dropped: newest",
            books.dropped_newest,
            "spool full, or over the limits of the agent's host",
        ),
        Line("spooled", "spooled", books.spooled, "written to the agent's disk"),
    )
    spooled = (
        _loss(
            "dropped_oldest", "dropped: oldest", books.dropped_oldest, "spool full, by the overflow policy"
        ),
        Line("pending", "waiting in the spool", books.pending, "not acknowledged yet"),
        Line("acknowledged", "acknowledged", books.acknowledged, "stored by the server"),
    )
    archived = (
        Line(
            "archived", "verified in the archive", account.archived_packets, "signature, chain and hash right"
        ),
    )
    declared = (
        Line(
            "declared_oldest", "oldest, declared", account.declared_packets, "tombstones signed by the agent"
        ),
        Line(
            "declared_kept", "declared, yet archived", account.declared_kept_packets, "acknowledgement lost"
        ),
        Line(
            "declared_newest", "newest, declared", account.declared_newest, "tombstones signed by the agent"
        ),
    )
    dropped = books.dropped_oldest + books.dropped_newest
    return (
        Group(
            "received",
            "Received by the socket",
            books.received,
            "passed the filter",
            received,
            off["received"],
        ),
        Group("captured", "Captured", books.captured, "entered a batch", captured, off["captured"]),
        Group("spooled", "Spooled", books.spooled, "on the agent's disk", spooled, off["spooled"]),
        Group("archived", "Acknowledged", books.acknowledged, "by the server", archived, off["archived"]),
        Group(
            "declared",
            "Dropped by the agent, declared",
            dropped,
            "as the agent counts",
            declared,
            off["declared"] + off["declared_newest"],
        ),
    )


def verdict_of(account: SessionBooks, *, ended: bool) -> Verdict:
    """One of: chain broken, unexplained gap, does not balance, nothing yet (or captured), declared drop, open tail,
    intact.
    """
    if account.broken_links:
        return Verdict(
            "chain broken", "is-bad", f"{account.broken_links} batches don't name the one before them."
        )
    if account.missing_batches:
        text = f"{account.missing_batches} batches are missing."
        if ended:
            return Verdict("unexplained gap", "is-bad", text)
        return Verdict("unexplained gap", "is-warn", f"{text} They may still be on the way.")
    off = {name: number for name, number in account.differences.items() if number}
    if off and ended:
        parts = ", ".join(f"{name} {number:+d}" for name, number in off.items())
        return Verdict("does not balance", "is-bad", f"Every difference must be 0; these are not: {parts}.")
    if not account.batches and not account.tombstones and not account.books.received:
        word = "nothing captured" if ended else "nothing yet"
        return Verdict(word, "is-off", "The archive holds nothing of this session.")
    dropped = account.books.dropped_oldest + account.books.dropped_newest
    if dropped:
        text = f"The chain is intact; {dropped} packets were dropped, and the agent signed for it."
        return Verdict("declared drop", "is-warn", text)
    if all(boot.closed for boot in account.boots):
        text = "Every batch is signed, names the one before it, and the agent closed the session."
        return Verdict("intact", "is-good", text)
    if not ended:
        return Verdict(
            "intact so far", "is-good", "Every batch so far is signed and names the one before it."
        )
    unclosed = sum(not boot.closed for boot in account.boots)
    if unclosed < len(account.boots):
        text = (
            f"Every batch is signed and names the one before it, but {unclosed} of the agent's {len(account.boots)} "
            "boots ended without a closing batch: the agent was stopped or died in between."
        )
        return Verdict("open tail", "is-warn", text)
    text = "Intact to the last batch, but the agent wrote no closing batch: what came after it is unknown."
    return Verdict("open tail", "is-warn", text)
