"""The observations of the embedded store: DuckDB tables, written by one thread.

A put is one transaction: rows of `batches` and of `packets` together, durable when it returns (DuckDB syncs its log at
each commit). A batch that `batches` names already is left out, so that a redelivery, or a put that a kill cut off
after its commit, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np

from hub.pool.embedded.columns import TYPES, Array, gather
from hub.pool.observed import ObservedBatch
from hub.pool.store import Put, StoreAway, StoreRefused

SCHEMA_VERSION = 1
MEMORY = "256MB"
"""What DuckDB may take; a question that needs more uses a file beside the store's."""
MOST_KNOWN_FLOWS = 500_000

_SCHEMA = (
    "CREATE TABLE about(version INTEGER, identity VARCHAR)",
    f"INSERT INTO about VALUES({SCHEMA_VERSION}, uuid())",
    # What many batches share.
    """CREATE TABLE sources(
        id UINTEGER, agent VARCHAR, boot VARCHAR, session VARCHAR, lane VARCHAR, interface VARCHAR,
        hostname VARCHAR, address VARCHAR)""",
    # One row per batch: what is here, and what its packets share.
    """CREATE TABLE batches(
        id UINTEGER, source UINTEGER, sequence BIGINT, packets UINTEGER, uncertainty_ns BIGINT,
        clock_known BOOLEAN, stored_ns BIGINT)""",
    # Flow hash (8 bytes) → Community ID (30 characters).
    "CREATE TABLE flows(flow_hash UBIGINT, community_id VARCHAR, time_ns BIGINT)",
    f"CREATE TABLE packets({', '.join(f'{name} {kind}' for name, kind in TYPES.items())})",
)
_NULLABLE = frozenset(name for name, kind in TYPES.items() if kind in ("VARCHAR", "INTEGER", "BLOB"))
