"""The registry's tables (SQLite, STRICT) and the steps from one schema version to the next.

`PRAGMA user_version` holds the version. A step is a list of statements; all steps a file lacks run in one
transaction, so that a kill in the middle leaves the old version. A file newer than this program is refused:
an older program would misread it.

`configuration.version` counts every change that agents must hear of. Triggers raise it, so that no writer
(hub, CLI command in another process) can forget to; the hub polls one row instead of comparing tables.
"""

import sqlite3

from hub.registry.errors import RegistryError

_VERSION_1 = (
    """CREATE TABLE users(
        name TEXT PRIMARY KEY, password_hash TEXT NOT NULL, must_change INTEGER NOT NULL DEFAULT 0,
        created_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE web_sessions(
        token_hash BLOB PRIMARY KEY, user TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE,
        csrf TEXT NOT NULL, created_ns INTEGER NOT NULL, seen_ns INTEGER NOT NULL,
        expires_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE login_attempts(
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, at_ns INTEGER NOT NULL, succeeded INTEGER NOT NULL) STRICT""",
    "CREATE INDEX login_attempts_key ON login_attempts(key, at_ns)",
    """CREATE TABLE agents(
        id TEXT PRIMARY KEY, label TEXT NOT NULL DEFAULT '', user_public TEXT NOT NULL,
        signing_public BLOB NOT NULL, enabled INTEGER NOT NULL DEFAULT 1,
        disabled_reason TEXT NOT NULL DEFAULT '', enrolled_ns INTEGER NOT NULL,
        user_jwt TEXT, jwt_issued_ns INTEGER, jwt_expires_ns INTEGER,
        report BLOB, report_ns INTEGER, heartbeat BLOB, heartbeat_ns INTEGER) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX agents_user_public ON agents(user_public)",
    """CREATE TABLE agent_keys(
        agent TEXT NOT NULL REFERENCES agents(id) ON DELETE CASCADE, signing_public BLOB NOT NULL,
        user_public TEXT NOT NULL, not_before_ns INTEGER NOT NULL, not_after_ns INTEGER,
        certificate BLOB, PRIMARY KEY(agent, signing_public)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE viewers(
        name TEXT PRIMARY KEY, user_public TEXT NOT NULL, agents TEXT NOT NULL, created_ns INTEGER NOT NULL,
        expires_ns INTEGER, revoked_ns INTEGER) STRICT, WITHOUT ROWID""",
    """CREATE TABLE sessions(
        id TEXT PRIMARY KEY, agent TEXT NOT NULL REFERENCES agents(id), spec BLOB,
        created_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL, ended_ns INTEGER,
        requested_by TEXT NOT NULL, reported_state TEXT, reported_reason TEXT NOT NULL DEFAULT '',
        reported BLOB, reported_ns INTEGER) STRICT, WITHOUT ROWID""",
    # Each filter a session has had: packets are judged by the revision in their batch's header.
    """CREATE TABLE session_filters(
        session TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE, revision INTEGER NOT NULL,
        filter TEXT NOT NULL, snaplen INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
        PRIMARY KEY(session, revision)) STRICT, WITHOUT ROWID""",
    "CREATE INDEX sessions_agent ON sessions(agent, created_ns)",
    """CREATE TABLE desired(
        agent TEXT PRIMARY KEY REFERENCES agents(id) ON DELETE CASCADE, revision INTEGER NOT NULL,
        digest BLOB NOT NULL, published_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    # One row per (agent, boot, session, lane): what the archive received of this chain.
    """CREATE TABLE chains(
        id INTEGER PRIMARY KEY, agent TEXT NOT NULL, boot BLOB NOT NULL, session TEXT NOT NULL,
        lane TEXT NOT NULL, batches INTEGER NOT NULL DEFAULT 0, packets INTEGER NOT NULL DEFAULT 0,
        captured_bytes INTEGER NOT NULL DEFAULT 0, original_bytes INTEGER NOT NULL DEFAULT 0,
        message_bytes INTEGER NOT NULL DEFAULT 0, duplicates INTEGER NOT NULL DEFAULT 0,
        redelivered INTEGER NOT NULL DEFAULT 0, tombstones INTEGER NOT NULL DEFAULT 0,
        declared_packets INTEGER NOT NULL DEFAULT 0, declared_bytes INTEGER NOT NULL DEFAULT 0,
        declared_kept_packets INTEGER NOT NULL DEFAULT 0, declared_newest INTEGER NOT NULL DEFAULT 0,
        closed_reason TEXT, closed_sequence INTEGER,
        previous_boot BLOB, first_timestamp_ns INTEGER, last_timestamp_ns INTEGER,
        first_received_ns INTEGER NOT NULL, last_received_ns INTEGER NOT NULL,
        UNIQUE(agent, boot, session, lane)) STRICT""",
    "CREATE INDEX chains_session ON chains(session)",
    # The sequences of a chain as disjoint runs in which every link was verified.
    """CREATE TABLE runs(
        chain INTEGER NOT NULL REFERENCES chains(id) ON DELETE CASCADE, first INTEGER NOT NULL,
        last INTEGER NOT NULL, kept INTEGER NOT NULL, previous BLOB NOT NULL, head BLOB NOT NULL,
        PRIMARY KEY(chain, first)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE chain_interfaces(
        chain INTEGER NOT NULL REFERENCES chains(id) ON DELETE CASCADE, interface TEXT NOT NULL,
        link_type INTEGER NOT NULL, filter_revision INTEGER NOT NULL, snaplen INTEGER NOT NULL,
        packets INTEGER NOT NULL, captured_bytes INTEGER NOT NULL, original_bytes INTEGER NOT NULL,
        first_timestamp_ns INTEGER, last_timestamp_ns INTEGER,
        PRIMARY KEY(chain, interface, link_type, filter_revision, snaplen)) STRICT, WITHOUT ROWID""",
    # The agent's own running totals, the newest seen per boot: out of a batch header or a heartbeat.
    """CREATE TABLE books(
        session TEXT NOT NULL, agent TEXT NOT NULL, boot BLOB NOT NULL, books BLOB NOT NULL,
        origin TEXT NOT NULL, updated_ns INTEGER NOT NULL, PRIMARY KEY(session, agent, boot)) STRICT, WITHOUT ROWID""",
    # How far the ledger has read each stream; tells a redelivery from a message stored twice.
    """CREATE TABLE positions(
        stream TEXT PRIMARY KEY, created TEXT NOT NULL, sequence INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    # A mark per MiB or so of a subject: bytes stored before a stream sequence. The keeper's index.
    """CREATE TABLE archive_marks(
        stream TEXT NOT NULL, subject TEXT NOT NULL, sequence INTEGER NOT NULL, bytes_before INTEGER NOT NULL,
        received_ns INTEGER NOT NULL, PRIMARY KEY(stream, subject, sequence)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE purges(
        id INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, stream TEXT NOT NULL, subject TEXT NOT NULL,
        below_sequence INTEGER NOT NULL, messages INTEGER NOT NULL, bytes INTEGER NOT NULL,
        reason TEXT NOT NULL) STRICT""",
    # Per subject: what the keeper has purged so far.
    """CREATE TABLE freed(
        stream TEXT NOT NULL, subject TEXT NOT NULL, below_sequence INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY(stream, subject)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE quarantine(
        id INTEGER PRIMARY KEY, received_ns INTEGER NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL,
        subject TEXT NOT NULL, agent TEXT NOT NULL, session TEXT NOT NULL, reason TEXT NOT NULL,
        size INTEGER NOT NULL, sha256 BLOB NOT NULL, opening BLOB NOT NULL, deliveries INTEGER NOT NULL,
        UNIQUE(stream, sequence, sha256)) STRICT""",
    "CREATE INDEX quarantine_session ON quarantine(session)",
    """CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    "CREATE TABLE configuration(one INTEGER PRIMARY KEY CHECK(one = 1), version INTEGER NOT NULL) STRICT",
    "INSERT INTO configuration VALUES(1, 1)",
    """CREATE TRIGGER agents_added AFTER INSERT ON agents
        BEGIN UPDATE configuration SET version = version + 1; END""",
    """CREATE TRIGGER agents_changed
        AFTER UPDATE OF label, user_public, signing_public, enabled, user_jwt ON agents
        BEGIN UPDATE configuration SET version = version + 1; END""",
    """CREATE TRIGGER agents_removed AFTER DELETE ON agents
        BEGIN UPDATE configuration SET version = version + 1; END""",
    """CREATE TRIGGER sessions_added AFTER INSERT ON sessions WHEN new.spec IS NOT NULL
        BEGIN UPDATE configuration SET version = version + 1; END""",
    """CREATE TRIGGER sessions_changed AFTER UPDATE OF spec, ended_ns ON sessions
        BEGIN UPDATE configuration SET version = version + 1; END""",
    """CREATE TRIGGER viewers_changed AFTER UPDATE ON viewers
        BEGIN UPDATE configuration SET version = version + 1; END""",
)

_VERSION_2 = (
    # What flow records add up to: a session's largest flows (hub/ledger/flow_totals.py), and the sum of all others.
    """CREATE TABLE session_flows(
        session TEXT NOT NULL, protocol INTEGER NOT NULL, address_a BLOB NOT NULL, port_a INTEGER NOT NULL,
        address_b BLOB NOT NULL, port_b INTEGER NOT NULL, packets_a INTEGER NOT NULL, packets_b INTEGER NOT NULL,
        bytes_a INTEGER NOT NULL, bytes_b INTEGER NOT NULL, first_timestamp_ns INTEGER NOT NULL,
        last_timestamp_ns INTEGER NOT NULL,
        PRIMARY KEY(session, protocol, address_a, port_a, address_b, port_b)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE session_flows_rest(
        session TEXT PRIMARY KEY, flows INTEGER NOT NULL, packets INTEGER NOT NULL, bytes INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
)

_FLEET = (
    # Disabled by an operator: trusted as before, its spool drains, but it gets no sessions. NULL: enabled.
    "ALTER TABLE agents ADD COLUMN off_ns INTEGER",
    "ALTER TABLE agents ADD COLUMN off_by TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE agents ADD COLUMN off_reason TEXT NOT NULL DEFAULT ''",
    """CREATE TRIGGER agents_switched AFTER UPDATE OF off_ns ON agents
        BEGIN UPDATE configuration SET version = version + 1; END""",
    "ALTER TABLE sessions ADD COLUMN name TEXT NOT NULL DEFAULT ''",
    # What a session's time line shows: states as reported, packets dropped (by counter) at about that time.
    """CREATE TABLE session_events(
        session TEXT NOT NULL, at_ns INTEGER NOT NULL, kind TEXT NOT NULL, packets INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY(session, at_ns, kind)) STRICT, WITHOUT ROWID""",
    # The first time stamp of a batch that came while the one before it was missing: where a gap is drawn.
    """CREATE TABLE chain_holes(
        chain INTEGER NOT NULL REFERENCES chains(id) ON DELETE CASCADE, sequence INTEGER NOT NULL,
        at_ns INTEGER NOT NULL, PRIMARY KEY(chain, sequence)) STRICT, WITHOUT ROWID""",
)

_POOL = (
    # A word of hub.pooling; without one the hub's setting counts.
    "ALTER TABLE sessions ADD COLUMN pooling TEXT",
    """CREATE TRIGGER sessions_pooling AFTER UPDATE OF pooling ON sessions
        BEGIN UPDATE configuration SET version = version + 1; END""",
    # Per (agent, boot, session, lane): which batches the pool is done with, and what became of their packets.
    # `runs`: pairs of little-endian u64, first and behind the last (hub/pool/books.py).
    """CREATE TABLE pool_chains(
        id INTEGER PRIMARY KEY, agent TEXT NOT NULL, boot BLOB NOT NULL, session TEXT NOT NULL,
        lane TEXT NOT NULL, runs BLOB NOT NULL, pooled INTEGER NOT NULL DEFAULT 0,
        left_out INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0,
        reason TEXT NOT NULL DEFAULT '', changed_ns INTEGER NOT NULL,
        UNIQUE(agent, boot, session, lane)) STRICT""",
    "CREATE INDEX pool_chains_session ON pool_chains(session)",
    # How far each session's analysis is: the last message of each stream that a store has taken.
    """CREATE TABLE analyses(
        session TEXT PRIMARY KEY REFERENCES sessions(id) ON DELETE CASCADE, target TEXT NOT NULL,
        level TEXT NOT NULL, state TEXT NOT NULL, problem TEXT NOT NULL, packets INTEGER NOT NULL,
        refused INTEGER NOT NULL, total INTEGER NOT NULL, bulk_sequence INTEGER NOT NULL,
        prio_sequence INTEGER NOT NULL, started_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL) STRICT""",
)

_LOSSES = (
    # When packets were lost (hub/ledger/losses.py). first, last: sequences, of kind missing.
    """CREATE TABLE losses(
        id INTEGER PRIMARY KEY, agent TEXT NOT NULL, boot BLOB NOT NULL, session TEXT NOT NULL,
        lane TEXT NOT NULL, kind TEXT NOT NULL, since_ns INTEGER NOT NULL, until_ns INTEGER NOT NULL,
        packets INTEGER NOT NULL, first INTEGER, last INTEGER) STRICT""",
    "CREATE INDEX losses_session ON losses(session)",
    "CREATE INDEX losses_time ON losses(until_ns)",
)

STEPS: tuple[tuple[str, ...], ...] = (_VERSION_1, _VERSION_2, _FLEET, _POOL, _LOSSES)
"""STEPS[n] brings a file of version n to n + 1. Never edit a released step; append."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file behind `connection` (autocommit mode) to the newest version; RegistryError if newer."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(STEPS):
            raise RegistryError(
                f"the registry has schema version {version}, this program knows {len(STEPS)}: "
                "it was written by a newer wirepool; run that version"
            )
        for step in STEPS[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
