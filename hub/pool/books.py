"""The pool's books: which batches it is done with, and what became of their packets. Kept in the registry.

archived = pooled + left out (by the session's level) + refused + not read yet. Counted per batch and once each, however
often a batch is delivered: what is done with is remembered as runs of sequences, one run for an intact chain.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import pairwise

from hub.observation import BatchName
from hub.registry import Registry

MAX_RUNS = 20_000
"""Of one chain; what tears it further is refused."""
MAX_CHAINS = 5_000
"""Held in memory."""


class TooScattered(Exception):
    """A chain with more holes than are remembered."""


class Runs:
    """A set of whole numbers, held as its edges: n is in it when an odd number of edges is ≤ n."""

    __slots__ = ("_edges",)

    def __init__(self, packed: bytes = b"") -> None:
        """packed: as `packed` gave it. ValueError when it is none."""
        self._edges = list(struct.unpack(f"<{len(packed) // 8}Q", packed)) if len(packed) % 16 == 0 else []
        if len(packed) % 16 or any(a >= b for a, b in pairwise(self._edges)):
            raise ValueError("not a list of runs")

    def __contains__(self, number: int) -> bool:
        return bisect_right(self._edges, number) % 2 == 1

    def __len__(self) -> int:
        """How many runs."""
        return len(self._edges) // 2

    def add(self, number: int) -> bool:
        """Put a number in; False when it was there. TooScattered beyond MAX_RUNS."""
        edges = self._edges
        place = bisect_right(edges, number)
        if place % 2:
            return False
        joins_left = place > 0 and edges[place - 1] == number
        joins_right = place < len(edges) and edges[place] == number + 1
        if joins_left and joins_right:
            del edges[place - 1 : place + 1]
        elif joins_left:
            edges[place - 1] = number + 1
        elif joins_right:
            edges[place] = number
        elif len(self) >= MAX_RUNS:
            raise TooScattered(f"more than {MAX_RUNS} holes in one chain")
        else:
            edges[place:place] = (number, number + 1)
        return True

    def packed(self) -> bytes:
        """As bytes."""
        return struct.pack(f"<{len(self._edges)}Q", *self._edges)


@dataclass(slots=True)
class _Chain:
    id: int | None
    runs: Runs
    pooled: int = 0
    left_out: int = 0
    refused: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one batch; packets."""

    name: BatchName
    pooled: int = 0
    left_out: int = 0
    refused: int = 0
    reason: str = ""
    """Why they were refused."""


@dataclass(slots=True)
class SessionPool:
    """What the pool did with one session; packets."""

    pooled: int = 0
    left_out: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)
    """The last one of each chain that has one."""


_Key = tuple[str, bytes, str, str]


class PoolBooks:
    """For one thread. What it holds is what the registry holds: after an error it reads anew."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._chains: OrderedDict[_Key, _Chain] = OrderedDict()

    def done(self, name: BatchName) -> bool:
        """Whether a batch has been dealt with."""
        return name.sequence in self._chain(name).runs

    def write(self, fates: list[Fate]) -> None:
        """Book batches in one transaction; those that are booked already change nothing. sqlite3.Error."""
        changed: dict[_Key, _Chain] = {}
        try:
            for fate in fates:
                chain = self._chain(fate.name)
                try:
                    if not chain.runs.add(fate.name.sequence):
                        continue
                except TooScattered as error:
                    chain.refused += fate.pooled + fate.left_out + fate.refused
                    chain.reason = str(error)
                else:
                    chain.pooled += fate.pooled
                    chain.left_out += fate.left_out
                    chain.refused += fate.refused
                    chain.reason = fate.reason or chain.reason
                changed[_key(fate.name)] = chain
            if changed:
                self._store(changed)
        except BaseException:
            self._chains.clear()
            raise
        while len(self._chains) > MAX_CHAINS:
            self._chains.popitem(last=False)

    def _store(self, changed: dict[_Key, _Chain]) -> None:
        now_ns = time.time_ns()
        with self._registry.transaction() as db:
            for key, chain in changed.items():
                values = (
                    chain.runs.packed(),
                    chain.pooled,
                    chain.left_out,
                    chain.refused,
                    chain.reason,
                    now_ns,
                )
                if chain.id is None:
                    chain.id = db.execute(
                        """INSERT INTO pool_chains(runs, pooled, left_out, refused, reason, changed_ns,
                           agent, boot, session, lane) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                        (*values, *key),
                    ).lastrowid
                else:
                    db.execute(
                        """UPDATE pool_chains SET runs = ?, pooled = ?, left_out = ?, refused = ?, reason = ?,
                           changed_ns = ? WHERE id = ?""",
                        (*values, chain.id),
                    )

    def _chain(self, name: BatchName) -> _Chain:
        key = _key(name)
        chain = self._chains.get(key)
        if chain is None:
            row = self._registry.connection.execute(
                """SELECT id, runs, pooled, left_out, refused, reason FROM pool_chains
                   WHERE agent = ? AND boot = ? AND session = ? AND lane = ?""",
                key,
            ).fetchone()
            chain = _Chain(row[0], Runs(row[1]), *row[2:]) if row else _Chain(None, Runs())
            self._chains[key] = chain
        self._chains.move_to_end(key)
        return chain


def _key(name: BatchName) -> _Key:
    return name.agent, name.boot, name.session, name.lane.value


def session_pool(registry: Registry, session: str) -> SessionPool:
    """What the pool did with a session so far."""
    found = SessionPool()
    rows = registry.connection.execute(
        "SELECT pooled, left_out, refused, reason FROM pool_chains WHERE session = ? ORDER BY id", (session,)
    )
    for pooled, left_out, refused, reason in rows:
        found.pooled += pooled
        found.left_out += left_out
        found.refused += refused
        if reason:
            found.reasons.append(reason)
    return found


def all_pooled(registry: Registry) -> SessionPool:
    """The sums over all sessions, without reasons."""
    row = registry.connection.execute(
        "SELECT coalesce(sum(pooled), 0), coalesce(sum(left_out), 0), coalesce(sum(refused), 0) FROM pool_chains"
    ).fetchone()
    return SessionPool(*row)
