"""Whether two exports of a session are the same file: a name for all that its bytes are made of.

An ended session's export is the same each time while its archive and its books are; so a download that broke can go on
where it was. An export of a session that still runs has no identity: it grows.
"""

import hashlib
from importlib import metadata

import nats.errors
import orjson

from hub.archive.export import STREAMS
from hub.archive.export_pcapng import host_words
from hub.archive.reading import ANSWER_TIMEOUT_S, ArchiveError
from hub.bus import Bus
from hub.ledger.session_books import session_books
from hub.registry import Registry
from wire.names import batch_subject

REVISION = 1
"""Raise it when the same session makes other bytes."""


async def export_identity(registry: Registry, bus: Bus, session: str, form: str) -> str | None:
    """An opaque text, equal for equal bytes of the export in this form; None while the session hasn't ended.

    UnknownError without the session, ArchiveError when the server can't be asked.
    """
    record = registry.sessions.require(session)
    if record.ended_ns is None:
        return None
    agent = registry.agents.require(record.agent)
    books = session_books(registry, session)
    parts: list[object] = [
        REVISION,
        _version(),
        form,
        session,
        record.ended_ns,
        [[boot.boot.hex(), boot.books.to_map()] for boot in books.boots],
        [books.archived_packets, books.quarantined, books.declared_packets, books.missing_batches],
        {str(revision): text for revision, text in registry.sessions.filters(session).items()},
        host_words(agent),
        [
            [key.signing_public.hex(), (key.certificate or b"").hex()]
            for key in registry.agents.keys(agent.id)
        ],
        [
            await _holdings(bus, stream, batch_subject(agent.id, session, lane))
            for lane, stream in STREAMS.items()
        ],
    ]
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]


def _version() -> str:
    try:
        return metadata.version("wirepool")
    except metadata.PackageNotFoundError:
        return "0"


async def _holdings(bus: Bus, stream: str, subject: str) -> list[object]:
    """What the stream holds of a subject: since when the stream is there, and how many messages."""
    try:
        client = await bus.client()
        body = orjson.dumps({"subjects_filter": subject})
        reply = await client.request(f"$JS.API.STREAM.INFO.{stream}", body, timeout=ANSWER_TIMEOUT_S)
    except (TimeoutError, nats.errors.Error) as error:
        raise ArchiveError(f"the NATS server doesn't answer: {error or type(error).__name__}") from error
    info = orjson.loads(reply.data)
    if "error" in info:
        raise ArchiveError(f"stream {stream}: {info['error'].get('description', 'refused')}")
    held = (info["state"].get("subjects") or {}).get(subject, 0)
    return [info.get("created", ""), held]
