"""The observations of the embedded store: DuckDB tables and the one who writes them. For one thread.

A put is one transaction: rows of `batches` and of `packets` together, durable when it returns (DuckDB syncs its log at
each commit). A batch that `batches` names already is left out, so that a redelivery, or a put that a kill cut off
behind its commit, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from hub.observation import BatchName
from hub.pool.embedded.columns import (
    PAYLOAD_TYPES,
    SPOKEN_TYPES,
    TYPES,
    Array,
    gather,
    payloads,
    spoken,
)
from hub.pool.embedded.derived import address_of, octets_of
from hub.pool.observed import ObservedBatch, Pooling
from hub.pool.store import Put, Retention, StoreAway, StoreRefused

SCHEMA_VERSION = 1
MEMORY = "256MB"
"""What DuckDB may take; a question that needs more uses files beside the store's, TEMPORARY of them."""
TEMPORARY = "2GB"
CHECKPOINT = "64MB"
"""Of log before it becomes columns: less costs time at each, more a longer start after a kill."""
MOST_KNOWN_FLOWS = 500_000
LOW_WATER = 0.9
"""Of the bound on bytes: what retention goes down to."""

_BATCH_TYPES = {
    "id": "UINTEGER",
    "source": "UINTEGER",
    "sequence": "BIGINT",
    "packets": "UINTEGER",
    "last_ns": "BIGINT",
    "clock_known": "BOOLEAN",
    "uncertainty_ns": "BIGINT",
    "stored_ns": "BIGINT",
}
_SCHEMA = (
    "CREATE TABLE about(version INTEGER)",
    f"INSERT INTO about VALUES({SCHEMA_VERSION})",
    # What many batches share.
    """CREATE TABLE sources(
        id UINTEGER, agent VARCHAR, boot VARCHAR, session VARCHAR, lane VARCHAR, interface VARCHAR,
        hostname VARCHAR, address_high UBIGINT, address_low UBIGINT)""",
    # One row per batch: that it is here, and what its packets share.
    f"CREATE TABLE batches({', '.join(f'{name} {kind}' for name, kind in _BATCH_TYPES.items())})",
    # Flow hash → Community ID, again each time a flow is met after a while.
    "CREATE TABLE flows(flow_hash UBIGINT, community_id VARCHAR, time_ns BIGINT)",
    *(
        f"CREATE TABLE {table}({', '.join(f'{name} {kind}' for name, kind in types.items())})"
        for table, types in (("packets", TYPES), ("spoken", SPOKEN_TYPES), ("payloads", PAYLOAD_TYPES))
    ),
)
_Source = tuple[str, str, str, str, str, str, str]
"""agent, boot, session, lane, interface, hostname, address."""
_CHAIN = 4
"""How many of these name a chain."""


class Packets:
    """The file. StoreAway and StoreRefused come out of everything."""

    def __init__(self, path: Path) -> None:
        """Open or make it; after a kill this reads the log again. StoreAway when another process has it."""
        options = {
            "memory_limit": MEMORY,
            "max_temp_directory_size": TEMPORARY,
            "temp_directory": f"{path}.tmp",
            "checkpoint_threshold": CHECKPOINT,
            "threads": "2",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        with errors():
            self.connection = duckdb.connect(str(path), config=options)  # type: ignore[arg-type]
            self._path = path
            self._prepare()
        self._sources: dict[_Source, int] = {}
        self._highest: dict[_Source, int] = {}
        self._flows: set[int] = set()
        self._next_batch = 0
        self._load()

    def _prepare(self) -> None:
        db = self.connection
        db.execute("SET enable_external_access = false")  # a file's name in a query would be read
        db.execute("SET lock_configuration = true")
        tables = {row[0] for row in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if "about" not in tables:
            db.execute("BEGIN")
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute("COMMIT")
        (version,) = db.execute("SELECT version FROM about").fetchall()[0]
        if version > SCHEMA_VERSION:
            raise StoreRefused(
                f"{self._path} was written by a newer wirepool (schema {version}): run that version"
            )

    def _load(self) -> None:
        with errors():
            db = self.connection
            self._sources = {
                (*row[1:7], address_text(*row[7:])): row[0]
                for row in db.execute("SELECT * FROM sources").fetchall()
            }
            self._highest = {}
            chains = db.execute(
                "SELECT agent, boot, session, lane, max(sequence) FROM batches JOIN sources ON sources.id = source "
                "GROUP BY ALL"
            )
            for row in chains.fetchall():
                self._highest[row[:_CHAIN]] = row[_CHAIN]
            self._next_batch = db.execute("SELECT coalesce(max(id), 0) + 1 FROM batches").fetchall()[0][0]
            self._flows.clear()

    def close(self) -> None:
        """Write the log into the tables and close the file."""
        self.connection.close()

    def put(self, batches: Sequence[ObservedBatch]) -> list[Put]:
        """Keep the batches that aren't here yet, in one transaction."""
        wanted = [
            batch for batch in batches if batch.level in (Pooling.HEADERS, Pooling.PAYLOAD) and len(batch)
        ]
        known = self._known([batch.name for batch in wanted])
        new: dict[BatchName, ObservedBatch] = {}
        for batch in wanted:
            if batch.name not in known:
                new.setdefault(batch.name, batch)
        if new:
            try:
                with self.transaction() as db:
                    self._insert(db, list(new.values()))
            except BaseException:
                self._load()  # what was counted up for these didn't happen
                raise
        told = []
        for batch in batches:
            if new.pop(batch.name, None) is not None:
                told.append(Put(len(batch), 0))
            else:
                told.append(Put(0, len(batch) if batch.level in (Pooling.HEADERS, Pooling.PAYLOAD) else 0))
        return told

    def _known(self, names: Sequence[BatchName]) -> set[BatchName]:
        """Those that are here. Mostly none: batches of a chain come in order, and then nothing is looked up."""
        doubtful: dict[_Source, list[BatchName]] = {}
        for name in names:
            chain = _chain(name)
            if name.sequence <= self._highest.get(chain, -1):
                doubtful.setdefault(chain, []).append(name)
        found: set[BatchName] = set()
        for chain, some in doubtful.items():
            ids = [id_ for source, id_ in self._sources.items() if source[:_CHAIN] == chain]
            sequences = {name.sequence: name for name in some}
            with errors():
                rows = self.connection.execute(
                    f"""SELECT sequence FROM batches WHERE source IN ({", ".join(map(str, ids))})
                        AND sequence BETWEEN ? AND ?""",
                    [min(sequences), max(sequences)],
                ).fetchall()
            found |= {sequences[sequence] for (sequence,) in rows if sequence in sequences}
        return found

    def _insert(self, db: duckdb.DuckDBPyConnection, batches: list[ObservedBatch]) -> None:
        ids = list(range(self._next_batch, self._next_batch + len(batches)))
        self._next_batch += len(batches)
        sources = [self._source(db, batch) for batch in batches]
        _insert(db, "batches", _BATCH_TYPES, _batch_rows(batches, ids, sources))
        self._insert_flows(db, batches)
        _insert(db, "packets", TYPES, gather(batches, ids, sources))
        _insert(db, "spoken", SPOKEN_TYPES, spoken(batches, ids))
        _insert(db, "payloads", PAYLOAD_TYPES, payloads(batches, ids))
        for batch in batches:
            chain = _chain(batch.name)
            self._highest[chain] = max(self._highest.get(chain, -1), batch.header.sequence)

    def _source(self, db: duckdb.DuckDBPyConnection, batch: ObservedBatch) -> int:
        header = batch.header
        source: _Source = (*_chain(batch.name), header.interface, batch.names.hostname, batch.names.address)
        known = self._sources.get(source)
        if known is None:
            known = self._sources[source] = max(self._sources.values(), default=0) + 1
            high, low = divmod(int.from_bytes(octets_of(source[6]) or bytes(16), "big"), 2**64)
            db.execute(
                "INSERT INTO sources VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", [known, *source[:6], high, low]
            )
        return known

    def _insert_flows(self, db: duckdb.DuckDBPyConnection, batches: list[ObservedBatch]) -> None:
        """Flows that weren't met lately."""
        hashes, first = np.unique(np.concatenate([b.seen.flow_hash for b in batches]), return_index=True)
        new = [place for place, value in enumerate(hashes.tolist()) if value and value not in self._flows]
        if not new:
            return
        if len(self._flows) > MOST_KNOWN_FLOWS:
            self._flows.clear()
        self._flows.update(hashes[new].tolist())
        ids = np.concatenate([b.seen.community_id for b in batches])[first[new]]
        times = np.concatenate([b.corrected_ns() for b in batches])[first[new]]
        arrays = {
            "flow_hash": hashes[new],
            "community_id": ids.astype("U30").astype(object),
            "time_ns": times,
        }
        _insert(db, "flows", dict.fromkeys(arrays, ""), arrays)

    # Going

    def delete_session(self, session: str) -> int:
        """Delete what came with a session; how many packets."""
        ids = [id_ for source, id_ in self._sources.items() if source[2] == session]
        if not ids:
            return 0
        some = ", ".join(map(str, ids))
        with self.transaction() as db:
            of_these = f"WHERE batch IN (SELECT id FROM batches WHERE source IN ({some}))"
            db.execute(f"DELETE FROM spoken {of_these}")
            db.execute(f"DELETE FROM payloads {of_these}")
            gone = db.execute(f"DELETE FROM packets WHERE source IN ({some})").fetchall()[0][0]
            db.execute(f"DELETE FROM batches WHERE source IN ({some})")
            db.execute(f"DELETE FROM sources WHERE id IN ({some})")
        self._load()
        self._checkpoint()
        return int(gone)

    def retain(self, retention: Retention, now_ns: int) -> tuple[int, int | None]:
        """Delete the oldest beyond the bounds: (packets, the time before which nothing is left)."""
        gone, before = 0, None
        if retention.max_age_s is not None:
            before = now_ns - retention.max_age_s * 10**9
            gone += self._delete_before(before)
        for _ in range(5):  # how much a share of the packets takes is a guess
            size = self.bytes_used()
            if retention.max_bytes is None or size <= retention.max_bytes:
                break
            share = 1 - LOW_WATER * retention.max_bytes / size
            with errors():
                (cut,) = self.connection.execute(
                    f"SELECT approx_quantile(time_ns, {share:.6f}::FLOAT) FROM packets"
                ).fetchall()[0]
            if cut is None:
                break
            before = int(cut) + 1
            went = self._delete_before(before)
            gone += went
            if not went:
                break
        return gone, before

    def _delete_before(self, time_ns: int) -> int:
        with self.transaction() as db:
            (gone,) = db.execute("DELETE FROM packets WHERE time_ns < ?", [time_ns]).fetchall()[0]
            if not gone:
                return 0
            for table in ("spoken", "payloads"):
                db.execute(f"DELETE FROM {table} WHERE time_ns < ?", [time_ns])
            db.execute("DELETE FROM batches WHERE last_ns < ?", [time_ns])
            # A flow is written again when it is met after a while, at the latest after the next start.
            db.execute("DELETE FROM flows WHERE flow_hash NOT IN (SELECT flow_hash FROM packets)")
        self._load()
        self._checkpoint()
        return int(gone)

    def _checkpoint(self) -> None:
        """Give back the room of what was deleted."""
        with errors():
            self.connection.execute("CHECKPOINT")

    def bytes_used(self) -> int:
        """Of the file, without what is free in it, and its log."""
        with errors():
            block_bytes, used = self.connection.execute(
                "SELECT block_size, used_blocks FROM pragma_database_size()"
            ).fetchall()[0]
        log = Path(f"{self._path}.wal")
        return int(block_bytes) * int(used) + (log.stat().st_size if log.exists() else 0)

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Commits at the end, durable; rolls back on any exception."""
        with errors():
            self.connection.execute("BEGIN")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):
                    self.connection.execute("ROLLBACK")
                raise


def _chain(name: BatchName) -> Any:
    return name.agent, name.boot.hex(), name.session, name.lane.value


def _batch_rows(
    batches: Sequence[ObservedBatch], ids: Sequence[int], sources: Sequence[int]
) -> dict[str, Array]:
    columns: dict[str, list[Any]] = {
        "id": list(ids),
        "source": list(sources),
        "sequence": [batch.header.sequence for batch in batches],
        "packets": [len(batch) for batch in batches],
        "last_ns": [int(batch.corrected_ns().max()) for batch in batches],
        "clock_known": [batch.clock is not None for batch in batches],
        "uncertainty_ns": [batch.clock.uncertainty_ns if batch.clock else 0 for batch in batches],
        "stored_ns": [batch.stored_ns for batch in batches],
    }
    return {name: np.array(column) for name, column in columns.items()}


def _insert(
    db: duckdb.DuckDBPyConnection, table: str, types: Mapping[str, str], arrays: dict[str, Array]
) -> None:
    """Rows out of arrays; DuckDB reads them where they are. A column without an array is 0."""
    if not arrays:
        return
    columns = [name if name in arrays else _NOTHING.get(kind, "0") for name, kind in types.items()]
    db.register("arrays", arrays)
    try:
        db.execute(f"INSERT INTO {table} SELECT {', '.join(columns)} FROM arrays")
    finally:
        db.unregister("arrays")


_NOTHING = {"BOOLEAN": "false", "VARCHAR": "NULL", "BLOB": "NULL"}


def address_text(high: int, low: int) -> str:
    """An address out of its halves; "" for none."""
    return address_of(((high << 64) | low).to_bytes(16, "big")) if low or high else ""


@contextmanager
def errors() -> Iterator[None]:
    """DuckDB's errors as the store's."""
    try:
        yield
    except (
        duckdb.IOException,
        duckdb.OutOfMemoryException,
        duckdb.FatalException,
        duckdb.InterruptException,
    ) as error:
        raise StoreAway(f"the embedded store: {_first_line(error)}") from error
    except duckdb.Error as error:
        raise StoreRefused(f"the embedded store: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
