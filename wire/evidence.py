"""Evidence files (.wpz): the original signed messages with what it takes to judge them.

A zip file, stored (never compressed), zip64, of

    messages.wp                 the messages, end to end, as the agents signed them
    certificates/<agent>-<n>.cbor   the hub's signed word for each agent's signing key
    hub.pub                     the hub's public key, base64 (compare its fingerprint by another way)
    manifest.json               what should be inside: counts, bytes, sha256 of messages.wp

The writer needs no seeking, so a hub streams it to a browser. The manifest isn't signed and proves nothing by
itself: it only tells a cut file from a whole one. What counts are the agents' signatures, the chains, and the hub's
signatures on the certificates.
"""

import base64
import binascii
import hashlib
import io
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from wire import cose
from wire.batch import (
    DOMAIN,
    Kind,
    OpenBatch,
    decode_columns,
    decode_flows,
    decode_tombstone,
    open_batch,
)
from wire.books import Books
from wire.chain import (
    MAX_CHAINS,
    ChainKey,
    ChainResult,
    ChainVerifier,
    Verdict,
    check_boot_changes,
    expect_next_boots,
)
from wire.control import open_certificate
from wire.errors import WireError
from wire.flows import records_of
from wire.framing import split_messages
from wire.names import AGENT_ID, check_agent_id

FORMAT = "wirepool-evidence"
FORMAT_VERSION = 1
MAX_CERTIFICATES = 16384
MAX_CERTIFICATE_BYTES = 4096
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_COMPLAINTS = 100
_MAX_READ_BYTES = 2 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_MESSAGES, _HUB, _MANIFEST = "messages.wp", "hub.pub", "manifest.json"
_certificate_name = re.compile(rf"certificates/({AGENT_ID})-[0-9]{{1,6}}\.cbor", re.ASCII)


class Sink(Protocol):
    """Where the file goes: a pipe, a socket's buffer, a file."""

    def write(self, data: bytes, /) -> Any:
        """Take all of `data`."""


class _Unseekable(io.RawIOBase):
    """Lets zipfile write to anything that has `write`: it never seeks, and it is told so."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, data: Any, /) -> int:
        self._sink.write(bytes(data))
        return len(data)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class WpzWriter:
    """Writes one evidence file as a stream: `add_message` for each, then `finish`. Memory: one message.

    hub_public: 32 bytes. created_ns: nanoseconds since 1970. sessions: ids, for the manifest.
    """

    def __init__(self, sink: Sink, *, hub_public: bytes, created_ns: int, sessions: list[str]) -> None:
        self._zip = zipfile.ZipFile(_Unseekable(sink), "w", zipfile.ZIP_STORED, allowZip64=True)
        date = time.gmtime(max(created_ns // 10**9, 315532800))  # a zip knows no time before 1980
        self._date = (date.tm_year, date.tm_mon, date.tm_mday, date.tm_hour, date.tm_min, date.tm_sec)
        self._hub_public = hub_public
        self._messages = self._zip.open(self._entry(_MESSAGES), "w", force_zip64=True)
        self._digest = hashlib.sha256()
        self._certificates: list[str] = []
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "created_ns": created_ns,
            "sessions": sessions,
            "messages": 0,
            "messages_bytes": 0,
        }

    def add_message(self, message: bytes) -> None:
        """Append one message exactly as its agent published it."""
        self._messages.write(message)
        self._digest.update(message)
        self._manifest["messages"] += 1
        self._manifest["messages_bytes"] += len(message)

    def finish(self, certificates: list[tuple[str, bytes]]) -> None:
        """Write the rest: (agent, CERTIFICATE envelope) of every key that signed. Nothing can be added after it."""
        self._messages.close()
        names = []
        for number, (agent, certificate) in enumerate(certificates):
            names.append(f"certificates/{check_agent_id(agent)}-{number}.cbor")
            self._zip.writestr(self._entry(names[-1]), certificate)
        self._zip.writestr(self._entry(_HUB), base64.b64encode(self._hub_public) + b"\n")
        self._manifest |= {"messages_sha256": self._digest.hexdigest(), "certificates": names}
        self._zip.writestr(self._entry(_MANIFEST), json.dumps(self._manifest, indent=2) + "\n")
        self._zip.close()

    def abandon(self) -> None:
        """Give up an unfinished file: what is left to write goes to the sink, to be thrown away with the rest.

        A zip file that is collected with an entry open complains where nobody can catch it.
        """
        self._messages.close()
        self._zip.close()

    def _entry(self, name: str) -> zipfile.ZipInfo:
        entry = zipfile.ZipInfo(name, self._date)
        entry.external_attr = 0o644 << 16
        return entry


@dataclass(slots=True)
class EvidenceReport:
    """What `verify_wpz` found."""

    hub_public: bytes
    """The hub's key that the certificates were checked against."""
    trusted: bool
    """It was given by the reader; False: it is the file's own, compare its fingerprint."""
    chains: dict[ChainKey, ChainResult] = field(default_factory=dict)
    books: dict[ChainKey, Books] = field(default_factory=dict)
    """As the newest batch of each chain says them."""
    messages: int = 0
    refused: int = 0
    """Messages that failed; their reasons are among the complaints."""
    complaints: list[str] = field(default_factory=list)
    """What is wrong with the file; at most 100 sentences."""
    boot_changes: list[str] = field(default_factory=list)
    """Boots whose end isn't what the next boot says it was."""

    def verdict(self) -> Verdict:
        """The worst that was found."""
        if self.complaints or self.refused:
            return Verdict.INVALID
        worst = max(
            (chain.verdict for chain in self.chains.values()),
            key=list(Verdict).index,
            default=Verdict.UNEXPLAINED_GAP,
        )
        if self.boot_changes and worst is not Verdict.INVALID:
            return Verdict.UNEXPLAINED_GAP
        return worst

    def complain(self, text: str) -> None:
        """Note what is wrong; a hostile file can't fill the memory with it."""
        if len(self.complaints) < MAX_COMPLAINTS:
            self.complaints.append(text)


def read_hub_key(data: bytes) -> bytes:
    """A hub's public key as base64 text: 32 bytes. WireError otherwise."""
    try:
        key = base64.b64decode(data.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise WireError("not a hub's public key (32 bytes as base64)")
    return key


class _Bounded:
    """A file whose single reads are bounded: a zip's directory may not be larger than we are ready to hold."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seekable, self.close = file.tell, file.seekable, file.close

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and not 0 <= offset < 2**63:
            raise WireError(f"a zip that points to byte {offset}")
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_READ_BYTES:
            raise WireError(f"a zip directory of {size} bytes")
        return self._file.read(_MAX_READ_BYTES if size < 0 else size)


def verify_wpz(path: str | os.PathLike[str], trust: bytes | None) -> EvidenceReport:
    """Check everything in an evidence file: certificates, every signature, body, sum and chain.

    trust: the hub's public key, known by another way; None takes the file's own (then it proves only that the parts
    fit each other and that hub's key). OSError when it can't be read; WireError when it isn't an evidence file at
    all. Memory: a message at a time, plus 73 bytes a batch for the chains.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(_Bounded(file)) as archive:
                return _verify(archive, trust)
        except (OSError, WireError):
            raise
        except (
            Exception
        ) as error:  # zipfile raises what it meets: BadZipFile, struct.error, NotImplementedError …
            raise WireError(f"not an evidence file (.wpz), or a damaged one: {error}") from error


def _verify(archive: zipfile.ZipFile, trust: bytes | None) -> EvidenceReport:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        known = entry.filename in (_MESSAGES, _HUB, _MANIFEST) or _certificate_name.fullmatch(entry.filename)
        if not known or entry.filename in entries:
            raise WireError(f"not an evidence file: entry {entry.filename[:80]!r} is unknown or there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise WireError(f"{entry.filename}: compressed or encrypted; evidence is stored as it is")
        entries[entry.filename] = entry
    for name in (_MESSAGES, _HUB, _MANIFEST):
        if name not in entries:
            raise WireError(f"not an evidence file: {name} is missing")
    if len(entries) > MAX_CERTIFICATES + 3:
        raise WireError(f"more than {MAX_CERTIFICATES} certificates")
    own = read_hub_key(_small(archive, entries[_HUB], 256))
    report = EvidenceReport(own if trust is None else trust, trust is not None)
    if trust is not None and own != trust:
        report.complain("hub.pub isn't the hub key given: the file is another hub's, or was exchanged")
    keys = _certified_keys(archive, entries, report)
    digest = hashlib.sha256()
    size = _verify_messages(archive, entries[_MESSAGES], keys, report, digest)
    _check_manifest(_small(archive, entries[_MANIFEST], MAX_MANIFEST_BYTES), report, size, digest.hexdigest())
    report.boot_changes = check_boot_changes(report.chains)
    return report


def _certified_keys(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], report: EvidenceReport
) -> dict[str, list[bytes]]:
    keys: dict[str, list[bytes]] = {}
    for name, entry in entries.items():
        match = _certificate_name.fullmatch(name)
        if match is None:
            continue
        try:
            certificate = open_certificate(
                _small(archive, entry, MAX_CERTIFICATE_BYTES), hub_public=report.hub_public
            )
        except WireError as error:
            report.complain(f"{name}: {error}")
            continue
        if certificate.agent != match[1]:
            report.complain(f"{name}: it is for agent {certificate.agent}")
            continue
        keys.setdefault(certificate.agent, []).append(certificate.signing_public)
    return keys


def _verify_messages(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    keys: dict[str, list[bytes]],
    report: EvidenceReport,
    digest: Any,
) -> int:
    size = 0
    chains: dict[ChainKey, ChainVerifier] = {}
    newest: dict[ChainKey, int] = {}

    def chunks() -> Iterator[bytes]:
        nonlocal size
        with archive.open(entry) as file:
            try:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    yield chunk
            except (zipfile.BadZipFile, EOFError) as error:
                report.complain(f"{_MESSAGES}: {error}")

    def damaged(offset: int, skipped: int, reason: str) -> None:
        report.complain(f"{_MESSAGES}: {skipped} bytes from byte {offset} are no message ({reason})")

    for message in split_messages(chunks(), resynchronise=damaged):
        report.messages += 1
        try:
            batch = open_batch(message, public=None)
            key = ChainKey.of(batch.header)
            _check_signature(batch, keys.get(key.agent, []))
            replaced = decode_tombstone(batch) if batch.header.kind is Kind.TOMBSTONE else None
            if batch.header.kind is Kind.PACKETS:
                decode_columns(batch)
            elif batch.header.kind is Kind.FLOWS:
                for _ in records_of(decode_flows(batch)):
                    pass  # each is checked
            chain = chains.get(key)
            if chain is None:
                if len(chains) >= MAX_CHAINS:
                    raise WireError(f"more than {MAX_CHAINS} chains")
                chain = chains[key] = ChainVerifier()
            chain.add(batch, replaced)
        except WireError as error:
            report.refused += 1
            report.complain(f"message {report.messages}: {error}")
            continue
        if batch.header.sequence >= newest.get(key, -1):
            newest[key] = batch.header.sequence
            report.books[key] = batch.header.books
    report.chains = expect_next_boots({key: chain.result() for key, chain in chains.items()})
    return size


def _check_signature(batch: OpenBatch, keys: list[bytes]) -> None:
    if not keys:
        raise WireError(f"agent {batch.header.agent} has no certificate here")
    for public in keys:
        try:
            cose.check_signature(batch.header_bytes, batch.signature, domain=DOMAIN, public=public)
        except WireError:
            continue
        return
    raise WireError(f"not signed by a certified key of agent {batch.header.agent}")


def _check_manifest(data: bytes, report: EvidenceReport, size: int, sha256: str) -> None:
    try:
        manifest = json.loads(data)
        if manifest["format"] != FORMAT or manifest["version"] != FORMAT_VERSION:
            raise WireError(f"{_MANIFEST}: another format or version")
        said = (manifest["messages"], manifest["messages_bytes"], manifest["messages_sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"{_MANIFEST}: not a manifest ({type(error).__name__})") from None
    if said[1:] != (size, sha256) or (said[0] != report.messages and not report.complaints):
        report.complain(
            f"{_MANIFEST} speaks of other messages than are here: cut, or altered after the export"
        )


def _small(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, max_bytes: int) -> bytes:
    if entry.file_size > max_bytes:
        raise WireError(f"{entry.filename}: {entry.file_size} bytes; at most {max_bytes} are allowed")
    with archive.open(entry) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise WireError(f"{entry.filename}: more than {max_bytes} bytes")
    return data
