"""Evidence files: written as a stream, judged part by part, and no alteration goes unnoticed."""

from __future__ import annotations

import io
import os
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tests.wire import make
from tests.wire.make_vectors import certificate
from wire import batch
from wire.chain import Verdict
from wire.control import seal_certificate
from wire.errors import WireError
from wire.evidence import EvidenceReport, WpzWriter, verify_wpz

HUB = make.HUB_KEY.public


def written(messages: list[bytes], certificates: list[tuple[str, bytes]] | None = None) -> bytes:
    """An evidence file of these messages."""
    out = io.BytesIO()
    writer = WpzWriter(out, hub_public=HUB, created_ns=make.START_NS, sessions=[make.SESSION])
    for message in messages:
        writer.add_message(message)
    writer.finish([("web1", certificate())] if certificates is None else certificates)
    return out.getvalue()


def judged(path: Path, data: bytes, trust: bytes | None = HUB) -> EvidenceReport:
    """The report on these bytes."""
    path.write_bytes(data)
    return verify_wpz(path, trust)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "e.wpz"


def test_a_file_streams_into_a_pipe_and_is_intact(path: Path) -> None:
    read, write = os.pipe()
    with path.open("wb") as file, subprocess.Popen(["cat"], stdin=read, stdout=file) as cat:
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            writer = WpzWriter(pipe, hub_public=HUB, created_ns=make.START_NS, sessions=[make.SESSION])
            for message in make.chain(20):
                writer.add_message(message)
            writer.finish([("web1", certificate())])
        assert cat.wait() == 0
    report = verify_wpz(path, HUB)
    assert report.verdict() is Verdict.INTACT
    assert report.messages == 21
    assert report.trusted
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_the_verdict_is_the_worst_of_the_chains(path: Path) -> None:
    messages = make.chain(5)
    assert judged(path, written(messages)).verdict() is Verdict.INTACT
    assert judged(path, written(messages[:-1])).verdict() is Verdict.OPEN_TAIL
    assert judged(path, written(messages[:2] + messages[3:])).verdict() is Verdict.UNEXPLAINED_GAP
    other = make.chain(3, session="b" * 26)
    assert judged(path, written(messages + other[1:])).verdict() is Verdict.UNEXPLAINED_GAP
    assert judged(path, written([])).verdict() is Verdict.UNEXPLAINED_GAP


def test_the_end_cut_off_an_earlier_boot_is_noticed(path: Path) -> None:
    first = make.chain(3, close=False)
    head = batch.open_batch(first[-1], public=None).header_hash
    second = make.chain(2, previous=head, previous_boot=make.BOOT, boot=bytes(range(16)))
    assert judged(path, written(first + second)).verdict() is Verdict.OPEN_TAIL
    assert judged(path, written(first[:-1] + second)).verdict() is Verdict.UNEXPLAINED_GAP


def test_a_session_that_goes_on_needs_its_next_boot(path: Path) -> None:
    packets = make.chain(3, close=False)
    head = batch.open_batch(packets[-1], public=None).header_hash
    end, end_hash = make.closing(3, head, reason=batch.GOES_ON)
    first = [*packets, end]
    second = make.chain(2, previous=end_hash, previous_boot=make.BOOT, boot=bytes(range(16)))
    assert judged(path, written(first + second)).verdict() is Verdict.INTACT
    alone = judged(path, written(first))  # the rest was withheld, or hasn't come yet
    assert alone.verdict() is Verdict.OPEN_TAIL
    assert [chain.goes_on for chain in alone.chains.values()] == [True]
    assert judged(path, written(packets + second)).verdict() is Verdict.UNEXPLAINED_GAP  # the end was cut off


def test_another_hubs_key_and_uncertified_agents_are_invalid(path: Path) -> None:
    messages = make.chain(2)
    assert judged(path, written(messages), make.OTHER_KEY.public).verdict() is Verdict.INVALID
    assert not judged(path, written(messages), None).trusted
    assert judged(path, written(messages, [])).verdict() is Verdict.INVALID
    stranger = seal_certificate(
        "web1", make.OTHER_KEY.public, not_before_ns=0, not_after_ns=9, issued_ns=0, key=make.HUB_KEY
    )
    assert judged(path, written(messages, [("web1", stranger)])).verdict() is Verdict.INVALID
    assert (
        judged(path, written(messages, [("web1", stranger), ("web1", certificate())])).verdict()
        is Verdict.INTACT
    )
    assert judged(path, written(messages, [("web2", certificate())])).verdict() is Verdict.INVALID
    forged = seal_certificate(
        "web1", make.AGENT_KEY.public, not_before_ns=0, not_after_ns=9, issued_ns=0, key=make.OTHER_KEY
    )
    assert judged(path, written(messages, [("web1", forged)])).verdict() is Verdict.INVALID


def test_no_altered_byte_leaves_a_file_intact_as_it_was(path: Path) -> None:
    """Every byte matters but for the zip's own metadata, where a change may not change what is said."""
    data = written(make.chain(2))
    sound = judged(path, data)
    assert sound.verdict() is Verdict.INTACT
    for position in range(0, len(data), 3):
        altered = bytearray(data)
        altered[position] ^= 0x41
        try:
            report = judged(path, bytes(altered))
        except WireError:
            continue
        if report.verdict() is Verdict.INTACT:
            assert report == sound, position


def test_every_truncation_is_refused(path: Path) -> None:
    data = written(make.chain(1))
    for length in range(0, len(data), 5):
        with pytest.raises(WireError):
            judged(path, data[:length])


def rewritten(data: bytes, **changes: bytes | None) -> bytes:
    """The same zip with entries exchanged (None: removed), stored."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            value = changes.get(name, old.read(name))
            if value is not None:
                new.writestr(name, value)
        for name in changes.keys() - set(old.namelist()):
            new.writestr(name, changes[name] or b"")
    return out.getvalue()


def test_entries_missing_foreign_compressed_or_huge(path: Path) -> None:
    data = written(make.chain(1))
    assert judged(path, rewritten(data)).verdict() is Verdict.INTACT
    for changes in (
        {"manifest.json": None},
        {"messages.wp": None},
        {"hub.pub": None},
        {"hub.pub": b"x" * 10_000},
        {"hub.pub": b"AAAA"},
        {"manifest.json": b"{" * 100_000},
        {"manifest.json": b"[]"},
        {"manifest.json": b"\xff\xfe"},
        {"../../etc/passwd": b"x"},
        {"certificates/../x-0.cbor": b"x"},
    ):
        with pytest.raises(WireError):
            judged(path, rewritten(data, **changes))
    oversized = rewritten(data, **{"certificates/web1-1.cbor": bytes(5000)})
    assert judged(path, oversized).verdict() is Verdict.INVALID
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(WireError, match="compressed"):
        judged(path, out.getvalue())


def test_a_manifest_of_other_messages_and_damage_within(path: Path) -> None:
    whole, short = written(make.chain(3)), written(make.chain(2))
    with zipfile.ZipFile(io.BytesIO(short)) as archive:
        fewer, manifest = archive.read("messages.wp"), archive.read("manifest.json")
    assert judged(path, rewritten(whole, **{"messages.wp": fewer})).verdict() is Verdict.INVALID
    assert judged(path, rewritten(whole, **{"manifest.json": manifest})).verdict() is Verdict.INVALID
    report = judged(path, rewritten(short, **{"messages.wp": fewer[:400] + b"rubbish" + fewer[400:]}))
    assert report.verdict() is Verdict.INVALID
    assert any("messages.wp" in complaint for complaint in report.complaints)


def test_memory_does_not_grow_with_the_file(path: Path) -> None:
    messages = make.chain(40, close=False)
    noise = make.packets_batch(2000, compressor="none", sequence=40)[0]
    path.write_bytes(written(messages + [noise] * 60))
    assert path.stat().st_size > 12 << 20
    tracemalloc.start()
    verify_wpz(path, HUB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_hostile_file_cannot_fill_the_report(path: Path) -> None:
    report = judged(path, written([make.packets_batch(1, key=make.OTHER_KEY)[0]] * 500))
    assert report.refused == 500
    assert len(report.complaints) == 100
